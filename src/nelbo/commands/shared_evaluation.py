"""Evaluations that go on where they were cut short, and that several processes share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nelbo.base.errors import NelboError
from nelbo.chain.model import Model
from nelbo.commands.common import choose_device
from nelbo.data import ImageData
from nelbo.evidence.bound_store import BoundStore
from nelbo.evidence.identity import identify
from nelbo.training.processes import Processes


def join_processes(device: str, out: Path | None, precision: str = "fp32") -> Processes:
    """This process alone, or as one of those that a launcher started to evaluate together.

    Raises:
        NelboError: several processes without a directory to share, or that might each choose
            another precision.
    """
    if Processes.launched():
        if out is None:
            raise NelboError("several processes need a directory to share their bounds in: --out")
        if precision == "auto":
            raise NelboError("several processes need one precision: give --precision fp32 or bf16")
    return Processes.join(choose_device(device))


def open_store(
    out: Path,
    model: Model,
    data: ImageData,
    settings: dict[str, Any],
    processes: Processes,
) -> BoundStore:
    """Where the bounds of batches are kept, for this model, these images and these settings."""
    decisive = {**settings, "data": data.source, **identify(model, data)}
    # As JSON will give them back.
    decisive = json.loads(json.dumps(decisive, default=str))
    return BoundStore(stored_bounds(out), decisive, rank=processes.rank, count=processes.count)


def stored_bounds(out: Path) -> Path:
    """Where the bounds of batches are in the directory that a command is given."""
    return out / "bounds"
