"""Diffusion models of latents, from their settings to their report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.diffusion.objectives import check_objective
from nelbo.formats import save
from nelbo.latent import LatentDiffusion
from nelbo.report.grids import image_grid
from nelbo.runs.run_directory import AUTOENCODER_RUN, RunDirectory
from nelbo.runs.settings_file import read_settings
from nelbo.training.images import TrainingImages
from nelbo.training.kinds.autoencoder.build import autoencoder_at, read_autoencoder
from nelbo.training.kinds.autoencoder.options import TrainAutoencoder
from nelbo.training.kinds.kind import Ending, Kind, Stage, Start, grid_of, unused_classes
from nelbo.training.kinds.latent.choices import with_choices
from nelbo.training.kinds.latent.latents import LatentData
from nelbo.training.kinds.latent.making import new_latent_model, trained_latent_model
from nelbo.training.kinds.latent.objective import PriorObjective
from nelbo.training.kinds.latent.options import AUTOENCODER_SHARE, TrainLatent
from nelbo.training.kinds.latent.report import (
    SAMPLER,
    LatentEnd,
    draw_samples,
    error_of,
    held_out_prompts,
)
from nelbo.training.kinds.latent.task import PriorTask
from nelbo.training.processes import Processes
from nelbo.training.run_model import assign_weights
from nelbo.training.settings import parse_options
from nelbo.training.start_from import fit_classes, starting_diffusion
from nelbo.training.trainer import Step
from nelbo.training.validation import Validation


class Latent(Kind):
    """A prior of the latents of an autoencoder, and the text encoder of their captions."""

    name = "latent"
    options: TrainLatent

    def __init__(
        self,
        options: TrainLatent,
        images: TrainingImages,
        device: torch.device,
        start: Start | None = None,
    ) -> None:
        # First what would be refused after the images have been encoded.
        check_objective(options.training.objective, options.training.level_shift)
        if start is not None:
            fit_classes(start, images.train, options.start_classes)
        torch.manual_seed(options.training.seed)
        model, latents = _latent_model(options, images, device, start)
        self.options = options
        self.label_names = images.train.label_names if model.num_classes else ()
        self.images = images
        self._model = model
        objective = PriorObjective(model, condition_dropout=options.training.label_dropout)
        self.task = PriorTask(objective, latents, options.training)
        self.validation = Validation(images.validation)
        self._prompts = held_out_prompts(images.reported) if model.text is not None else []

    @classmethod
    def starting_model(cls, path: str) -> LatentDiffusion:
        """A diffusion model of latents whose network is one of nelbo's."""
        return starting_diffusion(path, cls.name)

    @classmethod
    def stages(
        cls,
        options: TrainLatent,
        images: TrainingImages,
        processes: Processes,
        run: RunDirectory,
    ) -> Iterator[Stage]:
        """The autoencoder, where none is given, then the prior of its latents."""
        # A run that is resumed has its settings as they were resolved.
        if not options.resume and options.start_from is None:
            options = with_choices(options, images, processes)
        if options.autoencoder is not None or options.start_from is not None:
            yield Stage(options, options)
            return
        first = run.stage(AUTOENCODER_RUN)
        if not options.resume or not (run.has_model or first.evaluation()):
            usual = TrainAutoencoder()
            if options.resume and first.has_model:  # as it was begun, whatever is usual by now
                usual = parse_options(TrainAutoencoder, read_settings(first.config), first.config)
            autoencoder = replace(
                usual,
                data=options.data,
                size=options.size,
                channels=options.channels,
                training=options.first_stage(usual.training),
                evaluate_images=options.evaluate_images,
                track=options.track,
                device=options.device,
                threads=options.threads,
                resume=options.resume and first.has_model,
                accept_changed_data=options.accept_changed_data,
                json=options.json,
            )
            yield Stage(
                autoencoder,
                options,
                name=AUTOENCODER_RUN,
                title="Autoencoder 1/2",
                about=f"Stage 1 of 2: the autoencoder, in {first.path}",
                share=AUTOENCODER_SHARE,
            )
        taken = first.notes["trained"]
        left = options.second_stage(taken["steps"], taken["seconds"])
        if left is None:
            raise NelboError(
                f"the autoencoder in {first.path} took {taken['steps']} steps and "
                f"{taken['seconds']:g} s, which leaves nothing for the prior: resume with more "
                "--steps or a longer --time-budget"
            )
        prior = replace(
            options,
            out=run.path,
            autoencoder=first.path,
            training=left,
            resume=options.resume and run.has_model,
        )
        yield Stage(
            prior,
            options,
            title="Prior 2/2",
            about="Stage 2 of 2: the prior of its latents",
            share=1 - AUTOENCODER_SHARE,
        )

    @classmethod
    def announcement(cls, options: TrainLatent, source: str) -> str:
        """That captions decide on this kind, where they do."""
        if options.kind != "auto" or options.start_from is not None:
            return ""
        return (
            f"{source} has captions: training a diffusion model of latents conditioned on them "
            "(--model latent); --model pixel trains one of pixels"
        )

    @classmethod
    def unused(cls, options: TrainLatent, images: TrainingImages, start: Start | None) -> list[str]:
        """Classes that the prior is not conditioned on, but on captions or nothing."""
        asked = options.model.condition
        reads = asked == "label" or (asked == "auto" and not images.train.has_captions)
        return unused_classes(options, images, start, "" if reads else "--condition label")

    def whole(self, trained: PriorObjective) -> LatentDiffusion:
        """The autoencoder with this prior and text encoder."""
        frame = self._model
        return LatentDiffusion(
            frame.autoencoder,
            trained.prior,
            text=trained.text or frame.text,
            scale=frame.scale,
            data=frame.data,
            decoder_scale=frame.decoder_scale,
        ).eval()

    def save(self, module: PriorObjective, directory: Path, notes: Mapping[str, Any]) -> None:
        """A pipeline of latents."""
        # The schedulers of flow matching and EDM have a walk of their own.
        own = module.prior.prediction in ("velocity", "denoiser")
        save(self.whole(module), directory, sampler=None if own else SAMPLER, notes=notes)

    def picture(self, module: PriorObjective, seed: int, calls: int | None = None) -> Image:
        """Samples, of the captions of held-out images or of every class."""
        whole = self.whole(module)
        n, steps = grid_of(calls, whole.prior.num_levels, calls_of_a_step=2)
        guidance = self.options.model.guidance
        samples = draw_samples(whole, n, self._prompts, steps=steps, guidance=guidance, seed=seed)
        return image_grid(samples, self.images.test.levels)

    def progress(self, step: Step) -> str:
        """The loss alone: a bound from one level an image jumps too far to be followed."""
        if self.options.training.objective != "simple":
            return f"loss {step.running_loss:.4f}"
        of = error_of(self._model.prior.prediction)
        return f"mean squared error of {of} {step.running_loss:.4f} per latent value"

    @classmethod
    def with_weights(
        cls, model: LatentDiffusion, weights: Mapping[str, Tensor], run: str
    ) -> LatentDiffusion:
        """The model with this prior and, where it was trained, text encoder."""
        if model.text is not None:  # one that was frozen is no part of what was trained
            model.text.requires_grad_(any(name.startswith("text.") for name in weights))
        assign_weights(PriorObjective(model), weights, run)
        return model

    @classmethod
    def report(cls, run: RunDirectory, model: LatentDiffusion, ending: Ending) -> dict[str, Any]:
        """The bound on pixels of held-out images, samples with their prompts, and the report."""
        return LatentEnd(run, model, ending).report()


def _latent_model(
    options: TrainLatent, images: TrainingImages, device: torch.device, start: Start | None
) -> tuple[LatentDiffusion, LatentData]:
    """The latent model to train and its training latents."""
    settings, mirrored = options.model, options.training.horizontal_flip
    if start is not None:
        # A run that has no model yet fits the decoder to its images, as when it began.
        return trained_latent_model(
            start.model.to(device), settings, images, mirrored=mirrored, resumed=start.resumed
        )
    resumed = options.out if options.resume else None
    # The run keeps a copy of it.
    autoencoder = None if resumed is None else read_autoencoder(resumed)
    if autoencoder is None:
        assert options.autoencoder is not None
        autoencoder = autoencoder_at(options.autoencoder)
    return new_latent_model(
        settings, autoencoder.to(device), images, mirrored=mirrored, resumed=resumed
    )


KIND = Latent
