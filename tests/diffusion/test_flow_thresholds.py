"""The flow reads the network as the chain does, whatever clips its prediction."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch
from scipy import integrate
from torch import Tensor

from nelbo import Continuous, Diffusion, NoiseSchedule, Pixels
from nelbo.diffusion import DynamicThreshold, StaticThreshold, flow
from nelbo.diffusion.dequantization import _within_normal, dequantize

SHAPE = (1, 2, 2)
SCHEDULE = NoiseSchedule.geometric(60, first_noise=0.2, last_signal=0.05)
# Mixes the pixels, and leaves [−1, 1].
MIX = np.array(
    [[1.1, 0.4, -0.3, 0.2], [0.1, 0.9, 0.5, -0.2], [-0.4, 0.3, 1.2, 0.1], [0.2, -0.5, 0.1, 0.8]]
)
OFFSET = np.array([0.3, -0.2, 0.1, 0.4])
X_0 = np.array([[0.2, -0.4, 0.6, 0.1], [-1.4, 0.9, 0.2, 1.6]])
THRESHOLDS = {
    "none": {},
    "clip": {"clip_sample": True},
    "static 1": {"thresholding": StaticThreshold(1.0)},
    "static 0.6": {"thresholding": StaticThreshold(0.6)},
    "dynamic to 1": {"thresholding": DynamicThreshold(0.9, 1.0)},
    "dynamic": {"thresholding": DynamicThreshold(0.5, 2.0)},
    "both": {"clip_sample": True, "thresholding": DynamicThreshold(0.5, 2.0)},
}


def clipped(x_0: np.ndarray, name: str) -> np.ndarray:
    """The threshold by numpy."""
    if name == "none":
        return x_0
    if name in ("clip", "static 1", "dynamic to 1"):
        return np.clip(x_0, -1, 1)
    if name == "static 0.6":
        return np.clip(x_0, -0.6, 0.6)
    s = min(max(np.quantile(np.abs(x_0), 0.5), 1.0), 2.0)
    return np.clip(x_0, -s, s) / s


def model_of(name: str) -> Diffusion:
    mix, offset = torch.from_numpy(MIX), torch.from_numpy(OFFSET)

    def network(x_t: Tensor, time: Tensor, condition=None) -> Tensor:
        return (1.2 * (x_t.flatten(1) @ mix.T + offset)).view_as(x_t)

    return Diffusion(
        network,
        SCHEDULE,
        prediction="sample",
        data=Continuous(),
        shape=SHAPE,
        **THRESHOLDS[name],
    ).eval()


@functools.cache
def density_by_hand(which: int, name: str) -> float:
    """log p of `X_0[which]` by scipy's integrator, with the divergence from central differences."""
    x_0 = X_0[which]
    ends = (-0.5 * SCHEDULE.log_snr[[1, -1]]).tolist()
    a_1 = math.sqrt(float(SCHEDULE.alphas_cumprod[1]))

    def predicted(x: np.ndarray) -> np.ndarray:
        return clipped(1.2 * (MIX @ x + OFFSET), name)

    def slope(u: float, state: np.ndarray) -> np.ndarray:
        a, x, h = 1 / math.sqrt(1 + math.exp(2 * u)), state[:4], 1e-6
        trace = sum(
            (predicted(x + h * e)[i] - predicted(x - h * e)[i]) / (2 * h)
            for i, e in enumerate(np.eye(4))
        )
        return np.append(a * (a * x - predicted(x)), a * (4 * a - trace))

    start = np.append(a_1 * x_0, 0.0)
    end = integrate.solve_ivp(slope, ends, start, rtol=1e-6, atol=1e-6, max_step=0.1).y[:, -1]
    prior = -0.5 * (end[:4] @ end[:4] + 4 * math.log(2 * math.pi))
    return prior + end[4] + 4 * math.log(a_1)


@pytest.mark.parametrize("name", THRESHOLDS)
def test_the_density_is_that_of_the_thresholded_flow(name):
    expected = torch.tensor([density_by_hand(which, name) for which in (0, 1)])
    found = flow.log_likelihood(
        model_of(name),
        torch.from_numpy(X_0).view(2, *SHAPE),
        trace="exact",
        rtol=1e-6,
        atol=1e-6,
    ).log_likelihood
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-3)


@pytest.mark.parametrize("name", THRESHOLDS)
def test_a_threshold_changes_the_density_only_where_it_acts(name):
    """So that the test above can tell them apart."""
    densities = {n: density_by_hand(1, n) for n in ("none", name)}
    same = abs(densities["none"] - densities[name]) < 0.05
    assert same == (name == "none")


@pytest.mark.parametrize("name", ["clip", "static 0.6", "dynamic"])
def test_training_s_gradient_passes_the_clip_and_the_flow_s_does_not(name):
    model = model_of(name)
    x = torch.full((1, *SHAPE), 3.0, dtype=torch.float64, requires_grad=True)
    prediction = model.predict(x, 20)
    torch.testing.assert_close(prediction.differentiable_x_0(), prediction.x_0)
    (through,) = torch.autograd.grad(prediction.x_0.sum(), x, retain_graph=True)
    torch.testing.assert_close(through.flatten(), torch.from_numpy(1.2 * MIX.sum(0)))
    (true,) = torch.autograd.grad(prediction.differentiable_x_0().sum(), x)
    h, values = 1e-6, np.full(4, 3.0)
    expected = [
        (
            clipped(1.2 * (MIX @ (values + h * e) + OFFSET), name)
            - clipped(1.2 * (MIX @ (values - h * e) + OFFSET), name)
        ).sum()
        / (2 * h)
        for e in np.eye(4)
    ]
    torch.testing.assert_close(true.flatten(), torch.tensor(expected), rtol=1e-4, atol=1e-6)


def test_the_error_of_a_step_is_that_of_the_worst_example():
    state = torch.zeros(16, *SHAPE, dtype=torch.float64)
    state[5] = torch.tensor([3.0, -4.0, 0.0, 0.0]).view(SHAPE)
    density = torch.zeros(16, dtype=torch.float64)
    assert float(flow._largest_error((state, density))) == pytest.approx(2.5)
    density[2] = -7.0
    assert float(flow._largest_error((state, density))) == pytest.approx(7.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("half", "sigma"), [(1.0, 0.02), (1 / 16, 0.05), (1 / 255, 1e-4), (1, 9)])
def test_a_truncated_normal_is_finite_at_the_ends_of_the_uniform(dtype, half, sigma):
    uniform = torch.tensor([[-1.0], [0.0], [1.0]], dtype=dtype)
    noise, log_q = _within_normal(uniform, half, sigma)
    assert noise.isfinite().all()
    assert log_q.isfinite().all()
    assert (noise.abs() <= half).all()
    assert noise[1] == 0
    torch.testing.assert_close(noise[0], -noise[2])
    # The density integrates to one, and that at an end is the normal's there.
    mass = math.erf(half / (sigma * math.sqrt(2)))
    expected = -0.5 * (noise / sigma).square() - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(log_q, (expected - math.log(sigma * mass)).flatten())


@pytest.mark.parametrize("kind", ["uniform", "truncated_normal"])
@pytest.mark.parametrize("drawn", [0.0, 1.0 - 2.0**-24])
def test_the_ends_of_a_generator_s_range_give_a_likelihood(kind, drawn, monkeypatch):
    """float32 draws exactly 0 once in 2²⁴ times."""
    monkeypatch.setattr(
        torch, "rand", lambda *size, dtype=None, **_: torch.full(*size, drawn, dtype=dtype)
    )
    schedule = NoiseSchedule.geometric(100, first_noise=0.02)
    model = Diffusion(
        lambda x, time, condition=None: 0.5 * x,
        schedule,
        prediction="sample",
        data=Pixels(2),
        shape=SHAPE,
    ).eval()
    x_0 = torch.tensor([-1.0, 1.0, 1.0, -1.0]).view(1, *SHAPE)
    start = dequantize(model, x_0, None, kind)
    assert start.log_weight.isfinite().all()
    assert start.x.isfinite().all()
    found = flow.log_likelihood(model, x_0, dequantization=kind, trace="exact")
    assert found.log_likelihood.isfinite().all()
