r"""The perceptual distance of two images: LPIPS (Zhang et al. 2018, eq. 1).

.. math::
    d(x, y) = \sum_l \frac{1}{H_l W_l} \sum_{h,w}
              \sum_c w_{lc}\, (\hat f^l_{hwc}(x) - \hat f^l_{hwc}(y))^2

with :math:`\hat f^l` the features of an image network after its l-th stage, each of unit length
along the channels, and w ≥ 0, the square of the paper's weight, learned from people's judgements.
The network, VGG16 or AlexNet, and the judgements come from one local file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d, relu

from nelbo.base.errors import NelboError

# Mean and standard deviation of photographs, for images in [−1, 1].
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
_EPS = 1e-10
_HOW = (
    "in Python with the package lpips: save_file({name: value.contiguous() for name, value in "
    'lpips.LPIPS(net="vgg").state_dict().items() if not name.startswith("lins.")}, '
    '"lpips-vgg.safetensors")'
)


class _Network(NamedTuple):
    """Where the convolutions of each stage are in the file, and what goes before the stages.

    `pool` is the side and stride of the maximum before each of the stages in `pooled`.
    """

    convolutions: tuple[tuple[int, ...], ...]
    stride: int
    padding: int
    pool: tuple[int, int]
    pooled: tuple[int, ...]
    least: int


_NETWORKS = {
    "VGG16": _Network(
        ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28)), 1, 1, (2, 2), (1, 2, 3, 4), 16
    ),
    "AlexNet": _Network(((0,), (3,), (6,), (8,), (10,)), 4, 2, (3, 2), (1, 2), 31),
}


class PerceptualDistance:
    """LPIPS with frozen weights, which copies share.

    Args:
        weights: the state dict of an `lpips.LPIPS` of VGG16 or AlexNet.
        name: their name in errors.

    Raises:
        NelboError: weights of another network, or not all of them.
    """

    def __init__(self, weights: dict[str, Tensor], name: str = "the weights") -> None:
        first = weights.get("net.slice1.0.weight")
        side = None if first is None or first.ndim != 4 else first.shape[-1]
        kinds = {3: "VGG16", 11: "AlexNet"}
        if side not in kinds:
            raise NelboError(
                f"{name} holds no LPIPS weights of VGG16 or AlexNet (net.slice1.0.weight is "
                f"{'missing' if first is None else tuple(first.shape)}); make it {_HOW}"
            )
        self.network = kinds[side]
        layout = self._layout = _NETWORKS[self.network]
        try:
            self._stages = [
                [
                    (weights[f"net.slice{k}.{i}.weight"], weights[f"net.slice{k}.{i}.bias"])
                    for i in stage
                ]
                for k, stage in enumerate(layout.convolutions, 1)
            ]
            self._judgements = [
                weights[f"lin{k}.model.1.weight"] for k in range(len(layout.convolutions))
            ]
        except KeyError as error:
            raise NelboError(f"{name} lacks {error.args[0]}: make it {_HOW}") from error
        for k, (stage, judgement) in enumerate(zip(self._stages, self._judgements, strict=True)):
            expected = (1, stage[-1][0].shape[0], 1, 1)
            if tuple(judgement.shape) != expected:
                raise NelboError(
                    f"{name}: lin{k}.model.1.weight has shape {tuple(judgement.shape)}, expected "
                    f"{expected}"
                )

    @classmethod
    def load(cls, path: str | Path) -> PerceptualDistance:
        """The distance whose weights are in a safetensors file.

        Raises:
            NelboError: the file is missing or holds other weights.
        """
        if not Path(path).is_file():
            raise NelboError(f"{path} is not there: give a safetensors file, made {_HOW}")
        try:
            weights = load_file(path)
        except (SafetensorError, OSError) as error:
            raise NelboError(
                f"{path} is not readable as safetensors ({error}), the only format that is loaded: "
                f"make it {_HOW}"
            ) from error
        return cls(weights, str(path))

    def __deepcopy__(self, memo: dict[int, Any]) -> PerceptualDistance:
        return self

    def __call__(
        self,
        x: Float[Tensor, "batch channels height width"],
        y: Float[Tensor, "batch channels height width"],
    ) -> Float[Tensor, " batch"]:
        """d(x, y) of each pair of images in [−1, 1], grey or RGB.

        Raises:
            NelboError: images that are too small for the network, or neither grey nor RGB.
        """
        channels, height, width = x.shape[1:]
        if channels not in (1, 3) or min(height, width) < self._layout.least:
            raise NelboError(
                f"LPIPS with {self.network} is for grey or RGB images of at least "
                f"{self._layout.least} pixels a side, got {channels} channels of {height}×{width}"
            )
        self._move_to(x.device)
        total = x.new_zeros(len(x))
        for fx, fy, weight in zip(
            self._features(x), self._features(y), self._judgements, strict=True
        ):
            difference = (_unit(fx) - _unit(fy)).square()
            total = total + (difference * weight.to(x)).sum(1).mean((1, 2))
        return total

    def _move_to(self, device: torch.device) -> None:
        """Move the weights to the device of the images, once."""
        self._stages = [[(w.to(device), b.to(device)) for w, b in stage] for stage in self._stages]
        self._judgements = [weight.to(device) for weight in self._judgements]

    def _features(self, x: Tensor) -> list[Tensor]:
        layout = self._layout
        h = (x - x.new_tensor(_SHIFT)[:, None, None]) / x.new_tensor(_SCALE)[:, None, None]
        features = []
        for k, stage in enumerate(self._stages):
            if k in layout.pooled:
                h = max_pool2d(h, *layout.pool)
            for weight, bias in stage:
                is_first = h.shape[1] == 3
                padding = layout.padding if is_first else weight.shape[-1] // 2
                stride = layout.stride if is_first else 1
                h = relu(conv2d(h, weight.to(x), bias.to(x), stride, padding))
            features.append(h)
        return features


def _unit(features: Tensor) -> Tensor:
    """Of unit length along the channels; the root has no gradient at zero."""
    square = features.square().sum(1, keepdim=True)
    length = torch.where(square > 0, square, torch.ones_like(square)).sqrt()
    return features / (length + _EPS)
