"""What `nelbo train --model pixel` asks for."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from nelbo.base.errors import NelboError
from nelbo.training.config import TrainingConfig
from nelbo.training.kinds.chain_settings import ChainSettings
from nelbo.training.kinds.final_samples import FinalSamples
from nelbo.training.kinds.pixel.presets import DEFAULT_PRESET, PRESETS, preset_of
from nelbo.training.options import Given, KindName, TrainOptions
from nelbo.training.ranges import check_numbers

SCHEDULES = (
    *("geometric", "mixed", "linear", "scaled_linear", "cosine", "sigmoid"),
    *("flow_matching", "variance_exploding", "learned"),
)


@dataclass(frozen=True)
class ModelConfig(ChainSettings):
    """The model to train."""

    of_unet: ClassVar[tuple[str, ...]] = ("layers", "attention")
    schedule: str = "geometric"
    """Noise schedule: geometric; mixed, geometric with a share of the levels of cosine; linear,
    scaled_linear, cosine or sigmoid; flow_matching, or variance_exploding, that of EDM, both from
    the first noise of geometric; or learned, in continuous time, beside the network."""
    variance: str = "learned_range"
    """Reverse variance: fixed_small, fixed_large or learned_range."""
    clip_sample: bool = True
    """Clip the predicted image to the range of pixels."""
    widths: tuple[int, ...] = ()
    """Channels of the UNet at each resolution, or of the transformer; by default the widest that is
    fast enough for the time budget here, and what suits the image size where there is none."""
    attention: tuple[int, ...] = (16, 8, 4, 2)
    """Resolutions of the UNet, in pixels, that have self-attention below the first one."""
    dropout: float = 0.1
    """Dropout in the residual blocks, or those of the transformer; by default none in a run of
    fewer than 50 passes over pictures of more than 32 levels."""
    class_conditional: bool = False
    """Condition the network on the label of each image."""

    def check(self) -> None:
        """Raise `NelboError` for a setting that makes no sense, naming it."""
        super().check()
        # widths: what the model is built with
        check_numbers(self, at_least_one=("attention",), below_one=("dropout",))


@dataclass(frozen=True)
class TrainPixels(TrainOptions):
    """Train a diffusion model on images; evaluate its bound, sample, and write a report."""

    trains: ClassVar[KindName] = "pixel"
    preset: Literal["both", "likelihood", "pictures"] = DEFAULT_PRESET
    """What the model is for, which decides on objective and schedule: likelihood, few bits/dim;
    pictures, samples that look like the data; or both. Options that are given come first.
    docs/training.md has the figures of each."""
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(**PRESETS[DEFAULT_PRESET].training)
    )
    model: ModelConfig = field(default_factory=lambda: ModelConfig(**PRESETS[DEFAULT_PRESET].model))
    samples: FinalSamples = field(default_factory=FinalSamples)

    def check(self) -> None:
        """Raise `NelboError` for options that make no sense."""
        super().check()
        self.samples.check()

    def begun(self, given: Given) -> TrainPixels:
        """A new run with the defaults of the preset that is asked for, and those that its data
        decide.

        What another run or a file has is no default, and stays.

        Raises:
            NelboError: an unknown preset, or one for settings that are taken from elsewhere.
        """
        name = given.value("preset")
        if given.takes_settings:
            if name is not None:
                raise NelboError(
                    "--preset chooses the defaults of a new run, and --resume and --config take "
                    "the settings of another: leave --preset out"
                )
            return self
        left = {
            "mirroring": "horizontal-flip" not in given,
            "dropout": "dropout" not in given,
            "objective": not given.values.keys()
            & {"preset", "objective", "schedule", "start-from"},
        }
        options = replace(self, left_open=tuple(name for name, is_left in left.items() if is_left))
        if name is not None:
            preset = preset_of(name)
            # A model that is there already keeps its chain.
            model = self.model if "start-from" in given else ModelConfig(**preset.model)
            training = TrainingConfig(**preset.training)
            asked: Any = name  # as preset_of has checked
            options = replace(options, preset=asked, training=training, model=model)
        if given.value("schedule") == "learned":
            # It follows the bound, whatever the preset has; another objective that is given is
            # refused.
            options = replace(options, training=replace(options.training, objective="bound"))
        return options


OPTIONS = TrainPixels
