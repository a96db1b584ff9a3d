"""What the commands share: the device, progress on standard error, and JSON on standard output."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from nelbo.base.errors import NelboError
from nelbo.base.files import to_json
from nelbo.chain.estimate import Estimate
from nelbo.chain.model import Model
from nelbo.data import ImageData
from nelbo.data.duplicates import duplicates_line
from nelbo.diffusion import optimal_levels
from nelbo.diffusion.profile import PROFILE_FILE
from nelbo.evidence.file_sizes import FileSizes
from nelbo.formats.model_directory import ships
from nelbo.networks.files import locate

SomeModel = TypeVar("SomeModel", bound=Model)

# Results go to standard output, and what happens on the way to standard error, so that a result
# can be piped and --json has standard output to itself.
_MINUTE = 60.0
MESSAGES = Console(stderr=True, highlight=False)
RESULTS = Console(highlight=False)
# A file or a pipe has no width that a table would have to be folded to.
if not RESULTS.is_terminal and "COLUMNS" not in os.environ:
    RESULTS.width = 1000


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


def check_optimal(run_path: str, steps: int | None) -> None:
    """Raise `NelboError` unless a number of steps is asked for, of a run that has been fitted.

    What the Hub says of a model that is not here is said as it is.
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


def optimal_chain(model: SomeModel, steps: int | None) -> SomeModel:
    """The chain of `steps` levels with the best bound and its optimal variance.

    Raises:
        NelboError: as many steps as the chain does not have.
    """
    assert steps is not None  # see check_optimal
    profile = model.chain.profile
    assert profile is not None
    fitted = model.with_profile(profile, variance="analytic")
    return fitted.respace(optimal_levels(profile, steps))


def training_progress(*, disable: bool = False) -> Progress:
    """A progress bar with what is minimised, the time left and the pace; in terminals alone."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("step {task.fields[step]}"),
        TextColumn("{task.fields[figures]}"),
        # What is last is cut short first, where a terminal is narrow.
        TimeRemainingColumn(table_column=Column(no_wrap=True, min_width=7)),
        TextColumn("{task.fields[pace]}"),
        console=MESSAGES,
        disable=disable or not MESSAGES.is_terminal,
    )


def counting_progress(*, disable: bool = False) -> Progress:
    """A progress bar that counts and estimates the time left; a line a minute in a file."""
    return _CountingProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=MESSAGES,
        disable=disable or not MESSAGES.is_terminal,
        lines=not disable and not MESSAGES.is_terminal,
    )


class Minutes:
    """Says when a minute has passed, for what is shown where there is no terminal."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def passed(self) -> bool:
        """Whether it is a minute since it was last so, or since the beginning."""
        now = time.monotonic()
        if now - self._last < _MINUTE:
            return False
        self._last = now
        return True


class _CountingProgress(Progress):
    """A progress bar that becomes a line a minute where no terminal shows it."""

    def __init__(self, *columns: ProgressColumn, lines: bool, **options: Any) -> None:
        super().__init__(*columns, **options)
        self._lines, self._minutes = lines, Minutes()

    def update(self, task_id: TaskID, **fields: Any) -> None:
        """As `Progress.update`."""
        super().update(task_id, **fields)
        self._line(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """As `Progress.advance`."""
        super().advance(task_id, advance)
        self._line(task_id)

    def _line(self, task_id: TaskID) -> None:
        if not (self._lines and self._minutes.passed()):
            return
        task = self._tasks[task_id]
        total = "" if task.total is None else f" of {task.total:,.0f}"
        status = task.fields.get("status", "")
        say(f"{task.description}: {task.completed:,.0f}{total} {status}".rstrip())


def say(text: str) -> None:
    """A line for people; brackets in names and paths are no markup."""
    MESSAGES.print(writable(text), markup=False, soft_wrap=True)


def writable(text: str) -> str:
    r"""A text with paths in it that any terminal takes: bytes that are not UTF-8 become \\xe9."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def show(result: RenderableType) -> None:
    """The result of a command for people: a line or a table, on standard output."""
    if isinstance(result, str):
        RESULTS.print(writable(result), markup=False, soft_wrap=True)
    else:
        RESULTS.print(result)


def warn_of(estimate: Estimate, names: Sequence[str] | None = None) -> None:
    """Warn where the error of an estimate may be far from the truth; see `Estimate.warnings`."""
    for warning in estimate.warnings(names):
        say(f"warning: {warning}")


def results_to(json: bool) -> Console:
    """Where tables on the way to a result go: standard output, unless JSON has it to itself."""
    return MESSAGES if json else RESULTS


def print_json(content: dict[str, Any]) -> None:
    """The result of a command for a program, on standard output."""
    print(to_json(content, sys.stdout.encoding or "utf-8", indent=2))


def mention_skipped(*data: ImageData, shown: int = 5) -> None:
    """Name what was left out and the files that could not be read, once for all splits."""
    for note in dict.fromkeys(note for split in data for note in split.notes):
        say(f"note: {data[0].source}: {note}")
    skipped = list(dict.fromkeys(line for split in data for line in split.skipped))
    if not skipped:
        return
    files = "1 file" if len(skipped) == 1 else f"{len(skipped)} files"
    say_first(f"skipped {files} of {data[0].source} that cannot be read:", skipped, shown)


def mention_files(files: Mapping[str, FileSizes | None], to: Console) -> None:
    """What image files of the same pictures take, a line for each split."""
    for split, sizes in files.items():
        if sizes is not None:
            to.print(f"{split}: {sizes.line}", soft_wrap=True, highlight=False, markup=False)


def mention_duplicates(data: ImageData) -> None:
    """Say how many test images are in other splits as well, if any."""
    if line := duplicates_line(data):
        say(line)


def say_first(title: str, lines: Sequence[str], shown: int) -> None:
    """A title, the first lines below it, and how many more there are."""
    say(title)
    for line in lines[:shown]:
        say(f"  {line}")
    if len(lines) > shown:
        say(f"  and {len(lines) - shown:,} more")
