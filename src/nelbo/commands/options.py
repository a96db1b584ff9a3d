"""Options that commands share: which sampler, what a model is told, where to compute."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from nelbo.base.errors import NelboError
from nelbo.base.suggestions import unknown
from nelbo.training.config import option

if TYPE_CHECKING:
    from nelbo.networks.guidance import Guidance
    from nelbo.samplers import Sampler

# What --sampler calls the classes of nelbo.samplers.
SAMPLERS = {
    "ddpm": "DDPM",
    "ddim": "DDIM",
    "dpm_solver": "DPMSolver",
    "euler": "Euler",
    "heun": "Heun",
}
_NAMES = {class_name: name for name, class_name in SAMPLERS.items()}

_LARGEST_SEED = 2**63 - 1
# To check the other options of guidance by, where its scale is not yet known.
_SOME_GUIDANCE = 2.0


@dataclass(frozen=True)
class Computing:
    """Where to compute, and how to print the result."""

    seed: int = 0
    """Source of all that is random."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, mps."""
    json: bool = False
    """Print the result as JSON."""

    def check(self) -> None:
        """Raise `NelboError` for a seed that is none."""
        if not 0 <= self.seed <= _LARGEST_SEED:
            raise NelboError(f"--seed must lie in 0..2^63 − 1, got {self.seed}")


@dataclass(frozen=True)
class SamplerOptions:
    """How to walk the chain."""

    sampler: str | None = None
    """ddpm, ddim, dpm_solver, euler or heun; by default what suits the chain of a run best
    (docs/samplers.md), and what the scheduler of another pipeline describes."""
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
    """Noise levels of dpm_solver, euler and heun: spaced, karras or log_snr."""

    def build(
        self, run_path: str, default: str | None = None, *, steps: int | None = None
    ) -> Sampler:
        """The sampler; what is not asked for is as the scheduler of the pipeline says.

        Args:
            run_path: the pipeline.
            default: name of the sampler where none is asked for; None is the scheduler's.
            steps: how many where no number is asked for.

        Raises:
            NelboError: an unknown sampler, an option that it does not have, or more steps than the
                chain has levels.
        """
        from nelbo.formats import load_sampler, usual_sampler
        from nelbo.formats.pipelines import load_schedule

        steps = steps if self.steps is None else self.steps
        name = self.sampler or default
        sampler: Any
        if name is None:
            sampler = usual_sampler(run_path, steps)
            name = _NAMES[type(sampler).__name__]
        else:
            sampler = load_sampler(run_path, steps, kind=_kind(name))
        own = {field.name for field in fields(sampler)}
        asked = {name: getattr(self, name) for name in ("spacing", "eta", "order", "noise_levels")}
        given = {field: value for field, value in asked.items() if value is not None}
        for field in given:
            if field not in own:
                raise NelboError(f"{option(field)} does not apply to the sampler {name}")
        if self.spacing is not None and "noise_levels" in own:
            given.setdefault("noise_levels", "spaced")
        if {"spacing", "noise_levels"} & given.keys():
            given["levels"] = None  # of a default that has its own
        schedule = load_schedule(run_path)
        if steps is None and (sampler.steps or 0) > schedule.num_levels:
            given["steps"] = schedule.num_levels
        sampler = replace(sampler, **given)
        sampler.state_times(schedule)  # which checks that there are so many
        return sampler


@dataclass(frozen=True)
class ConditionOptions:
    """What the model is told, and how strongly it is guided there."""

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
    guidance_interval: tuple[float, float] | None = None
    """Guide only at noise levels σ = √((1 − ᾱ)/ᾱ) between these two."""
    guidance_rescale: float = 0.0
    """Share, 0 to 1, of guidance's overexposure that is taken back."""

    def check(self) -> None:
        """Raise `NelboError` for options that exclude one another."""
        if self.prompt and self.prompt_file is not None:
            raise NelboError("give either --prompt or --prompt-file")
        if self.labels() and (self.prompt or self.prompt_file is not None):
            raise NelboError("give either --label or a prompt")

    def check_guidance(self) -> None:
        """Raise `NelboError` for options of guidance that are out of range or need another."""
        self.strength(_SOME_GUIDANCE)

    def check_count(self, n: int) -> None:
        """Raise `NelboError` where some of several labels or prompts would not be drawn."""
        for kind, asked in (("labels", self.labels()), ("prompts", self.prompts())):
            if n < len(asked):
                raise NelboError(
                    f"-n {n} draws {n} of {len(asked)} {kind}: give -n {len(asked)} or more"
                )

    def strength(self, usual: float = 1.0) -> Guidance:
        """The guidance asked for.

        Args:
            usual: its scale where none is asked for.

        Raises:
            NelboError: an option of guidance without any.
        """
        from nelbo.networks.guidance import Guidance

        scale = usual if self.guidance is None else self.guidance
        if scale == 1.0:
            self._check_unguided()
        return Guidance(scale, self.guidance_interval, self.guidance_rescale)

    def _check_unguided(self) -> None:
        for name, given in (
            ("--guidance-interval", self.guidance_interval is not None),
            ("--guidance-rescale", self.guidance_rescale != 0),
            ("--negative", self.negative is not None),
        ):
            if given:
                raise NelboError(f"{name} takes effect with --guidance other than 1 only")

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
            lines = self.prompt_file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or error
            raise NelboError(f"cannot read --prompt-file {self.prompt_file}: {why}") from error
        prompts = tuple(line.strip() for line in lines if line.strip())
        if not prompts:
            raise NelboError(f"--prompt-file {self.prompt_file} holds no prompts")
        return prompts


def check_out(path: Path, option: str = "--out", *, directory: bool = False) -> None:
    """Raise `NelboError` unless a file, or a directory, can be made at a path; makes nothing."""
    if path.exists() and path.is_dir() != directory:
        found, expected = ("file", "directory") if directory else ("directory", "file")
        raise NelboError(f"{option} {path} is a {found}; give the name of a {expected}")
    here = path
    while not here.exists():
        here = here.parent
    if not here.is_dir() and here != path:
        raise NelboError(f"{option} {path} cannot be made: {here} is a file")
    if not os.access(here, os.W_OK):
        raise NelboError(f"{option} {path} cannot be written: there is no permission to at {here}")


def check_new(path: Path, option: str = "--out") -> None:
    """Raise `NelboError` unless a path is that of a new or an empty directory."""
    check_out(path, option, directory=True)
    if path.is_dir() and any(path.iterdir()):
        raise NelboError(f"{option} {path} is not empty; give the name of a new directory")


def at_least_one(**counts: int | None) -> None:
    """Raise `NelboError` for an option, named as its field, that is below 1; None is no number."""
    for name, value in counts.items():
        if value is not None and value < 1:
            raise NelboError(f"{option(name)} must be at least 1, got {value}")


def _kind(name: str) -> Any:
    """The class of the sampler called `name`."""
    from nelbo import samplers

    if name not in SAMPLERS:
        raise NelboError(unknown("--sampler", name, SAMPLERS))
    return getattr(samplers, SAMPLERS[name])
