"""Diffusion models of pixels, from their settings to their report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from nelbo.diffusion import Diffusion
from nelbo.diffusion.continuous import ContinuousDiffusion
from nelbo.diffusion.learned_schedule import LearnedSchedule
from nelbo.formats import save
from nelbo.report.grids import image_grid
from nelbo.runs.run_directory import RunDirectory
from nelbo.samplers.default import default_sampler
from nelbo.training.images import TrainingImages
from nelbo.training.kinds.kind import Ending, Kind, Stage, Start, grid_of, unused_classes
from nelbo.training.kinds.pixel.build import build_model, resolve
from nelbo.training.kinds.pixel.choices import with_choices
from nelbo.training.kinds.pixel.options import TrainPixels
from nelbo.training.kinds.pixel.report import PixelEnd
from nelbo.training.kinds.pixel.task import pixel_task
from nelbo.training.processes import Processes
from nelbo.training.run_model import assign_weights
from nelbo.training.start_from import fit_classes, starting_diffusion
from nelbo.training.validation import Validation


class Pixel(Kind):
    """A diffusion model of images, by itself or with the schedule that it learns."""

    name = "pixel"
    options: TrainPixels

    def __init__(
        self,
        options: TrainPixels,
        images: TrainingImages,
        device: torch.device,
        start: Start | None = None,
    ) -> None:
        data = images.train
        model: Diffusion | ContinuousDiffusion
        if start is not None:
            fit_classes(start, data, options.start_classes)
            model = start.model
        else:
            torch.manual_seed(options.training.seed)
            options = options.with_settings(resolve(options.model, data))
            model = build_model(options.model, data)
        self.options = options
        self.task = pixel_task(model, data, options.training)
        self.label_names = data.label_names if self.whole(model).num_classes else ()
        self.validation = Validation(images.validation)

    @classmethod
    def starting_model(cls, path: str) -> Diffusion:
        """A diffusion model of pixels whose network is one of nelbo's."""
        return starting_diffusion(path, cls.name)

    @classmethod
    def stages(
        cls,
        options: TrainPixels,
        images: TrainingImages,
        processes: Processes,
        run: RunDirectory,
    ) -> Iterator[Stage]:
        """All of it at once, with what machine, pictures and time decide filled in."""
        options = with_choices(options, images, processes)
        yield Stage(options, options)

    @classmethod
    def unused(cls, options: TrainPixels, images: TrainingImages, start: Start | None) -> list[str]:
        """Captions, and classes that the model is not conditioned on."""
        found = []
        if options.kind == "auto" and images.train.has_captions:
            found.append(
                f"the captions of {images.source} are not used: a diffusion model of pixels takes "
                "none (--model pixel); --model latent trains one of latents that does"
            )
        unless = "" if options.model.class_conditional else "--class-conditional"
        return found + unused_classes(options, images, start, unless)

    def whole(self, module: Any) -> Diffusion:
        """The model as a chain, with the schedule that it has learned so far."""
        return module.chain() if module.learns_schedule else module

    def save(
        self, module: Diffusion | ContinuousDiffusion, directory: Path, notes: Mapping[str, Any]
    ) -> None:
        """A pipeline of pixels."""
        save(self.whole(module), directory, notes=notes)

    def picture(
        self, module: Diffusion | ContinuousDiffusion, seed: int, calls: int | None = None
    ) -> Image:
        """Samples, of every class in turn."""
        model = self.whole(module)
        n, steps = grid_of(calls, model.num_levels)
        samples = model.sample(
            n,
            default_sampler(model.schedule, steps),
            condition=model.classes_in_turn(n),
            generator=torch.Generator().manual_seed(seed),
        )
        return image_grid(model.data.shown(samples), model.data.shown_levels)

    @classmethod
    def with_weights(cls, model: Diffusion, weights: Mapping[str, Tensor], run: str) -> Diffusion:
        """The model, with its learned schedule if these are weights of one."""
        if not any(name.startswith("gamma.") for name in weights):
            assign_weights(model, weights, run)
            return model
        # Of any shape: the weights have their own.
        gamma = LearnedSchedule(0.0, 1.0, hidden=len(weights["gamma.center"]))
        continuous = ContinuousDiffusion(model, gamma)
        assign_weights(continuous, weights, run)
        return continuous.chain()

    @classmethod
    def report(cls, run: RunDirectory, model: Diffusion, ending: Ending) -> dict[str, Any]:
        """The bound of both splits, samples, and the report."""
        return PixelEnd(run, model, ending).report()


KIND = Pixel
