"""Options that commands share: sampler, condition, device."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from nelbo.base.arguments import check_choice
from nelbo.base.devices import is_device
from nelbo.base.errors import NelboError
from nelbo.samplers import SAMPLERS
from nelbo.training.ranges import at_least_one, check_threads, refuse

_LARGEST_SEED = 2**63 - 1
_SAMPLER_HELP = (
    f"{', '.join(SAMPLERS)}; by default what suits the chain of a run best (docs/samplers.md), "
    "and what the scheduler of another pipeline describes."
)
# Images that --quality needs at least.
_LEAST_JUDGED = 2
# Arguments and options that several commands have, with the help of those that are the same.
RunPath = Annotated[str, tyro.conf.Positional, tyro.conf.arg(name="run", metavar="RUN")]
DataName = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
Device = Annotated[str, tyro.conf.arg(help="Where to compute: auto, cpu, cuda, mps.")]
AsJson = Annotated[bool, tyro.conf.arg(help="Print the result as JSON.")]
SomeImages = Annotated[
    int | None,
    tyro.conf.arg(
        help="At most this number of images, drawn at random by the seed; all by default."
    ),
]
BatchSize = Annotated[int, tyro.conf.arg(help="Images at a time.")]
DrawnAtATime = Annotated[
    int, tyro.conf.arg(help="Images at a time; the images do not depend on it.")
]
EmbeddedGuidance = Annotated[
    float | None,
    tyro.conf.arg(
        help="Guidance that a guidance-distilled network receives, which is another model at each; "
        "3.5 by default."
    ),
]


@dataclass(frozen=True)
class Computing:
    """Where to compute, and how to print the result."""

    seed: int = 0
    """Source of all that is random."""
    device: Device = "auto"
    threads: int | None = None
    """CPU threads; by default all."""
    json: AsJson = False

    def check(self) -> None:
        """Raise `NelboError` for a seed or number of threads out of range."""
        check_threads(self.threads)
        if not 0 <= self.seed <= _LARGEST_SEED:
            raise NelboError(f"--seed must lie in 0..2^63 − 1, got {self.seed}")


@dataclass(frozen=True)
class ImageOptions:
    """A model, and the images to read it on."""

    run_path: RunPath
    """A run, a diffusers pipeline directory, or a Hub id."""
    data: str | None = None
    """As in `nelbo train`; by default what the run was trained on."""
    images: SomeImages = None
    resize: bool = False
    """Crop and resize images of another size than the model's."""
    batch_size: BatchSize = 64
    embedded_guidance: EmbeddedGuidance = None
    computing: Computing = field(default_factory=Computing)

    def check(self) -> None:
        """Raise `NelboError` for options that make no sense."""
        self.computing.check()
        at_least_one(images=self.images, batch_size=self.batch_size)


@dataclass(frozen=True)
class SplitOptions(ImageOptions):
    """A model, and the images of a split to read it on."""

    split: str = "test"
    """Which images: train, validation, test or all."""
    keep_duplicates: bool = False
    """Keep test images whose pixels are those of images that the run was trained or chosen on."""


@dataclass(frozen=True)
class SamplerOptions:
    """How to walk the chain."""

    sampler: Annotated[str | None, tyro.conf.arg(help=_SAMPLER_HELP)] = None
    steps: int | None = None
    """Steps an image; by default what suits the sampler, and every level with ddpm."""
    spacing: str | None = None
    """Which levels fewer steps visit: leading, linspace or trailing. A sampler that is asked for
    by name has its own, which start where the noise is."""
    eta: float | None = None
    """Noise of ddim, from 0, none, to 1, as much as ddpm."""
    order: int | None = None
    """Order of dpm_solver: 1, 2 or 3."""
    noise_levels: str | None = None
    """Noise levels of dpm_solver, euler and heun: spaced, karras, log_snr, or flow, even in
    the time of flow matching."""

    def check(self) -> None:
        """Raise `NelboError` for an unknown sampler."""
        if self.sampler is not None:
            check_choice("--sampler", self.sampler, SAMPLERS)


# As a pair of numbers rather than None: an option that takes two or none would also take a run
# named after them.
EVERYWHERE = (0.0, math.inf)


@dataclass(frozen=True)
class ConditionOptions:
    """The condition of the model, and the guidance scale."""

    label: Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction] = ()
    """Classes by name or number, one or several after each --label, for the images in turn; by
    default, sample takes all and edit none. A class whose name is a number is meant by its name."""
    prompt: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Prompt of a text-conditional model; give it several times for images in turn. An empty one is
    the unconditional model."""
    prompt_file: Path | None = None
    """Prompts for the images in turn, one a line; empty lines are left out."""
    negative: str | None = None
    """Prompt that guidance leads away from."""
    guidance: float | None = None
    """Scale of classifier-free guidance; 1 is none. By default, with a prompt, what the run draws
    its own samples with, and otherwise 1."""
    guidance_interval: Annotated[
        tuple[float, float], tyro.conf.arg(help_behavior_hint="(default: everywhere)")
    ] = EVERYWHERE
    """Guide only at noise levels σ = √((1 − ᾱ)/ᾱ) between these two."""
    guidance_rescale: float = 0.0
    """Share, 0 to 1, of guidance's overexposure that is taken back."""

    def check(self) -> None:
        """Raise `NelboError` for options that exclude one another."""
        if self.prompt and self.prompt_file is not None:
            raise NelboError("give either --prompt or --prompt-file")
        if not all(self.label):
            raise NelboError("--label is given without a class: name one or more after it")
        if self.labels() and (self.prompt or self.prompt_file is not None):
            raise NelboError("give either --label or a prompt")

    def check_count(self, n: int) -> None:
        """Raise `NelboError` where some of several labels or prompts would not be drawn."""
        for kind, asked in (("labels", self.labels()), ("prompts", self.prompts())):
            if n < len(asked):
                raise NelboError(
                    f"-n {n} draws {n} of {len(asked)} {kind}: give -n {len(asked)} or more"
                )

    def check_unguided(self) -> None:
        """Raise `NelboError` for options of guidance that are given without any."""
        guides = ("guidance_interval", "guidance_rescale", "negative")
        refuse(self, *guides, why="takes effect with --guidance other than 1 only")

    def labels(self) -> tuple[str, ...]:
        """The classes asked for, in order."""
        return tuple(label for given in self.label for label in given)

    def prompts(self) -> tuple[str, ...]:
        """The prompts asked for, in order.

        Raises:
            NelboError: a file that cannot be read or holds none.
        """
        if self.prompt_file is None:
            return self.prompt
        try:
            # Not splitlines: prompts may hold the other separators of Unicode.
            lines = self.prompt_file.read_text(encoding="utf-8-sig").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or f"{error}; save it as UTF-8"
            raise NelboError(f"cannot read --prompt-file {self.prompt_file}: {why}") from error
        prompts = tuple(line.strip() for line in lines if line.strip())
        if not prompts:
            raise NelboError(f"--prompt-file {self.prompt_file} holds no prompts")
        return prompts


@dataclass(frozen=True)
class ControlOptions:
    """The spatial control of a model with a ControlNet."""

    control: Annotated[tuple[tuple[Path, ...], ...], tyro.conf.UseAppendAction] = ()
    """Pictures that decide where things are, such as a sketch, one or several after --control, for
    the images in turn. With several ControlNets give it once for each, in their order."""
    control_scale: tuple[float, ...] = ()
    """How strongly the control acts, for all ControlNets or one each; by default as the model has
    it, usually 1."""
    control_start: tuple[float, ...] = ()
    """Where on the way from noise to picture the control begins to act, 0 to 1; 0 by default."""
    control_end: tuple[float, ...] = ()
    """Where it ceases to; 1 by default."""
    guess: bool = False
    """Guess mode: guidance leads towards the control itself, so that no prompt is needed."""
    annotate: bool = False
    """The pictures of --control are photographs or drawings of what to show: make their controls
    as those that the run was trained with, such as their edges."""
    controlnet: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Put this ControlNet on the model: a folder or Hub id of a ControlNetModel of diffusers, or a
    run; several times for several at once."""

    def check(self) -> None:
        """Raise `NelboError` for options that take effect with --control only."""
        if not self.control:
            acts = ("control_scale", "control_start", "control_end", "guess", "annotate")
            refuse(self, *acts, why="takes effect with --control only")
        if not all(self.control):
            raise NelboError("--control is given without a picture: name one or more after it")


@dataclass(frozen=True)
class DrawingOptions:
    """A model that draws pictures, and how."""

    run_path: RunPath
    """A run, a diffusers pipeline directory, or a Hub id."""
    sampling: SamplerOptions = field(default_factory=SamplerOptions)
    condition: ConditionOptions = field(default_factory=ConditionOptions)
    controlled: ControlOptions = field(default_factory=ControlOptions)
    computing: Computing = field(default_factory=Computing)

    def check(self) -> None:
        """Raise `NelboError` for options that make no sense."""
        self.computing.check()
        self.condition.check()
        self.controlled.check()
        self.sampling.check()


@dataclass(frozen=True)
class QualityOptions:
    """What to compare drawn images with."""

    quality: bool = False
    """Report how much the images look like those that the run was trained on: Fréchet and kernel
    distance, precision, recall, density and coverage, beside real images, and whether they are
    copies. Use some hundred images (-n)."""
    features: Path | None = None
    """With --quality, also compare in the features of a vision model: a directory with config.json
    and model.safetensors that transformers reads, such as DINOv2's."""
    data: str | None = None
    """With --quality, the images to compare with, as in `nelbo train`; by default what the run was
    trained on."""

    def check_options(self, n: int) -> None:
        """Raise `NelboError` for options without --quality, or too few images for it."""
        if self.quality and n < _LEAST_JUDGED:
            raise NelboError(f"--quality needs at least {_LEAST_JUDGED} images, got -n {n}")
        if not self.quality:
            refuse(self, "features", "data", why="is for --quality: give that as well")


def check_out(path: Path, option: str = "--out", *, directory: bool = False) -> None:
    """Raise `NelboError` unless a file, or a directory, can be made at a path; makes nothing."""
    if path.exists() and path.is_dir() != directory:
        found, expected = ("file", "directory") if directory else ("directory", "file")
        raise NelboError(f"{option} {path} is a {found}; give the name of a {expected}")
    if not directory and is_device(path):
        raise NelboError(f"{option} {path} is a device or a pipe; give the name of a file")
    here = path
    while not here.exists():
        here = here.parent
    if not here.is_dir() and here != path:
        raise NelboError(f"{option} {path} cannot be made: {here} is a file")
    if not os.access(here, os.W_OK):
        raise NelboError(f"{option} {path} cannot be written: there is no permission to at {here}")


def check_new(path: Path) -> None:
    """Raise `NelboError` unless --out is the path of a new or an empty directory."""
    check_out(path, directory=True)
    if path.is_dir() and any(path.iterdir()):
        raise NelboError(f"--out {path} is not empty; give the name of a new directory")


def check_counts(n: int, batch_size: int) -> None:
    """Raise `NelboError` unless there is something to draw."""
    if n < 1:
        raise NelboError(f"-n must be at least 1, got {n}")
    at_least_one(batch_size=batch_size)


def check_png(path: Path, option: str = "--out") -> None:
    """Raise `NelboError` unless a path names a PNG file that can be written."""
    if path.suffix.lower() != ".png":
        raise NelboError(f"{option} must name a .png file, got {path}")
    check_out(path, option)
