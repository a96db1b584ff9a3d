"""What a step shows before training: whether the memory suffices, and which precision is faster."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.base.memory import available_memory
from nelbo.diffusion.objectives import BatchPart
from nelbo.networks.sharding import local
from nelbo.training.precision import has_bf16
from nelbo.training.trainer import Trainer

# Workspace and fragments come on top of what is kept for the backward pass.
_OVERHEAD = 1.3
_GIGA = 1e9
REPEATS = 3
# Seconds of both steps from which one repetition is enough.
_SLOW = 1.0
# Images that show which precision is faster.
_REHEARSED = 16
# A small gain is within the noise of the measurement, and float32 is the safer choice.
_WORTH_IT = 0.9


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
    module = trainer.task.module
    computed = trainer.task.variant()
    weights = {local(p).untyped_storage().data_ptr() for p in module.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        base = tensor if tensor._base is None else tensor._base
        # What is sharded was gathered for the step: a leaf as well, of another storage.
        is_weight = base.is_leaf and base.requires_grad
        if not is_weight and storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        # A batch of one: the noise of a whole one may be what does not fit.
        loss = trainer.terms(BatchPart(0, 1, 1), computed).loss
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


def choose_precision(trainer: Trainer) -> str:
    """With `precision="auto"`, measure whether bf16 is faster here, and use it if so."""
    if trainer.config.precision == "auto":
        processes = trainer.processes
        variants = {name: trainer.variant(name) for name in ("fp32", "bf16")}
        steps = {name: partial(trainer.rehearse, v, _REHEARSED) for name, v in variants.items()}
        agreed = processes.of_first if processes.sharded else float
        pays = has_bf16(trainer.device) and processes.takes_part and bf16_pays(steps, agreed)
        # Every process goes by what the first one measured.
        trainer.use_precision("bf16" if processes.of_first(float(pays)) else "fp32")
    return trainer.precision


def bf16_pays(
    steps: Mapping[str, Callable[[], object]], agreed: Callable[[float], float] = float
) -> bool:
    """Whether the step called "bf16" takes at most nine tenths of the time of "fp32".

    Args:
        steps: the work of a step in each precision.
        agreed: what all processes that take the steps go by, of what each has measured: see
            `Processes.of_first`.
    """
    start = time.perf_counter()
    for step in steps.values():
        step()
    slow = agreed(time.perf_counter() - start) > _SLOW
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(1 if slow else REPEATS):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - start)
    return statistics.median(seconds["bf16"]) < _WORTH_IT * statistics.median(seconds["fp32"])
