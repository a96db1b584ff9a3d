"""Whether a network may be evaluated in bfloat16: only where that is faster and changes nothing."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.base.console import notice
from nelbo.base.errors import NelboError, NotFiniteError
from nelbo.chain.conditioning import Condition
from nelbo.chain.estimate import t_quantile
from nelbo.chain.estimators import Stratified
from nelbo.chain.evidence import Evidence
from nelbo.chain.model import Model
from nelbo.data import ImageData
from nelbo.evidence.inputs import inputs

# Images that both precisions are tried on.
_TRIED_IMAGES = 16
# Mixed precision has to save at least this share of the time.
_WORTHWHILE = 0.1
_LEVELS = 8
_REPEATS = 2


@dataclass(frozen=True)
class Trial:
    """Both precisions on the same images and noise.

    Attributes:
        speedup: time in float32 over time in bfloat16.
        shift: mean change of the bound in bfloat16, bits per dimension.
        shift_error: its standard error, from the spread over the images.
        calls: network evaluations that were made.
        images: how many the error is from; 0 where that is not known, as for many.
    """

    speedup: float
    shift: float
    shift_error: float
    calls: int
    images: int = 0

    def dtype(self, tolerance: float) -> torch.dtype:
        """bfloat16 where it pays and moves the bound by at most `tolerance`, 95% sure."""
        pays = self.speedup > 1 / (1 - _WORTHWHILE)
        quantile = t_quantile(0.975, self.images - 1 if self.images else math.inf)
        is_same = abs(self.shift) + quantile * self.shift_error <= tolerance
        return torch.bfloat16 if pays and is_same else torch.float32


@torch.no_grad()
def try_bfloat16(
    model: Model,
    x_0: Tensor,
    condition: Condition | None = None,
    *,
    seed: int = 0,
) -> Trial:
    """Evaluate a few levels of some images in both precisions, in turn, on the same noise.

    Args:
        model: the model, evaluated where `x_0` is.
        x_0: at least two images, (B, C, H, W).
        condition: the condition of each.
        seed: of the noise.

    Raises:
        NelboError: fewer than two images, or predictions that are not finite in float32.
    """
    if len(x_0) < 2:
        raise NelboError(f"comparing precisions needs at least 2 images, got {len(x_0)}")
    seconds = {torch.float32: math.inf, torch.bfloat16: math.inf}
    bounds: dict[torch.dtype, Evidence] = {}
    calls = 0
    for _ in range(_REPEATS):
        for dtype in seconds:
            generator = torch.Generator().manual_seed(seed)
            start = time.perf_counter()
            mixed = dtype != torch.float32
            try:
                with torch.autocast(x_0.device.type, dtype, enabled=mixed):
                    bound = model.evidence(
                        x_0, condition, levels=Stratified(_LEVELS), generator=generator
                    )
            except NotFiniteError:
                if mixed:  # it overflows where float32 does not
                    return Trial(0.0, math.inf, math.inf, calls)
                raise
            total = bound.total.sum().item()  # waits for the device
            seconds[dtype] = min(seconds[dtype], time.perf_counter() - start)
            bounds[dtype] = bound
            calls += int(bound.calls.sum())
            if not math.isfinite(total):
                return Trial(0.0, math.inf, math.inf, calls)
    change = bounds[torch.bfloat16].bits_per_dim.double() - bounds[torch.float32].bits_per_dim
    return Trial(
        seconds[torch.float32] / seconds[torch.bfloat16],
        change.mean().item(),
        change.std().item() / math.sqrt(len(change)),
        calls,
        len(change),
    )


def choose_dtype(
    model: Model, data: ImageData, precision: str, tolerance: float, seed: int
) -> tuple[torch.dtype, int]:
    """The type to compute the network in, and the network evaluations that finding it took.

    Args:
        model: the model.
        data: images, of which a few are tried.
        precision: "fp32", "bf16", or "auto" to try both.
        tolerance: how far bfloat16 may move the bound, bits per dimension.
        seed: of the noise of the trial.

    Raises:
        NelboError: images that do not fit the model.
    """
    if precision != "auto":
        return (torch.bfloat16 if precision == "bf16" else torch.float32), 0
    if len(data) < 2:
        return torch.float32, 0
    # Not the first ones: folders have one class after the other.
    few = data.subset(_TRIED_IMAGES, seed)
    trial = try_bfloat16(model, *inputs(model, few), seed=seed)
    dtype = trial.dtype(tolerance)
    notice(
        f"{precision_of(dtype)}: bf16 takes 1/{trial.speedup:.2f} of the "
        f"time and moves the bound by {trial.shift:+.5f} ± {trial.shift_error:.5f} bits/dim "
        f"(at most {tolerance:g} is allowed)"
    )
    return dtype, trial.calls


def precision_of(dtype: torch.dtype) -> str:
    """What --precision calls a type."""
    return "bf16" if dtype == torch.bfloat16 else "fp32"
