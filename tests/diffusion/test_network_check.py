"""Wrong conventions of a network are noticed and named, and right ones are not."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence

import pytest
import torch
from torch import Tensor, nn

import nelbo
from nelbo import Continuous, Diffusion, NelboError, NoiseSchedule
from nelbo.data import load_data
from tests.diffusion import planted as p
from tests.diffusion.planted import FORMS, planted
from tests.diffusion.test_own_network import (
    DATA,
    SHAPE,
    denoiser,
    epsilon_chain,
    own,
    wide,
)

OPTIONS = {"shape": SHAPE, "data": Continuous()}
PRESERVING, EXPLODING = "variance-preserving state", "variance-exploding state"
LEVEL = r"level in 0\.\.999 of NoiseSchedule.linear\(1000\)"

# A form of docs/your-own-network.md, the convention of the network it is given, what is named.
PLANTED = {
    "preserving state, denoiser": ("edm", ("preserving", "sigma", "data"), [PRESERVING]),
    "flow state, denoiser": ("edm", ("flow", "sigma", "data"), ["state of flow matching"]),
    "c_noise, denoiser": ("edm", ("exploding", "c_noise", "data"), ["log.σ./4.*preconditioned"]),
    "a raw network": ("edm", ("scaled", "c_noise", "raw"), ["raw network.*preconditioned"]),
    "noise for data": ("edm", ("exploding", "sigma", "noise"), ["'epsilon'"]),
    "DDPM as a denoiser": (
        "edm",
        ("preserving", "level", "noise"),
        [PRESERVING, LEVEL, "'epsilon'"],
    ),
    "a denoiser as raw": (
        "raw",
        ("exploding", "sigma", "data"),
        [EXPLODING, "'sample'", "σ as its"],
    ),
    "preserving state, noise": ("k-diffusion", ("preserving", "sigma", "noise"), [PRESERVING]),
    "a score for noise": ("k-diffusion", ("exploding", "sigma", "score"), ["answers a score"]),
    "exploding state, DDPM": ("ddpm", ("exploding", "level", "noise"), [EXPLODING]),
    "time in 0..1, DDPM": ("ddpm", ("preserving", "level / 1000", "noise"), ["1000 times smaller"]),
    "v for noise": ("ddpm", ("preserving", "level", "v"), ["'v_prediction'"]),
    "sign of v": ("v", ("preserving", "level", "v", -1.0), ["other sign$"]),
    "noise for a score": ("vp-sde", ("preserving", "vp", "noise"), ["not a score"]),
    "sign of a score": ("vp-sde", ("preserving", "vp", "score", -1.0), ["other sign$"]),
    "time in 0..1000, score": (
        "vp-sde",
        ("preserving", "1000 vp", "score"),
        ["1000 times as large"],
    ),
    "preserving state, score": ("ve-sde", ("preserving", "sigma", "score"), [PRESERVING]),
    "sign of a velocity": ("flow", ("flow", "s", "velocity", -1.0), ["other sign$"]),
    "time reversed": ("flow", ("flow", "1 - s", "velocity"), ["other way"]),
    "sign and time": (
        "flow",
        ("flow", "1 - s", "velocity", -1.0),
        ["other sign", "other way|to data"],
    ),
    "time in 0..1000, flow": ("flow", ("flow", "1000 s", "velocity"), ["1000 times as large"]),
    "an embedding": ("flow", ("flow", "embedding", "velocity"), ["refuses.*Long", "whole time"]),
    "preserving state, flow": ("flow", ("preserving", "s", "velocity"), [PRESERVING]),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_right_convention_passes(form):
    make, right = FORMS[form]
    nelbo.check_network(make(planted(*right)), p.DATA)


# Beside those that differ from one of these in a single part.
QUICK = (
    *("preserving state, denoiser", "a raw network", "noise for data", "DDPM as a denoiser"),
    *("exploding state, DDPM", "time in 0..1, DDPM", "sign of v", "noise for a score"),
    *("sign and time", "time in 0..1000, flow", "an embedding"),
)


def slow_unless(quick: Sequence[str], names: Iterable[str]) -> list:
    return [pytest.param(n, marks=[] if n in quick else pytest.mark.slow) for n in names]


@pytest.mark.parametrize("name", slow_unless(QUICK, PLANTED))
def test_a_planted_convention_is_named(name):
    form, convention, named = PLANTED[name]
    with pytest.raises(NelboError) as error:
        nelbo.check_network(FORMS[form][0](planted(*convention)), p.DATA)
    likely = str(error.value)
    for each in named:
        assert re.search(each, likely), likely


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_an_imprecise_network_passes(prediction):
    """Outputs with an error of a tenth of their size, as of a network that was trained."""
    schedule = NoiseSchedule.cosine(1000)
    exact = epsilon_chain(schedule)

    def network(x: Tensor, time: Tensor, condition=None) -> Tensor:
        found = exact.predict(x, time + 1)
        output = {"epsilon": found.epsilon, "sample": found.x_0, "v_prediction": found.v}
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
        return output[prediction] + 0.1 * output[prediction].std() * noise

    model = nelbo.Diffusion(network, schedule, prediction=prediction, **OPTIONS)
    nelbo.check_network(model, DATA)


def test_the_first_bound_warns_of_the_state():
    form, convention, _ = PLANTED["preserving state, denoiser"]
    with pytest.warns(UserWarning, match=PRESERVING):
        FORMS[form][0](planted(*convention)).elbo(p.DATA, levels=1)


def test_other_data_than_it_was_trained_on_are_no_mistake():
    """Contrast and brightness that differ by a fifth of the spread."""
    for data in (0.8 * DATA, 1.2 * DATA, DATA - 0.1, DATA + 0.1):
        nelbo.check_network(own("denoiser"), data)


class Perceptron(nn.Module):
    """A network of 4×4 pictures that takes any time, and scales the state of an exploding one."""

    def __init__(self, exploding: bool) -> None:
        super().__init__()
        self.exploding = exploding
        self.first, self.middle = nn.Linear(16 + 2, 96), nn.Linear(96, 96)
        self.last = nn.Linear(96, 16)

    def forward(self, x: Tensor, time: Tensor, condition: object = None) -> Tensor:
        time = time.to(x.dtype)
        if self.exploding:
            x = x / (0.25 + time.view(-1, 1, 1, 1) ** 2).sqrt()
        code = torch.stack([(time.abs() + 1e-3).log(), time / (1 + time.abs())], 1)
        hidden = nn.functional.silu(self.first(torch.cat([x.flatten(1), code], 1)))
        return self.last(hidden + nn.functional.silu(self.middle(hidden))).view_as(x)


def trained(
    make: Callable[[Perceptron], Diffusion], steps: int, exploding: bool
) -> tuple[Perceptron, Tensor]:
    """A network after some steps by a convention, and pictures that it has not seen."""
    digits = load_data("digits", "train")
    pictures = nelbo.Pixels(digits.levels).to_network(digits.images)
    pictures = nn.functional.avg_pool2d(pictures, 2)
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Perceptron(exploding)
    model = make(network)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(steps):
        batch = pictures[torch.randint(1000, (64,), generator=generator)]
        optimizer.zero_grad()
        nelbo.loss(model, batch, generator=generator).backward()
        optimizer.step()
    return network, pictures[1000:1064]


@pytest.mark.parametrize(
    "form",
    slow_unless(["ddpm", "edm", "flow"], ["ddpm", "v", "edm", "raw", "flow", "flow from noise"]),
)
def test_a_network_of_few_steps_passes(form):
    make = FORMS[form][0]
    network, pictures = trained(make, 80, exploding=form == "edm")
    nelbo.check_network(make(network), pictures)


def preserving(network: Callable[..., Tensor]) -> Diffusion:
    """A denoiser of variance-preserving states that knows σ."""
    return FORMS["edm"][0](lambda x, sigma: network(x / (1 + wide(sigma) ** 2).sqrt().to(x), sigma))


@pytest.mark.parametrize(
    ("by", "handed", "named"),
    [
        (preserving, "edm", PRESERVING),
        (FORMS["ddpm"][0], "v", "'epsilon'"),
        (FORMS["flow"][0], "flow from noise", "other sign and .*time"),
    ],
)
def test_a_trained_network_by_another_convention_is_named(by, handed, named):
    network, pictures = trained(by, 240, exploding=False)
    nelbo.check_network(by(network), pictures)
    with pytest.raises(NelboError, match=named):
        nelbo.check_network(FORMS[handed][0](network), pictures)


def test_the_range_of_data_is_named():
    """DATA is what the network was trained on, in whichever range the user has it."""
    model = own("denoiser")
    with pytest.raises(NelboError, match=r"x_0 lies in \[0, 1\]"):
        nelbo.check_network(model, (DATA + 1) / 2)
    with pytest.raises(NelboError, match=r"expects data in \[0, 1\]"):
        nelbo.check_network(model, 2 * DATA - 1)
    with pytest.raises(NelboError, match=r"0\.\.255"):
        nelbo.check_network(model, (DATA + 1) * 127.5)


def test_a_range_explains_nothing_where_the_network_refuses_what_it_asks_for():
    """(x_0 + 1) / 2 is half as wide: at half of the σ it stands beside as much noise."""
    levels: list[float] = []

    def network(x: Tensor, sigma: Tensor) -> Tensor:
        levels.append(float(sigma[0]))
        if refused < sigma[0] < 1.04 * refused:
            raise ValueError("not this one")
        return denoiser(x, sigma)

    model = nelbo.from_denoiser(network, **OPTIONS)
    refused = math.inf
    with pytest.raises(NelboError, match=r"expects data in \[0, 1\]"):
        nelbo.check_network(model, 2 * DATA - 1)
    refused = 0.98 * sorted(levels[:8])[4] / 2  # what it is given itself is read first
    with pytest.raises(NelboError, match="Likely") as error:
        nelbo.check_network(model, 2 * DATA - 1)
    assert "expects data in" not in str(error.value)


def test_levels_and_ranges_are_read_where_there_is_as_much_noise_beside_the_data():
    """σ doubles from 1/128 to 128: levels are even in log SNR, and (x_0 + 1) / 2 has half of σ."""
    calls: list[tuple[Tensor, float]] = []

    def network(x: Tensor, sigma: Tensor) -> Tensor:
        calls.append((x, float(sigma[0])))
        return denoiser(x, sigma)

    model = nelbo.from_denoiser(network, T=15, sigma_min=1 / 128, sigma_max=128.0, **OPTIONS)
    with pytest.raises(NelboError, match=r"expects data in \[0, 1\]"):
        nelbo.check_network(model, 2 * DATA - 1)
    x, sigma = calls[0]
    noise = (x - (2 * DATA - 1)) / sigma
    assert sorted(s for _, s in calls[:8]) == pytest.approx([4.0**i / 128 for i in range(8)])
    halves = [s for x, s in calls[8:] if torch.allclose(x, DATA + s * noise, rtol=1e-6)]
    assert sorted(halves) == pytest.approx([1 / 128, *(4.0**i / 256 for i in range(1, 8))])


@pytest.mark.parametrize(
    ("shown", "scale", "said"),
    [
        ([1.0, 1, 0, 0, 0, 0, 0, 0], 0.75, "does not denoise"),
        ([1.0] * 8, 0.08, "denoises x_0 .* better by another"),
    ],
)
def test_a_mistake_that_shows_little_is_named(shown, scale, said):
    """Squared errors in noise powers: 1 of an answer of 0, (1 ± c)² of c v by its sign.

    The mean of two examples with c = 0.75 and six of 0 is 1.5, above what is allowed of a trained
    network and below twice of it, and 0.77 with the other sign, not by three standard errors.
    That of eight with c = 0.08 is 1.17, which is allowed, and 0.85 with the other sign.
    """
    x_0 = torch.randn(8, 1, 24, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    schedule = NoiseSchedule.cosine(1000)
    scales = scale * wide(torch.tensor(shown))

    def network(x: Tensor, time: Tensor, condition=None) -> Tensor:
        signal = schedule.alphas_cumprod[time.long() + 1].view(-1, 1, 1, 1)
        return -scales * (signal.sqrt() * x - x_0) / (1 - signal).sqrt()

    model = Diffusion(network, schedule, prediction="v_prediction", data=Continuous())
    with pytest.raises(NelboError, match=f"{said}.*other sign"):
        nelbo.check_network(model, x_0)


def test_a_network_of_no_use_is_refused_without_a_guess():
    model = nelbo.from_denoiser(lambda x, sigma: 5 + 0 * x, **OPTIONS)
    with pytest.raises(NelboError, match="Likely: check the sign"):
        nelbo.check_network(model, DATA)
    with pytest.raises(NelboError, match="at least 8"):
        nelbo.check_network(model, DATA[:3])
    with pytest.raises(NelboError, match=r"torch\.uint8, .*to_network"):
        nelbo.check_network(model, torch.zeros(8, *SHAPE, dtype=torch.uint8))
    with pytest.raises(NelboError, match=r"shape \(1, 2, 3\), the model takes \(1, 2, 2\)"):
        nelbo.check_network(model, torch.zeros(8, 1, 2, 3))
