"""The bound that there is time for: unbiased, within its time, and as asked for by number."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from nelbo import Bound, NelboError, NoiseSchedule
from nelbo.data import ImageData
from nelbo.diffusion import Diffusion, LevelProfile, Pixels
from nelbo.evidence.timed_evaluation import TimedEvaluation
from tests.costs import CostModel

T, SIDE, LEVELS = 60, 2, 16
SECONDS = 0.01


class Counting(torch.nn.Module):
    """A poor denoiser that mixes pixels; every image it sees takes a hundredth of a second."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.anchor = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x_t, time, condition=None):
        self.calls += len(x_t)
        return 0.7 * x_t + 0.2 * x_t.flip(-1) + 0.002 * time.view(-1, 1, 1, 1) + self.anchor

    def clock(self) -> float:
        return SECONDS * self.calls


@pytest.fixture
def model() -> Diffusion:
    schedule = NoiseSchedule.linear(T, 0.005, 0.2)
    return Diffusion(Counting(), schedule, data=Pixels(LEVELS), shape=(1, SIDE, SIDE))


def images(n: int) -> ImageData:
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, LEVELS, (n, 1, SIDE, SIDE), dtype=torch.uint8, generator=generator)
    return ImageData("made", pixels, LEVELS, tuple(str(i) for i in range(n)))


def drawn(model: Diffusion, data: ImageData, draws: int) -> torch.Tensor:
    """Bits/dim of each image at every level, for each of many draws of the noise."""
    x_0 = model.data.to_network(data.images)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        found = [model.elbo(x_0, generator=generator).bits_per_dim for _ in range(draws)]
    return torch.stack(found).double()


def exact(model: Diffusion, data: ImageData, draws: int = 60) -> torch.Tensor:
    """Bits/dim of each image, every level and the noise averaged over many draws."""
    return drawn(model, data, draws).mean(0)


def timed(model: Diffusion, n: int = 100, most: int = 1000, **options) -> TimedEvaluation:
    return TimedEvaluation(model, images(n), most=most, clock=model.network.clock, **options)


def test_it_keeps_to_its_time_and_uses_it(model):
    evaluation, clock = timed(model, n=3000, most=3000), model.network.clock
    for seconds in (10.0, 40.0, 100.0):
        start, before = clock(), evaluation.count
        list(evaluation.refine(seconds))
        assert 0.8 * seconds < clock() - start <= 1.05 * seconds
        assert evaluation.count > before
    assert evaluation.calls == model.network.calls
    assert evaluation.call_seconds == pytest.approx(SECONDS)
    assert not evaluation.is_settled


def test_without_any_time_two_images_are_evaluated_still(model):
    evaluation = timed(model)
    with pytest.raises(NelboError, match="nothing has been evaluated"):
        _ = evaluation.bound
    list(evaluation.refine(0.0))
    assert evaluation.count == len(evaluation.bound) == len(evaluation.data) == 2
    assert model.network.calls < 60


def test_batches_grow_as_their_cost_is_learnt(model):
    evaluation = timed(model, n=200, complete=True)
    assert evaluation.most == 200
    assert [each.count for each in evaluation.refine(0.0)] == [2, 6, 14, 30, 62, 126, 190, 200]


@pytest.mark.parametrize(("levels", "calls"), [(None, 6), (9, 11), ("all", T + 1)])
def test_what_every_image_takes_is_known_before(levels, calls, model):
    """Two draws of x_1, and levels: four, those asked for, or all but the first."""
    evaluation = timed(model, n=20, complete=True, levels=levels)
    assert evaluation.expected_calls == 20 * calls
    with pytest.raises(NelboError, match="nothing has been evaluated"):
        _ = evaluation.proposal
    for _ in evaluation.refine(0.0):
        pass
    assert int(evaluation.bound.calls.sum()) == 20 * calls
    assert evaluation.proposal.shape == (T - 1,)


def test_images_come_before_levels_and_it_stops_where_each_has_had_the_draws_of_a_chain(model):
    evaluation = timed(model, n=40)
    list(evaluation.refine(2.0))
    few = evaluation.bound.levels.shape[1]
    assert 2 < evaluation.count < 40
    list(evaluation.refine(1e6))
    assert evaluation.is_settled
    assert evaluation.count == 40
    assert evaluation.bound.levels.shape[1] > few
    assert 128 <= int(evaluation.bound.level_calls[0]) < 2 * 128
    calls = model.network.calls
    assert list(evaluation.refine(1e6)) == []
    assert model.network.calls == calls


class Spread(CostModel):
    """Images that differ by far more than the noise: brighter ones cost more."""

    def elbo(self, x_0, condition=None, *, levels=None, generator=None) -> Bound:
        bound = super().elbo(x_0, levels=levels, generator=generator)
        return replace(bound, reconstruction=bound.reconstruction - 5 * x_0.flatten().double())


def test_it_stops_where_more_levels_would_change_nothing():
    model = Spread("normal")
    data = replace(model.images(40), images=torch.arange(40).remainder(9).byte().view(-1, 1, 1, 1))
    evaluation = TimedEvaluation(model, data, most=40, clock=lambda: SECONDS * model.calls)
    for _ in evaluation.refine(1e6):
        settled = evaluation.is_settled
    assert settled
    assert evaluation.count == 40
    bits = evaluation.bound.mean().bits_per_dim
    assert 0.02 * bits.standard_error < bits.monte_carlo_error <= 0.1 * bits.standard_error
    assert int(evaluation.bound.level_calls[0]) < 128


def test_its_images_are_those_of_its_bound_and_all_different(model):
    evaluation = timed(model, n=50)
    list(evaluation.refine(1e6))
    assert sorted(map(int, evaluation.data.names)) == list(range(50))
    assert list(evaluation.data.names) != [str(i) for i in range(50)]
    each = drawn(model, evaluation.data, draws := 100)
    bound = evaluation.bound
    # The mean of the other draws is uncertain, too.
    variance = bound.monte_carlo_variance / bound.nats_per_bit_per_dim**2 + each.var(0) / draws
    distance = (bound.bits_per_dim - each.mean(0)).abs() / variance.sqrt()
    assert (distance < 5).all()
    assert distance.square().mean() == pytest.approx(1.0, abs=0.6)


def test_the_estimate_is_unbiased_wherever_it_stops(model):
    """Over many runs that stop in the images, after them, or in rounds of levels."""
    truth = float(exact(model, images(24)).mean())
    for seconds in (0.5, 3.0, 6.0):
        means = []
        for seed in range(14):
            evaluation = timed(model, n=24, seed=seed)
            list(evaluation.refine(seconds))
            means.append(evaluation.bound.mean().bits_per_dim.mean)
        found = torch.tensor(means, dtype=torch.float64)
        assert abs(found.mean() - truth) < 3.5 * found.std() / math.sqrt(len(found)), seconds


def test_levels_and_images_that_are_asked_for_are_evaluated_whatever_the_time(model):
    evaluation = timed(model, n=20, most=10, levels="all")
    list(evaluation.refine(0.0))
    assert evaluation.bound.levels.shape == (10, T - 1)
    assert evaluation.is_settled
    evaluation = timed(model, n=20, levels=7)
    list(evaluation.refine(0.0))
    assert evaluation.bound.levels.shape == (20, 7)
    evaluation = timed(model, n=20, most=15, complete=True)
    list(evaluation.refine(0.0))
    assert evaluation.count == 15


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_chains_with_fewer_levels_than_it_would_draw(levels):
    schedule = NoiseSchedule.linear(levels, 0.1, 0.2)
    model = Diffusion(Counting(), schedule, data=Pixels(LEVELS), shape=(1, SIDE, SIDE))
    evaluation = timed(model, n=5)
    list(evaluation.refine(1.0))
    assert evaluation.count == 5
    assert math.isfinite(evaluation.bound.mean().bits_per_dim.mean)


def test_images_that_do_not_fit_are_refused(model):
    other = ImageData("small", torch.zeros(2, 1, 3, 3, dtype=torch.uint8), LEVELS, ("a", "b"))
    with pytest.raises(NelboError, match="shape"):
        TimedEvaluation(model, other, most=2)


def test_a_profile_of_variances_alone_leaves_the_levels_to_a_pilot(model):
    profile = LevelProfile.of_variances(model.schedule, model.schedule.posterior_variance)
    data = images(4)
    of_both = []
    for each in (model, model.with_profile(profile)):
        evaluation = TimedEvaluation(each, data, most=4, levels=4)
        list(evaluation.refine(0.0))
        of_both.append(evaluation.proposal)
    assert torch.equal(*of_both)
