"""The precision that the network computes in; weights, averages and losses stay float32.

In bf16 and fp16 the matrix products and convolutions of the network run in 16 bits under torch's
autocast. The bound around the network is computed in float32 or better, always.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from nelbo.training.trainer import Trainer

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_REPEATS = 3
# Seconds of both steps from which one repetition tells enough.
_SLOW = 1.0
# Images that show which precision is faster.
_REHEARSED = 16
# A small gain is within the noise of the measurement, and float32 is the safer choice.
_WORTH_IT = 0.9


class Autocast(nn.Module):
    """A network that computes in 16 bits and answers in float32.

    Args:
        network: what takes a tensor, such as x_t, then anything, and gives a tensor.
        dtype: `torch.bfloat16` or `torch.float16`.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network
        self.dtype = dtype

    def __getattr__(self, name: str) -> Any:
        """Everything else is the network's own."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("network"), name)

    def forward(self, first: Tensor, *rest: Any) -> Tensor:
        """The network's output, float32."""
        with torch.autocast(first.device.type, self.dtype):
            return self.network(first, *rest).float()


def choose_precision(trainer: Trainer) -> str:
    """With `precision="auto"`, measure whether bf16 is faster here, and use it if so."""
    if trainer.config.precision == "auto":
        processes = trainer.processes
        variants = {name: trainer.variant(name) for name in ("fp32", "bf16")}
        steps = {name: partial(trainer.rehearse, v, _REHEARSED) for name, v in variants.items()}
        # What is sharded takes all processes to be computed.
        takes_part = processes.is_main or processes.sharded
        pays = takes_part and bf16_pays(steps, processes.of_first if processes.sharded else float)
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
    for _ in range(1 if slow else _REPEATS):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - start)
    return statistics.median(seconds["bf16"]) < _WORTH_IT * statistics.median(seconds["fp32"])
