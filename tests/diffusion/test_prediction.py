"""Every way to read a network's output, by the state, the data and the noise that make it up."""

from __future__ import annotations

import pytest
import torch

from nelbo import Diffusion, NoiseSchedule
from nelbo.diffusion import StaticThreshold
from nelbo.diffusion.prediction import PARAMETERIZATIONS, RawDenoiser, Velocity

KINDS = [*PARAMETERIZATIONS.values(), Velocity(1000.0), RawDenoiser(0.5), RawDenoiser(2.0)]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=str)

LOG_SNR = torch.linspace(-6, 6, 25, dtype=torch.float64)
A, S = LOG_SNR.sigmoid().sqrt(), (-LOG_SNR).sigmoid().sqrt()
X_0, NOISE = torch.randn(2, 25, generator=torch.Generator().manual_seed(0)).double().unbind()


@every_kind
def test_the_target_is_read_as_the_data_and_the_noise_it_was_made_of(kind):
    x_t, target = A * X_0 + S * NOISE, kind.target(X_0, NOISE, A, S)
    torch.testing.assert_close(kind.x_0(target, x_t, A, S), X_0)
    torch.testing.assert_close(kind.epsilon(target, x_t, A, S), NOISE)


@every_kind
def test_errors_of_an_output_are_those_of_noise_and_data(kind):
    zero, one = torch.zeros_like(A), torch.ones_like(A)
    for read, error in ((kind.x_0, kind.data_error), (kind.epsilon, kind.noise_error)):
        moved = read(one, zero, A, S) - read(zero, zero, A, S)
        torch.testing.assert_close(error(LOG_SNR), moved.square())


@pytest.mark.parametrize("sigma_data", [0.5, 2.0])
def test_a_raw_denoiser_is_called_and_read_as_in_table_1_of_edm(sigma_data):
    kind, sigma = RawDenoiser(sigma_data), S / A
    x_t = A * X_0 + S * NOISE
    wide, total = x_t / A, sigma.square() + sigma_data**2  # x̄ = x_0 + σ ε
    seen, time = kind.network_input(x_t, torch.zeros(25), A, S)
    torch.testing.assert_close(seen, wide / total.sqrt())  # c_in
    torch.testing.assert_close(time, sigma.log() / 4)  # c_noise
    skip, out = sigma_data**2 / total, sigma * sigma_data / total.sqrt()
    raw = NOISE.cos()
    torch.testing.assert_close(kind.x_0(raw, x_t, A, S), skip * wide + out * raw)


def test_velocities_and_denoisers_are_called_in_their_own_coordinates():
    x_t = A * X_0 + S * NOISE
    time = torch.zeros(25)
    w = S / (A + S)
    for scale in (1.0, 1000.0):
        seen, called = Velocity(scale).network_input(x_t, time, A, S)
        torch.testing.assert_close(seen, (1 - w) * X_0 + w * NOISE)
        torch.testing.assert_close(called, scale * w)
    seen, called = PARAMETERIZATIONS["denoiser"].network_input(x_t, time, A, S)
    torch.testing.assert_close(seen, X_0 + S / A * NOISE)
    torch.testing.assert_close(called, S / A)
    for name in ("epsilon", "sample", "v_prediction"):
        seen, called = PARAMETERIZATIONS[name].network_input(x_t, time, A, S)
        assert seen is x_t
        assert called is time


def test_only_a_divergence_sees_where_the_threshold_clips():
    """In training the gradient passes the clip; the value is clipped in both."""
    shift = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    for threshold, true_slope in ((None, 4.0), (StaticThreshold(), 0.2)):  # 0.6 alone is within
        model = Diffusion(
            lambda x, time, condition: shift * x,
            NoiseSchedule.linear(5, 0.1, 0.3),
            prediction="sample",
            thresholding=threshold,
        )
        x_t = torch.tensor([0.2, 0.8, 1.0, 2.0], dtype=torch.float64).view(4, 1, 1, 1)
        found = model.predict(x_t, 3)
        assert torch.equal(found.x_0, found.differentiable_x_0())
        (passing,) = torch.autograd.grad(found.x_0.sum(), shift, retain_graph=True)
        assert passing.item() == pytest.approx(4.0)
        (true,) = torch.autograd.grad(found.differentiable_x_0().sum(), shift)
        assert true.item() == pytest.approx(true_slope)
