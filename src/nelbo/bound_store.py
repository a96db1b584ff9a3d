"""Bounds of batches on disk: a long evaluation goes on where it broke, and processes share it.

Every batch is one file that appears whole. What a process finds there it does not compute again;
of several processes, each computes its own share of the batches and reads the others'.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from nelbo.bound import Bound
from nelbo.diffusers_format import write_json
from nelbo.errors import NelboError
from nelbo.latent_bound import LatentBound
from nelbo.networks.files import atomic_file, read_json

SETTINGS_FILE = "settings.json"
_KINDS: dict[str, type[Bound]] = {"Bound": Bound, "LatentBound": LatentBound}
_POLL_SECONDS = 0.2


class BoundStore:
    """A directory of bounds, one file a batch.

    Args:
        directory: where, made if it does not exist.
        settings: what decides the bounds; a directory with other settings is refused.
        rank: number of this process.
        count: how many processes share the work.

    Raises:
        NelboError: the directory holds bounds of other settings, or cannot be written.
    """

    def __init__(
        self, directory: Path, settings: Mapping[str, Any], *, rank: int = 0, count: int = 1
    ) -> None:
        self.directory = directory
        self.rank, self.count = rank, count
        file = directory / SETTINGS_FILE
        try:
            directory.mkdir(parents=True, exist_ok=True)
            if file.exists():
                _check_same(directory, read_json(file), settings)
            else:
                write_json(file, settings)
        except OSError as error:
            raise NelboError(f"cannot write to {directory}: {error}") from error

    def collect(self, stage: int, batches: int, compute: Callable[[int], Bound]) -> Iterator[Bound]:
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
            yield self._load(stage, index)

    def is_complete(self, stage: int, batches: int) -> bool:
        """Whether the bounds of all batches of a stage are there already."""
        return all(self._file(stage, index).exists() for index in range(batches))

    def _file(self, stage: int, index: int) -> Path:
        return self.directory / f"{stage:02d}-{index:06d}.safetensors"

    def _save(self, stage: int, index: int, bound: Bound) -> None:
        tensors = {name: value.contiguous() for name, value in bound.tensors()}
        notes = {"kind": type(bound).__name__, "dims": str(bound.dims)}
        try:
            with atomic_file(self._file(stage, index)) as temporary:
                save_file(tensors, temporary, metadata=notes)
        except (OSError, SafetensorError) as error:
            raise NelboError(f"cannot write to {self.directory}: {error}") from error

    def _load(self, stage: int, index: int) -> Bound:
        file = self._file(stage, index)
        try:
            with safe_open(file, "pt") as content:
                notes = content.metadata() or {}
                kind = _KINDS[notes["kind"]]
                names = [f.name for f in fields(kind) if f.name != "dims"]
                tensors: dict[str, Any] = {name: content.get_tensor(name) for name in names}
            return kind(**tensors, dims=int(notes["dims"]))
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise NelboError(
                f"{file} is damaged ({error}): remove it, and its batch is evaluated again"
            ) from error


def fingerprint(model: nn.Module) -> str:
    """A hash of all weights, which tells whether a model is the same one."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        plain = value.detach().cpu().contiguous()
        digest.update(plain.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _check_same(directory: Path, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    for name in expected.keys() | found.keys():
        if found.get(name) != expected.get(name):
            raise NelboError(
                f"{directory} holds an evaluation with {name} {found.get(name)!r}, not "
                f"{expected.get(name)!r}: give another directory, or the same settings to go on"
            )
