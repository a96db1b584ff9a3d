"""What `nelbo train --model controlnet` asks for."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

from nelbo.base.errors import NelboError
from nelbo.training.config import TrainingConfig
from nelbo.training.kinds.final_samples import FinalSamples
from nelbo.training.options import Given, KindName, TrainOptions, resolved
from nelbo.training.ranges import check_numbers


@dataclass(frozen=True)
class ControlSettings:
    """The ControlNet to train."""

    control_dropout: float = 0.05
    """Share of controls that are blank, so that an empty one leaves the base alone."""
    guidance: float | None = None
    """Guidance of the samples that are drawn while training and at its end; by default as the base
    has it."""

    def check(self) -> None:
        """Raise `NelboError` for a number that makes no sense, naming it."""
        check_numbers(self, below_one=("control_dropout",))


@dataclass(frozen=True)
class TrainControl(TrainOptions):
    """Train a ControlNet, spatial control of a trained diffusion model, which stays as it is;
    measure what the control explains, sample, and write a report."""

    trains: ClassVar[KindName] = "controlnet"
    base: str | None = None
    """The model to control: a run, a pipeline of diffusers, or a checkpoint that ships; of pixels
    or of latents, with text, classes or neither. With --start-from a run that has a ControlNet, by
    default its own base."""
    control: str | None = None
    """What the control shows of a picture: canny, scribble, outline, colours, mask or depth-like,
    which are made of the pictures (extra `control`); or a folder of pictures of the same names, or
    a column of the table or of the folder's metadata. See docs/controlnet.md."""
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            objective="hybrid", learning_rate=5e-4, ema_decay=0.999, label_dropout=0.5
        )
    )
    free: ClassVar[tuple[str, ...]] = ("control_dropout", "guidance")
    model: ControlSettings = field(default_factory=ControlSettings)
    samples: FinalSamples = field(default_factory=FinalSamples)

    def begun(self, given: Given) -> TrainControl:
        """A new run with the objective of its base, where none is asked for.

        By another one the base itself would be trained on, away from its bound.
        """
        is_open = not (given.takes_settings or "objective" in given)
        return replace(self, left_open=("objective",) if is_open else ())

    def found_again(self) -> TrainControl:
        """With paths as they are found again from another directory."""
        base, control = resolved(self.base), resolved(self.control)
        return replace(super().found_again(), base=base, control=control)

    def check(self) -> None:
        """Raise `NelboError` for options that make no sense."""
        super().check()
        self.samples.check()
        if not self.base and self.start_from is None:
            raise NelboError("--base is missing: give the run or pipeline to control")
        if not self.control:
            raise NelboError(
                "--control is missing: give canny, scribble, outline, colours, mask, depth-like, a "
                "folder of pictures, or a column of the table or metadata"
            )


OPTIONS = TrainControl
