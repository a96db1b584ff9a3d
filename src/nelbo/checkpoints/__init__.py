"""Trained models that ship with the package: one pipeline directory each, beside this file.

Weights are kept as float16 and loaded as float32. Every checkpoint has a README.md with
its description, the makers and licence of its data, its command, and its quality.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nelbo.base.errors import NelboError
from nelbo.base.files import read_json
from nelbo.chain.model import Model
from nelbo.formats import load, save, write_json
from nelbo.formats.model_directory import CARD_FILE, checkpoint_path
from nelbo.samplers import Sampler
from nelbo.text import TEXT_ENCODER

# What a package may weigh without being a burden to those who never use it.
LARGEST = 25_000_000
# Entries of nelbo.json that the commands need, for the data and the usual guidance.
_KEPT = ("source", "training_images", "label_names", "trained", "settings")


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
) -> int:
    """Write a model as a checkpoint to ship, in float16, with its card; returns its size in bytes.

    Args:
        model: the model, which stays as it is.
        directory: where.
        card: the README.md, Markdown; see `nelbo.report.checkpoint_card`.
        notes: what the run's nelbo.json holds, of which the data, the length and the settings
            are kept.
        sampler: what the scheduler is to describe, as in `nelbo.save`.

    Raises:
        NelboError: an empty card, weights that float16 cannot hold, or more bytes than the package
            may carry.
    """
    if not card.strip():
        raise NelboError("a checkpoint needs a card with its description and how it was made")
    half = copy.deepcopy(model).to(torch.float16)
    for name, weight in half.state_dict().items():
        if not weight.isfinite().all():
            raise NelboError(f"{name} has weights that float16 cannot hold")
    kept = {name: value for name, value in (notes or {}).items() if name in _KEPT}
    save(half, directory, sampler=sampler, notes=kept)
    _read_text_encoder_as_float32(directory)
    (directory / CARD_FILE).write_text(card, encoding="utf-8")
    size = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
    if size > LARGEST:
        raise NelboError(
            f"{directory} has {size / 1e6:.1f} MB, at most {LARGEST / 1e6:.0f} can ship; train a "
            "smaller model"
        )
    return size


def _read_text_encoder_as_float32(directory: Path) -> None:
    """Let transformers load float32: it reads the dtype in the config, diffusers that of a call."""
    file = directory / TEXT_ENCODER / "config.json"
    if file.is_file():
        write_json(file, {**read_json(file), "dtype": "float32"})
