"""What `nelbo compare` asks for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from nelbo.base.errors import NelboError
from nelbo.commands.groups import (
    BatchSize,
    Computing,
    DataName,
    EmbeddedGuidance,
    SomeImages,
    check_out,
)
from nelbo.commands.taxonomy import TAXONOMY, chosen
from nelbo.training.config import parse_duration
from nelbo.training.ranges import at_least_one, refuse

SEEDS, SAMPLES = 3, 256
# Options of one of the two comparisons.
_OF_RUNS = ("split", "keep_duplicates", "resize", "embedded_guidance")
_OF_FAMILIES = ("families", "budget", "seeds", "out", "samples", "size", "channels")
_FAMILIES_HELP = (
    f"The families to train, of {', '.join(TAXONOMY)}; all by default. docs/families.md describes "
    "them."
)


@dataclass(frozen=True)
class Compare:
    """Compare two models on the same images by a paired test (--runs), or train the families of
    generative models with one time budget each and compare them (--budget)."""

    data: DataName
    """As in `nelbo train`."""
    runs: tuple[str, str] | None = None
    """The two runs, diffusers pipeline directories or Hub ids to compare."""
    families: Annotated[tuple[str, ...], tyro.conf.arg(help=_FAMILIES_HELP)] = ()
    budget: str | None = None
    """Training time of each family and seed, such as 20s or 2m, of wall-clock time."""
    seeds: int | None = None
    """How often each family is trained, with seeds from --seed on; 3 by default. At least two
    give an error over seeds."""
    out: Path | None = None
    """Directory for the trained families, their figures, comparison.csv and comparison.html; what
    is there already is not trained again."""
    samples: int | None = None
    """Samples of each family to judge it by; 256 by default."""
    size: str | None = None
    """What to cut pictures to before training, as in `nelbo train`."""
    channels: int | None = None
    """1 for grey or 3 for colour pictures to train on, as in `nelbo train`."""
    split: str = "test"
    """Which images to compare --runs on: train, validation, test or all. Families are fitted to
    train, chosen by validation and compared on test."""
    keep_duplicates: bool = False
    """Keep test images whose pixels are those of images that the run was trained or chosen on."""
    levels: int = 50
    """Levels of the chain an image, of latents drawn where they matter; two models of one kind meet
    the same levels and noise."""
    images: SomeImages = None
    resize: bool = False
    """Crop and resize images of another size than the models'; not needed for those that one of the
    two was trained on."""
    batch_size: BatchSize = 64
    embedded_guidance: EmbeddedGuidance = None
    computing: Computing = field(default_factory=Computing)

    def check(self) -> None:
        """Raise `NelboError` for options that make no sense."""
        self.computing.check()
        at_least_one(
            levels=self.levels,
            images=self.images,
            batch_size=self.batch_size,
            seeds=self.seeds,
            samples=self.samples,
        )
        if self.runs is not None:
            why = "trains families, and --runs compares trained models: leave one out"
            refuse(self, *_OF_FAMILIES, why=why)
            return
        if self.budget is None or self.out is None:
            raise NelboError(
                "give --runs A B to compare two trained models, or --budget 120s --out DIR to "
                "train the families and compare them"
            )
        refuse(self, *_OF_RUNS, why="is for --runs: leave one out")
        parse_duration(self.budget)
        chosen(self.families)
        check_out(self.out, directory=True)
        if self.samples is not None and self.samples < 4:
            raise NelboError(f"--samples must be at least 4, got {self.samples}")
        if self.images is not None and self.images < 2:
            raise NelboError(f"--images must be at least 2, got {self.images}")
