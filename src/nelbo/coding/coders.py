"""What compressing and reading share: the coder of a model, and how tiles are divided."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch

from nelbo.base.errors import NelboError
from nelbo.chain.distributions import generator_for
from nelbo.chain.model import Model
from nelbo.coding.agreement import TOLERANCE
from nelbo.coding.chain_code import ChainCode
from nelbo.coding.plan import Plan
from nelbo.coding.turns import Turns
from nelbo.coding.value_code import ValueCode

# Tiles of all blocks that are coded side by side, where blocks are smaller.
_SIDE_BY_SIDE = 64


def coded_dtype(fast: bool) -> torch.dtype:
    """The precision that is coded with."""
    return torch.float32 if fast else torch.float64


def widened(model: Model, fast: bool) -> Model:
    """The model in the precision that is coded with."""
    if model.device.type == "mps" and not fast:
        model = copy.deepcopy(model).to("cpu")  # Apple's devices have no float64
    return copy.deepcopy(model).to(coded_dtype(fast)).eval()


def code_for(model: Model, plan: Plan, *, fast: bool = False) -> ChainCode | ValueCode:
    """What codes examples of a model: along its chain of latents, or value by value.

    Args:
        model: with the plan applied, in the precision that is coded with.
        plan: what encoder and decoder share.
        fast: whether the precision is float32.

    Raises:
        NelboError: a model that gives pictures no probability.
    """
    chain = model.latent_chain
    if chain is None or plan.steps is None or plan.turns is None:
        if model.conditionals(1) is None:
            raise NelboError(
                f"{model.noun} cannot code pictures: it has neither a chain of latents nor a "
                "probability of each value given those before it"
            )
        return ValueCode(model, 0.0 if fast else TOLERANCE)
    assert model.shape is not None
    if len(plan.steps) != chain.num_levels + 1:
        raise NelboError(
            f"the plan has steps for {len(plan.steps)} levels from 0, where the chain has "
            f"{chain.num_levels + 1}: it is of another model"
        )
    values = max(chain.start(1, generator=generator_for(0)).numel(), math.prod(model.shape))
    levels, turns = model.data.shown_levels, Turns(*plan.turns)
    return ChainCode(chain, plan.steps, levels, values, turns, coded_dtype(fast))


def spans_of(count: int, block: int) -> list[list[int]]:
    """Which tiles each block holds."""
    return [list(range(i, min(i + block, count))) for i in range(0, count, block)]


def groups_of(items: list[Any], block: int, fast: bool) -> list[list[Any]]:
    """Blocks of a number of tiles that are coded side by side; of a fast archive, each alone."""
    size = 1 if fast else max(1, _SIDE_BY_SIDE // block)
    return [items[i : i + size] for i in range(0, len(items), size)]
