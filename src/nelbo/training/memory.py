"""The memory that there is, and how training needs less; see `nelbo.training.rehearsal`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import psutil
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from nelbo.networks.attention import Attention
from nelbo.networks.mlp import MLP
from nelbo.networks.resnet import ResnetBlock


def available_memory(device: torch.device) -> int:
    """Bytes free on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = psutil.virtual_memory().available
    try:  # a container may be allowed less than the machine has
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except (OSError, ValueError):
        return free
    return min(free, limit - used)


def recompute_activations(network: nn.Module) -> None:
    """Keep only the inputs of the blocks; compute the rest again going back."""
    for block in blocks(network):
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def blocks(network: nn.Module) -> list[nn.Module]:
    """Where most of the weights and activations are: residual blocks, attention, and MLPs."""
    return [m for m in network.modules() if isinstance(m, (ResnetBlock, Attention, MLP))]
