"""The memory that training needs, estimated before any is taken, and how to need less."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nelbo.base.errors import NelboError
from nelbo.diffusion import Diffusion
from nelbo.networks.attention import Attention
from nelbo.networks.resnet import ResnetBlock

# Gradients, workspace and fragments come on top of what is kept for the backward pass.
_OVERHEAD = 1.3
_GIGA = 1e9


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that training takes.

    Attributes:
        weights: weights, gradients, moments of the optimiser and averages.
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


def estimate_memory(
    model: Diffusion, images: int, *, averages: int = 1, recompute: bool = False
) -> MemoryEstimate:
    """What training a model takes; computed on shapes alone.

    Args:
        model: the model; its `shape` must be set.
        images: images computed at once.
        averages: moving averages of the weights.
        recompute: activations are checkpointed.
    """
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    # Beside the weights: their gradients and the two moments of Adam.
    return MemoryEstimate(weights * (4 + averages), _activations(model, recompute), images)


def check_memory(estimate: MemoryEstimate, device: torch.device) -> None:
    """Refuse training that will not fit.

    Raises:
        NelboError: it needs more than there is.
    """
    available = available_memory(device)
    if estimate.total > available:
        raise NelboError(
            f"training needs about {estimate.total / _GIGA:.1f} GB: "
            f"{estimate.weights / _GIGA:.1f} GB for weights and optimiser, "
            f"{(estimate.total - estimate.weights) / _GIGA:.1f} GB for {estimate.images} images at "
            f"a time; {available / _GIGA:.1f} GB are free on {device}. Lower --batch-size, raise "
            "--gradient-accumulation, or use --checkpoint-activations, a smaller --size or smaller "
            "--widths"
        )


def available_memory(device: torch.device) -> int:
    """Bytes free on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil

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


def _activations(model: Diffusion, recompute: bool) -> int:
    """Bytes that the backward pass of one image keeps, beside the weights."""
    assert model.shape is not None
    assert isinstance(model.network, nn.Module)
    network = copy.deepcopy(model.network).to("meta").train()
    weights = {id(p) for p in network.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        base = tensor if tensor._base is None else tensor._base
        if id(base) not in weights:
            kept[id(base)] = base
        return tensor

    def inputs_only(forward: Callable[..., Tensor], *inputs: Tensor | None) -> Tensor:
        for tensor in inputs:
            if tensor is not None:
                keep(tensor)
        with torch.no_grad():
            return forward(*inputs)

    if recompute:
        for block in blocks(network):
            block.forward = partial(inputs_only, block.forward)
    x_t = torch.empty(1, *model.shape, device="meta")
    time = torch.zeros(1, dtype=torch.int64, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(x_t, time, None)
    return sum(tensor.numel() * tensor.element_size() for tensor in kept.values())
