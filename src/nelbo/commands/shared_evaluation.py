"""Evaluations that go on where they were cut short, and that several processes share."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nelbo.base.errors import NelboError
from nelbo.chain.model import Model
from nelbo.commands.common import compute_on
from nelbo.commands.groups import Computing
from nelbo.commands.options.evaluate import Evaluate
from nelbo.commands.options.rank import Rank
from nelbo.data import ImageData
from nelbo.evidence.bound_store import BoundStore
from nelbo.evidence.identity import identify
from nelbo.training.processes import Processes

# Options that do not decide the bounds; the seed does.
_NOT_DECISIVE = ("run_path", "computing", "out")


def join_processes(computing: Computing, out: Path | None, precision: str = "fp32") -> Processes:
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
    return Processes.join(compute_on(computing))


def open_store(
    options: Evaluate | Rank,
    model: Model,
    data: ImageData,
    processes: Processes,
    *,
    besides: Collection[str] = (),
    **found: Any,
) -> BoundStore | None:
    """Where the bounds of batches are kept, for this model, these images and these settings.

    None without a directory to keep them in.

    Args:
        options: the command's, which decide the bounds.
        model: the model.
        data: the images.
        processes: who evaluates.
        besides: options that do not decide them.
        found: settings that the options leave open.
    """
    if options.out is None:
        return None
    asked = asdict(options)
    for name in (*_NOT_DECISIVE, *besides):
        del asked[name]
    settings = {"seed": options.computing.seed, "data": data.source, **identify(model, data)}
    # As JSON will give them back.
    decisive = json.loads(json.dumps({**asked, **settings, **found}, default=str))
    rank, count = processes.rank, processes.count
    return BoundStore(stored_bounds(options.out), decisive, rank=rank, count=count)


def stored_bounds(out: Path) -> Path:
    """Where the bounds of batches are in the directory that a command is given."""
    return out / "bounds"
