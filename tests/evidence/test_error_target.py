"""`evaluate_to_error`: no optimism, honest errors, and no more calls than that takes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from nelbo.evidence.evaluation import evaluate_to_error
from nelbo.evidence.pilot import PILOT_IMAGES, PILOT_LEVELS, pilot
from tests.costs import CostModel


def repeat(kind: str, n: int, target: float, repetitions: int) -> dict[str, float]:
    """Many whole evaluations, in units of the target.

    `over` is how often it is not reached, `silent` how often that is without a warning.
    """
    model, errors, claims, warned, silent, calls = CostModel(kind), [], [], 0, 0, 0
    data = model.images(n)
    for seed in range(repetitions):
        *_, last = evaluate_to_error(
            model, data, target, generator=torch.Generator().manual_seed(seed)
        )
        bits = last.bound.mean().bits_per_dim
        errors.append(bits.mean - model.exact)
        claims.append(bits.monte_carlo_error)
        is_warned = any("a single draw" in line for line in bits.warnings())
        warned += is_warned
        silent += bits.monte_carlo_error > target and not is_warned
        calls += last.calls
    assert calls == model.calls
    error, claim = torch.tensor(errors).double(), torch.tensor(claims).double()
    return {
        "bias": error.mean().item() / target,
        "deviation": error.std().item() / target / math.sqrt(repetitions),
        "rms": error.square().mean().sqrt().item() / target,
        "coverage": (error.abs() <= 1.96 * claim).double().mean().item(),
        "over": (claim > target).double().mean().item(),
        "silent": silent,
        "warned": warned / repetitions,
        "calls": calls / repetitions / n,
    }


@pytest.mark.parametrize(
    ("kind", "n", "target"),
    [("exponential", 20, 0.2), ("squared", 100, 0.1), ("normal", 5, 0.2)],
)
def test_the_result_is_not_optimistic_and_its_interval_holds(kind, n, target):
    """Stopping at a small estimated error would cost 0.14 to 0.23 of the target here."""
    found = repeat(kind, n, target, 120)
    assert abs(found["bias"]) < 0.1 + 2.5 * found["deviation"]
    assert 0.89 < found["coverage"] < 0.99
    assert found["rms"] < 1.1
    assert found["over"] < 0.1
    assert found["silent"] == 0


def test_where_no_interval_holds_the_mean_is_unbiased_and_a_draw_is_named():
    """Nearly constant pixels: one draw in 250 costs a thousand times as much as the others."""
    found = repeat("nearly constant", 100, 0.1, 120)
    assert abs(found["bias"]) < 0.1 + 2.5 * found["deviation"]
    assert found["warned"] > 0.6
    assert found["silent"] == 0


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_images_are_explored_by_more_draws(n):
    found = repeat("normal", n, 0.3, 40)
    assert abs(found["bias"]) < 4 * found["deviation"]
    assert found["over"] < 0.1
    assert found["silent"] == 0


def test_exploring_takes_a_small_share_of_a_long_evaluation():
    model = CostModel("squared")
    data = model.images(50)
    generator = torch.Generator().manual_seed(0)
    *_, last = evaluate_to_error(
        model, data, 0.02, score_matching_square=torch.ones(12), generator=generator
    )
    reported = int(last.bound.calls.sum())
    assert last.calls == model.calls
    assert 1.05 * reported < last.calls < 1.25 * reported
    assert last.bound.mean().bits_per_dim.monte_carlo_error <= 0.02
    # Draws of level 1 and of the others both have a variance of 3 − 1²: A = C = 2, of which as many
    # are planned of each kind as make the error of 50 images 0.92 of the target.
    least = math.sqrt(2) * 2 * math.sqrt(2) / (50 * (0.92 * 0.02 * math.log(2)) ** 2)
    assert last.bound.reconstruction_calls[0].item() == pytest.approx(least, rel=0.2)
    assert last.bound.level_calls[0].item() == pytest.approx(least, rel=0.2)


def test_the_pilot_measures_second_moments():
    """E KL² of exponential costs is twice (E KL)²: the mean over images is of the squares."""
    model = CostModel("exponential")
    found = torch.stack(
        [
            pilot(model, model.images(40), torch.Generator().manual_seed(seed))[0][2:]
            for seed in range(150)
        ]
    )
    expected = model.second_moment / (model.num_levels - 1) ** 2
    assert found.mean().item() == pytest.approx(expected, rel=0.1)
    assert found.shape[1] == model.num_levels - 1


def test_the_pilot_counts_its_calls():
    model = CostModel("normal", T=200)
    square, calls = pilot(model, model.images(40), torch.Generator().manual_seed(0))
    assert calls == model.calls == PILOT_IMAGES * PILOT_LEVELS
    assert square[:2].tolist() == [0.0, 0.0]


class Falling(CostModel):
    """The KL at level t is e^{−t/7}, without noise, and nothing above a last level."""

    def __init__(self, T: int, last: int) -> None:
        super().__init__("normal", T)
        self.last, self.asked = last, torch.empty(0)

    def elbo(self, x_0, condition=None, *, levels=None, generator=None):
        bound = super().elbo(x_0, condition, levels=levels, generator=generator)
        self.asked = bound.levels
        costs = torch.where(bound.levels <= self.last, (-bound.levels.double() / 7).exp(), 0.0)
        return replace(bound, score_matching=costs)


@pytest.mark.parametrize("T", [6, 18, 115])
def test_between_the_levels_of_the_pilot_the_logarithm_is_linear(T):
    """So that costs whose logarithm is linear in the level are known exactly at every level."""
    model = Falling(T, last=T)
    square, calls = pilot(model, model.images(3), torch.Generator().manual_seed(0))
    expected = [0.0, 0.0, *(math.exp(-2 * t / 7) for t in range(2, T + 1))]
    assert square.tolist() == pytest.approx(expected)
    # Twenty levels from 2 to T, evenly, and four early ones: of 115 levels every sixth or so.
    even = {round(2 + k * (T - 2) / 19) for k in range(20)}
    asked = sorted(even | {t for t in (3, 5, 9, 17) if t <= T})
    assert model.asked.tolist() == [asked] * 3
    assert calls == 3 * len(asked)


@pytest.mark.parametrize("last", [0, 60])
def test_levels_without_costs_are_finite(last):
    """Nothing at any level, or above level 60: between there and a level with costs as well."""
    model = Falling(115, last)
    square, _ = pilot(model, model.images(3), torch.Generator().manual_seed(0), images=2)
    assert square.isfinite().all()
    assert (square >= 0).all()
    assert (square[last + 6 :] < 1e-200).all()
    assert (square[2 : max(2, last - 5)] > 1e-12).all()
    assert len(model.asked) == 2
