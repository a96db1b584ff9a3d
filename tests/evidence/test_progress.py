"""Where levels are drawn, what that took and what is shown meanwhile, of costs that are known."""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from nelbo import Bound, level_profile
from nelbo.base.console import MESSAGES
from nelbo.chain.estimators import Importance, as_estimator
from nelbo.data import ImageData
from nelbo.evidence.bound_store import BoundStore
from nelbo.evidence.evaluation import evaluate, evaluate_to_error
from nelbo.evidence.progress import (
    evaluate_at_levels,
    evaluate_to_error_with_progress,
    evaluate_with_progress,
    find_levels,
    levels_to_compare,
)
from nelbo.families import MarkovModel
from tests.coding.models import random_images, tiny
from tests.costs import CostModel

# Of the levels 2..6.
COSTS = (1.0, 3.0, 0.5, 4.0, 1.5)
# Pilots that few images leave to chance are of all levels here.
PILOT_CALLS = 5 * len(COSTS)
EVERY_CALL = 5 * (2 + 3)


class Known(CostModel):
    """Level t costs every image COSTS[t − 2] nats, and level 1 of image i costs i of them."""

    def __init__(self, costs: tuple[float, ...] = COSTS, few: bool = False) -> None:
        super().__init__("normal", T=len(costs) + 1)
        self.above = torch.tensor(costs, dtype=torch.float64)
        self.few = few

    @property
    def few_levels_matter(self) -> bool:
        return self.few

    def elbo(self, x_0, condition=None, *, levels=None, generator=None) -> Bound:
        estimator, n = as_estimator(levels), len(x_0)
        chosen, weights = estimator.choose(n, self.num_levels, generator)
        counts = (estimator.reconstructions, chosen.shape[1])
        self.calls += n * sum(counts)
        return Bound(
            reconstruction=-4 * (x_0.double().flatten() + 1),
            prior_matching=torch.zeros(n, dtype=torch.float64),
            score_matching=self.above[chosen - 2],
            levels=chosen,
            weights=weights,
            dims=1,
            reconstruction_variance=torch.zeros(n, dtype=torch.float64),
            reconstruction_calls=torch.full((n,), counts[0]),
            level_calls=torch.full((n,), counts[1]),
        )


def five() -> ImageData:
    """Images 0 to 4 of one pixel, of the levels 0..8."""
    pixels = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1)
    return ImageData("made", pixels, 9, tuple("abcde"))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def where_it_varies(*squares: Tensor) -> Tensor:
    """π(t) = 0.1 / (T − 1) + 0.9 √s_t / Σ √s, of the mean s of squares."""
    root = torch.stack(squares).mean(0).sqrt()
    return 0.1 / len(root) + 0.9 * root / root.sum()


def square(costs=COSTS) -> Tensor:
    return torch.tensor(costs, dtype=torch.float64).square()


def check(levels: object, count: int, proposal: Tensor) -> None:
    assert isinstance(levels, Importance)
    assert (levels.levels, levels.reconstructions, levels.antithetic) == (count, 2, False)
    torch.testing.assert_close(levels.proposal, proposal)


@pytest.mark.parametrize("count", [1, 3, 4])
def test_levels_are_drawn_where_the_bound_is_large(count):
    model = Known()
    levels, calls = find_levels(count, model, five(), 0)
    check(levels, count, where_it_varies(square()))
    assert calls == model.calls == PILOT_CALLS


@pytest.mark.parametrize("count", [5, 6, 100])
def test_as_many_as_there_are_are_all(count):
    model = Known()
    assert find_levels(count, model, five(), 0) == (None, 0)
    assert model.calls == 0
    assert find_levels(count, MarkovModel(1), five(), 0) == (None, 0)


def test_nothing_is_looked_for_where_nothing_is_drawn():
    model = Known()
    levels, calls = find_levels(3, model, five(), 0, drawn=False)
    check(levels, 3, torch.full((5,), 0.2, dtype=torch.float64))
    assert calls == model.calls == 0


def test_the_profile_of_a_chain_stands_for_a_pilot():
    model = tiny()
    x_0 = random_images(6, model).float() / 3.5 - 1
    model = model.replace(profile=level_profile(model, x_0, generator=seeded(0)))
    data = ImageData("made", random_images(6, model), 8, tuple("abcdef"))
    levels, calls = find_levels(2, model, data, 0)
    check(levels, 2, where_it_varies(model.profile.score_matching_square[2:]))
    assert calls == 0


def test_a_pilot_is_drawn_by_the_seed():
    model = CostModel("exponential")
    found = [find_levels(3, model, model.images(40), seed)[0].proposal for seed in (4, 4, 5)]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.fixture
def said(monkeypatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(MESSAGES, "status", lambda text: (lines.append(text), nullcontext())[1])
    return lines


class Bar:
    """Keeps what a bar is told."""

    made: ClassVar[list[Bar]] = []

    def __init__(self, title: str, total: float | None = None, *, quiet: bool = False) -> None:
        self.title, self.total, self.quiet, self.told = title, total, quiet, []
        self.made.append(self)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *error: object) -> None:
        self.told.append("closed")

    def __call__(self, *done: float, **fields: object) -> None:
        self.told.append((*done, fields))


@pytest.fixture
def bars(monkeypatch) -> list[Bar]:
    monkeypatch.setattr(Bar, "made", [])
    monkeypatch.setattr("nelbo.evidence.progress.Counting", Bar)
    return Bar.made


class Shared(BoundStore):
    """A store whose first rank has done nothing yet, so that every other computes all."""

    def collect(self, stage, batches, compute):
        return map(compute, range(batches))


@pytest.mark.parametrize(("rank", "quiet"), [(None, False), (0, False), (1, True), (2, True)])
def test_one_of_the_processes_shows_how_far_it_is(rank, quiet, tmp_path, said, bars):
    store = None if rank is None else Shared(tmp_path, {}, rank=rank, count=3)
    how = {"batch_size": 2, "seed": 0, "store": store}
    evaluate_at_levels(Known(), five(), "Reading", 3, **how)
    evaluate_to_error_with_progress(Known(), five(), "Reading", 0.5, store=store)
    assert said == ([] if quiet else ["Finding the levels that matter"])
    assert [bar.quiet for bar in bars] == [quiet, quiet]
    assert [bar.title for bar in bars] == ["Reading", "Reading"]


def test_a_pilot_is_told_of_where_nobody_asks_for_quiet(said):
    find_levels(3, Known(), five(), 0, quiet=True)
    assert said == []
    find_levels(3, Known(), five(), 0)
    assert said == ["Finding the levels that matter"]


def bits_of(image: int) -> float:
    """Of all levels; level 1 costs image i of 0..8 as many nats."""
    return (image + sum(COSTS)) / math.log(2)


def test_a_bar_counts_calls_and_shows_the_mean_so_far(bars):
    found = evaluate_with_progress(Known(), five(), "Reading", batch_size=2)
    assert found.bits_per_dim.tolist() == pytest.approx([bits_of(i) for i in range(5)])
    (bar,) = bars
    assert bar.total == 5 * 7
    means = [bits_of(0.5), bits_of(1.5), bits_of(2)]
    assert bar.told == [
        *(
            (calls, {"status": f"calls · {mean:.3f} bits/dim"})
            for calls, mean in zip((14, 14, 7), means, strict=True)
        ),
        "closed",
    ]


def test_noise_is_that_of_the_seed_which_is_0():
    model = CostModel("exponential")
    data = model.images(6)
    found = [
        evaluate_with_progress(model, data, "", levels=3, batch_size=4, **seed).total
        for seed in ({}, {"seed": 0}, {"seed": 3})
    ]
    for seed, totals in zip((0, 0, 3), found, strict=True):
        alone = evaluate(model, data, levels=3, batch_size=4, generator=seeded(seed))
        assert torch.equal(totals, torch.cat([each.total for each in alone]))
    assert not torch.equal(found[0], found[2])


@pytest.mark.parametrize("stored", [False, True])
def test_what_it_took_is_the_pilot_and_the_bound(stored, tmp_path, bars):
    """Of five images at three of five levels, in batches of two, two and one."""
    model, store = Known(), BoundStore(tmp_path, {}) if stored else None
    how = {"batch_size": 2, "seed": 0}
    found, calls = evaluate_at_levels(model, five(), "Reading", 3, **how, store=store)
    assert calls == model.calls == PILOT_CALLS + EVERY_CALL
    assert int(found.calls.sum()) == EVERY_CALL
    # 1 / (K π) for each level that was drawn, so that the draws are where the bound is large.
    proposal = where_it_varies(square())
    torch.testing.assert_close(found.weights, 1 / (3 * proposal[found.levels - 2]))
    assert bars[0].total == EVERY_CALL


def test_every_level_takes_no_pilot():
    model = Known()
    how = {"batch_size": 2, "seed": 0}
    found, calls = evaluate_at_levels(model, five(), "Reading", None, **how)
    assert calls == model.calls == 5 * 7
    assert found.bits_per_dim.tolist() == pytest.approx([bits_of(i) for i in range(5)])


@pytest.mark.parametrize("missing", [None, 0, 2])
def test_a_pilot_is_made_where_a_batch_is_missing(missing, tmp_path: Path):
    how = {"batch_size": 2, "seed": 0}
    first, _ = evaluate_at_levels(
        Known(), five(), "Reading", 3, **how, store=BoundStore(tmp_path, {})
    )
    if missing is not None:
        (tmp_path / f"00-00000{missing}.safetensors").unlink()
    model = Known()
    again, calls = evaluate_at_levels(
        model, five(), "Reading", 3, **how, store=BoundStore(tmp_path, {})
    )
    assert torch.equal(again.total, first.total)
    assert torch.equal(again.levels, first.levels)
    made = {None: 0, 0: PILOT_CALLS + 10, 2: PILOT_CALLS + 5}[missing]
    assert model.calls == made
    assert calls == EVERY_CALL + (0 if missing is None else PILOT_CALLS)


def test_models_of_one_length_that_have_few_levels_meet_the_same():
    """The first and the last together; pixels are spread evenly, and one chain is shorter."""
    other, short = (2.0, 2.0, 7.0, 1.0, 0.0), (5.0, 1.0, 1.0, 1.0)
    models = [Known(few=True), Known(), Known(short, few=True), Known(other, few=True)]
    loaded = [(model, five()) for model in models]
    first, pixels, shorter, last = levels_to_compare(3, loaded, 0)
    check(first, 3, where_it_varies(square(), square(other)))
    check(last, 3, where_it_varies(square(), square(other)))
    check(shorter, 3, where_it_varies(square(short)))
    assert pixels == 3
    assert [model.calls for model in models] == [25, 0, 20, 25]


def test_models_are_compared_at_all_levels_where_as_many_are_asked_for():
    models = [Known(few=True), Known(), Known((5.0, 1.0, 1.0, 1.0), few=True)]
    loaded = [(model, five()) for model in models]
    first, second, shorter = levels_to_compare(4, loaded, 0)
    check(first, 4, where_it_varies(square()))
    assert (second, shorter) == (4, None)
    assert models[2].calls == 0
    assert levels_to_compare(5, loaded, 0) == [None, None, None]
    assert levels_to_compare(1, [(MarkovModel(1), five())], 0) == [None]


def test_an_evaluation_to_an_error_shows_what_is_planned_and_the_result(bars):
    """Each line is that of a reading; a mean is shown once all images were evaluated."""
    model = CostModel("exponential")
    data = model.images(30)
    found, calls = evaluate_to_error_with_progress(model, data, "Reading", 0.3, seed=2)
    assert calls == model.calls
    readings = list(evaluate_to_error(model, data, 0.3, generator=seeded(2)))
    assert torch.equal(found.total, readings[-1].bound.total)
    assert calls == readings[-1].calls
    (bar,) = bars
    begins, *lines, last, end = bar.told
    assert begins == ({"status": "calls"},)
    assert bar.total is None
    assert end == "closed"
    for line, reading in zip(lines, readings, strict=False):
        expected = {"completed": reading.calls, "total": reading.planned, "status": "calls"}
        assert line == (expected,)
    bits = found.total.double() / math.log(2)
    error = found.mean().nelbo.monte_carlo_error / math.log(2)
    shown = f"calls · {float(bits.mean()):.3f} ± {error:.3f} bits/dim"
    assert last == ({"completed": calls, "total": calls, "status": shown},)
    assert len(lines) + 1 == len(readings)
    default, _ = evaluate_to_error_with_progress(model, data, "Reading", 0.3)
    *_, of_zero = evaluate_to_error(model, data, 0.3, generator=seeded(0))
    assert torch.equal(default.total, of_zero.bound.total)
