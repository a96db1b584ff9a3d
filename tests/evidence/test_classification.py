"""Classification by the bound, on classes whose exact posterior is known."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from nelbo import Condition, Continuous, Diffusion, NelboError, NoiseSchedule
from nelbo.evidence import Classification, Classifier, classify
from nelbo.evidence.classification import _DistinguishingLevels, _Race, images_at_once

MEANS = torch.tensor([-0.6, 0.0, 0.5, 0.8])
STD = 0.5
SHAPE = (1, 2, 2)
LABELS = Condition(label=torch.arange(len(MEANS)))


class GaussianClasses(torch.nn.Module):
    """E[x_0 | x_t, c] for x_0 ~ N(mean of the class, STD²), and how often it was asked."""

    def __init__(self, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.schedule = schedule
        self.pairs = 0

    def forward(self, x_t: Tensor, time: Tensor, condition: Condition | None = None) -> Tensor:
        assert condition is not None
        assert condition.label is not None
        self.pairs += len(x_t)
        signal = self.schedule.alphas_cumprod[time + 1].to(x_t.dtype).view(-1, 1, 1, 1)
        mean = MEANS.to(x_t.dtype)[condition.label].view(-1, 1, 1, 1)
        gain = signal.sqrt() * STD**2 / (signal * STD**2 + 1 - signal)
        return mean + gain * (x_t - signal.sqrt() * mean)


def model() -> Diffusion:
    schedule = NoiseSchedule.linear(200, 1e-3, 0.06)
    return Diffusion(
        GaussianClasses(schedule),
        schedule,
        prediction="sample",
        variance="fixed_large",
        data=Continuous(),
        shape=SHAPE,
    )


def draw(n: int, label: int, seed: int = 0) -> Tensor:
    noise = torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(seed))
    return MEANS[label] + STD * noise


def exact(x_0: Tensor) -> Tensor:
    """−log p(x_0 | c) of each class but for a constant, (B, C)."""
    return ((x_0.flatten(1)[:, None] - MEANS[:, None]) ** 2).sum(2) / (2 * STD**2)


def test_differences_between_classes_are_those_of_the_log_densities():
    images, copies = draw(6, 1), 400
    generator = torch.Generator().manual_seed(1)
    classifier = Classifier(model(), LABELS, margin=1e9, draws=40, generator=generator)
    run = classifier(images.repeat(copies, 1, 1, 1))
    assert run.remaining.all()
    nelbo = run.nelbo.view(copies, len(images), len(MEANS))
    found = nelbo - nelbo.mean(2, keepdim=True)
    expected = exact(images) - exact(images).mean(1, keepdim=True)
    # The bound of the exact model is all but tight; what is left is the noise of the draws.
    error = found.mean(0) - expected
    spread = found.std(0) / copies**0.5
    assert (error.abs() < 4 * spread + 0.01 * expected.abs().max()).all()
    assert spread.max() < 0.1
    assert expected.abs().max() > 1.0


def test_clear_cases_are_decided_with_few_calls():
    torch.manual_seed(0)
    x_0 = torch.cat([draw(40, label, seed=label) for label in range(len(MEANS))])
    scores = exact(x_0)
    best_two = scores.sort(1).values[:, :2]
    clear = best_two[:, 1] - best_two[:, 0] > 2.0
    assert 30 < clear.sum() < len(x_0)
    network = model()
    found = list(classify(network, x_0, LABELS, batch_size=80, generator=torch.Generator()))
    label = torch.cat([batch.label for batch in found])
    calls = torch.cat([batch.calls for batch in found])
    agree = (label == scores.argmin(1))[clear].float().mean()
    assert agree > 0.95
    assert calls.sum() == network.network.pairs
    # All classes at all levels would be 800 calls an image.
    assert calls[clear].float().mean() < 100
    assert calls[clear].float().mean() < calls[~clear].float().mean()


def test_a_class_that_left_the_race_is_never_the_answer():
    run = Classifier(model(), LABELS, draws=40, generator=torch.Generator())(draw(30, 3))
    assert run.remaining[torch.arange(30), run.label].all()
    # A margin of next to nothing leaves one class after the first round.
    hasty = Classifier(model(), LABELS, margin=1e-9, draws=40)(draw(5, 0))
    assert (hasty.remaining.sum(1) == 1).all()
    assert (hasty.calls == 4 * len(MEANS)).all()


@pytest.mark.parametrize("values", [1, 3 * 4, 2**20])
def test_the_result_is_the_same_however_many_share_a_call(values, monkeypatch):
    images = torch.cat([draw(4, 1), draw(3, 3)])

    def found() -> Classification:
        seeded = torch.Generator().manual_seed(2)
        return Classifier(model(), LABELS, draws=24, generator=seeded)(images)

    together = found()
    monkeypatch.setattr("nelbo.evidence.classification.VALUES_PER_CALL", values)
    apart = found()
    assert torch.equal(apart.calls, together.calls)
    torch.testing.assert_close(apart.nelbo, together.nelbo)


@pytest.mark.parametrize("T", [1, 2, 40])
def test_classes_that_never_differ_have_the_bound_of_the_model_each(T, generator):
    """As of a network that ignores its condition, even once all levels were seen."""
    schedule = NoiseSchedule.linear(T, 0.1, 0.3)
    chain = Diffusion(
        lambda x, time, condition: torch.zeros_like(x), schedule, data=Continuous(), shape=SHAPE
    )
    images = draw(1, 1).expand(200, *SHAPE)
    found = Classification.cat(classify(chain, images, LABELS, draws=64, generator=generator))
    assert found.remaining.all()
    torch.testing.assert_close(found.nelbo, found.nelbo[:, :1].expand(-1, len(MEANS)))
    bound = chain.elbo(images, generator=generator)
    expected = (bound.nelbo - bound.prior_matching).double()
    difference = found.nelbo[:, 0].mean() - expected.mean()
    error = math.hypot(*(x.std() / math.sqrt(200) for x in (found.nelbo[:, 0], expected)))
    assert abs(difference) < 4 * error + 1e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"margin": 0.0}, "margin must be a positive number"),
        ({"draws": 1}, "draws must be at least 2"),
        ({"classes": Condition(label=torch.tensor([0]))}, "at least 2 classes, got 1"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(NelboError, match=message):
        Classifier(model(), **({"classes": LABELS} | options))


def test_a_model_without_classes_says_so():
    with pytest.raises(NelboError, match="the model has no classes"):
        next(classify(model(), draw(2, 0)))


@pytest.mark.parametrize(("labels", "found"), [([0, 4], r"0\.\.4"), ([-1, 3], r"-1\.\.3")])
def test_labels_that_the_model_does_not_know(labels, found):
    network = model()
    network.network.config = SimpleNamespace(num_class_embeds=len(MEANS))
    with pytest.raises(NelboError, match=rf"lie in 0\.\.3, the model's; found {found}"):
        Classifier(network, Condition(label=torch.tensor(labels)))
    Classifier(network, Condition(label=torch.tensor([0, 3])))


def test_a_class_leaves_that_is_behind_by_more_than_its_margin(generator):
    """Standard errors of paired differences, by NumPy; a class that left before has none."""
    draws, classes, margin = 9, 5, 2.0
    costs = 1000 + torch.randn(draws, 2, classes, generator=generator, dtype=torch.float64)
    costs[:, :, 1:] += torch.tensor([0.2, 0.6, 1.2, 9.0])
    race = _Race(2, classes, torch.device("cpu"))
    race.remaining[1, 2] = False
    row, label = race.remaining.nonzero(as_tuple=True)
    for k in range(draws):
        race.add(torch.arange(2), row, label, costs[k][row, label])
    mean = costs.mean(0).numpy()
    mean[1, 2] = np.inf
    expected = []
    for image in range(2):
        best = mean[image].argmin()
        gap = costs[:, image].numpy() - costs[:, image, best].numpy()[:, None]
        error = gap.std(0, ddof=1) / np.sqrt(draws)
        expected.append((gap.mean(0) <= margin * error) & np.isfinite(mean[image]))
    race.eliminate(margin)
    assert race.remaining.tolist() == np.array(expected).tolist()
    assert 1 < race.remaining.sum() < race.remaining.numel() - 2
    result = race.result()
    assert result.label.tolist() == mean.argmin(1).tolist()
    assert result.calls.tolist() == [draws * classes, draws * (classes - 1)]
    known = torch.ones(2, classes, dtype=torch.bool)
    known[1, 2] = False
    torch.testing.assert_close(result.nelbo[known], costs.mean(0)[known])


@pytest.mark.parametrize("images", [7, 14])
def test_levels_of_a_batch_are_spread_evenly(images, generator):
    t, weight = _DistinguishingLevels(7).choose(images, generator)
    assert sorted(t.tolist()) == sorted([*range(1, 8)] * (images // 7))
    torch.testing.assert_close(weight, torch.full((images,), 7.0, dtype=torch.float64))
    assert t.tolist() != sorted(t.tolist())


def test_levels_are_drawn_by_how_much_classes_differed(generator):
    """Of variances 2 and 8, and 2 of three classes: shares of 1 to 2, but for a fifth."""
    levels = _DistinguishingLevels(2)
    levels.learn(torch.tensor([1]), torch.tensor([0, 0]), torch.tensor([5.0, 7.0]).double(), 1)
    t, row = torch.tensor([2, 1]), torch.tensor([0, 0, 1, 1, 1])
    levels.learn(t, row, torch.tensor([1.0, 5.0, 0.0, 2 * 3**0.5 / 2**0.5, 0.0]).double(), 2)
    t, weight = levels.choose(3000, generator)
    first = 0.8 / 3 + 0.1
    torch.testing.assert_close(weight[t == 1].unique(), torch.tensor([1 / first]).double())
    torch.testing.assert_close(weight[t == 2].unique(), torch.tensor([1 / (1 - first)]).double())
    assert float((t == 1).double().mean()) == pytest.approx(first, abs=1 / 3000)


def test_many_classes_race_one_image_at_a_time():
    assert images_at_once(3000) == 1
    assert images_at_once(8) == 4 * images_at_once(16) == 16 * images_at_once(32)
