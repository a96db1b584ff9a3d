"""The memory that is free, and what becomes of memory that is freed."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import psutil
import torch


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


# Of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def keep_freed_memory() -> None:
    """Let this process keep memory that is freed, for what it allocates next.

    By default glibc hands blocks above some megabytes back at once, so that each activation of a
    network on the CPU is on fresh pages, which the system first has to clear: a fifth of the time
    of a training step on 32×32 pixels. Settings of malloc by an environment variable (MALLOC_…_)
    stand, and other C libraries are left as they are.
    """
    by_hand = any(name.startswith("MALLOC_") for name in os.environ)
    if os.name == "posix" and not by_hand:
        mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda option, value: 0)
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, -1)
