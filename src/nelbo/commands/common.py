"""What the commands share: the device, progress on standard error, and JSON on standard output."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import RenderableType

from nelbo.base.console import RESULTS, notice, writable
from nelbo.base.errors import NelboError
from nelbo.base.files import to_json
from nelbo.commands.groups import Computing, check_new, check_out
from nelbo.diffusion.profile import PROFILE_FILE
from nelbo.formats.model_directory import ships
from nelbo.networks.files import locate


def choose_device(name: str) -> torch.device:
    """The device called `name`; "auto" is a GPU where there is one.

    Raises:
        NelboError: no such device here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        if reason.startswith("Expected one of"):
            reason = "there is no such kind; expected auto, cpu, cuda or mps"
        raise NelboError(f"device {name!r} is not available: {reason}") from error


def compute_on(computing: Computing) -> torch.device:
    """The device that is asked for, with its number of CPU threads set.

    Raises:
        NelboError: no such device here.
    """
    use_threads(computing.threads)
    return choose_device(computing.device)


def use_threads(threads: int | None) -> None:
    """Compute with this number of CPU threads; None is what there is."""
    if threads is not None:
        torch.set_num_threads(threads)


def check_optimal(run_path: str, steps: int | None) -> None:
    """Raise `NelboError` unless a number of steps is asked for, of a run that has been fitted.

    Errors of the Hub for a model that is not local are raised unchanged.
    """
    if steps is None:
        raise NelboError("--levels optimal needs --steps, how many levels to keep")
    if not Path(run_path).is_dir():
        locate(run_path, None, PROFILE_FILE)
    elif not (Path(run_path) / PROFILE_FILE).is_file():
        once = f"nelbo fit {run_path} once"
        if ships(run_path):
            once = f"nelbo fit {Path(run_path).name} --out DIR once, and use DIR"
        raise NelboError(f"{run_path} has no level profile to choose levels by: run {once}")


def check_place(source: str | Path, out: Path | None, file: str, stored: str) -> None:
    """Raise `NelboError` unless a file can be written into a copy of a model, or into the model.

    Args:
        source: the directory of the model.
        out: that of the copy, which is to be a new one outside of it; None for the model itself,
            which is not to be one that ships with nelbo.
        file: its name.
        stored: what it holds.
    """
    if out is not None:
        check_new(out)
        if out.resolve().is_relative_to(Path(source).resolve()):
            raise NelboError(f"--out {out} lies within {source}: give a place outside of it")
        return
    if ships(source):
        raise NelboError(
            f"the checkpoint {Path(source).name} comes with nelbo and stays as it is: give --out "
            f"DIR for a copy with {stored}, and use DIR from then on"
        )
    check_out(Path(source) / file, "RUN")


def answer(
    json: bool,
    content: Mapping[str, Any],
    *results: RenderableType | None,
    warnings: Iterable[str] = (),
    notes: Iterable[str] = (),
) -> None:
    """What a command has found, for a program or for people.

    Args:
        json: whether a program reads it.
        content: all of it, to print as JSON.
        results: lines and tables of it, those that there are.
        warnings: why its figures may be far from the truth, such as `Estimate.warnings`.
        notes: what else people should know.
    """
    if json:
        print(to_json(content, sys.stdout.encoding or "utf-8", indent=2))
        return
    for result in filter(None, results):
        if isinstance(result, str):
            RESULTS.print(writable(result), soft_wrap=True)
        else:
            RESULTS.print(result)
    for kind, lines in (("warning", warnings), ("note", notes)):
        for line in lines:
            notice(f"{kind}: {line}")
