"""What is shown to people: lines and progress bars while something runs, on standard error.

Results go to standard output, so that a result can be piped and --json has it to itself.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
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

_MINUTE = 60.0


def plain_console(*, stderr: bool = False) -> Console:
    """A console that shows names and paths as they are: `[red]` is no markup, `:cat:` no emoji."""
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


MESSAGES, RESULTS = plain_console(stderr=True), plain_console()
# A file or a pipe has no width that a table would have to be folded to.
if not RESULTS.is_terminal and "COLUMNS" not in os.environ:
    RESULTS.width = 1000


def results_to(json: bool) -> Console:
    """Where tables on the way to a result go: standard output, unless JSON has it to itself."""
    return MESSAGES if json else RESULTS


def notice(text: str) -> None:
    """A line for people."""
    MESSAGES.print(writable(text), soft_wrap=True)


def writable(text: str) -> str:
    r"""A text with paths in it that any terminal takes: bytes that are not UTF-8 become \\xe9."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


@contextmanager
def quiet(library: str) -> Iterator[None]:
    """Without the progress bars of a library, which would cut through those of a command."""
    logging = importlib.import_module(f"{library}.utils.logging")
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def notice_first(title: str, lines: Sequence[str], shown: int) -> None:
    """A title, the first lines below it, and how many more there are."""
    notice(title)
    for line in lines[:shown]:
        notice(f"  {line}")
    if len(lines) > shown:
        notice(f"  and {len(lines) - shown:,} more")


def training_progress(*, disable: bool = False) -> Progress:
    """A progress bar with what is minimised, the time left and the pace; in terminals alone."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("step {task.fields[step]}", markup=False),
        TextColumn("{task.fields[figures]}", markup=False),
        # What is last is cut short first, where a terminal is narrow.
        TimeRemainingColumn(table_column=Column(no_wrap=True, min_width=7)),
        TextColumn("{task.fields[pace]}", markup=False),
        console=MESSAGES,
        disable=disable or not MESSAGES.is_terminal,
    )


def counting_progress(*, disable: bool = False) -> Progress:
    """A progress bar that counts and estimates the time left; a line a minute in a file."""
    return _CountingProgress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=MESSAGES,
        disable=disable or not MESSAGES.is_terminal,
        lines=not disable and not MESSAGES.is_terminal,
    )


class Minutes:
    """Reports when a minute has passed, for what is shown where there is no terminal."""

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
        notice(f"{task.description}: {task.completed:,.0f}{total} {status}".rstrip())
