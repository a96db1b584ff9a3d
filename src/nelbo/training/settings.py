"""Settings of a training command that outlive it: written with a run, read back, compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from nelbo.base.errors import NelboError
from nelbo.runs.checkpoints import Checkpoints
from nelbo.runs.run_directory import RunDirectory
from nelbo.runs.settings_file import from_mapping, plain, write_settings
from nelbo.training.ranges import option

Options = TypeVar("Options")

# Fields for this call rather than for training.
NOT_SAVED = (
    "out",
    "overwrite",
    "resume",
    "accept_changed_data",
    "config",
    "crops",
    "json",
    "left_open",
)
# Fields that a run may go on with another value of.
_MAY_CHANGE = {
    *("device", "threads", "track", "evaluate_levels", "evaluate_images", "guidance"),
    *("steps", "time_budget", "save_every", "keep_checkpoints", "validate_every"),
    *("gradient_accumulation", "checkpoint_activations", "compile", "shard", "precision"),
}


def save_options(options: Any, path: Path) -> None:
    """Write the options of a command, to be read by --config and --resume."""
    names = [f.name for f in dataclasses.fields(options) if f.name not in NOT_SAVED]
    write_settings(path, {name: getattr(options, name) for name in names})


def parse_options(kind: type[Options], content: Mapping[str, Any], file: Path) -> Options:
    """The options of a kind from the settings in a file.

    Raises:
        NelboError: a field that there is not, that is not to be saved, or of another type.
    """
    content = dict(content)
    forbidden = [name for name in NOT_SAVED if name in content]
    if forbidden:
        raise NelboError(f"{file}: {forbidden[0]!r} is given on the command line only")
    usual: Any = kind()
    training = content.get("training")
    if isinstance(training, dict) and RunDirectory(file.parent).has_model:
        # A run that does not name it is from before there was a choice.
        content["training"] = {"optimizer": "adamw"} | training
    for group in ("training", "model"):
        if isinstance(content.get(group), dict):
            # What is left out is as this kind of model has it.
            content[group] = plain(getattr(usual, group)) | content[group]
    return from_mapping(kind, content, str(file), hidden=NOT_SAVED)


def check_unchanged(options: Any, before: Any, run: RunDirectory) -> None:
    """A run cannot go on with settings that would make it another run.

    Raises:
        NelboError: one that did change, or fewer steps than it has taken.
    """
    done = max(Checkpoints(run.training).steps(), default=0)
    if options.training.steps is not None and options.training.steps < done:
        raise NelboError(
            f"the run in {run.path} has taken {done} steps already, which is more than --steps "
            f"{options.training.steps}"
        )
    for name, value, old in _pairs(options, before):
        if value != old:
            called = "DATA" if name == "data" else option(name)
            raise NelboError(
                f"the run in {run.path} has {called} {old!r}, which cannot change to "
                f"{value!r} halfway: leave it out, or start a new run"
            )


def _pairs(options: Any, before: Any) -> Iterator[tuple[str, Any, Any]]:
    """Each setting that must not change, by name, now and before."""
    groups = [(options, before)]
    groups += [(getattr(options, name), getattr(before, name)) for name in ("training", "model")]
    for mine, kept in groups:
        for name in (f.name for f in dataclasses.fields(mine)):
            value = getattr(mine, name)
            if not (dataclasses.is_dataclass(value) or name in (*NOT_SAVED, "kind", *_MAY_CHANGE)):
                yield name, value, getattr(kept, name)
