"""Which model an archive needs, and of a fast archive which machine."""

from __future__ import annotations

import json
import platform

import torch
from torch import Tensor

from nelbo.base.digest import digest
from nelbo.chain.model import Model

# Of a model: decided by the archive itself.
_IN_ARCHIVE = ("noise levels", "variance", "level profile")


def weights_digest(model: Model) -> str:
    """A hash of all weights, whatever their precision, and of how outputs are read."""
    parts: list[str | Tensor] = []
    for name, value in sorted(model.state_dict().items()):
        if isinstance(value, Tensor):
            plain = value.detach().cpu()
            parts += [name, plain.double() if plain.is_floating_point() else plain]
    read = {name: value for name, value in model.identity().items() if name not in _IN_ARCHIVE}
    parts.append(json.dumps(read, sort_keys=True, default=str))
    if model.chain is not None:
        # Cosines and logarithms of machines differ in the last bits of the schedule.
        parts.append((model.chain.schedule.alphas_cumprod * 2**24).round().long())
    return digest(parts)


def machine(device: torch.device) -> str:
    """All on which the last bits of float32 depend."""
    if device.type == "cuda":
        here = torch.cuda.get_device_name(device)
    elif device.type == "cpu":
        capability = torch.backends.cpu.get_cpu_capability()
        here = f"{platform.machine()} {capability}, {torch.get_num_threads()} threads"
    else:
        here = f"{device.type}, {platform.platform()}"
    return f"torch {torch.__version__}, {here}"
