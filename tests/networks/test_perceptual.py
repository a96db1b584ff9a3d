"""LPIPS against the formula in float64, convolution by convolution, and files that are none."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.signal import correlate

from nelbo import NelboError
from nelbo.networks.perceptual import PerceptualDistance

# Channels of each convolution, by stage and place in the network.
VGG = {1: {0: 3, 2: 4}, 2: {5: 4, 7: 5}, 3: {10: 5, 12: 4, 14: 6}, 4: {17: 4, 19: 4, 21: 5}}
VGG[5] = {24: 4, 26: 4, 28: 4}
ALEX = {1: {0: 4}, 2: {3: 5}, 3: {6: 6}, 4: {8: 4}, 5: {10: 4}}
SHIFT, SCALE = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])


def weights_of(stages: dict, sides: dict[int, int]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    weights, channels = {}, 3
    for k, stage in stages.items():
        for i, width in stage.items():
            side = sides.get(i, 3)
            shape = (width, channels, side, side)
            weights[f"net.slice{k}.{i}.weight"] = torch.randn(shape, generator=generator) / side
            weights[f"net.slice{k}.{i}.bias"] = 0.1 * torch.randn(width, generator=generator)
            channels = width
        weights[f"lin{k - 1}.model.1.weight"] = torch.rand(1, channels, 1, 1, generator=generator)
    return weights


def pool(h: np.ndarray, side: int) -> np.ndarray:
    rows, columns = ((n - side) // 2 + 1 for n in h.shape[1:])
    return np.array(
        [
            [[c[2 * i : 2 * i + side, 2 * j : 2 * j + side].max() for j in range(columns)]]
            for c in h
            for i in range(rows)
        ]
    ).reshape(len(h), rows, columns)


def features(x: np.ndarray, stages: dict, weights: dict, kind: str) -> list[np.ndarray]:
    h, found = (x - SHIFT[:, None, None]) / SCALE[:, None, None], []
    for k, stage in stages.items():
        if k in ((2, 3, 4, 5) if kind == "vgg" else (2, 3)):
            h = pool(h, 2 if kind == "vgg" else 3)
        for i in stage:
            w = weights[f"net.slice{k}.{i}.weight"].double().numpy()
            b = weights[f"net.slice{k}.{i}.bias"].double().numpy()
            is_strided = w.shape[-1] == 11
            pad = 2 if is_strided else w.shape[-1] // 2
            padded = np.pad(h, ((0, 0), (pad, pad), (pad, pad)))
            out = [correlate(padded, kernel, "valid")[0] for kernel in w]
            h = np.maximum(np.array(out) + b[:, None, None], 0)
            h = h[:, ::4, ::4] if is_strided else h
        found.append(h)
    return found


def lpips(x: np.ndarray, y: np.ndarray, stages: dict, weights: dict, kind: str) -> float:
    total = 0.0
    pairs = zip(*(features(v, stages, weights, kind) for v in (x, y)), strict=True)
    for k, (fx, fy) in enumerate(pairs):
        w = weights[f"lin{k}.model.1.weight"].double().numpy().ravel()
        rows, columns = fx.shape[1:]
        for i in range(rows):
            for j in range(columns):
                unit = [f[:, i, j] / (np.linalg.norm(f[:, i, j]) + 1e-10) for f in (fx, fy)]
                total += (w * (unit[0] - unit[1]) ** 2).sum() / (rows * columns)
    return total


@pytest.mark.parametrize(
    ("kind", "stages", "sides", "size"),
    [("vgg", VGG, {}, 18), ("alex", ALEX, {0: 11, 3: 5}, 40)],
)
def test_it_is_the_formula(kind, stages, sides, size, generator):
    weights = weights_of(stages, sides)
    distance = PerceptualDistance(weights)
    x = torch.rand(2, 3, size, size, generator=generator, dtype=torch.float64) * 2 - 1
    y = (x + 0.4 * torch.randn(x.shape, generator=generator, dtype=torch.float64)).clamp(-1, 1)
    ours = distance(x, y)
    theirs = [lpips(a.numpy(), b.numpy(), stages, weights, kind) for a, b in zip(x, y, strict=True)]
    assert min(theirs) > 0.01
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)
    assert torch.equal(distance(x, x), torch.zeros(2, dtype=torch.float64))
    grey = distance(x[:, :1], y[:, :1])
    torch.testing.assert_close(grey, distance(x[:, :1].expand_as(x), y[:, :1].expand_as(y)))


def test_it_has_a_gradient_everywhere_and_copies_share_it():
    distance = PerceptualDistance(weights_of(VGG, {}))
    assert copy.deepcopy(distance) is distance
    x = torch.zeros(1, 3, 16, 16, requires_grad=True)
    distance(x, torch.ones(1, 3, 16, 16)).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert x.grad.abs().max() > 0


@pytest.mark.parametrize(("stages", "sides"), [(VGG, {}), (ALEX, {0: 11, 3: 5})])
def test_the_weights_follow_the_images_to_their_device(stages, sides):
    distance = PerceptualDistance(weights_of(stages, sides))
    x = torch.zeros(2, 1, 40, 40, device="meta")
    assert distance(x, x).device.type == "meta"


def test_mistakes_are_explained(tmp_path):
    weights = weights_of(VGG, {})
    distance = PerceptualDistance(weights)
    x = torch.zeros(1, 3, 8, 8)
    with pytest.raises(NelboError, match=r"VGG16 is for grey or RGB images of at least 16 .* 8×8"):
        distance(x, x)
    with pytest.raises(NelboError, match="is not there: give a safetensors file"):
        PerceptualDistance.load(tmp_path / "none.safetensors")
    torch.save(weights, tmp_path / "pickle.pth")
    with pytest.raises(NelboError, match="not readable as safetensors"):
        PerceptualDistance.load(tmp_path / "pickle.pth")
    for name, other in (
        ("other", {"a": torch.zeros(1)}),
        ("lacking", {k: v for k, v in weights.items() if k != "net.slice3.12.bias"}),
        ("wrong", weights | {"lin1.model.1.weight": torch.zeros(1, 9, 1, 1)}),
    ):
        save_file(other, tmp_path / f"{name}.safetensors")
    with pytest.raises(NelboError, match=r"other\.safetensors holds no LPIPS weights"):
        PerceptualDistance.load(tmp_path / "other.safetensors")
    with pytest.raises(NelboError, match=r"lacks net\.slice3\.12\.bias"):
        PerceptualDistance.load(tmp_path / "lacking.safetensors")
    with pytest.raises(NelboError, match=r"lin1\.model\.1\.weight has shape \(1, 9, 1, 1\)"):
        PerceptualDistance.load(tmp_path / "wrong.safetensors")
