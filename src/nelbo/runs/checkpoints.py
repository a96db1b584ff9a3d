"""Checkpoints: all that a run needs to go on as if it had never stopped.

step-000123/
    *.safetensors    the tensors: model, average, optimizer, ...
    manifest.json    written last: the step, the numbers that go with it, and the size and SHA-256
                     of every file, its own content included

A checkpoint is written under a temporary name, flushed to the disk and then renamed, so that one
is either there as a whole or not at all; the check sums show one that was damaged afterwards.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.base.files import flush, reason

MANIFEST = "manifest.json"
FORMAT = 1
# The field of progress that the best checkpoint has the lowest value of.
VALIDATION = "validation_bits_per_dim"
_NAME = re.compile(r"step-(\d+)")
_TEMPORARY = ".writing-"


class DamagedCheckpointError(NelboError):
    """A checkpoint that is incomplete, or whose files are not what was written."""


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after a step.

    Attributes:
        step: how many steps are done.
        tensors: by the name of the file they are in, then by their own.
        progress: everything else, as JSON has it.
    """

    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    progress: Mapping[str, Any]


class Checkpoints:
    """The checkpoints in a directory, of which a few are kept.

    Args:
        directory: where; made at the first save.
        keep: how many of the latest to keep; the best one by its validation bound stays as well.
    """

    def __init__(self, directory: str | Path, keep: int = 2) -> None:
        self.directory = Path(directory)
        self.keep = keep

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, in order."""
        names = self.directory.iterdir() if self.directory.is_dir() else ()
        return sorted(int(match[1]) for path in names if (match := _NAME.fullmatch(path.name)))

    def path(self, step: int) -> Path:
        """The directory of the checkpoint of a step."""
        return self.directory / f"step-{step:06d}"

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint whole, then remove those that need not be kept.

        Raises:
            NelboError: it cannot be written; the others are as they were.
        """
        path = self.path(checkpoint.step)
        temporary = self.directory / f"{_TEMPORARY}{path.name}"
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._clean()
            temporary.mkdir()
            _write(checkpoint, temporary)
            self._remove(path)  # a damaged one, whose steps were taken again
            temporary.rename(path)
            flush(self.directory)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            kept = self.steps()
            there = ""
            if kept:
                there = (
                    f"; the checkpoint of step {kept[-1]} is intact, and --resume goes on from it"
                )
            raise NelboError(
                f"cannot write the checkpoint {path}: {reason(error)}{there}"
            ) from error
        try:
            self._prune()
        except OSError as error:  # what is to be kept is there
            warnings.warn(
                f"cannot remove older checkpoints in {self.directory}: {reason(error)}",
                stacklevel=2,
            )
        return path

    def load(self, step: int) -> Checkpoint:
        """The checkpoint of a step.

        Raises:
            DamagedCheckpointError: a file is missing, cut short or altered.
        """
        path = self.path(step)
        manifest = _read_manifest(path)
        for name, expected in manifest["files"].items():
            file = path / name
            if not file.is_file():
                raise DamagedCheckpointError(f"{file} is missing")
            if file.stat().st_size != expected["bytes"]:
                raise DamagedCheckpointError(
                    f"{file} has {file.stat().st_size} bytes, {expected['bytes']} were written"
                )
            if _checksum(file) != expected["sha256"]:
                raise DamagedCheckpointError(f"{file} is not what was written: wrong SHA-256")
        tensors = {name.partition(".")[0]: load_file(path / name) for name in manifest["files"]}
        return Checkpoint(manifest["step"], tensors, manifest["progress"])

    def newest(self) -> tuple[Checkpoint | None, list[str]]:
        """The latest checkpoint that is not damaged, and what is wrong with later ones."""
        problems: list[str] = []
        for step in reversed(self.steps()):
            try:
                return self.load(step), problems
            except DamagedCheckpointError as error:
                problems.append(str(error))
        return None, problems

    def discard_after(self, step: int) -> None:
        """Remove what lies ahead of a step that training goes back to.

        Raises:
            NelboError: it cannot be removed.
        """
        for later in self.steps():
            if later > step:
                try:
                    self._remove(self.path(later))
                except OSError as error:
                    raise NelboError(
                        f"cannot remove {self.path(later)}, which lies ahead of step {step}: "
                        f"{reason(error)}"
                    ) from error

    def best(self) -> int | None:
        """The step of the lowest validation bound; None where no checkpoint has one."""
        bounds = {}
        for step in self.steps():
            try:
                value = _read_manifest(self.path(step))["progress"].get(VALIDATION)
            except DamagedCheckpointError:
                continue
            if value is not None:
                bounds[step] = value
        return min(bounds, key=lambda step: bounds[step]) if bounds else None

    def _prune(self) -> None:
        steps = self.steps()
        kept = {*steps[-self.keep :], self.best()}
        for step in steps:
            if step not in kept:
                self._remove(self.path(step))

    def _remove(self, path: Path) -> None:
        if path.exists():
            # Unnamed first, so that one half removed is not taken for a checkpoint.
            doomed = self.directory / f"{_TEMPORARY}removed"
            if doomed.exists():  # one that a process was killed while removing
                shutil.rmtree(doomed)
            path.rename(doomed)
            shutil.rmtree(doomed)

    def _clean(self) -> None:
        """Remove what a process that was killed left half done."""
        for path in self.directory.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(path)


def _write(checkpoint: Checkpoint, directory: Path) -> None:
    files = {}
    for name, tensors in checkpoint.tensors.items():
        file = directory / f"{name}.safetensors"
        save_file({key: value.detach().contiguous() for key, value in tensors.items()}, file)
        flush(file)
        files[file.name] = {"bytes": file.stat().st_size, "sha256": _checksum(file)}
    content = {
        "format": FORMAT,
        "step": checkpoint.step,
        "files": files,
        "progress": dict(checkpoint.progress),
    }
    file = directory / MANIFEST
    file.write_text(json.dumps(content | {"sha256": _digest(content)}, indent=2) + "\n")
    flush(file)
    flush(directory)


def _read_manifest(path: Path) -> dict[str, Any]:
    file = path / MANIFEST
    try:
        content = json.loads(file.read_bytes())
        expected = content.pop("sha256")
    except (OSError, ValueError, RecursionError, KeyError, AttributeError) as error:
        raise DamagedCheckpointError(f"{file} is missing or not readable: {error}") from error
    if expected != _digest(content):
        raise DamagedCheckpointError(f"{file} is not what was written: wrong SHA-256")
    if content["format"] != FORMAT:
        raise NelboError(
            f"{file} is of format {content['format']}, this version of nelbo reads {FORMAT}"
        )
    return content


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _checksum(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
