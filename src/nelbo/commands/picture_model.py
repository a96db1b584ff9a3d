"""A model of pixels or of latents, for commands that take and put out pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from nelbo.base.console import notice
from nelbo.base.errors import NelboError
from nelbo.base.suggestions import did_you_mean, listed
from nelbo.chain.conditioning import Condition
from nelbo.chain.model import Model
from nelbo.commands.common import choose_device
from nelbo.commands.groups import ConditionOptions
from nelbo.commands.sampling import guidance_of
from nelbo.formats import Pipeline
from nelbo.formats.files import usual_guidance
from nelbo.training.kinds.controlnet.base import trained_controlnet


@dataclass(frozen=True)
class PictureModel:
    """A model with the way between its states and pictures.

    Args:
        pipeline: where it came from.
        model: of pixels, or of latents with their autoencoder.
    """

    pipeline: Pipeline
    model: Model

    @classmethod
    def load(cls, pipeline: Pipeline, device: str, controlnets: Sequence[str] = ()) -> PictureModel:
        """The model of a pipeline, on a device.

        Args:
            pipeline: where it is.
            device: where to compute.
            controlnets: those to put on it, by their paths.

        Raises:
            NelboError: as `nelbo.load`, or a model of numbers that are no pixels.
        """
        on = choose_device(device)
        model = pipeline.model()
        if model.data.is_density:
            raise NelboError(f"{pipeline.path} is a model of numbers, not of pixels")
        try:
            if controlnets:
                model = model.with_controlnets(*map(trained_controlnet, controlnets))
        except NelboError as error:
            raise NelboError(f"--controlnet: {error}") from error
        return cls(pipeline, model.to(on))

    @property
    def path(self) -> str:
        """Where the model came from."""
        return str(self.pipeline.path)

    @property
    def levels(self) -> int:
        """How many levels a pixel has."""
        return self.model.data.shown_levels

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of a picture."""
        shape = self.model.shape
        assert shape is not None
        return shape

    def condition(
        self, options: ConditionOptions, n: int, *, every_class: bool = False
    ) -> Condition | None:
        """What each of `n` pictures is conditioned on.

        Args:
            options: what was asked for.
            n: how many pictures.
            every_class: without a label, condition on all classes in turn.

        Raises:
            NelboError: a label or prompt for a model that takes none, or a label that is none of
                its classes.
        """
        prompts = self._prompts(options)
        labels = self._labels(options)
        if every_class and not labels:
            labels = list(range(self.model.num_classes))
        if prompts:
            in_turn = [prompts[i % len(prompts)] for i in range(n)]
            return self.model.condition_for(n, captions=in_turn)
        return self._in_turn(labels, n)

    def condition_between(self, options: ConditionOptions, frames: int) -> Condition:
        """As `condition`, for `frames` pictures between two prompts.

        Raises:
            NelboError: another number of prompts than two, or a model without text.
        """
        prompts = self._prompts(options)
        if len(prompts) != 2:
            raise NelboError(
                f"--interpolate leads from one prompt to another: expected 2, got {len(prompts)}"
            )
        return self.model.condition_between(prompts[0], prompts[1], frames)

    def guiding(self, options: ConditionOptions) -> dict[str, Any]:
        """What else `model.sample` is asked: guidance and what it leads away from, if any.

        With prompts, guidance is by default that of the run's own samples.

        Raises:
            NelboError: guidance of a model without a chain.
        """
        usual = usual_guidance(self.pipeline.notes) if options.prompts() else 1.0
        guidance = guidance_of(options, usual)
        if guidance.scale != 1.0 and self.model.chain is None:
            raise NelboError(f"--guidance {guidance.scale:g}: {self.path} has no chain to guide")
        asked: dict[str, Any] = {"negative_prompt": options.negative}
        if guidance.scale != 1.0:
            asked["guidance"] = guidance
        return {name: value for name, value in asked.items() if value is not None}

    def _labels(self, options: ConditionOptions) -> list[int]:
        """The classes asked for, by name or number."""
        asked = options.labels()
        if asked and not self.model.num_classes:
            takes = (
                "takes prompts, not classes"
                if self.model.reads_text
                else "is not class-conditional"
            )
            raise NelboError(f"--label {asked[0]}: {self.path} {takes}")
        return [self._label(label) for label in asked]

    def _label(self, asked: str) -> int:
        names = self._class_names
        folded = [name.casefold() for name in names]
        if asked.casefold() in folded:
            return folded.index(asked.casefold())
        if asked.isdecimal() and int(asked) < self.model.num_classes:
            return int(asked)
        expected = f"a number in 0..{self.model.num_classes - 1}"
        expected += f" or one of {listed(names)}" if names else ""
        raise NelboError(f"--label must be {expected}, got {asked}{did_you_mean(asked, names)}")

    def _in_turn(self, labels: list[int], n: int) -> Condition | None:
        if not labels:
            return None
        in_turn = [labels[i % len(labels)] for i in range(n)]
        return Condition(label=torch.tensor(in_turn, device=self.model.device))

    @cached_property
    def _class_names(self) -> list[str]:
        """The names of the classes in its run; empty without any."""
        names: list[str] = self.pipeline.notes.get("label_names", [])
        return names if len(names) == self.model.num_classes else []

    def _prompts(self, options: ConditionOptions) -> list[str | None]:
        """The prompts asked for; None for an empty one, which is the unconditional model.

        Raises:
            NelboError: any, for a model that reads none.
        """
        prompts = options.prompts()
        if (prompts or options.negative is not None) and not self.model.reads_text:
            option = "--prompt" if prompts else "--negative"
            instead = ": use --label" if self.model.num_classes else " and without classes"
            raise NelboError(f"{option}: {self.path} is a model without a text encoder{instead}")
        given = [prompt if prompt.strip() else None for prompt in prompts]
        if None in given:
            notice("An empty prompt is no prompt: the unconditional model")
        return given

    @torch.no_grad()
    def to_states(self, pixels: Tensor) -> Tensor:
        """Pixel levels (B, C, H, W) as what the chain ends in."""
        x = self.model.data.to_network(pixels).to(self.model.device)
        return self.model.encode(x).mean

    @torch.no_grad()
    def to_pictures(self, x: Tensor, batch_size: int) -> Tensor:
        """What the chain ends in as pixel levels, decoded a batch at a time, on the CPU."""
        decoded = (self.model.decode(some.to(self.model.device)) for some in x.split(batch_size))
        return torch.cat([self.model.data.shown(some) for some in decoded])
