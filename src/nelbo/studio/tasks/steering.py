"""What all tasks that walk a chain ask for: where to, by which steps, from which noise."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from nelbo.base.errors import NelboError
from nelbo.chain.conditioning import Condition
from nelbo.chain.distributions import generator_for
from nelbo.data.controls import light_lines
from nelbo.networks.control import Control
from nelbo.samplers import SAMPLERS
from nelbo.studio.form import Form
from nelbo.studio.shelf import Served
from nelbo.studio.uploads import Upload

_MOST_GUIDANCE, _MOST_SCALE = 50.0, 4.0


@dataclass(frozen=True)
class Steering:
    """How a walk is steered.

    Attributes:
        model: name of the model.
        prompt: for a model of text.
        negative: what guidance leads away from.
        label: name of a class.
        guidance: its scale; None for the model's usual one.
        sampler: its name; None for the model's usual one.
        steps: how many; None for what suits the model.
        seed: of all noise.
        control: what a ControlNet follows; without it the base alone draws.
        control_scale: how strongly; None for the model's usual scale.
        in_turn: whether a model of classes draws all of them in turn where no label is given.
    """

    model: str | None
    prompt: str | None
    negative: str | None
    label: str | None
    guidance: float | None
    sampler: str | None
    steps: int | None
    seed: int
    control: Upload | None = None
    control_scale: float | None = None
    in_turn: bool = False

    @classmethod
    def read(cls, form: Form, *, in_turn: bool = False) -> Steering:
        """That of a form; `in_turn` is that of the task.

        Raises:
            NelboError: a setting out of range, or a sketch that is refused.
        """
        control = form.picture("control", "the sketch") if form.pictures.get("control") else None
        if control is not None:
            control.check(form.limits.upload_pixels)
        return cls(
            form.text("model"),
            form.text("prompt"),
            form.text("negative"),
            form.text("label"),
            form.number_if_any("guidance", 0.0, _MOST_GUIDANCE),
            form.choice("sampler", SAMPLERS),
            form.count_if_any("steps", 1, form.limits.steps),
            form.seed(),
            control,
            form.number_if_any("control_scale", 0.0, _MOST_SCALE),
            in_turn,
        )

    def conditioned(self, served: Served, n: int) -> tuple[Any, Condition | None]:
        """What is walked, with its guidance, and the condition of `n` pictures.

        Args:
            served: the model.
            n: how many.

        Raises:
            NelboError: a prompt, label or sketch that the model has no use for.
        """
        labels = self._labels(served)
        condition = None
        if labels or self.in_turn:
            condition = served.model.classes_in_turn(n, labels)
        return served.model.conditioned(
            n,
            condition=condition,
            prompt=None if self.prompt is None else [self.prompt] * n,
            negative_prompt=self.negative,
            control=self._control(served),
            guidance=self.scale(served),
        )

    def scale(self, served: Served) -> float:
        """The scale of guidance: without anything to guide towards, 1."""
        if not self._towards(served):
            return 1.0
        if self.guidance is not None:
            return self.guidance
        return served.usual_guidance if self.prompt is not None else 1.0

    def steps_of(self, served: Served) -> int:
        """How many steps: what was asked for, or what suits the model."""
        return served.usual_steps if self.steps is None else self.steps

    def noise(self, i: int) -> torch.Generator:
        """The source of noise of picture i, as `nelbo sample` has it."""
        return generator_for(self.seed, i)

    def settings(self, served: Served) -> dict[str, Any]:
        """All of it, for the metadata of a picture; what the model does not use is left out."""
        found: dict[str, Any] = {"model": self.model}
        if served.model.reads_text:
            found |= {"prompt": self.prompt, "negative": self.negative}
        if served.model.num_classes:
            found["label"] = self.label
        if self._towards(served):
            found["guidance"] = self.scale(served)
        if served.model.chain is not None:
            found |= {"sampler": self.sampler, "steps": self.steps_of(served)}
        if self.control is not None and served.sketch_shape is not None:
            found["control_scale"] = self.control_scale
            found["control"] = self.control.kept(served.sketch_shape)
        found["seed"] = self.seed
        return {name: value for name, value in found.items() if value is not None}

    def options(self, served: Served) -> list[str]:
        """The same as options of the command line."""
        settings = self.settings(served)
        named: Mapping[str, Any] = {
            f"--{name}": settings[name]
            for name in ("prompt", "negative", "label", "guidance", "sampler", "steps", "seed")
            if name in settings
        }
        words = [word for name, value in named.items() for word in _words(name, value)]
        if self.control is None:
            return words
        scale = [] if self.control_scale is None else ["--control-scale", f"{self.control_scale:g}"]
        return [*words, "--control", shlex.quote(self.control.name), *scale]

    def _towards(self, served: Served) -> bool:
        """Whether there is anything to guide towards."""
        given = self.prompt is not None or self.label is not None
        return given or (self.in_turn and served.model.num_classes > 0)

    def _labels(self, served: Served) -> list[int]:
        if self.label is None:
            return []
        if self.label not in served.classes:
            has = "has no classes" if not served.classes else "has no such class"
            raise NelboError(f"{self.label!r}: {self.model} {has}")
        return [served.classes.index(self.label)]

    def _control(self, served: Served) -> Control | None:
        if self.control is None:
            return None
        shape = served.sketch_shape
        if shape is None:
            if count := len(served.model.control_channels):
                raise NelboError(
                    f"{self.model} has {count} ControlNets: use nelbo sample --control"
                )
            raise NelboError(f"{self.model} takes no sketch: it has no ControlNet")
        given = self.control.drawing(shape).float() / 255
        image = light_lines(given, served.controls[0])
        return Control(image[None].to(served.model.device), self.control_scale)


def command(name: str, served: Served, options: list[str]) -> str:
    """A command line to copy."""
    return " ".join(["nelbo", name, shlex.quote(served.argument), *options])


def _words(name: str, value: Any) -> list[str]:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    # A value that begins with a dash would be taken for an option.
    return [f"{name}={shlex.quote(text)}"] if text.startswith("-") else [name, shlex.quote(text)]
