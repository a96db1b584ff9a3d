"""What a training run is asked to do, whatever the kind of its model.

Nothing heavy is imported here, so that the command line shows its help at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

import tyro

from nelbo.base.errors import NelboError
from nelbo.training.config import TrainingConfig
from nelbo.training.ranges import at_least_one, check_threads

KindName = Literal["pixel", "autoencoder", "latent", "controlnet"]
NAMES: tuple[KindName, ...] = get_args(KindName)


@dataclass(frozen=True)
class Given:
    """What was typed after the name of a command, by the options that it has.

    Attributes:
        positional: what is the value of no option, in order.
        values: the values of each option, by its name with dashes; none for a flag.
    """

    positional: tuple[str, ...]
    values: Mapping[str, tuple[str, ...]]

    @property
    def takes_settings(self) -> bool:
        """Whether those of another run or of a file are taken, by --resume or --config."""
        return "resume" in self or self.value("config") is not None

    def __contains__(self, option: str) -> bool:
        return option in self.values

    def value(self, option: str) -> str | None:
        """The first value of an option; None without one."""
        return next(iter(self.values.get(option, ())), None)


def resolved(path: str | None) -> str | None:
    """A path as it is found again from another directory; what is no path, such as the name of a
    checkpoint or a Hub id, as it is."""
    return str(Path(path).resolve()) if path is not None and Path(path).exists() else path


@dataclass(frozen=True)
class TrainOptions:
    """Train a model on images; evaluate its bound, sample, and write a report.

    Attributes:
        trains: the kind of model that these options train.
        free: settings of the model that can be chosen for a trained one, too.
        suits: the data sets that this kind of model is the default for.
    """

    data: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")] = None
    """digits, emoji, mnist5k, mixture, mnist, fashion_mnist, cifar10, a folder of pictures, a
    .parquet file, or hub:USER/NAME; with --resume or --config, by default what the settings
    name."""
    trains: ClassVar[KindName]
    free: ClassVar[tuple[str, ...]] = ()
    suits: ClassVar[tuple[str, ...]] = ()
    kind: Annotated[Literal["auto"] | KindName, tyro.conf.arg(name="model")] = "auto"
    """What to train: pixel, a diffusion model of the images; autoencoder; latent, a diffusion model
    of the latents of an autoencoder; or controlnet, spatial control of a trained model. auto is
    latent for emoji and pixel for other data. Each has options of its own: --model latent
    --help."""
    out: Path | None = None
    """The run directory to make, or to go on with."""
    overwrite: bool = False
    """Replace a run that is already there, once the new one has its first checkpoint."""
    resume: bool = False
    """Go on with the run in --out from its last checkpoint, with its settings. Beside the length
    of the run, little can be changed."""
    accept_changed_data: bool = False
    """Resume although images were added, removed or changed since the run was stopped."""
    config: Path | None = None
    """Take the settings from the config.yaml of another run; what is given here comes first."""
    start_from: str | None = None
    """Begin with the trained weights of this run, pipeline of diffusers or checkpoint that ships
    (its path, name or Hub id) rather than anew; the new run keeps its networks and its chain."""
    start_classes: Literal["same", "new", "none"] = "same"
    """With --start-from, for images of other classes than the model's: new gives it an embedding of
    theirs, where classes of the same name keep what they learned; none takes its classes away."""
    size: int | str | None = None
    """What to cut the pictures of a folder to, 32, or 16x24, height × width; 32 by default."""
    crops: int | None = None
    """Of photographs that are much larger than --size: how many crops at random places each one
    gives to train on, the same ones each time; those for validation and test give one."""
    channels: int | None = None
    """1 for grey or 3 for colour; by default what the pictures of a folder are."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluate_levels: int | Literal["all"] | None = None
    """Levels an image for the bound of the test split in the report: a number, or all, whatever
    time that takes. By default as many as fit into what may follow training: evaluation, samples
    and report together take a fifth of its time, or 20 s."""
    evaluate_images: int | None = None
    """At most this number of images of each split for the report, whatever time that takes;
    by default as many as fit, or 300 with --evaluate-levels."""
    track: Literal["none", "tensorboard"] = "none"
    """Where to follow training, beside metrics.jsonl: tensorboard needs the extra `tracking`."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, mps."""
    left_open: tyro.conf.Suppress[tuple[str, ...]] = ()
    """What the data or another model decide, whatever the settings are; see `begun`."""
    threads: int | None = None
    """CPU threads; by default the faster of one and all is measured at first. Fix it, and the
    precision, to repeat a run to the last bit."""
    json: bool = False
    """Print the result as JSON."""

    def check(self) -> None:
        """Raise `NelboError` for options that make no sense."""
        levels = None if self.evaluate_levels == "all" else self.evaluate_levels
        self.training.check()
        self.settings.check()
        at_least_one(
            crops=self.crops,
            evaluate_images=self.evaluate_images,
            evaluate_levels=levels,
        )
        check_threads(self.threads)
        if self.out is None:
            raise NelboError("--out is missing: give the run directory")
        if self.data is None:
            raise NelboError("DATA is missing: give digits, another data set, or a folder")
        if self.resume and self.overwrite:
            raise NelboError("--resume goes on with a run and --overwrite replaces it: choose one")
        if self.resume and self.config is not None:
            raise NelboError("--resume takes the run's own settings: leave --config out")
        if self.start_from is None and self.start_classes != "same":
            raise NelboError("--start-classes takes effect with --start-from only")

    @property
    def settings(self) -> Any:
        """The settings of the model, which every kind has of its own, as the field `model`."""
        return self.model  # type: ignore[attr-defined]

    def with_settings(self, settings: Any) -> Self:
        """The same with other settings of the model."""
        return replace(self, model=settings)  # type: ignore[call-arg]

    def found_again(self) -> Self:
        """With paths as they are found again from another directory."""
        return replace(self, start_from=resolved(self.start_from))

    def begun(self, given: Given) -> Self:
        """With the defaults that follow from the options that are given on the command line.

        Raises:
            NelboError: an option that has no effect on this run.
        """
        return self
