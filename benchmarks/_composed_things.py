"""What is asked of a model of `composed_emoji.py`, and the real pictures beside it.

A question is a prompt with one right answer by each scorer: the thing, and the colour or style. The
scorers are those of `_alignment_scorer.py`, trained on real training pictures of the folder with
the thing, the colour or the style alone as the caption.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from _alignment_scorer import Scorer, load_scorer, to_network
from torch import Tensor
from torch.nn import functional as F

from nelbo.data import ImageData, load_data

SIZE = 32
THING_STEPS, FACT_STEPS = 900, 250  # of the scorers: of 1,500 things; of a few colours or styles
Facts = dict[str, Any]


@dataclass(frozen=True)
class Composed:
    """A split of the folder, with the line of metadata of each picture."""

    data: ImageData
    facts: tuple[Facts, ...]

    def where(self, asked: Callable[[Facts], bool]) -> Composed:
        index = [i for i, one in enumerate(self.facts) if asked(one)]
        return Composed(self.data.take(torch.tensor(index)), tuple(self.facts[i] for i in index))

    def without(self, others: Composed) -> Composed:
        """Those whose pixels are not among the others'."""
        known = {image.numpy().tobytes() for image in others.data.images}
        new = [image.numpy().tobytes() not in known for image in self.data.images]
        kept = tuple(one for one, keep in zip(self.facts, new, strict=True) if keep)
        return Composed(self.data.take(torch.tensor(new).nonzero()[:, 0]), kept)

    def described_by(self, field: str) -> ImageData:
        """The pictures with one fact as their caption."""
        return replace(self.data, captions=tuple(one[field] for one in self.facts))


def load_composed(folder: Path, split: str) -> Composed:
    """A split of the folder that `composed_emoji.py` made."""
    data = load_data(str(folder), split, size=SIZE)
    lines = map(json.loads, (folder / "metadata.jsonl").read_text().splitlines())
    by_name = {line["file_name"]: line for line in lines}
    return Composed(data, tuple(by_name[name] for name in data.names))


def whole(one: Facts) -> bool:
    """Whether a picture shows one thing at its full size, and not in one of many skin tones."""
    apart = one["kind"] == "pair" or one["text"].startswith("small ")
    return not apart and "skin tone" not in one["text"]


@dataclass(frozen=True)
class Scorers:
    """A scorer of each fact, with the answers it chooses among."""

    of: dict[str, Scorer]
    answers: dict[str, tuple[str, ...]]

    @torch.no_grad()
    def scores(self, images: Tensor, fact: str, among: Iterable[str] | None = None) -> Tensor:
        """How well each answer describes each picture, (N, A)."""
        names = tuple(self.answers[fact] if among is None else among)
        scorer = self.of[fact]
        return scorer.images(to_network(images)) @ scorer.names(scorer.tokens(names)).T

    def right(self, images: Tensor, fact: str, answers: list[str]) -> Tensor:
        """Whether the right answer scores highest, (N,) bool."""
        first = self.scores(images, fact).argmax(1).tolist()
        given = [self.answers[fact][i] for i in first]
        return torch.tensor([a == b for a, b in zip(given, answers, strict=True)])


def kinds_of(some: Composed) -> set[str]:
    """The kinds of its pictures."""
    return {one["kind"] for one in some.facts}


def load_scorers(train: Composed, cache: Path) -> Scorers:
    """Those of thing, and of colour and style where there are pictures of them, kept in `cache`."""
    single = train.where(whole)
    kinds = {"thing": (single, THING_STEPS)}
    for fact in sorted({"colour", "style"} & kinds_of(single)):
        kinds[fact] = (single.where(lambda one, fact=fact: one["kind"] == fact), FACT_STEPS)
    return Scorers(
        {
            fact: load_scorer(some.described_by(fact), cache, steps)
            for fact, (some, steps) in kinds.items()
        },
        {
            fact: tuple(sorted({one[fact] for one in some.facts}))
            for fact, (some, _) in kinds.items()
        },
    )


def one_each(some: Composed, fields: tuple[str, ...], count: int, seed: int) -> Composed:
    """At most `count` pictures, of each combination of facts one at random."""
    draws = random.Random(seed)
    index = draws.sample(range(len(some.facts)), len(some.facts))
    chosen = {tuple(some.facts[i][field] for field in fields): i for i in index}
    kept = draws.sample(sorted(chosen.values()), min(count, len(chosen)))
    return Composed(some.data.take(torch.tensor(kept)), tuple(some.facts[i] for i in kept))


def halves(images: Tensor) -> tuple[Tensor, Tensor]:
    """The left and the right thing of a pair, each as large as a picture."""
    quarter = SIZE // 4
    middle = images[..., quarter : 3 * quarter, :].float()
    parts = middle.split(SIZE // 2, dim=-1)
    left, right = (F.interpolate(part, (SIZE, SIZE), mode="bilinear") for part in parts)
    return left.round().to(torch.uint8), right.round().to(torch.uint8)
