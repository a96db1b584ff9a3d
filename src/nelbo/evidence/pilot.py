"""The levels that matter, from a few images at a few levels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nelbo.chain.distributions import drawn_on
from nelbo.chain.estimators import ChosenLevels, Estimator, EveryLevel, Importance
from nelbo.chain.model import Model
from nelbo.data import ImageData
from nelbo.evidence.inputs import inputs

PILOT_IMAGES, PILOT_LEVELS = 16, 24


def pilot(
    model: Model,
    data: ImageData,
    generator: torch.Generator | None = None,
    *,
    images: int = PILOT_IMAGES,
) -> tuple[Tensor, int]:
    """E KL² at each level, (T+1,), from a few images, and the network evaluations that took.

    For `nelbo.chain.estimators.proposal_from`. Between the measured levels its logarithm is
    interpolated.

    Args:
        model: the model.
        data: the images.
        generator: the source of all draws.
        images: largest number of them.
    """
    count = min(images, len(data))
    x_0, condition = inputs(model, data.take(some_images(len(data), count, generator)))
    with torch.no_grad():
        bound: Any = model.evidence(
            x_0, condition, levels=_Pilot(reconstructions=0), generator=generator
        )
    square = bound.score_matching.double().square().mean(0).cpu().clamp(min=1e-300)
    known, T = bound.levels[0].cpu(), model.chain.num_levels
    filled = torch.zeros(T + 1, dtype=torch.float64)
    between = np.interp(np.arange(2, T + 1), known.numpy(), square.log().numpy())
    filled[2:] = torch.from_numpy(between).exp()
    return filled, int(bound.calls.sum())


@dataclass(frozen=True, kw_only=True)
class _Pilot(Estimator):
    """Levels spread over the chain, denser at its start, where costs can be steep; unweighted."""

    def choose(
        self, batch: int, num_levels: int, generator: torch.Generator | None = None
    ) -> ChosenLevels:
        evenly = torch.linspace(2, num_levels, PILOT_LEVELS - 4).round().long().tolist()
        early = (t for t in (3, 5, 9, 17) if t <= num_levels)
        levels = torch.tensor(sorted({*evenly, *early})).expand(batch, -1)
        return ChosenLevels(levels, torch.ones(levels.shape, dtype=torch.float64))


def estimator_of(first: int, levels: int, proposal: Tensor) -> EveryLevel | Importance:
    """Draws of level 1 and of the levels that matter; each of them once where there are no more.

    Args:
        first: draws of level 1.
        levels: draws of the others.
        proposal: where to draw them, (T−1,).
    """
    if levels >= len(proposal):
        return EveryLevel(reconstructions=first)
    return Importance(levels, proposal, reconstructions=first)


def some_images(n: int, count: int, generator: torch.Generator | None) -> Tensor:
    """`count` of n images, drawn at random."""
    device = drawn_on(generator, torch.get_default_device())
    return torch.randperm(n, generator=generator, device=device)[:count].cpu()
