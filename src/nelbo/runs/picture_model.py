"""A model of pixels or of latents that takes pictures and gives pictures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.chain.model import Model
from nelbo.formats import Pipeline
from nelbo.formats.files import usual_guidance


@dataclass
class PictureModel:
    """A model with the way between its states and pictures, and what its run notes of both.

    Args:
        pipeline: where it came from.
        model: of pixels, or of latents with their autoencoder.
        joined: what the controls of each ControlNet show that was put on it, None where unknown.
    """

    pipeline: Pipeline
    model: Model
    joined: list[str | None] = field(default_factory=list, kw_only=True)

    @classmethod
    def load(cls, pipeline: Pipeline, device: torch.device, **fields: Any) -> Self:
        """The model of a pipeline, on a device.

        Args:
            pipeline: where it is.
            device: where to compute.
            fields: further ones, of a class that has any.

        Raises:
            NelboError: as `nelbo.load`, or a model of numbers that are no pixels.
        """
        model = pipeline.model()
        if model.data.is_density or model.shape is None:
            raise NelboError(f"{pipeline.path} models continuous data, not pixels")
        return cls(pipeline, model.to(device).eval(), **fields)

    @property
    def path(self) -> str:
        """Where the model came from."""
        return str(self.pipeline.path)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of a picture."""
        assert self.model.shape is not None
        return self.model.shape

    @property
    def levels(self) -> int:
        """How many levels a pixel has."""
        return self.model.data.shown_levels

    @property
    def class_names(self) -> list[str]:
        """The names of its classes; empty where its run has none of them all."""
        names = list(map(str, self.pipeline.notes.get("label_names", [])))
        return names if len(names) == self.model.num_classes else []

    @property
    def controls(self) -> list[str | None]:
        """What the controls of each ControlNet showed in training, such as the name of an
        annotator; None where unknown."""
        own = len(self.model.control_channels) - len(self.joined)
        return [self.pipeline.notes.get("control")] * own + self.joined

    @property
    def usual_guidance(self) -> float:
        """The guidance that its own samples were drawn with; 1 for none."""
        return usual_guidance(self.pipeline.notes)

    def to_network(self, pixels: Tensor) -> Tensor:
        """Pixel levels as the model takes data, on its device."""
        return self.model.data.to_network(pixels).to(self.model.device)

    @torch.no_grad()
    def to_states(self, pixels: Tensor) -> Tensor:
        """Pixel levels (B, C, H, W) as what the chain ends in."""
        return self.model.encode(self.to_network(pixels)).mean

    @torch.no_grad()
    def to_pictures(self, states: Tensor, batch_size: int | None = None) -> Tensor:
        """What the chain ends in as pixel levels, uint8, on the CPU; decoded a batch at a time."""
        batches = states.split(batch_size or max(1, len(states)))
        decoded = (self.model.decode(some.to(self.model.device)) for some in batches)
        return torch.cat([self.model.data.shown(some) for some in decoded])
