"""The precision that the network computes in; weights, averages and losses stay float32.

In bf16 and fp16 the matrix products and convolutions of the network run in 16 bits under torch's
autocast. The bound around the network is computed in float32 or better, always.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def has_bf16(device: torch.device) -> bool:
    """Whether a device may compute in bf16: a processor of AVX2 alone converts each number."""
    return device.type != "cpu" or torch.backends.cpu.get_cpu_capability() != "AVX2"


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
