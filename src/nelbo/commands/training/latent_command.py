"""nelbo train --model latent: the prior of an autoencoder's latents, and first the autoencoder.

Where no autoencoder is given, the run has two stages. The first is a run of its own, in
autoencoder/ within the run's directory; the second is the run itself. Both divide the length that
was asked for, and what was taken of it is read off the first, so that the whole can be broken off
and resumed in either.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nelbo.base.errors import NelboError
from nelbo.commands.common import say
from nelbo.commands.options.train import AUTOENCODER_SHARE, TrainAutoencoder, TrainLatent
from nelbo.commands.training.autoencoder_command import TrainAutoencoderCommand
from nelbo.commands.training.command import TrainCommand
from nelbo.commands.training.latent_recipe import (
    LatentRecipe,
    new_latent_model,
    trained_latent_model,
)
from nelbo.commands.training.recipe import Recipe
from nelbo.commands.training.session import TrainingImages, TrainingSession
from nelbo.commands.training.start_from import read_autoencoder
from nelbo.data import ImageData
from nelbo.latent import LatentDiffusion
from nelbo.runs.run_directory import AUTOENCODER_RUN, RunDirectory
from nelbo.training.build_latent import build_autoencoder
from nelbo.training.config import LatentSettings, TrainingConfig
from nelbo.training.latents import LatentData, check_not_streamed
from nelbo.training.processes import Processes


class TrainLatentCommand(TrainCommand):
    """Trains a diffusion model of latents and, where none is given, their autoencoder first."""

    options: TrainLatent

    def recipe(self, images: TrainingImages, device: torch.device) -> Recipe:
        """A prior of the latents of the autoencoder, of which the run keeps a copy."""
        return LatentRecipe(
            self.options.model,
            *self._latent_model(images, device),
            images,
            condition_dropout=self.options.training.label_dropout,
            samples=self.options.samples,
        )

    def _latent_model(
        self, images: TrainingImages, device: torch.device
    ) -> tuple[LatentDiffusion, LatentData]:
        """What is to be trained, of whose autoencoder the run keeps a copy, and on what."""
        mirrored = self.options.training.horizontal_flip
        if self.options.start_from is not None:
            start = self.starting_model.to(device)
            # A run that has no model yet fits the decoder to its images, as when it began.
            going_on = self._start != self.options.start_from
            return trained_latent_model(
                start, self.options.model, images, mirrored=mirrored, resumed=going_on
            )
        assert self.options.autoencoder is not None
        own = (
            read_autoencoder(self.options.out)
            if self.options.resume and self.options.out is not None
            else None
        )
        autoencoder = own or read_autoencoder(self.options.autoencoder)
        if autoencoder is None:
            raise NelboError(f"{self.options.autoencoder} holds no autoencoder: there is no vae/")
        resumed = self.options.out if self.options.resume else None
        return new_latent_model(
            self.options.model, autoencoder.to(device), images, mirrored=mirrored, resumed=resumed
        )

    def reads_classes(self, data: ImageData) -> bool:
        """Whether the prior is conditioned on them, rather than on captions or nothing."""
        if self.options.start_from is not None:
            return super().reads_classes(data)
        asked = self.options.model.condition
        return asked == "label" or (asked == "auto" and not data.has_captions)

    @property
    def class_option(self) -> str:
        """What conditions the prior on the classes of the images."""
        return "--condition label" if self.options.start_from is None else super().class_option

    def _paths(self) -> dict[str, Any]:
        return {
            **super()._paths(),
            "autoencoder": self.options.autoencoder and self.options.autoencoder.resolve(),
        }

    def second_stage(self, autoencoder: RunDirectory) -> TrainingConfig:
        """How the prior is trained: what the autoencoder has left of the length.

        Raises:
            NelboError: nothing.
        """
        whole, taken = self.options.training, autoencoder.notes["trained"]
        steps = None if whole.steps is None else whole.steps - taken["steps"]
        seconds = None if whole.seconds is None else whole.seconds - taken["seconds"]
        if (steps is not None and steps < 1) or (seconds is not None and seconds < 1):
            raise NelboError(
                f"the autoencoder in {autoencoder.path} took {taken['steps']} steps and "
                f"{taken['seconds']:g} s, which leaves nothing for the prior: resume with more "
                "--steps or a longer --time-budget"
            )
        time = None if seconds is None else f"{seconds:.1f}s"
        return replace(whole, steps=steps, time_budget=time)

    def _train(
        self, out: Path, images: TrainingImages, processes: Processes
    ) -> tuple[RunDirectory, dict[str, Any]]:
        if self.options.autoencoder is not None or self.options.start_from is not None:
            return super()._train(out, images, processes)

        # A run that is resumed has its settings as they were resolved.
        model = (
            self.options.model if self.options.resume else self._rehearse_prior(images, processes)
        )
        run = self._directory(out, processes)
        stage = run.stage(AUTOENCODER_RUN)
        summary: dict[str, Any] = {}
        if not run.has_model and not stage.evaluation():
            summary[AUTOENCODER_RUN] = self._train_autoencoder(run, images, model, processes)
        prior = TrainLatentCommand(
            replace(
                self.options,
                model=model,
                out=run.path,
                autoencoder=stage.path,
                training=self.second_stage(stage),
                resume=run.has_model,
            )
        )
        if processes.is_main:
            say("Stage 2 of 2: the prior of its latents")
        session = prior.session(images, processes)
        session.train(run, track=self.options.track, title="Prior 2/2")
        processes.leave()
        return run, summary | self.finish(run, session, 1 - AUTOENCODER_SHARE)

    def _train_autoencoder(
        self,
        run: RunDirectory,
        images: TrainingImages,
        model: LatentSettings,
        processes: Processes,
    ) -> dict[str, Any]:
        """The first stage, from its beginning or its last checkpoint, and what its end says."""
        stage = run.stage(AUTOENCODER_RUN)
        resume = stage.has_model
        command = TrainAutoencoderCommand(
            TrainAutoencoder(
                data=self.options.data,
                size=self.options.size,
                channels=self.options.channels,
                training=self.options.first_stage(),
                evaluate_images=self.options.evaluate_images,
                track=self.options.track,
                device=self.options.device,
                threads=self.options.threads,
                resume=resume,
                accept_changed_data=self.options.accept_changed_data,
                json=self.options.json,
            )
        )
        if processes.is_main:
            say(f"Stage 1 of 2: the autoencoder, in {run.path / AUTOENCODER_RUN}")
        session = command.session(images, processes)
        if processes.is_main:
            if not resume:
                run.make_stage(AUTOENCODER_RUN)
            command.save_settings(stage, images, session.recipe.settings)
            self.save_settings(run, images, model)
        session.train(stage, track=self.options.track, title="Autoencoder 1/2")
        summary = command.finish(stage, session, AUTOENCODER_SHARE)
        processes.sum([0.0])  # the others wait for what the first one evaluates
        return summary

    def _rehearse_prior(self, images: TrainingImages, processes: Processes) -> LatentSettings:
        """The settings of the second stage as they resolve, after a step on a few images: what does
        not fit shows itself before the first stage begins."""

        train = images.train
        check_not_streamed(train)
        shown = [i for i, caption in enumerate(train.captions or ()) if caption] or range(
            len(train)
        )
        few = train.take(torch.tensor(shown[: self.options.training.batch_size]))
        tried = replace(images, train=few)
        autoencoder = build_autoencoder(few).to(processes.device)
        mirrored = self.options.training.horizontal_flip
        recipe = LatentRecipe(
            self.options.model,
            *new_latent_model(self.options.model, autoencoder, tried, mirrored=mirrored),
            tried,
            condition_dropout=self.options.training.label_dropout,
        )
        training = replace(self.options.training, precision="fp32")
        TrainingSession(recipe, tried, training, processes)
        return recipe.settings
