"""Trained models that ship with the package: one pipeline directory each, beside this file.

Weights are kept as float16 and loaded as float32. A checkpoint of ControlNets holds these alone,
and names the checkpoint with the other networks as its base; `nelbo.save` writes the whole. Every
checkpoint has a README.md with its description, the makers and licence of its data, its command,
and its quality.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from nelbo.base.errors import NelboError
from nelbo.chain.model import Model
from nelbo.formats import load, save
from nelbo.formats.model_directory import CARD_FILE, checkpoint_path
from nelbo.formats.pipeline import BASE
from nelbo.samplers import Sampler

# What a checkpoint may weigh without being a burden to those who never use it.
LARGEST = 30_000_000
# The folder that a checkpoint does not share with its base.
SCHEDULER = "scheduler"
# Entries of nelbo.json that the commands need, for the data and the usual guidance.
_KEPT = (
    "source",
    "training_images",
    "label_names",
    "trained",
    "settings",
    "base",
    "control",
)


def pretrained(name: str) -> Model:
    """The model of a checkpoint that ships with the package.

    Raises:
        NelboError: there is none of this name; the message lists those there are.
        MissingExtraError: it has a text encoder, and transformers is not installed.
    """
    return load(checkpoint_path(name))


def save_checkpoint(
    model: Model,
    directory: Path,
    card: str,
    notes: Mapping[str, Any] | None = None,
    sampler: Sampler | None = None,
    base: str | None = None,
) -> int:
    """Write a model as a checkpoint to ship, in float16, with its card; returns its size in bytes.

    Args:
        model: the model, which stays as it is.
        directory: where.
        card: the README.md, Markdown; see `nelbo.report.model_card`.
        notes: what the run's nelbo.json holds, of which the data, the length and the settings
            are kept.
        sampler: what the scheduler is to describe, as in `nelbo.save`.
        base: the checkpoint that ships whose networks this one adds ControlNets to; they are not
            written again.

    Raises:
        NelboError: an empty card, weights that float16 cannot hold, or are not those of the base,
            or more bytes than the package may carry.
    """
    if not card.strip():
        raise NelboError("a checkpoint needs a card with its description and how it was made")
    half = copy.deepcopy(model).to(torch.float16)
    for name, weight in half.state_dict().items():
        if not weight.isfinite().all():
            raise NelboError(f"{name} has weights that float16 cannot hold")
    kept = {name: value for name, value in (notes or {}).items() if name in _KEPT}
    if base is not None:
        kept[BASE] = base
    save(half, directory, sampler=sampler, notes=kept)
    if base is not None:
        _share(directory, checkpoint_path(base))
    (directory / CARD_FILE).write_text(card, encoding="utf-8")
    size = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
    if size > LARGEST:
        raise NelboError(
            f"{directory} has {size / 1e6:.1f} MB, at most {LARGEST / 1e6:.0f} can ship; train a "
            "smaller model"
        )
    return size


def _share(directory: Path, base: Path) -> None:
    """Remove the parts that are those of the base.

    Raises:
        NelboError: one of them is not.
    """
    for part in sorted(base.iterdir()):
        own = directory / part.name
        if not part.is_dir() or not own.is_dir() or part.name == SCHEDULER:
            continue
        for weights in part.glob("*.safetensors"):
            theirs, ours = load_file(weights), load_file(own / weights.name)
            if theirs.keys() != ours.keys() or any(
                not torch.equal(theirs[name], ours[name]) for name in theirs
            ):
                raise NelboError(f"{own} is not the {part.name} of {base.name}, its base")
        shutil.rmtree(own)
