"""Networks of one's own: for Gaussian data the exact ones, in every coordinate system, by hand."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import nelbo
from nelbo import Condition, Continuous, Diffusion, Guidance, NelboError, NoiseSchedule
from nelbo.samplers import Euler, Heun

SHAPE = (1, 2, 2)
MEAN, STD = 0.3, 0.6
SIGMA_MIN, SIGMA_MAX = 0.002, 80.0
DATA = MEAN + STD * torch.randn(64, *SHAPE, dtype=torch.float64, generator=torch.Generator())


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def wide(time: Tensor) -> Tensor:
    return time.double().view(-1, 1, 1, 1)


def noise_of(x: Tensor, alpha, sigma) -> Tensor:
    """E[ε|x] at x = α x_0 + σ ε for x_0 ~ N(MEAN, STD²)."""
    return sigma * (x - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2)


def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
    assert sigma.shape == (len(x),)
    sigma = wide(sigma)
    return (STD**2 * x + sigma**2 * MEAN) / (STD**2 + sigma**2)


def velocity(x: Tensor, s: Tensor) -> Tensor:
    s = wide(s)
    noise = noise_of(x, 1 - s, s)
    return noise - (x - s * noise) / (1 - s)


def alpha_vp(time: Tensor) -> Tensor:
    return torch.exp(-0.25 * time**2 * 19.9 - 0.05 * time)


def sigma_vp(time: Tensor) -> Tensor:
    return torch.sqrt(-torch.expm1(-0.5 * time**2 * 19.9 - 0.1 * time))


def epsilon_vp(x: Tensor, time: Tensor) -> Tensor:
    return noise_of(x, alpha_vp(wide(time)), sigma_vp(wide(time)))


def score_vp(x: Tensor, time: Tensor) -> Tensor:
    a, s = alpha_vp(wide(time)), sigma_vp(wide(time))
    return -(x - a * MEAN) / (a**2 * STD**2 + s**2)


def score_ve(x: Tensor, sigma: Tensor) -> Tensor:
    return -(x - MEAN) / (STD**2 + wide(sigma) ** 2)


def epsilon_chain(schedule: NoiseSchedule, **options) -> Diffusion:
    signal = schedule.alphas_cumprod

    def network(x: Tensor, time: Tensor, condition=None) -> Tensor:
        power = wide(signal[time.long() + 1])
        return noise_of(x, power.sqrt(), (1 - power).sqrt())

    options = {"variance": "fixed_large", "data": Continuous(), "shape": SHAPE} | options
    return Diffusion(network, schedule, **options)


VP = {"alpha": alpha_vp, "sigma": sigma_vp, "times": (1e-3, 1.0)}
VE = {"alpha": lambda s: 1.0, "sigma": lambda s: s, "times": (SIGMA_MIN, SIGMA_MAX)}


def own(name: str, T: int = 40, **options) -> Diffusion:
    options = {"shape": SHAPE, "T": T, "data": Continuous()} | options
    return {
        "denoiser": lambda: nelbo.from_denoiser(denoiser, **options),
        "velocity": lambda: nelbo.from_velocity(velocity, **options),
        "score, exploding": lambda: nelbo.from_score(score_ve, **VE, **options),
        "score, preserving": lambda: nelbo.from_score(score_vp, **VP, **options),
        "epsilon": lambda: nelbo.from_epsilon(epsilon_vp, **VP, **options),
    }[name]()


NAMES = ("denoiser", "velocity", "score, exploding", "score, preserving", "epsilon")


@pytest.mark.parametrize("name", NAMES)
def test_every_form_is_the_epsilon_chain_of_the_same_levels(name):
    model = own(name)
    expected = epsilon_chain(model.schedule)
    torch.testing.assert_close(
        model.elbo(DATA, generator=seeded()).elbo,
        expected.elbo(DATA, generator=seeded()).elbo,
        rtol=1e-8,
        atol=1e-8,
    )
    short, short_expected = (m.respace([1, 9, 25, 40]) for m in (model, expected))
    torch.testing.assert_close(
        short.path_elbo(DATA, generator=seeded()),
        short_expected.path_elbo(DATA, generator=seeded()),
    )


def test_forms_of_the_same_noise_have_the_same_bound():
    bounds = [own(name).elbo(DATA, generator=seeded()).elbo for name in NAMES[:3]]
    torch.testing.assert_close(bounds[0], bounds[1], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(bounds[0], bounds[2], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_levels_are_even_in_log_snr_between_the_ends(name):
    log_snr = own(name, T=7).schedule.log_snr[1:]
    steps = log_snr.diff()
    torch.testing.assert_close(steps, steps.mean().expand(6), rtol=1e-6, atol=1e-6)
    a, s = (f(torch.tensor([1e-3, 1.0]).double()) for f in (alpha_vp, sigma_vp))
    ends = (s / a).tolist() if name in ("epsilon", "score, preserving") else [SIGMA_MIN, SIGMA_MAX]
    expected = torch.tensor([-2 * math.log(end) for end in ends]).double()
    torch.testing.assert_close(log_snr[[0, -1]], expected, rtol=1e-6, atol=1e-6)


def expected_bound(schedule: NoiseSchedule, level_one: float) -> float:
    """E[−ELBO] a dimension of the exact chain with Σ_t = β_t above level 1, nats, in numpy."""
    signal = schedule.alphas_cumprod.numpy()[1:]
    noise = 1 - signal
    error = STD**2 * noise / (signal * STD**2 + noise)
    beta = 1 - signal[1:] / signal[:-1]
    small = beta * noise[:-1] / noise[1:]
    weight = np.sqrt(signal[:-1]) * beta / noise[1:]
    terms = 0.5 * ((small + weight**2 * error[1:]) / beta - 1 - np.log(small / beta))
    first = 0.5 * (math.log(2 * math.pi * level_one) + error[0] / level_one)
    power = STD**2 + MEAN**2
    prior = 0.5 * (signal[-1] * power - signal[-1] - math.log1p(-signal[-1]))
    return first + terms.sum() + prior


ENTROPY = 0.5 * math.log(2 * math.pi * math.e * STD**2)


def test_the_bound_tends_to_the_entropy_with_the_number_of_levels():
    gaps = {}
    for T in (10, 100, 1000):
        schedule = own("denoiser", T).schedule
        gaps[T] = expected_bound(schedule, float(schedule.betas[1])) - ENTROPY
    assert 0 < gaps[1000] < 0.13 * gaps[100] < 0.13**2 * gaps[10]
    assert gaps[1000] < 1e-3
    x_0 = MEAN + STD * torch.randn(8000, *SHAPE, dtype=torch.float64, generator=seeded())
    bound = own("denoiser", 10).elbo(x_0, generator=seeded())
    log_density = torch.distributions.Normal(MEAN, STD).log_prob(x_0).flatten(1).sum(1)
    gap = (log_density - bound.elbo) / 4
    error = float(gap.std()) / math.sqrt(len(gap))
    assert float(gap.mean()) == pytest.approx(gaps[10], abs=4 * error)
    assert error < 0.1 * gaps[10]


def test_the_default_variance_suits_fine_levels():
    """What `fixed_small` loses at level 1 is about 20 nats a dimension, as docs state."""
    losses = []
    for options in ({}, {"variance": "fixed_small"}):
        bound = own("denoiser", 1000, **options).elbo(DATA, levels=1, generator=seeded())
        losses.append(float(-bound.reconstruction.mean()) / 4)
    assert 15 < losses[1] - losses[0] < 30


@pytest.mark.parametrize("name", ["denoiser", "velocity", "score, preserving"])
def test_the_flow_of_every_form_maps_data_to_noise_alike(name):
    """The flow of Gaussian data keeps each value's place in standard deviations."""
    model = own(name, T=200)
    end = model.schedule.noise_level(200)
    spread = math.sqrt(end.signal_scale**2 * STD**2 + end.noise_scale**2)
    x_T = torch.randn(8, *SHAPE, dtype=torch.float64, generator=seeded())
    places = (x_T - end.signal_scale * MEAN) / spread
    x_0 = model.sample(8, Heun(40), x_T=x_T)
    torch.testing.assert_close(x_0, MEAN + STD * places, rtol=0, atol=2e-2)


def test_heun_with_18_steps_is_algorithm_2_of_edm():
    model = nelbo.from_denoiser(denoiser, shape=SHAPE, data=Continuous())
    z = torch.randn(4, *SHAPE, dtype=torch.float64, generator=seeded())
    steps = np.arange(18) / 17
    sigmas = (80 ** (1 / 7) + steps * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7

    def slope(x: Tensor, sigma: float) -> Tensor:
        return (x - denoiser(x, torch.full((len(x),), sigma, dtype=x.dtype))) / sigma

    x = z * math.hypot(1.0, 80.0)
    for sigma, following in zip(sigmas, [*sigmas[1:], 0.0], strict=True):
        d = slope(x, sigma)
        moved = x + (following - sigma) * d
        if following > 0:
            moved = x + (following - sigma) * (d + slope(moved, following)) / 2
        x = moved
    found = model.sample(4, Heun(18, noise_levels="karras", spacing="linspace"), x_T=z)
    torch.testing.assert_close(found, x, rtol=1e-9, atol=1e-9)


def test_flow_matching_levels_are_shifted_as_in_stable_diffusion_3():
    schedule = NoiseSchedule.flow_matching(4, shift=3.0)
    share = schedule.noise_scale / (schedule.signal_scale + schedule.noise_scale)
    # 3 s / (1 + 2 s), as in FlowMatchEulerDiscreteScheduler of diffusers
    expected = torch.tensor([0.0, 1 / 2, 3 / 4, 9 / 10, 1.0], dtype=torch.float64)
    torch.testing.assert_close(share, expected, rtol=1e-12, atol=1e-12)
    assert schedule.alphas_cumprod[-1] == 0
    # A velocity needs no signal.
    zero = Diffusion(
        lambda x, s, c: -x / s.view(-1, 1, 1, 1),
        schedule,
        prediction="velocity",
        data=Continuous(),
        shape=SHAPE,
    )
    assert zero.elbo(DATA, generator=seeded()).elbo.isfinite().all()
    with pytest.raises(NelboError, match="'velocity'"):
        Diffusion(denoiser, schedule, prediction="denoiser")
    with pytest.raises(NelboError, match="shift"):
        NoiseSchedule.flow_matching(10, shift=0.0)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_matching_begins_at_the_noise_that_is_asked_for(shift):
    """Its times before the shift are even from there to 1, in whatever number."""
    schedule = NoiseSchedule.flow_matching(7, shift, first_noise=0.2)
    assert float(schedule.noise_scale[1]) == pytest.approx(0.2, rel=1e-12)
    s = schedule.flow_times[1:]
    steps = (s / (shift - (shift - 1) * s)).diff()
    torch.testing.assert_close(steps, steps[:1].expand(6), rtol=1e-9, atol=0)
    assert schedule.alphas_cumprod[-1] == 0
    for noise in (0.0, 1.0):
        with pytest.raises(NelboError, match="first_noise"):
            NoiseSchedule.flow_matching(7, shift, first_noise=noise)


def test_variance_exploding_levels_are_those_of_edm():
    found = NoiseSchedule.variance_exploding(5, 0.01, 10.0, rho=3.0).sigmas[1:]
    low, high = 0.01 ** (1 / 3), 10 ** (1 / 3)
    expected = [(low + i / 4 * (high - low)) ** 3 for i in range(5)]
    torch.testing.assert_close(
        found, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9
    )
    even = NoiseSchedule.variance_exploding(3, 0.01, 1.0, rho=math.inf).sigmas[1:]
    torch.testing.assert_close(
        even, torch.tensor([0.01, 0.1, 1.0], dtype=torch.float64), rtol=1e-9, atol=1e-9
    )
    for ends in ((0.0, 1.0), (2.0, 1.0)):
        with pytest.raises(NelboError, match="sigma_min"):
            NoiseSchedule.variance_exploding(5, *ends)


def test_preconditioned_is_table_1_of_edm():
    def raw(x: Tensor, c_noise: Tensor) -> Tensor:
        return x + wide(c_noise)

    x = torch.tensor([1.0, -2.0]).double().view(2, 1, 1, 1)
    found = nelbo.preconditioned(raw, sigma_data=0.5)(x, torch.tensor([2.0, 0.1]).double())
    for value, sigma, got in zip((1.0, -2.0), (2.0, 0.1), found.flatten().tolist(), strict=True):
        total = sigma**2 + 0.25
        answer = value / math.sqrt(total) + math.log(sigma) / 4
        expected = 0.25 / total * value + sigma * 0.5 / math.sqrt(total) * answer
        assert got == pytest.approx(expected)
    with pytest.raises(NelboError, match="sigma_data"):
        nelbo.preconditioned(raw, sigma_data=0.0)


class Conditional(nn.Module):
    """x_0 = the label, or 0 without one; keeps the times that it is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))
        self.times: list[tuple[float, int]] = []

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition | None) -> Tensor:
        self.times.append((float(sigma[0]), len(x)))
        label = condition.label.clamp(min=0).to(x).view(-1, 1, 1, 1)
        return label + self.bias + 0 * x


def test_a_condition_and_parameters_reach_a_module():
    module = Conditional()
    model = nelbo.from_denoiser(module, shape=SHAPE, T=20, data=Continuous())
    assert list(model.parameters()) == [module.bias]
    condition = Condition(label=torch.tensor([1, 2]))
    found = model.predict(torch.zeros(2, *SHAPE), 3, condition).x_0
    torch.testing.assert_close(found[:, 0, 0, 0], torch.tensor([1.0, 2.0]))
    with pytest.raises(NelboError, match="third argument"):
        own("denoiser").predict(DATA[:2], 3, condition)


@pytest.mark.parametrize("name", NAMES)
def test_times_and_states_are_on_the_device_of_the_state(name):
    """Scales of levels between those of the chain are on the CPU."""
    x, model = torch.empty(3, *SHAPE, device="meta"), own(name)
    a, s, time = model.schedule.at_level(7.5).on(x)
    state, at = model.parameterization.network_input(x, time, a, s)
    assert (state.device.type, at.device.type) == ("meta", "meta")
    assert (state.shape, at.shape) == (x.shape, (3,))


def test_an_optional_third_argument_is_left_alone_without_a_condition():
    model = nelbo.from_denoiser(lambda x, sigma, c=2.0: c + 0 * x, shape=SHAPE, data=Continuous())
    assert (model.predict(DATA, 5).x_0 == 2.0).all()
    needs = nelbo.from_denoiser(lambda x, sigma, c: 0 * x, shape=SHAPE, data=Continuous())
    assert (needs.predict(DATA, 5).x_0 == 0.0).all()


def test_an_interval_of_guidance_is_in_noise_whatever_the_time_of_the_network():
    model = nelbo.from_denoiser(module := Conditional(), shape=SHAPE, T=50, data=Continuous())
    condition = Condition(label=torch.tensor([1]))
    guidance = Guidance(2.0, interval=(0.1, 5.0))
    with torch.no_grad():
        model.sample(1, Euler(25), condition=condition, guidance=guidance, generator=seeded())
    assert len({batch for _, batch in module.times}) == 2
    inside = {batch for sigma, batch in module.times if 0.15 < sigma < 4.0}
    outside = {batch for sigma, batch in module.times if not 0.1 < sigma <= 5.0}
    assert (inside, outside) == ({2}, {1})
    low, high = model.guided(guidance).network.times
    assert (low, high) == pytest.approx((0.1, 5.0), rel=1e-5)


def test_refuses_what_does_not_fit():
    options = {"shape": SHAPE, "data": Continuous()}
    schedule = NoiseSchedule.linear(30)
    one = {"alpha": alpha_vp}, {"sigma": sigma_vp}
    for given in ({}, *one, *(each | {"schedule": schedule} for each in (VP, *one))):
        with pytest.raises(NelboError, match="either alpha and sigma, or a schedule"):
            nelbo.from_epsilon(epsilon_vp, **options, **given)
    with pytest.raises(NelboError, match="must increase"):
        nelbo.from_score(score_vp, alpha=sigma_vp, sigma=alpha_vp, **options)
    with pytest.raises(NelboError, match="must increase"):
        nelbo.from_score(score_vp, alpha=lambda s: 1 - s, sigma=lambda s: s, **options)
    with pytest.raises(NelboError, match="prediction follows from the network's coordinates"):
        nelbo.from_denoiser(denoiser, prediction="epsilon", **options)


@dataclass
class Output:
    """As networks of diffusers answer."""

    sample: Tensor


def test_refuses_what_is_no_network():
    with pytest.raises(NelboError, match=r"called with \(x, time\) or \(x, time, condition\)"):
        nelbo.from_denoiser(lambda x: x, shape=SHAPE)
    model = nelbo.from_denoiser(lambda x, s: Output(x), shape=SHAPE, data=Continuous())
    with pytest.raises(NelboError, match=r"answered a Output, expected a tensor.*\.sample"):
        model.predict(DATA, 3)


def test_refuses_scales_that_turn_back_between_their_ends():
    def sigma(time: Tensor) -> Tensor:
        return 0.01 + time + 0.5 * torch.sin(12 * time)

    with pytest.raises(NelboError, match="it falls after time 0"):
        nelbo.from_score(score_ve, alpha=lambda t: 1.0, sigma=sigma, shape=SHAPE)


def test_epsilon_takes_a_schedule_in_place_of_scales():
    schedule = NoiseSchedule.linear(30, 0.001, 0.4)
    expected = epsilon_chain(schedule)
    model = nelbo.from_epsilon(expected.network, schedule=schedule, shape=SHAPE, data=Continuous())
    torch.testing.assert_close(
        model.elbo(DATA, generator=seeded()).elbo, expected.elbo(DATA, generator=seeded()).elbo
    )


def test_the_first_bound_warns_of_a_wrong_convention():
    model = nelbo.from_denoiser(
        lambda x, sigma: -denoiser(x, sigma), shape=SHAPE, T=50, data=Continuous()
    )
    with pytest.warns(UserWarning, match="its answer has the other sign"):
        model.elbo(DATA, levels=2, generator=seeded())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.elbo(DATA, levels=2, generator=seeded())  # once is enough
        own("velocity").elbo(DATA[:4], levels=2)  # too few to know
        own("velocity").elbo(DATA, levels=2)


def test_the_time_of_a_level_is_sought_once():
    calls = []

    def sigma(time: Tensor) -> Tensor:
        calls.append(len(time))
        return sigma_vp(time)

    model = nelbo.from_epsilon(
        epsilon_vp, **VP | {"sigma": sigma}, shape=SHAPE, T=20, data=Continuous()
    )
    t = torch.tensor([3, 3, 7, 20])
    first = model.predict(DATA[:4], t).x_0
    sought = len(calls)
    again = model.predict(DATA[:4], t).x_0
    assert torch.equal(first, again)
    assert sought > 64
    assert len(calls) - sought < 5
    alone = torch.cat([model.predict(DATA[i : i + 1], int(level)).x_0 for i, level in enumerate(t)])
    torch.testing.assert_close(first, alone)


def test_the_noise_of_levels_with_little_signal_is_their_own():
    schedule = NoiseSchedule.variance_exploding(5, 0.1, 1e5)
    assert float(schedule.sigmas[-1]) == pytest.approx(1e5, rel=1e-6)
    flow = NoiseSchedule.flow_matching(100_000)
    assert (flow.sigmas.diff() > 0).all()
    assert float(NoiseSchedule.flow_matching(1000).sigmas[-1]) == pytest.approx(4096, rel=1e-6)


@pytest.mark.parametrize("name", [*NAMES, "chain"])
def test_what_is_learned_is_what_is_read_and_errors_of_it_are_those_of_the_data(name):
    """y(x_0, ε) read at x_t is x_0 and ε; an error δ of y is √(data error) δ of x_0, and so on."""
    model = epsilon_chain(NoiseSchedule.linear(40)) if name == "chain" else own(name)
    read = model.parameterization
    x_0, epsilon = DATA[:3], torch.randn(3, *SHAPE, dtype=torch.float64, generator=seeded())
    t = torch.tensor([2, 20, 39])
    signal = model.schedule.alphas_cumprod[t]
    a, s = (power.sqrt().view(-1, 1, 1, 1) for power in (signal, 1 - signal))
    x_t, log_snr = a * x_0 + s * epsilon, (signal / (1 - signal)).log()
    output = read.target(x_0, epsilon, a, s)
    torch.testing.assert_close(read.x_0(output, x_t, a, s), x_0)
    torch.testing.assert_close(read.epsilon(output, x_t, a, s), epsilon)
    for of, true, error in (
        (read.x_0, x_0, read.data_error(log_snr)),
        (read.epsilon, epsilon, read.noise_error(log_snr)),
    ):
        off = (of(output + 0.1, x_t, a, s) - true).square()
        expected = (0.01 * error).view(-1, 1, 1, 1).expand_as(off)
        torch.testing.assert_close(off, expected.to(off), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(
    ("alpha", "sigma", "message"),
    [
        # One step down by less than a tenth, after 0.5.
        (lambda t: 1.0, lambda t: torch.where(t > 0.5, 0.95 * t, t), r"falls after time 0\.49"),
        (lambda t: 1.0, lambda t: t - 1e-3, r"got -inf at time 0\.001 and"),
        (lambda t: 1 - t, lambda t: t, r"and inf at 1:"),
        (lambda t: 1.0, lambda t: 2 - t, r"got 0\.6926 at time 0\.001 and 0 at 1:"),
    ],
)
def test_noise_has_to_grow_from_a_finite_value_to_another(alpha, sigma, message):
    with pytest.raises(NelboError, match=message):
        nelbo.from_epsilon(epsilon_vp, alpha=alpha, sigma=sigma, times=(1e-3, 1.0), shape=SHAPE)


@pytest.mark.parametrize("times", [(0.1,), (0.1, 0.5, 1.0), ()])
def test_times_are_two(times):
    with pytest.raises(NelboError, match="times must be the first and the last time"):
        nelbo.from_epsilon(epsilon_vp, alpha=alpha_vp, sigma=sigma_vp, times=times, shape=SHAPE)
