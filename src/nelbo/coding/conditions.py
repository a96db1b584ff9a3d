"""The condition of each tile, from what an archive holds or from one that was given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from nelbo.chain.conditioning import Condition
from nelbo.chain.model import Model
from nelbo.coding.pictures import Beside, Tiling, check_captions

# The condition of some of the tiles, by index.
Conditions = Callable[[Sequence[int]], Condition | None]


def conditions_of(
    model: Model, beside: Beside, tiling: Tiling, given: Condition | None = None
) -> Conditions:
    """What the model is conditioned on for each tile: that of its picture.

    Args:
        model: the model.
        beside: the labels and captions of the pictures, if any.
        tiling: which picture each tile is of.
        given: a condition of the pictures that the archive does not hold.
    """
    of_tile = tiling.pictures

    def of(index: Sequence[int]) -> Condition | None:
        picture = [of_tile[i] for i in index]
        if given is not None and not is_stored(given):
            return given[torch.tensor(picture)].to(model.device)
        labels, captions = beside.given(picture)
        if labels is not None and not model.num_classes:  # for a network of one's own
            return Condition(label=labels).to(model.device)
        return model.condition_for(len(picture), labels, captions)

    return of


def captioned(model: Model, caption: str | None) -> Condition | None:
    """What a model is conditioned on for one picture with this caption, or none.

    Raises:
        NelboError: a caption for a model that reads no text.
    """
    captions = None if caption is None else [caption]
    check_captions(model, captions)
    return model.condition_for(1, None, captions)


def is_stored(condition: Condition) -> bool:
    """Whether a condition is of labels alone, which an archive holds."""
    return condition.label is not None and replace(condition, label=None).batch_size == 0
