"""A file with a line of numbers a step, such as metrics.jsonl."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nelbo.base.arguments import is_whole
from nelbo.base.files import atomic_file, to_json, writing
from nelbo.networks.config import is_number


class StepFile:
    """A file of JSON lines, each of which has a step.

    Args:
        path: the file, which need not be there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a line.

        Raises:
            NelboError: it cannot be written.
        """
        with (
            writing(self.path, "; --resume goes on from the last checkpoint"),
            self.path.open("a") as lines,
        ):
            lines.write(to_json(row) + "\n")

    def rows(self) -> list[dict[str, Any]]:
        """All lines; one that was cut short or damaged is left out."""
        rows = []
        for line in self.path.read_bytes().splitlines() if self.path.is_file() else ():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if _is_row(row):
                rows.append(row)
        return rows

    def forget_after(self, step: int) -> None:
        """Drop the lines of later steps, which are taken again."""
        if self.path.is_file():
            kept = [row for row in self.rows() if row["step"] <= step]
            with atomic_file(self.path) as temporary:
                temporary.write_text("".join(to_json(row) + "\n" for row in kept))


def _is_row(row: Any) -> bool:
    """Whether a line is one of numbers, or null, at a step."""
    if not isinstance(row, dict) or not is_whole(row.get("step")):
        return False
    return all(value is None or is_number(value) for value in row.values())
