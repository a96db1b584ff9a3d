"""nelbo train --model pixel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from nelbo.commands.options.train import Train
from nelbo.commands.training.choices import with_choices
from nelbo.commands.training.command import TrainCommand
from nelbo.commands.training.pixel_recipe import PixelRecipe, trained_pixel_model
from nelbo.commands.training.recipe import Recipe
from nelbo.commands.training.session import TrainingImages
from nelbo.data import ImageData
from nelbo.runs.run_directory import RunDirectory
from nelbo.training.build import build_model, resolve
from nelbo.training.processes import Processes


class TrainPixelsCommand(TrainCommand):
    """Trains a diffusion model of pixels."""

    options: Train

    def recipe(self, images: TrainingImages, device: torch.device) -> Recipe:
        """A model of pixels."""
        if self.options.start_from is not None:
            trained = trained_pixel_model(self.starting_model, images.train)
            return PixelRecipe(self.options.model, trained, images, self.options.samples)
        settings = resolve(self.options.model, images.train)
        return PixelRecipe(
            settings, build_model(self.options.model, images.train), images, self.options.samples
        )

    def reads_classes(self, data: ImageData) -> bool:
        """Whether the model is class-conditional."""
        return super().reads_classes(data) and (
            self.options.start_from is not None or self.options.model.class_conditional
        )

    @property
    def class_option(self) -> str:
        """What conditions the model on the classes of the images."""
        return "--class-conditional" if self.options.start_from is None else super().class_option

    def _train(
        self, out: Path, images: TrainingImages, processes: Processes
    ) -> tuple[RunDirectory, dict[str, Any]]:

        self.options = with_choices(self.options, images, processes)
        return super()._train(out, images, processes)
