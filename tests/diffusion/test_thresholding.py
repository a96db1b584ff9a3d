"""Thresholds against numpy, and their place in the reverse process."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest
import torch

from nelbo import NelboError
from nelbo.diffusion import DynamicThreshold, StaticThreshold
from tests.diffusion.test_model import SHAPE, make, pixels


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("ratio", "largest"), [(0.995, 1.0), (0.9, 3.0), (0.5, 1.2), (0.0, 2.0)])
def test_dynamic_threshold_is_the_papers(ratio, largest, dtype, generator):
    x = torch.randn(5, *SHAPE, generator=generator, dtype=torch.float64).to(dtype)
    x = x * torch.tensor([0.1, 0.5, 1, 2, 5], dtype=dtype).view(-1, 1, 1, 1)
    ours = DynamicThreshold(ratio, largest)(x)
    assert ours.dtype == dtype
    for example, found in zip(x.double().numpy(), ours.double().numpy(), strict=True):
        s = min(max(np.quantile(np.abs(example), ratio), 1.0), largest)
        tolerance = 1e-2 if dtype == torch.bfloat16 else 1e-6
        np.testing.assert_allclose(found, np.clip(example, -s, s) / s, atol=tolerance)


def test_sampling_and_evaluating_share_it():
    threshold = DynamicThreshold(0.8, 2.0)
    plain, model = make("sample"), make("sample", thresholding=threshold)
    x_0 = pixels(4)
    x_t = 3 * torch.randn(4, *SHAPE, dtype=torch.float64)
    x_t[0] *= 5
    expected = threshold(plain.predict(x_t, 5).x_0)
    torch.testing.assert_close(model.predict(x_t, 5).x_0, expected)
    weight = model.schedule.posterior_data_weight[5]
    moved = weight * (expected - plain.predict(x_t, 5).x_0)
    torch.testing.assert_close(model.p_step(x_t, 5).mean, plain.p_step(x_t, 5).mean + moved)
    bounds = [
        m.elbo(x_0, generator=torch.Generator().manual_seed(0)).elbo
        for m in (make("sample", clip_sample=True), make("sample", thresholding=StaticThreshold()))
    ]
    torch.testing.assert_close(*bounds)
    assert model.respace([1, 5, 9]).threshold is threshold


def test_gradients_pass():
    model = make("epsilon", thresholding=DynamicThreshold(0.5, 1.5))
    x_t = 4 * torch.randn(3, *SHAPE, dtype=torch.float64)
    model.predict(x_t, 9).x_0.sum().backward()
    assert model.network.scale.grad.abs() > 0


@pytest.mark.parametrize(
    ("make_threshold", "message"),
    [
        (lambda: StaticThreshold(0.0), "positive range, got 0.0"),
        (lambda: DynamicThreshold(1.5), r"0\.\.1, got 1.5"),
        (lambda: DynamicThreshold(-0.1), r"0\.\.1, got -0.1"),
        (lambda: DynamicThreshold(0.9, 0.5), "at least 1, got 0.5"),
        (lambda: StaticThreshold("1"), "range must be a number, got str '1'"),
        (lambda: DynamicThreshold(None), "ratio must be a number, got None"),
        (lambda: DynamicThreshold(0.9, [2]), "max_value must be a number"),
    ],
)
def test_mistakes_are_explained(make_threshold, message):
    with pytest.raises(NelboError, match=message):
        make_threshold()


def test_what_is_left_open_is_as_in_diffusers():
    peer = diffusers.DDPMScheduler().config
    theirs = DynamicThreshold(peer.dynamic_thresholding_ratio, peer.sample_max_value)
    assert DynamicThreshold() == theirs
    assert StaticThreshold() == StaticThreshold(peer.clip_sample_range)
    found = DynamicThreshold(1.0, 2.0)(torch.tensor([[1.0, -1.5]])).flatten().tolist()
    assert found == pytest.approx([2 / 3, -1.0])


def test_a_static_threshold_clips_at_both_ends():
    x_0 = torch.tensor([-2.0, -0.5, -0.2, 0.0, 0.3, 2.0])
    expected = torch.tensor([-0.5, -0.5, -0.2, 0.0, 0.3, 0.5])
    assert torch.equal(StaticThreshold(0.5)(x_0), expected)
    assert torch.equal(StaticThreshold()(x_0), x_0.clamp(-1, 1))


@pytest.mark.parametrize("given", [0.0, -1.0, float("nan")])
def test_a_static_threshold_is_positive(given):
    with pytest.raises(NelboError, match="clips to a positive range"):
        StaticThreshold(given)


@pytest.mark.parametrize(
    ("fields", "refused"),
    [
        ({"ratio": -0.01}, True),
        ({"ratio": 0.0}, False),
        ({"ratio": 1.0}, False),
        ({"ratio": 1.01}, True),
        ({"max_value": 0.99}, True),
        ({"max_value": 1.0}, False),
    ],
)
def test_ends_of_a_dynamic_threshold(fields, refused):
    if not refused:
        DynamicThreshold(**fields)
        return
    with pytest.raises(NelboError, match="of a dynamic threshold"):
        DynamicThreshold(**fields)


def test_a_dynamic_threshold_stops_at_its_largest_value():
    """Of one example whose largest value is 4: s is 2, and the example is divided by it."""
    x_0 = torch.tensor([[-4.0, 0.5, 1.0, 3.0]])
    found = DynamicThreshold(ratio=1.0, max_value=2.0)(x_0)
    assert torch.equal(found, torch.tensor([[-1.0, 0.25, 0.5, 1.0]]))
    # And of one within [−1, 1] it is 1.
    small = torch.tensor([[0.25, -0.5]])
    assert torch.equal(DynamicThreshold(1.0, 2.0)(small), small)
