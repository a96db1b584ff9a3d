"""The training of a ControlNet."""

from __future__ import annotations

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
    bits_per_nat,
    flipped,
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
        self.learn_from(source, config)
        self.examples_of, self.controls = examples, controls
        self.control_dropout = control_dropout
        chain = objective.base.module
        self.objective = objective_of(config, chain.num_levels)
        self.level_sampler = self.objective.level_sampler
        if config.objective == "bound":
            self.loss_scale = bits_per_nat(chain.shape)

    def variant(self, wrap: Wrap = unchanged, module: nn.Module | None = None) -> nn.Module:
        """The objective with the base and the ControlNet wrapped as one network."""
        objective: Any = self.module if module is None else module
        return objective.wrapped(wrap)

    def terms(self, module: nn.Module, batch: Batch) -> Terms:
        """`ControlObjective`."""
        step, index, part, generator = batch
        count = len(index)
        withheld, blank = (
            torch.rand(count, generator=generator, device=generator.device)[part.slice] < share
            for share in (self.config.label_dropout, self.control_dropout)
        )
        mirrored = flips(self.config, step, count)[part.slice]
        images = self.images.pixels(index, part)
        control = self.controls.of(images, index[part.slice], (self.config.seed, _CONTROLS, step))
        x_0, condition, cost = self.examples_of.draw(batch, images, mirrored, withheld)
        shown = (flipped(control, mirrored).to(x_0.device).float() / 255).masked_fill(
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
