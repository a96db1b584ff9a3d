"""Diffusion models of pixels in `nelbo train`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from rich.console import Console
from torch import Tensor

from nelbo.chain.model import Model
from nelbo.commands.sample import all_classes
from nelbo.commands.training.final_samples import FinalSamples
from nelbo.commands.training.pixel_run import finish
from nelbo.commands.training.recipe import Recipe, grid_of
from nelbo.commands.training.refinement import Asked
from nelbo.commands.training.session import TrainingImages
from nelbo.data import ImageData
from nelbo.diffusion import Diffusion
from nelbo.diffusion.continuous import ContinuousDiffusion
from nelbo.evidence.evaluation import check_fits
from nelbo.formats import load
from nelbo.report.grids import image_grid
from nelbo.runs.run_directory import RunDirectory, save_pipeline
from nelbo.samplers.default import default_sampler
from nelbo.training.config import ModelConfig, TrainingConfig
from nelbo.training.memory import check_memory, estimate_memory
from nelbo.training.processes import Processes
from nelbo.training.validation import Validation

# Steps that a sample takes which is drawn while training.
_GRID_STEPS = 25


class PixelRecipe(Recipe):
    """A diffusion model of images.

    Args:
        settings: which model.
        model: what to train; see `nelbo.training.build.build_model` and `trained_pixel_model`.
        images: what it is trained, chosen and reported on.
        samples: what the end of the run draws.
    """

    def __init__(
        self,
        settings: ModelConfig,
        model: Diffusion | ContinuousDiffusion,
        images: TrainingImages,
        samples: FinalSamples = FinalSamples(),  # noqa: B008 - frozen
    ) -> None:
        self.samples = samples
        self.model: Diffusion | ContinuousDiffusion = model
        self.data: ImageData = images.train
        self.test = images.reported
        self.settings = settings
        self.label_names = images.train.label_names if _chain(model).num_classes else ()
        self._validation = Validation(images.validation)

    def check_memory(self, training: TrainingConfig, processes: Processes) -> None:
        """Compare what training takes with what is free."""
        parts = processes.parts(training.batch_size, training.gradient_accumulation)
        images = max(part.stop - part.start for part in parts)
        estimate = estimate_memory(
            _chain(self.model),
            images,
            averages=3 if training.snapshot_every else 1,
            recompute=training.checkpoint_activations,
        )
        check_memory(estimate, processes.device)

    def save(
        self, model: Diffusion | ContinuousDiffusion, directory: Path, notes: Mapping[str, Any]
    ) -> None:
        """A pipeline of pixels."""
        save_pipeline(_chain(model), directory, notes)

    def validation(self, model: Diffusion | ContinuousDiffusion) -> float:
        """As `Validation`, of the chain."""
        return self._validation(_chain(model))

    def reading(self, model: Diffusion | ContinuousDiffusion, images: int) -> Tensor:
        """As `validation`, of each of some images."""
        return self._validation.each(_chain(model), images)

    def picture(
        self, model: Diffusion | ContinuousDiffusion, seed: int, calls: int | None = None
    ) -> Image:
        """Samples."""
        model = _chain(model)
        n, steps = grid_of(calls, min(_GRID_STEPS, model.num_levels))
        condition = all_classes(model, n)
        device = next(model.parameters()).device
        samples = model.sample(
            n,
            default_sampler(model.schedule, steps),
            condition=None if condition is None else condition.to(device),
            generator=torch.Generator().manual_seed(seed),
        )
        return image_grid(model.data.to_levels(samples).byte().cpu(), model.data.shown_levels)

    def finish(
        self,
        run: RunDirectory,
        *,
        asked: Asked,
        seconds: float,
        seed: int,
        device: torch.device,
        table_to: Console,
    ) -> dict[str, Any]:
        """The bound of both splits, samples, and the report."""
        model = load(run.path)
        assert isinstance(model, Diffusion)
        return finish(
            run,
            model.to(device),
            train=self.data,
            test=self.test,
            asked=asked,
            seconds=seconds,
            samples=self.samples,
            seed=seed,
            table_to=table_to,
        )


def trained_pixel_model(model: Model, data: ImageData) -> Diffusion:
    """A trained model, once it is known to be of images like these.

    Raises:
        NelboError: it is of another size or number of levels.
    """
    assert isinstance(model, Diffusion)
    check_fits(model, data)
    return model


def _chain(model: Diffusion | ContinuousDiffusion) -> Diffusion:
    """The model as a chain, with the schedule that it has learned so far."""
    return model.chain() if isinstance(model, ContinuousDiffusion) else model
