"""What `nelbo train --model latent` asks for.

Where no autoencoder is given, the run has two stages. The first is a run of its own, in
autoencoder/ within the run's directory; the second is the run itself. Both divide the length that
was asked for, and what was taken of it is read off the first, so that the whole can be broken off
and resumed in either.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from nelbo.base.errors import NelboError
from nelbo.training.config import TrainingConfig, parse_duration
from nelbo.training.kinds.autoencoder.options import TrainAutoencoder
from nelbo.training.kinds.chain_settings import ChainSettings
from nelbo.training.kinds.final_samples import FinalSamples
from nelbo.training.options import KindName, TrainOptions, resolved
from nelbo.training.ranges import at_least_one, check_numbers

# The autoencoder's part of the steps or the time.
AUTOENCODER_SHARE = 0.25
# The chain that goes with a prediction; for others it is cosine.
USUAL_SCHEDULES = {"velocity": "flow_matching", "denoiser": "variance_exploding"}
# What of how to train holds for both stages.
_SHARED = (
    *("gradient_accumulation", "precision", "checkpoint_activations", "compile", "shard"),
    *("save_every", "keep_checkpoints", "validate_every", "seed"),
)


@dataclass(frozen=True)
class LatentSettings(ChainSettings):
    """The prior to train, and the text encoder of its captions."""

    condition: str = "auto"
    """The condition of the prior: text, label or none; auto is the first that the images have."""
    schedule: str | None = None
    """Noise schedule: cosine, linear, scaled_linear, sigmoid, flow_matching or variance_exploding;
    by default flow_matching for a velocity, variance_exploding for a denoiser, else cosine."""
    widths: tuple[int, ...] = ()
    """Channels of the UNet at each resolution, from that of the latents, or of the transformer; by
    default the widest that the time is enough for, and by --steps alone 128 160, or 192."""
    heads: int = 4
    """Attention heads of the UNet."""
    text_encoder: str | None = None
    """Read the captions with a trained CLIP text encoder, of a pipeline or by itself with its
    tokenizer, rather than with a new one of the sizes below; it stays as it is, and the run keeps a
    copy."""
    train_text_encoder: bool = False
    """Train the --text-encoder on, together with the prior."""
    text_width: int = 192
    """Width of a new text encoder."""
    text_layers: int = 3
    """Transformer blocks of a new text encoder."""
    text_heads: int = 6
    """Attention heads of each of them."""
    vocabulary: int = 2048
    """The largest number of tokens of a new tokenizer."""
    guidance: float = 2.0
    """Guidance of the samples that are drawn while training and at its end."""

    def check(self) -> None:
        """Raise `NelboError` for a setting that makes no sense, naming it."""
        super().check()
        sizes = ("widths", "heads", "vocabulary", "text_width", "text_layers", "text_heads")
        check_numbers(self, at_least_one=sizes)

    @property
    def chosen_schedule(self) -> str:
        """The noise schedule that is asked for, or the one that goes with the prediction."""
        return self.schedule or USUAL_SCHEDULES.get(self.prediction, "cosine")


@dataclass(frozen=True)
class TrainLatent(TrainOptions):
    """Train a diffusion model of latents, with its text encoder and, where none is given, with its
    autoencoder; evaluate its bound, sample, and write a report."""

    trains: ClassVar[KindName] = "latent"
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
            objective="simple", learning_rate=1e-3, ema_decay=0.9995, optimizer="muon"
        )
    )
    suits: ClassVar[tuple[str, ...]] = ("emoji",)
    free: ClassVar[tuple[str, ...]] = ("train_text_encoder", "guidance")
    model: LatentSettings = field(default_factory=LatentSettings)
    samples: FinalSamples = field(default_factory=FinalSamples)

    def found_again(self) -> TrainLatent:
        """With paths as they are found again from another directory."""
        path = self.autoencoder and self.autoencoder.resolve()
        model = replace(self.model, text_encoder=resolved(self.model.text_encoder))
        return replace(super().found_again(), autoencoder=path, model=model)

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

    def first_stage(self, usual: TrainingConfig | None = None) -> TrainingConfig:
        """How the autoencoder is trained: its share of the length, or what was asked for; all that
        is not shared as `usual` has it, by default that of an autoencoder alone."""
        whole, usual = self.training, usual or TrainAutoencoder().training
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

    def second_stage(self, steps: int, seconds: float) -> TrainingConfig | None:
        """How the prior is trained: what the autoencoder, which took so much, has left of the
        length; None where that is nothing."""
        whole = self.training
        steps_left = None if whole.steps is None else whole.steps - steps
        seconds_left = None if whole.seconds is None else whole.seconds - seconds
        if (steps_left is not None and steps_left < 1) or (
            seconds_left is not None and seconds_left < 1
        ):
            return None
        time = None if seconds_left is None else f"{seconds_left:.1f}s"
        return replace(whole, steps=steps_left, time_budget=time)


OPTIONS = TrainLatent
