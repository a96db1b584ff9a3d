"""What becomes of memory that is freed, in processes of their own."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

# Pages that the system has to clear for a step of a network whose activations have 33 MiB each,
# after a few steps.
FAULTS = """
import resource, torch
from nelbo.base.memory import keep_freed_memory
keep_freed_memory()
network = torch.nn.Sequential(torch.nn.Linear(8, 2112), torch.nn.SiLU(), torch.nn.Linear(2112, 8))
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    network(torch.ones(4096, 8)).sum().backward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(**environment: str) -> int:
    without = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    found = subprocess.run(
        [sys.executable, "-c", FAULTS],
        env=without | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(found.stdout)


@pytest.mark.skipif(
    os.name != "posix" or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"),
    reason="only glibc has these settings",
)
def test_memory_is_kept_unless_malloc_is_set_by_hand():
    usual = faults(MALLOC_TOP_PAD_="131072")  # which is what it is by default
    assert usual > 20  # 16 of each activation where pages are huge
    assert faults() < usual / 2
