"""The 1,000 names that text alignment is measured among, and which of them are prompts.

Some pictures have several names: OpenMoji draws "pilot" and "man pilot" alike, and flags of
territories are those of their country. No scorer can distinguish such names, so each picture is a
candidate once, under one of its names.

1. The names of all combinations of person, profession and skin tone that are held out: the unseen
   prompts. Where a name that is trained on has the same picture, that other name is left out, and
   the prompt counts as one whose *picture* was seen.
2. 200 random training names: the seen prompts.
3. The names of the training combinations, so that the unseen ones must be distinguished from names
   that differ in one word.
4. Other random training names, until there are 1,000.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from nelbo.data import ImageData, load_data
from nelbo.data.emoji import combinations

SIZE = 32
CANDIDATES = 1000
SEEN = 200


@dataclass(frozen=True)
class Names:
    """The candidates.

    Attributes:
        images: the picture of each, (C, 3, H, W) uint8.
        captions: its name.
        combinations: its person, profession and skin tone, None for another picture.
        seen: the candidates that are seen prompts, (200,) int64.
        unseen: those that are unseen prompts, (60,) int64.
        new_picture: whether the picture of each unseen prompt is not trained on under any name.
    """

    images: Tensor
    captions: tuple[str, ...]
    combinations: tuple[tuple[str, str, str] | None, ...]
    seen: Tensor
    unseen: Tensor
    new_picture: Tensor


class Named(NamedTuple):
    """A picture, its name and its code points."""

    image: Tensor
    caption: str
    code: str


def choose_names(seed: int = 0) -> Names:
    """The candidates and prompts; always the same for a seed."""
    train, test = (named_pictures(load_data("emoji", s, size=SIZE)) for s in ("train", "test"))
    of_code = combinations()
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    random = [train[i] for i in order.tolist()]
    chosen: dict[bytes, Named] = {}

    def choose(entries: Iterable[Named], until: int) -> Tensor:
        """Add new pictures up to a number; the indices of those added."""
        before = len(chosen)
        for entry in entries:
            if len(chosen) < until:
                chosen.setdefault(entry.image.numpy().tobytes(), entry)
        return torch.arange(before, len(chosen))

    unseen = choose((e for e in test if e.code in of_code), CANDIDATES)
    seen = choose(random, len(unseen) + SEEN)
    choose((e for e in train if e.code in of_code), CANDIDATES)
    choose(random, CANDIDATES)
    trained = {e.image.numpy().tobytes() for e in train}
    return Names(
        images=torch.stack([e.image for e in chosen.values()]),
        captions=tuple(e.caption for e in chosen.values()),
        combinations=tuple(of_code.get(e.code) for e in chosen.values()),
        seen=seen,
        unseen=unseen,
        new_picture=torch.tensor([pixels not in trained for pixels in [*chosen][: len(unseen)]]),
    )


def named_pictures(data: ImageData) -> list[Named]:
    """Those that have a name."""
    entries = zip(data.images, data.captions or (), data.names, strict=True)
    return [Named(image, caption, code) for image, caption, code in entries if caption]
