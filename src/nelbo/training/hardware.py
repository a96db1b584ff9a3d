"""What a run was computed on, in words."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import torch

_CPU_INFO = Path("/proc/cpuinfo")
_MODEL = re.compile(r"^model name\s*:\s*(.+)$", re.MULTILINE)


def describe_hardware(device: torch.device) -> str:
    """The name of the processor that a device is: of the GPU, or of the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return str(device)
    try:
        found = _MODEL.search(_CPU_INFO.read_text(encoding="utf-8", errors="replace"))
    except OSError:  # not Linux
        found = None
    name = found[1].strip() if found else platform.processor() or platform.machine()
    return " ".join(name.split()) or "CPU"
