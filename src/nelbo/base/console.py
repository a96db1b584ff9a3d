"""What is shown to people: lines and progress bars while something runs, on standard error.

Results go to standard output, so that a result can be piped and --json has it to itself.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
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


class Counting:
    """A progress bar that counts and estimates the time left; a line a minute in a file.

    Within its block it is called with how many more are done.

    Args:
        title: what is counted.
        total: how many there are to come; None where that is not known.
        quiet: show nothing.

    Attributes:
        bar: the bar itself, with one task.
    """

    def __init__(self, title: str, total: float | None = None, *, quiet: bool = False) -> None:
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=MESSAGES,
            disable=quiet or not MESSAGES.is_terminal,
        )
        self._task = self.bar.add_task(title, total=total, status="")
        self._lines, self._minutes = not quiet and not MESSAGES.is_terminal, Minutes()

    def __enter__(self) -> Self:
        self.bar.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.bar.__exit__(*error)

    def __call__(self, done: float = 0, **fields: Any) -> None:
        """More are done; other fields, such as `status`, `completed` and `total`, are set."""
        given = fields if "completed" in fields else {"advance": done, **fields}
        self.bar.update(self._task, **given)
        if self._lines and self._minutes.passed():
            task = self.bar.tasks[0]
            total = "" if task.total is None else f" of {task.total:,.0f}"
            status = task.fields["status"]
            notice(f"{task.description}: {task.completed:,.0f}{total} {status}".rstrip())
