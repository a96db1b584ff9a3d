"""The memory that there is, and how training needs less; see `nelbo.training.rehearsal`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from nelbo.base.errors import NelboError
from nelbo.base.memory import available_memory
from nelbo.networks.attention import Attention
from nelbo.networks.mlp import MLP
from nelbo.networks.pretrained import skeleton
from nelbo.networks.resnet import ResnetBlock

Module = TypeVar("Module", bound=nn.Module)


def built_within_memory(build: Callable[[], Module]) -> Module:
    """What is built, unless its weights alone exceed the memory that is free.

    Raises:
        NelboError: they do; nothing has been built by then.
    """
    with skeleton():
        numbers = sum(weight.numel() for weight in build().parameters())
    needed, free = numbers * 4, available_memory(torch.device("cpu"))
    if needed > free:
        raise NelboError(
            f"the {numbers / 1e6:,.0f}M weights of this network take {needed / 1e9:,.1f} GB, and "
            f"{free / 1e9:,.1f} GB are free: choose smaller --widths, or fewer --layers or --blocks"
        )
    return build()


def recompute_activations(network: nn.Module) -> None:
    """Keep only the inputs of the blocks; compute the rest again going back."""
    # Where most of the weights and activations are.
    kinds = (ResnetBlock, Attention, MLP)
    blocks: list[nn.Module] = [m for m in network.modules() if isinstance(m, kinds)]
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
