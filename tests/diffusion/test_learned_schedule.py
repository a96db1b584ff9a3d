"""γ(t) grows whatever its parameters are, from one end to the other, with the slope it says."""

from __future__ import annotations

import math

import pytest
import torch

from nelbo import NelboError, NoiseSchedule
from nelbo.diffusion.learned_schedule import LearnedSchedule

TIMES = torch.linspace(0, 1, 501, dtype=torch.float64)


def randomly_shaped(seed: int, first: float = -6.0, last: float = 8.0, spread: float = 0.15):
    """Any schedule between these ends, float64."""
    generator = torch.Generator().manual_seed(seed)
    gamma = LearnedSchedule(first, last).double()
    with torch.no_grad():
        for name, p in gamma.named_parameters():
            if name not in ("first", "raw_span"):
                p += spread * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return gamma


@pytest.mark.parametrize("seed", range(8))
def test_it_grows_from_end_to_end_whatever_its_parameters(seed):
    gamma = randomly_shaped(seed, spread=1.0)
    values = gamma(TIMES)
    assert (values.diff() > 0).all()
    assert values[0].item() == pytest.approx(-6.0, abs=1e-6)
    assert values[-1].item() == pytest.approx(8.0, abs=1e-6)
    # with free end points too: the width cannot become negative
    with torch.no_grad():
        gamma.raw_span.fill_(-20.0)
    assert (gamma(TIMES).diff() > 0).all()


def test_at_first_it_is_a_line():
    torch.testing.assert_close(
        LearnedSchedule(-6.0, 8.0).double()(TIMES), -6 + 14 * TIMES, atol=0.02, rtol=0
    )


@pytest.mark.parametrize("seed", range(3))
def test_the_slope_is_the_derivative(seed):
    gamma = randomly_shaped(seed)
    t = TIMES.clone().requires_grad_()
    u, slope = gamma.shape(t)
    (by_autograd,) = torch.autograd.grad(u.sum(), t)
    torch.testing.assert_close(slope, by_autograd)
    h = 1e-6
    difference = (gamma.shape(TIMES + h)[0] - gamma.shape(TIMES - h)[0]) / (2 * h)
    torch.testing.assert_close(slope, difference, atol=1e-6, rtol=1e-6)


def test_the_chain_has_its_noise_at_evenly_spaced_times():
    gamma = randomly_shaped(0)
    chain = gamma.discretize(101)
    assert chain.num_levels == 101
    assert torch.equal(chain.network_times[1:], torch.arange(101))
    torch.testing.assert_close(chain.log_snr[1:], -gamma(torch.arange(101).double() / 100))
    # as any chain it is rebuilt from its betas
    again = NoiseSchedule.from_betas(chain.betas[1:])
    torch.testing.assert_close(again.log_snr[1:], chain.log_snr[1:])


@pytest.mark.parametrize("name", ["geometric", "linear", "cosine", "sigmoid"])
def test_it_begins_like_a_chain(name):
    chain = getattr(NoiseSchedule, name)(300)
    found = LearnedSchedule.like(chain).discretize(300)
    span = chain.log_snr[1] - chain.log_snr[-1]
    assert (found.log_snr - chain.log_snr)[1:].abs().mean() < 0.01 * span
    line = LearnedSchedule(*(-chain.log_snr[[1, -1]]).tolist()).discretize(300)
    far = (line.log_snr - chain.log_snr)[1:].abs().mean()
    assert (found.log_snr - chain.log_snr)[1:].abs().mean() < 0.3 * far


def test_the_ends_are_those_of_a_chain():
    chain = NoiseSchedule.geometric(50, 0.05, 1e-3)
    gamma = LearnedSchedule.like(chain, learn_ends=False)
    ends = gamma(torch.tensor([0.0, 1.0]))
    expected = [math.log(0.05**2 / (1 - 0.05**2)), math.log((1 - 1e-3) / 1e-3)]
    assert ends.tolist() == pytest.approx(expected, rel=1e-6)
    fixed = {n for n, p in gamma.named_parameters() if not p.requires_grad}
    assert fixed == {"first", "raw_span"}


def test_what_cannot_be_a_schedule():
    with pytest.raises(NelboError, match=r"must grow from its first.*got 3.0\.\.3.0"):
        LearnedSchedule(3.0, 3.0)
    with pytest.raises(NelboError, match="both finite"):
        LearnedSchedule.like(NoiseSchedule.cosine(10).with_zero_terminal_snr())
    with pytest.raises(NelboError, match="two levels or more, got T=1"):
        LearnedSchedule(-1.0, 1.0).discretize(1)


def test_a_schedule_that_begins_without_noise_is_refused():
    """sigmoid(38) is 1 in float64: level 1 used to pass for the data, and T for T − 1."""
    with pytest.raises(NelboError, match="level 1 is 1 in float64"):
        LearnedSchedule(-38.0, 6.0).discretize(10)
    assert LearnedSchedule(-35.0, 6.0).discretize(10).num_levels == 10
