"""The memory that training needs, estimated from one image, and how to need less."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nelbo.base.errors import NelboError
from nelbo.networks.attention import Attention
from nelbo.networks.resnet import ResnetBlock

if TYPE_CHECKING:
    from nelbo.training.trainer import Trainer

# Workspace and fragments come on top of what is kept for the backward pass.
_OVERHEAD = 1.3
_GIGA = 1e9


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that training takes once module and averages are there.

    Attributes:
        weights: gradients and moments of the optimiser.
        image: activations of one image that the backward pass needs.
        images: how many are computed at once.
    """

    weights: int
    image: int
    images: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + round(_OVERHEAD * self.image * self.images)


def estimate_memory(trainer: Trainer) -> MemoryEstimate:
    """What a step takes, from the activations that one image leaves behind."""
    part, module = trainer.parts[0], trainer.task.module
    computed = trainer.task.variant()
    weights = {p.untyped_storage().data_ptr() for p in module.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = trainer.terms(part._replace(stop=part.start + 1), computed).loss
    image = sum(kept.values())
    loss.backward()  # what is sharded gathers its weights until then
    trainer.optimizer.zero_grad(set_to_none=True)
    # Gradients, and the two moments of Adam.
    learned = sum(p.numel() * p.element_size() for p in module.parameters() if p.requires_grad)
    images = max(part.stop - part.start for part in trainer.parts)
    return MemoryEstimate(3 * learned, image, images)


def check_memory(trainer: Trainer) -> None:
    """Refuse training that will not fit.

    Raises:
        NelboError: it needs more than there is.
    """
    estimate, available = estimate_memory(trainer), available_memory(trainer.device)
    if estimate.total > available:
        raise NelboError(
            f"training needs about {estimate.total / _GIGA:.1f} GB: "
            f"{estimate.weights / _GIGA:.1f} GB for gradients and optimiser, "
            f"{(estimate.total - estimate.weights) / _GIGA:.1f} GB for {estimate.images} images at "
            f"a time; {available / _GIGA:.1f} GB are free on {trainer.device}. Lower --batch-size, "
            "raise --gradient-accumulation, or use --checkpoint-activations, a smaller --size or "
            "smaller --widths"
        )


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
    """Keep only the inputs of residual blocks and attention; compute the rest again going back."""
    for block in blocks(network):
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def blocks(network: nn.Module) -> list[nn.Module]:
    """Where most of the weights and activations are: residual blocks and attention."""
    return [m for m in network.modules() if isinstance(m, (ResnetBlock, Attention))]
