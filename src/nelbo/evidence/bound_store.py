"""Bounds of batches on disk: a long evaluation goes on where it broke, and processes share it.

Every batch is one file that appears whole. What a process finds there it does not compute again;
of several processes, each computes its own share of the batches and reads the others'.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from nelbo.base.errors import NelboError
from nelbo.base.files import atomic_file, read_json, writing
from nelbo.chain.bound import Bound
from nelbo.chain.evidence import Costs, Evidence
from nelbo.formats import write_json
from nelbo.latent.bound import LatentBound

SETTINGS_FILE = "settings.json"
# Version 2 records all that decides the bounds, see `nelbo.evidence.identity`; 1 did the weights.
FORMAT = 2
_KINDS: dict[str, type[Evidence]] = {k.__name__: k for k in (Bound, LatentBound, Costs)}
_POLL_SECONDS = 0.2


class BoundStore:
    """A directory of bounds, one file a batch.

    Args:
        directory: where, made if it does not exist.
        settings: what decides the bounds; a directory with other settings is refused.
        rank: number of this process.
        count: how many processes share the work.

    Attributes:
        stored_calls: network evaluations of what was read and had been there from the start.

    Raises:
        NelboError: the directory holds bounds of other settings, or cannot be written.
    """

    def __init__(
        self, directory: Path, settings: Mapping[str, Any], *, rank: int = 0, count: int = 1
    ) -> None:
        self.directory = directory
        self.rank, self.count = rank, count
        self.stored_calls = 0
        settings = {"format": FORMAT, **settings}
        file = directory / SETTINGS_FILE
        with writing(directory):
            directory.mkdir(parents=True, exist_ok=True)
            if file.exists():
                _check_same(directory, read_json(file), settings)
            else:
                write_json(file, settings)
            self._before = {path.name for path in directory.glob("*.safetensors")}

    def collect(
        self, stage: int, batches: int, compute: Callable[[int], Evidence]
    ) -> Iterator[Evidence]:
        """The bounds of all batches of a stage in order, each computed once by one process.

        Args:
            stage: a stage of the evaluation, such as a round of draws.
            batches: how many there are.
            compute: the bound of a batch, by its index.
        """
        mine = deque(range(self.rank, batches, self.count))
        for index in range(batches):
            while not self._file(stage, index).exists():
                if mine:
                    # One's own work comes before waiting for others.
                    todo = mine.popleft()
                    if not self._file(stage, todo).exists():
                        self._save(stage, todo, compute(todo))
                else:
                    time.sleep(_POLL_SECONDS)
            bound = self._load(stage, index)
            if self._file(stage, index).name in self._before:
                self.stored_calls += int(bound.calls.sum())
            yield bound

    def is_complete(self, stage: int, batches: int) -> bool:
        """Whether the bounds of all batches of a stage are there already."""
        return all(self._file(stage, index).exists() for index in range(batches))

    def _file(self, stage: int, index: int) -> Path:
        return self.directory / f"{stage:02d}-{index:06d}.safetensors"

    def _save(self, stage: int, index: int, bound: Evidence) -> None:
        tensors = {name: value.contiguous() for name, value in bound.tensors()}
        notes = {"kind": type(bound).__name__, **bound.notes()}
        with writing(self.directory), atomic_file(self._file(stage, index)) as temporary:
            save_file(tensors, temporary, metadata=notes)

    def _load(self, stage: int, index: int) -> Evidence:
        file = self._file(stage, index)
        try:
            with safe_open(file, "pt") as content:
                notes = content.metadata() or {}
                tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
            return _KINDS[notes["kind"]].restored(tensors, notes)
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise NelboError(
                f"{file} is damaged ({error}): remove it, and its batch is evaluated again"
            ) from error


def stored_settings(directory: Path) -> dict[str, Any]:
    """The settings of the bounds that a directory holds; empty where it holds none."""
    file = directory / SETTINGS_FILE
    return read_json(file) if file.is_file() else {}


def _check_same(directory: Path, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    if found.get("format") != expected["format"]:
        older = "format" not in found
        raise NelboError(
            f"{directory} holds an evaluation by {'an older' if older else 'another'} version of "
            f"nelbo, which recorded {'the weights but not' if older else 'in another way'} the "
            "pixels, the captions and the chain that it is of, so that it cannot be checked: give "
            "another directory"
        )
    names = dict.fromkeys((*expected, *found))
    differ = [name for name in names if found.get(name) != expected.get(name)]
    if differ:
        what = "; ".join(f"{n} {found.get(n)!r}, not {expected.get(n)!r}" for n in differ)
        raise NelboError(
            f"{directory} holds an evaluation with {what}: give another directory, or the same "
            "settings to go on"
        )
