"""What an archive would take, from the bound, without coding anything."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nelbo.chain.estimate import Estimate
from nelbo.chain.evidence import joined
from nelbo.chain.model import Model
from nelbo.coding.agreement import Agreement
from nelbo.coding.chain_code import Lane, Part
from nelbo.coding.coders import code_for, widened
from nelbo.coding.conditions import Conditions, conditions_of
from nelbo.coding.pictures import pictures_of
from nelbo.coding.plan import Plan, plan_for
from nelbo.coding.stack import Stack

# Tiles that are evaluated, drawn at random from all of them, and at a time; and that are coded,
# among them one whose grid is no longer coarser.
_EVALUATED, _AT_ONCE, _FIRST = 256, 32, 6


@dataclass(frozen=True)
class Estimated:
    """What pictures would take.

    Attributes:
        bytes: of all pictures, with the error of taking some of them and some of the noise; beside
            it an archive has its header, and the draws of the first pictures of each block.
        first_draws: bytes of these draws for one block, measured by coding its first pictures.
        bits_per_dim: the same a dimension of the pictures.
        steps: the levels of the chain; 0 for a model without one.
    """

    bytes: Estimate
    bits_per_dim: float
    first_draws: int
    steps: int


@torch.no_grad()
def estimate(
    model: Model,
    images: Any,
    *,
    steps: int | None = None,
    captions: Sequence[str | None] | None = None,
    seed: int = 0,
) -> Estimated:
    """Estimate the payload of `compress` from the bound of the chain that it would code along.

    Args:
        model: a model of pixels.
        images: as `compress`.
        steps: likewise.
        captions: likewise.
        seed: of the pictures and the noise that are drawn.

    Raises:
        NelboError: as `compress`.
        MissingExtraError: constriction is not installed.
    """
    pixels, beside, tiling = pictures_of(model, images, captions=captions)
    tiles = tiling.cut(pixels)
    generator = torch.Generator().manual_seed(seed)
    some = torch.randperm(len(tiles), generator=generator)[:_EVALUATED].sort().values
    conditions = conditions_of(model, beside, tiling)
    x_0 = model.data.to_network(tiles[some]).to(model.device)

    def of_some(index: Sequence[int]) -> Any:
        return conditions([int(some[i]) for i in index])

    plan = plan_for(model, x_0, of_some, steps)
    coded = plan.applied(model)
    found = []
    for rows in torch.arange(len(some)).split(_AT_ONCE):
        condition = of_some(rows.tolist())
        found.append(coded.evidence(x_0[rows], condition, generator=generator).to("cpu"))
    total = Estimate.of(joined(found).total.double()) * (len(tiles) / (8 * math.log(2)))
    levels = plan.levels or ()
    dims = sum(each.numel() for each in pixels)
    return Estimated(
        total, 8 * total.mean / dims, _first_draws(model, tiles, plan, conditions), len(levels)
    )


def _first_draws(model: Model, tiles: Tensor, plan: Plan, conditions: Conditions) -> int:
    """The bytes that the first pictures' draws take off the ground and nobody gives back."""
    wide = widened(model, fast=False)
    first = wide.data.to_network(tiles[:_FIRST]).to(wide.device, torch.float64)
    code = code_for(plan.applied(wide), plan)
    lane = Lane(Stack(), Agreement())
    code.push([lane], [Part(first, range(len(first)), conditions)])
    return 4 * lane.stack.contents()[1]
