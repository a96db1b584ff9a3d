"""Wrong conventions of a network are noticed, named, and right ones are not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import nelbo
from nelbo import Continuous, NelboError, NoiseSchedule
from tests.diffusion.test_own_network import (
    DATA,
    NAMES,
    SHAPE,
    VP,
    denoiser,
    epsilon_chain,
    epsilon_vp,
    own,
    score_vp,
    velocity,
    wide,
)

OPTIONS = {"shape": SHAPE, "data": Continuous()}


@pytest.mark.parametrize("name", NAMES)
def test_an_exact_network_passes(name):
    nelbo.check_network(own(name), DATA)


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


def raw(x: Tensor, c_noise: Tensor) -> Tensor:
    """A denoiser that is called with log(σ)/4."""
    return denoiser(x, (4 * c_noise).exp())


MISTAKES = {
    "sign of a score": (
        lambda: nelbo.from_score(lambda x, t: -score_vp(x, t), **VP, **OPTIONS),
        "its answer has the other sign$",
    ),
    "sign of a velocity": (
        lambda: nelbo.from_velocity(lambda x, s: -velocity(x, s), **OPTIONS),
        "its answer has the other sign$",
    ),
    "a velocity of the time from noise to data": (
        lambda: nelbo.from_velocity(lambda x, s: -velocity(x, 1 - s), **OPTIONS),
        "the other sign and its time runs the other way",
    ),
    "time in 0..1000": (
        lambda: nelbo.from_velocity(lambda x, s: velocity(x, s / 1000), **OPTIONS),
        "1000 times as large",
    ),
    "time in 0..1": (
        lambda: nelbo.from_epsilon(
            lambda x, t: epsilon_vp(x, 1000 * t),
            alpha=VP["alpha"],
            sigma=VP["sigma"],
            times=VP["times"],
            **OPTIONS,
        ),
        "1000 times smaller",
    ),
    "a score for noise": (
        lambda: nelbo.from_epsilon(score_vp, **VP, **OPTIONS),
        "it answers a score",
    ),
    "noise for a score": (
        lambda: nelbo.from_score(epsilon_vp, **VP, **OPTIONS),
        "it answers the noise, not a score",
    ),
    "log(σ)/4": (lambda: nelbo.from_denoiser(raw, **OPTIONS), "preconditioned"),
    "noise for data": (
        lambda: nelbo.from_denoiser(
            lambda x, sigma: (x - denoiser(x, sigma)) / wide(sigma), **OPTIONS
        ),
        "prediction='epsilon'",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named(mistake):
    make, named = MISTAKES[mistake]
    with pytest.raises(NelboError, match=named):
        nelbo.check_network(make(), DATA)


def test_the_range_of_data_is_named():
    """DATA is what the network was trained on, in whichever range the user has it."""
    model = own("denoiser")
    with pytest.raises(NelboError, match=r"x_0 lies in \[0, 1\]"):
        nelbo.check_network(model, (DATA + 1) / 2)
    with pytest.raises(NelboError, match=r"expects data in \[0, 1\]"):
        nelbo.check_network(model, 2 * DATA - 1)
    with pytest.raises(NelboError, match=r"0\.\.255"):
        nelbo.check_network(model, (DATA + 1) * 127.5)


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
