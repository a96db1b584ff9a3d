"""The training of a ControlNet."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from nelbo.chain.conditioning import Condition
from nelbo.data.controls import Controls
from nelbo.training.config import TrainingConfig
from nelbo.training.kinds.controlnet.examples import Examples
from nelbo.training.kinds.controlnet.objective import ControlObjective
from nelbo.training.task import (
    Batch,
    ImageSource,
    Task,
    Terms,
    Wrap,
    flips,
    objective_of,
    unchanged,
)

# The random stream of a seed for the controls of a step.
_CONTROLS = 7


class ControlTask(Task):
    """A ControlNet, with the controls made or read as a step needs them.

    Args:
        objective: of the ControlNet.
        source: the images to train on.
        examples: their states.
        controls: their controls.
        config: how to train.
        control_dropout: share of controls that are blank.
    """

    networks = ("controlnet",)

    def __init__(
        self,
        objective: ControlObjective,
        source: ImageSource,
        examples: Examples,
        controls: Controls,
        config: TrainingConfig,
        control_dropout: float,
    ) -> None:
        self.module: nn.Module = objective
        self.config, self.examples_of, self.controls = config, examples, controls
        self.control_dropout = control_dropout
        self.images, data = source, source.data
        self.stream, self.keys, self.examples = source.stream, source.keys, len(data)
        chain = objective.base.module
        self.objective = objective_of(config, chain.num_levels)
        self.level_sampler = self.objective.level_sampler
        self.bits = 1.0 / (math.prod(data.shape) * math.log(2.0))
        if config.objective == "bound":
            self.loss_scale = 1.0 / (math.prod(chain.shape) * math.log(2.0))

    def variant(self, wrap: Wrap = unchanged, module: nn.Module | None = None) -> nn.Module:
        """The objective with the base and the ControlNet wrapped as one network."""
        objective: Any = self.module if module is None else module
        return objective.wrapped(wrap)

    def terms(self, module: nn.Module, batch: Batch) -> Terms:
        """`ControlObjective`."""
        step, index, part, generator = batch
        count = len(index)
        flipped = torch.zeros(count, dtype=torch.bool)
        if self.config.horizontal_flip:
            flipped = flips(self.config, step, count)
        withheld, blank = (
            torch.rand(count, generator=generator, device=generator.device)[part.slice] < share
            for share in (self.config.label_dropout, self.control_dropout)
        )
        flipped, images = flipped[part.slice], self.images.pixels(index, part)
        control = self.controls.of(images, index[part.slice], (self.config.seed, _CONTROLS, step))
        control = torch.where(flipped.view(-1, 1, 1, 1), control.flip(-1), control)
        x_0, condition, cost = self.examples_of.draw(batch, images, flipped, withheld)
        shown = (control.to(x_0.device).float() / 255).masked_fill(
            blank.to(x_0.device).view(-1, 1, 1, 1), 0.0
        )
        terms = module(
            x_0,
            replace(condition or Condition(), control=shown),
            objective=self.objective,
            generator=generator,
            part=part,
        )
        return terms if cost is None else terms._replace(nelbo=terms.nelbo + cost)
