"""Where walks start: at the end of the chain, and where they do not, with a warning."""

from __future__ import annotations

import re
import warnings

import pytest
import torch

from nelbo import Diffusion, NelboError, NoiseSchedule, samplers
from nelbo.diffusion.start import warn_of_signal
from nelbo.editing import ImageToImage, Inpainting, Interpolation
from nelbo.samplers import DDIM, DDPM, SAMPLERS, DPMSolver, Euler, Heun, default_sampler
from tests.diffusion.test_model import SHAPE, Network

KINDS = [getattr(samplers, kind) for kind in SAMPLERS.values()]
# The chain of 256-level pictures: half of its levels hold much signal.
GEOMETRIC = NoiseSchedule.geometric(1000, 0.004)
CHAINS = {
    "geometric": GEOMETRIC,
    "cosine": NoiseSchedule.cosine(1000),
    "linear": NoiseSchedule.linear(1000),
    "scaled_linear": NoiseSchedule.scaled_linear(1000),
}
LEADING = [
    DDPM(20, spacing="leading"),
    DDIM(20, spacing="leading"),
    DPMSolver(20, spacing="leading"),
    DPMSolver(20, 2, spacing="leading", stochastic=True),
    Euler(20, noise_levels="spaced", spacing="leading"),
    Euler(20, spacing="leading"),
    Heun(20, spacing="leading"),
    Heun(20, noise_levels="log_snr", spacing="leading"),
]
by_kind = {"ids": lambda value: f"{type(value).__name__}" if not isinstance(value, str) else value}


def model_of(schedule: NoiseSchedule) -> Diffusion:
    return Diffusion(Network(1, torch.float32), schedule, shape=SHAPE)


def start(n: int = 1) -> torch.Tensor:
    return torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(0))


def quietly(walk) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        walk()


@pytest.mark.parametrize("sampler", LEADING, **by_kind)
def test_a_start_within_the_chain_warns_with_both_numbers(sampler):
    model = model_of(GEOMETRIC)
    first = int(sampler.timesteps(GEOMETRIC)[0]) + 1
    assert first < 1000
    here, end = (float(GEOMETRIC.alphas_cumprod[t]) for t in (first, 1000))
    for walk in (
        lambda: model.sample(1, sampler),
        lambda: sampler.sample(model, start()),
        lambda: sampler.iterate(model, start()),
    ):
        with pytest.warns(UserWarning, match="pure noise") as caught:
            walk()
        [message] = {str(warning.message) for warning in caught}
        assert (
            f"{type(sampler).__name__} starts from pure noise at level {first} of 1000" in message
        )
        shares = [float(share) for share in re.findall(r"([\d.]+)%", message)]
        assert shares == [pytest.approx(100 * here, rel=0.02), pytest.approx(100 * end, rel=0.02)]
        assert "--spacing trailing" in message


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
@pytest.mark.parametrize("steps", [3, 10, 30])
def test_the_defaults_start_at_the_end_of_the_chain(kind, steps, name):
    schedule = CHAINS[name]
    for sampler in (kind(steps), default_sampler(schedule, steps), default_sampler(schedule)):
        assert sampler.start_level(schedule).t == 1000
        assert sampler.timesteps(schedule)[0] == pytest.approx(999)
        quietly(lambda s=sampler: s.iterate(model_of(schedule), start()))


def test_levels_even_in_angle_are_those_of_a_cosine_chain():
    schedule = CHAINS["cosine"]
    # Its angle is even in the level, but for the offset of 8 levels at the data.
    levels = zip(schedule.even_in_angle(25), DDPM(25).visited(schedule), strict=True)
    assert all(abs(a - b) <= 8 for a, b in levels)


def test_the_default_asks_for_no_more_than_25_calls():
    for schedule in (*CHAINS.values(), NoiseSchedule.cosine(20)):
        calls = default_sampler(schedule).timesteps(schedule)
        assert len(calls) <= min(25, schedule.num_levels)
    with pytest.raises(NelboError, match=r"steps must lie in 1\.\.20"):
        default_sampler(NoiseSchedule.cosine(20), 21)


@pytest.mark.parametrize(
    ("chain", "steps", "warns"),
    [
        # Signal power of the first leading level, and at the end of the chain:
        ("linear", 20, False),  # 1.1e-4, 4e-5
        ("cosine", 50, False),  # 9e-4, 2e-9
        ("cosine", 20, True),  # 5.8e-3
        ("scaled_linear", 50, False),  # 5.7e-3, 4.7e-3: Stable Diffusion as it always was
        ("scaled_linear", 10, True),  # 1.4e-2
        ("geometric", 500, True),  # 1.1e-2, 3e-4
        ("geometric", 1000, False),
    ],
)
def test_a_little_signal_is_let_pass(chain, steps, warns):
    walk = DDIM(steps, spacing="leading").iterate
    if warns:
        with pytest.warns(UserWarning, match="pure noise"):
            walk(model_of(CHAINS[chain]), start())
    else:
        quietly(lambda: walk(model_of(CHAINS[chain]), start()))


@pytest.mark.parametrize("sampler", [None, DDPM(), DDIM(5), DPMSolver(5), Heun(5)], **by_kind)
def test_a_chain_that_ends_with_signal_warns_of_it(sampler):
    schedule = GEOMETRIC.respace(range(1, 901))
    end = float(schedule.alphas_cumprod[-1])
    with pytest.warns(UserWarning, match="level 900, where the chain ends with") as caught:
        model_of(schedule).sample(1, sampler)
    assert f"{100 * end:.0f}% of the variance still signal" in str(caught[0].message)


def test_up_to_twice_what_the_end_of_the_chain_holds_is_let_pass():
    model = model_of(NoiseSchedule.from_levels([0.9, 0.5, 0.011, 0.009, 0.005]))
    quietly(lambda: model.sample(1, DDIM(levels=[1, 4])))  # 1.8 times
    with pytest.warns(UserWarning, match="at level 3 of 5, where 1.1% of"):
        model.sample(1, DDIM(levels=[1, 3]))  # 2.2 times
    # As much, which at the end would be too much, of one that ends with more.
    model = model_of(NoiseSchedule.from_levels([0.9, 0.5, 0.011, 0.009, 0.006]))
    quietly(lambda: model.sample(1, DDIM(levels=[1, 3])))  # 1.8 times


def test_every_chain_that_ends_with_signal_warns_whatever_it_rounds_to():
    """The power of the last level is that of its angle, which may be the next number above."""
    for end in torch.linspace(0.0101, 0.5, 60, dtype=torch.float64).tolist():
        schedule = NoiseSchedule.from_levels([0.9, end])
        with pytest.warns(UserWarning, match="at level 2, where the chain ends with"):
            warn_of_signal(schedule, schedule.noise_level(2), "A walk")


def test_levels_of_ones_own_warn_like_those_of_a_spacing():
    model = model_of(GEOMETRIC)
    for kind in KINDS:
        with pytest.warns(UserWarning, match="at level 600 of 1000"):
            model.sample(1, kind(levels=[1, 300, 600]))
        quietly(lambda kind=kind: model.sample(1, kind(levels=[1, 300, 1000])))


def test_going_on_with_a_walk_is_no_start():
    model = model_of(GEOMETRIC)
    for kind in KINDS:
        later = kind(10, skip=5)
        quietly(lambda later=later: later.sample(model, start()))
        with pytest.warns(UserWarning, match="pure noise"):
            model.sample(1, later)  # which draws what it starts from


def test_edits_start_from_pictures():
    model, x_0 = model_of(GEOMETRIC), start().clamp(-1, 1)
    leading = DDIM(10, spacing="leading")
    for strength in (0.5, 1.0):
        quietly(lambda s=strength: ImageToImage(leading, s).edit(model, x_0))
    quietly(lambda: Interpolation(2, leading).edit(model, x_0.expand(2, -1, -1, -1)))
    mask = torch.ones(SHAPE[1:], dtype=torch.bool)
    with pytest.warns(UserWarning, match="Inpainting starts from pure noise at level 901 of 1000"):
        Inpainting(mask, DDPM(10, spacing="leading"), 1, 1).edit(model, x_0)
    quietly(lambda: Inpainting(mask, DDPM(10), 1, 1).edit(model, x_0))
