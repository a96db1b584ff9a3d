"""The training of a diffusion model of images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nelbo.base.errors import NelboError
from nelbo.chain.conditioning import Condition
from nelbo.data import ImageData
from nelbo.diffusion import Diffusion
from nelbo.diffusion.continuous import ContinuousDiffusion
from nelbo.diffusion.objectives import BatchPart, Objective, TrainingTerms
from nelbo.evidence.inputs import check_fits
from nelbo.training.config import TrainingConfig
from nelbo.training.task import (
    Batch,
    ImageSource,
    Task,
    Terms,
    Wrap,
    device_of,
    flipped,
    flips,
    objective_of,
    unchanged,
)


class PixelObjective(nn.Module):
    """The objective of a batch of images, as one module of a diffusion model.

    Args:
        model: the model to train.
        objective: what to minimise.
    """

    def __init__(self, model: Any, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(
        self,
        x_0: Tensor,
        condition: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
        part: BatchPart | None = None,
    ) -> TrainingTerms:
        """As `nelbo.diffusion.objectives.Objective`."""
        return self.objective(self.model, x_0, condition, generator=generator, part=part)


class PixelTask(Task):
    """A diffusion model of images, conditioned on their labels if it takes any."""

    networks = ("network",)

    def __init__(self, model: Diffusion, data: ImageData, config: TrainingConfig) -> None:
        check_fits(model, data)
        self.module: nn.Module = model
        self.model = model
        self.objective = objective_of(config, model.num_levels)
        self.level_sampler = self.objective.level_sampler
        self.options: dict[str, Any] = {}
        self.learn_from(ImageSource(data, config.seed), config)
        if config.objective == "bound":
            self.loss_scale = self.bits

    def variant(self, wrap: Wrap = unchanged, module: nn.Module | None = None) -> nn.Module:
        """The objective of the model around its wrapped network."""
        return PixelObjective(super().variant(wrap, module), self.objective)

    def terms(self, module: nn.Module, batch: Batch) -> Terms:
        """`PixelObjective`."""
        step, index, part, generator = batch
        condition = self._condition(index, generator)
        mirrored = flips(self.config, step, len(index))[part.slice]
        x_0 = self.model.data.to_network(flipped(self.images.pixels(index, part), mirrored))
        device = device_of(module)
        return module(
            x_0.to(device, non_blocking=True),
            None if condition is None else condition[part.slice].to(device),
            generator=generator,
            part=part,
            **self.options,
        )

    def _condition(self, index: Tensor, generator: torch.Generator) -> Condition | None:
        labels = self.images.labels(index) if self.model.num_classes else None
        if labels is None:
            return None
        chance = torch.rand(len(index), generator=generator, device=generator.device)
        withheld = chance < self.config.label_dropout
        return Condition(label=labels.to(generator.device).masked_fill(withheld, -1))


class ContinuousTask(PixelTask):
    """A diffusion model of images whose schedule is learned beside its network."""

    networks = ("model.network",)

    def __init__(
        self, continuous: ContinuousDiffusion, data: ImageData, config: TrainingConfig
    ) -> None:
        expected: dict[str, tuple[Any, ...]] = {
            "objective": ("bound",),
            "level_sampler": ("low_discrepancy", "uniform"),
            "input_perturbation": (0.0,),
        }
        for name, values in expected.items():
            if getattr(config, name) not in values:
                raise NelboError(
                    f"a learned schedule follows the bound and the variance of its estimate, and "
                    f"needs {name} {' or '.join(map(str, values))}; got {getattr(config, name)!r}"
                )
        super().__init__(continuous.model, data, config)
        self.module = continuous
        self.options = {"level_sampler": self.level_sampler}

    def variant(self, wrap: Wrap = unchanged, module: nn.Module | None = None) -> nn.Module:
        """The model around its wrapped network: its objective is its own."""
        return Task.variant(self, wrap, module)


def pixel_task(model: Any, data: ImageData, config: TrainingConfig) -> PixelTask:
    """The task of what `nelbo.training.kinds.pixel.build.build_model` builds."""
    if model.learns_schedule:
        return ContinuousTask(model, data, config)
    return PixelTask(model, data, config)
