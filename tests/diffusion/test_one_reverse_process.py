"""Whatever a network predicts and whatever clips it, everything uses the same x̂_0.

The oracle is a network that predicts x_0 and clips it itself, by numpy, without a threshold.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import nelbo
from nelbo import Continuous, Diffusion
from nelbo.diffusion import ContinuousDiffusion, LearnedSchedule, flow
from nelbo.editing import ImageToImage, Inpainting
from nelbo.samplers import DDIM, DDPM, DPMSolver, Euler, Heun
from tests.diffusion.test_flow import signal_at
from tests.diffusion.test_flow_thresholds import (
    MIX,
    OFFSET,
    SCHEDULE,
    SHAPE,
    THRESHOLDS,
    clipped,
)

PREDICTIONS = ("epsilon", "sample", "v_prediction")
GAMMA = LearnedSchedule(-3.0, 3.0).double().requires_grad_(False)
CONTINUOUS = GAMMA.discretize(SCHEDULE.num_levels)
X = torch.tensor(
    [[0.2, -0.4, 0.6, 0.1], [-1.4, 0.9, 0.2, 1.6], [3.0, -2.0, 1.0, 0.0]], dtype=torch.float64
).view(3, *SHAPE)
HALF = torch.tensor([[True, False], [True, True]])


# At levels of the chain: between them this one calls the network with the nearest.
SOLVER = DPMSolver(6, noise_levels="spaced", spacing="trailing")


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def unclipped(x_t: Tensor) -> Tensor:
    mix, offset = torch.from_numpy(MIX), torch.from_numpy(OFFSET)
    return (1.2 * (x_t.flatten(1) @ mix.T + offset)).view_as(x_t)


def in_chain(time: Tensor) -> Tensor:
    return signal_at(SCHEDULE, time)


def in_continuous_time(time: Tensor) -> Tensor:
    place = time.double() / (SCHEDULE.num_levels - 1)
    return torch.sigmoid(-GAMMA(place)).view(-1, 1, 1, 1)


def model_of(prediction: str, threshold: str, signal=in_chain) -> Diffusion:
    def network(x_t: Tensor, time: Tensor, condition=None) -> Tensor:
        a, s = signal(time).sqrt(), (1 - signal(time)).sqrt()
        x_0 = unclipped(x_t)
        epsilon = (x_t - a * x_0) / s
        outputs = {"epsilon": epsilon, "sample": x_0, "v_prediction": a * epsilon - s * x_0}
        return outputs[prediction]

    return make(network, prediction, signal, **THRESHOLDS[threshold])


def oracle(threshold: str, signal=in_chain) -> Diffusion:
    def network(x_t: Tensor, time: Tensor, condition=None) -> Tensor:
        rows = unclipped(x_t).flatten(1).detach().numpy()
        return torch.from_numpy(np.stack([clipped(row, threshold) for row in rows])).view_as(x_t)

    return make(network, "sample", signal)


def make(network, prediction: str, signal=in_chain, **options) -> Diffusion:
    schedule = SCHEDULE if signal is in_chain else CONTINUOUS
    options |= {"variance": "fixed_large", "data": Continuous(), "shape": SHAPE}
    return Diffusion(network, schedule, prediction=prediction, **options).eval()


USES = {
    "bound": lambda m: m.elbo(X, levels=8, generator=seeded()).elbo,
    "bound by values": lambda m: m.bound_map(X, levels=8, generator=seeded()).nats,
    "bound of a path": lambda m: m.path_elbo(X, generator=seeded()),
    "respaced": lambda m: m.respace([3, 17, 60]).elbo(X, generator=seeded()).elbo,
    "ancestral": lambda m: m.respace([3, 17, 60]).sample(3, x_T=X, generator=seeded()),
    "inpainting": lambda m: Inpainting(HALF, DDPM(6), 2, 2).edit(m, X, generator=seeded()),
    "image to image": lambda m: ImageToImage(SOLVER).edit(m, X, generator=seeded()),
} | {
    type(s).__name__: lambda m, s=s: m.sample(3, s, x_T=X, generator=seeded())
    for s in (DDPM(6), SOLVER, Euler(6), Heun(6))
}


def first_of_ddim(model: Diffusion) -> Tensor:
    """Its x̂_0; the noise of a step is the network's own, not that of a clipped x̂_0."""
    return next(DDIM(6).iterate(model, X)).x_0


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.filterwarnings("ignore:.*pure noise")
def test_everything_uses_the_same_predicted_data(prediction, threshold):
    found, expected = model_of(prediction, threshold), oracle(threshold)
    with torch.no_grad():
        for name, use in (USES | {"DDIM": first_of_ddim}).items():
            torch.testing.assert_close(
                use(found), use(expected), msg=lambda m, name=name: f"{name}: {m}"
            )
        # The search for a first step looks beyond the chain, where times are those of its ends.
        latents = [flow.encode(m, X, rtol=1e-4, atol=1e-4) for m in (found, expected)]
        torch.testing.assert_close(*latents, rtol=1e-3, atol=1e-3)
    found, expected = (
        ContinuousDiffusion(m, GAMMA)
        for m in (
            model_of(prediction, threshold, in_continuous_time),
            oracle(threshold, in_continuous_time),
        )
    )
    with torch.no_grad():
        bounds = [m.elbo(X, levels=8, generator=seeded()).elbo for m in (found, expected)]
    torch.testing.assert_close(*bounds)


def velocity(state: Tensor, w: Tensor, condition=None) -> Tensor:
    w = w.to(state).view(-1, 1, 1, 1)
    return (state - unclipped(state / (w.square() + (1 - w).square()).sqrt())) / w


def denoiser(state: Tensor, sigma: Tensor, condition=None) -> Tensor:
    return unclipped(state / (1 + sigma.to(state).square()).sqrt().view(-1, 1, 1, 1))


@pytest.mark.parametrize("threshold", ["none", "static 0.6"])
@pytest.mark.parametrize("network", [velocity, denoiser])
@pytest.mark.filterwarnings("ignore:.*pure noise")
def test_a_network_in_other_coordinates_is_a_prediction(network, threshold):
    """Those of flow matching and of EDM, each with its own state and time."""
    found = make(network, network.__name__, **THRESHOLDS[threshold])
    expected = oracle(threshold)
    with torch.no_grad():
        for name, use in (USES | {"DDIM": first_of_ddim}).items():
            torch.testing.assert_close(
                use(found), use(expected), msg=lambda m, name=name: f"{name}: {m}"
            )
        latents = [flow.encode(m, X, rtol=1e-4, atol=1e-4) for m in (found, expected)]
        torch.testing.assert_close(*latents, rtol=1e-3, atol=1e-3)
    losses = [
        nelbo.loss(m, X, objective="bound", generator=seeded())
        for m in (found, model_of("epsilon", threshold))
    ]
    torch.testing.assert_close(*losses)
