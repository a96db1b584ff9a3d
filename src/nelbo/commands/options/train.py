"""What `nelbo train` asks for, for each kind of model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from nelbo.base.errors import NelboError
from nelbo.commands.groups import at_least_one
from nelbo.commands.training.final_samples import FinalSamples
from nelbo.training.config import (
    AutoencoderSettings,
    LatentSettings,
    ModelConfig,
    TrainingConfig,
    parse_duration,
)
from nelbo.training.presets import DEFAULT_PRESET, PRESETS

Kind = Literal["pixel", "autoencoder", "latent"]
# The autoencoder's part of the steps or the time.
AUTOENCODER_SHARE = 0.25
# What of how to train holds for both stages.
_SHARED = (
    *("gradient_accumulation", "precision", "checkpoint_activations", "compile", "shard"),
    *("save_every", "keep_checkpoints", "validate_every", "seed"),
)


@dataclass(frozen=True)
class TrainOptions:
    """Train a model on images; evaluate its bound, sample, and write a report.

    Attributes:
        trains: the kind of model that these options train.
        free: settings of the model that can be chosen for a trained one, too.
    """

    data: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")] = None
    """digits, emoji, mnist5k, mnist, fashion_mnist, cifar10, a folder of pictures, a .parquet file,
    or hub:USER/NAME; with --resume or --config, by default what the settings name."""
    trains: ClassVar[Kind]
    free: ClassVar[tuple[str, ...]] = ()
    kind: Annotated[Literal["auto"] | Kind, tyro.conf.arg(name="model")] = "auto"
    """What to train: pixel, a diffusion model of the images; autoencoder; or latent, a diffusion
    model of the latents of an autoencoder. auto is latent for emoji and pixel for other data. Each
    has options of its own: --model latent --help."""
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
    """At most so many images of each split are evaluated for the report, whatever time that takes;
    by default as many as fit, or 300 with --evaluate-levels."""
    track: Literal["none", "tensorboard"] = "none"
    """Where to follow training, beside metrics.jsonl: tensorboard needs the extra `tracking`."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, mps."""
    threads: int | None = None
    """CPU threads; by default the faster of one and all is measured, now and then. Fix it, and the
    precision, to repeat a run to the last bit."""
    json: bool = False
    """Print the result as JSON."""

    def check(self) -> None:
        """Raise `NelboError` for options that make no sense."""
        levels = None if self.evaluate_levels == "all" else self.evaluate_levels
        self.training.check()
        self.model.check()  # type: ignore[attr-defined]  # every kind has its own
        at_least_one(
            crops=self.crops,
            evaluate_images=self.evaluate_images,
            evaluate_levels=levels,
            threads=self.threads,
        )
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
        if self.trains == "autoencoder" and self.start_classes != "same":
            raise NelboError("--start-classes: an autoencoder has no classes")


@dataclass(frozen=True)
class Train(TrainOptions):
    """Train a diffusion model on images; evaluate its bound, sample, and write a report."""

    trains: ClassVar[Kind] = "pixel"
    preset: Literal["both", "likelihood", "pictures"] = DEFAULT_PRESET
    """What the model is for, which decides on objective and schedule: likelihood, few bits/dim;
    pictures, samples that look like the data; or both. Options that are given come first.
    docs/training.md has the figures of each."""
    left_to_data: tyro.conf.Suppress[tuple[str, ...]] = ()
    """What the pictures decide, whatever the settings are: mirroring, objective."""
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(**PRESETS[DEFAULT_PRESET].training)
    )
    model: ModelConfig = field(default_factory=lambda: ModelConfig(**PRESETS[DEFAULT_PRESET].model))
    samples: FinalSamples = field(default_factory=FinalSamples)

    def check(self) -> None:
        """Raise `NelboError` for options that make no sense."""
        super().check()
        self.samples.check()


@dataclass(frozen=True)
class TrainAutoencoder(TrainOptions):
    """Train an autoencoder on images; evaluate it, draw reconstructions, and write a report."""

    trains: ClassVar[Kind] = "autoencoder"
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(batch_size=32, ema_decay=0.995)
    )
    free: ClassVar[tuple[str, ...]] = (
        *("likelihood", "kl_weight", "adversarial_weight", "mirrored", "recoloured"),
        *("perceptual_weight", "perceptual_weights"),
    )
    model: AutoencoderSettings = field(default_factory=AutoencoderSettings)


@dataclass(frozen=True)
class TrainLatent(TrainOptions):
    """Train a diffusion model of latents, with its text encoder and, where none is given, with its
    autoencoder; evaluate its bound, sample, and write a report."""

    trains: ClassVar[Kind] = "latent"
    autoencoder: Path | None = None
    """The run of --model autoencoder, or another autoencoder in the format of diffusers, whose
    latents to model; it stays as it is. By default one is trained first, in the folder autoencoder
    of the run."""
    autoencoder_steps: int | None = None
    """Without --autoencoder: how many of --steps train it, a quarter by default."""
    autoencoder_time: str | None = None
    """Without --autoencoder: how much of --time-budget trains it, a quarter by default."""
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            objective="simple", learning_rate=1e-3, ema_decay=0.9995
        )
    )
    free: ClassVar[tuple[str, ...]] = ("train_text_encoder", "guidance")
    model: LatentSettings = field(default_factory=LatentSettings)
    samples: FinalSamples = field(default_factory=FinalSamples)

    def check(self) -> None:
        """Raise `NelboError` for options that make no sense."""
        super().check()
        self.samples.check()
        steps, time = self.autoencoder_steps, self.autoencoder_time
        if self.start_from is not None and self.autoencoder is not None:
            raise NelboError("--start-from brings its own autoencoder: leave --autoencoder out")
        if self.autoencoder is not None or self.start_from is not None:
            if steps is not None or time is not None:
                given = "--autoencoder" if self.start_from is None else "--start-from"
                raise NelboError(
                    "--autoencoder-steps and --autoencoder-time are for a run that trains its own "
                    f"autoencoder: leave them or {given} out"
                )
            return
        whole = self.training
        at_least_one(autoencoder_steps=steps)
        first = self.first_stage()
        if whole.steps is not None and (first.steps or 1) >= whole.steps:
            raise NelboError(
                f"--autoencoder-steps {first.steps} leave none of --steps {whole.steps} for the "
                "prior: both stages share them"
            )
        if whole.seconds is not None and (first.seconds or 0.0) >= whole.seconds:
            raise NelboError(
                f"--autoencoder-time {time} leaves nothing of the {whole.seconds:g} s of the whole "
                "run for the prior: both stages share --time-budget"
            )

    def first_stage(self) -> TrainingConfig:
        """How the autoencoder is trained: its share of the length, or what was asked for."""
        whole, usual = self.training, TrainAutoencoder().training
        shared = {name: getattr(whole, name) for name in _SHARED}
        steps, time = self.autoencoder_steps, self.autoencoder_time
        if steps is None and time is None:
            if whole.steps is not None:
                steps = max(1, round(AUTOENCODER_SHARE * whole.steps))
            if whole.seconds is not None:
                time = f"{AUTOENCODER_SHARE * whole.seconds:.1f}s"
        if time is not None:
            parse_duration(time)
        return replace(usual, steps=steps, time_budget=time, **shared)


KINDS: dict[str, type[TrainOptions]] = {
    options.trains: options for options in (Train, TrainAutoencoder, TrainLatent)
}
