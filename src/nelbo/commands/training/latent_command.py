"""nelbo train --model latent: the prior of an autoencoder's latents, and first the autoencoder.

Where no autoencoder is given, the run has two stages. The first is a run of its own, in
autoencoder/ within the run's directory; the second is the run itself. Both divide the length that
was asked for, and what was taken of it is read off the first, so that the whole can be broken off
and resumed in either.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from nelbo.base.errors import NelboError
from nelbo.commands.common import say
from nelbo.commands.options import at_least_one
from nelbo.commands.training.autoencoder_command import TrainAutoencoder
from nelbo.commands.training.command import Kind, TrainCommand
from nelbo.commands.training.final_samples import FinalSamples
from nelbo.training.config import LatentSettings, TrainingConfig, parse_duration

if TYPE_CHECKING:
    import torch

    from nelbo.commands.training.recipe import Recipe
    from nelbo.commands.training.session import TrainingImages
    from nelbo.data import ImageData
    from nelbo.latent import LatentDiffusion
    from nelbo.runs.run_directory import RunDirectory
    from nelbo.training.latents import LatentData
    from nelbo.training.processes import Processes

# The autoencoder's part of the steps or the time.
AUTOENCODER_SHARE = 0.25
# What of how to train holds for both stages.
_SHARED = (
    *("gradient_accumulation", "precision", "checkpoint_activations", "compile", "shard"),
    *("save_every", "keep_checkpoints", "validate_every", "seed"),
)


@dataclass(frozen=True)
class TrainLatent(TrainCommand):
    """Train a diffusion model of latents, with its text encoder and, where none is given, with its
    autoencoder; evaluate its bound, sample, and write a report."""

    trains: ClassVar[Kind] = "latent"
    autoencoder: Path | None = None
    """The run of --model autoencoder, or another autoencoder in the format of diffusers, whose
    latents to model; it stays as it is. By default one is trained first, in the folder autoencoder
    of the run."""
    autoencoder_steps: int | None = None
    """Without --autoencoder: how many of --steps train it, a quarter by default."""
    autoencoder_time: str | None = None
    """Without --autoencoder: how much of --time-budget trains it, a quarter by default."""
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            objective="simple", learning_rate=1e-3, ema_decay=0.9995
        )
    )
    free: ClassVar[tuple[str, ...]] = ("train_text_encoder", "guidance")
    model: LatentSettings = field(default_factory=LatentSettings)
    samples: FinalSamples = field(default_factory=FinalSamples)

    def recipe(self, images: TrainingImages, device: torch.device) -> Recipe:
        """A prior of the latents of the autoencoder, of which the run keeps a copy."""
        from nelbo.commands.training.latent_recipe import LatentRecipe

        return LatentRecipe(
            self.model,
            *self._latent_model(images, device),
            images,
            condition_dropout=self.training.label_dropout,
            samples=self.samples,
        )

    def _latent_model(
        self, images: TrainingImages, device: torch.device
    ) -> tuple[LatentDiffusion, LatentData]:
        """What is to be trained, of whose autoencoder the run keeps a copy, and on what."""
        from nelbo.commands.training.latent_recipe import (
            new_latent_model,
            trained_latent_model,
        )
        from nelbo.commands.training.start_from import read_autoencoder

        mirrored = self.training.horizontal_flip
        if self.start_from is not None:
            start = self.starting_model.to(device)
            # A run that has no model yet fits the decoder to its images, as when it began.
            going_on = self._start != self.start_from
            return trained_latent_model(
                start, self.model, images, mirrored=mirrored, resumed=going_on
            )
        assert self.autoencoder is not None
        own = read_autoencoder(self.out) if self.resume and self.out is not None else None
        autoencoder = own or read_autoencoder(self.autoencoder)
        if autoencoder is None:
            raise NelboError(f"{self.autoencoder} holds no autoencoder: there is no vae/")
        resumed = self.out if self.resume else None
        return new_latent_model(
            self.model, autoencoder.to(device), images, mirrored=mirrored, resumed=resumed
        )

    def reads_classes(self, data: ImageData) -> bool:
        """Whether the prior is conditioned on them, rather than on captions or nothing."""
        if self.start_from is not None:
            return super().reads_classes(data)
        asked = self.model.condition
        return asked == "label" or (asked == "auto" and not data.has_captions)

    @property
    def class_option(self) -> str:
        """What conditions the prior on the classes of the images."""
        return "--condition label" if self.start_from is None else super().class_option

    def _paths(self) -> dict[str, Any]:
        return {
            **super()._paths(),
            "autoencoder": self.autoencoder and self.autoencoder.resolve(),
        }

    def _check(self) -> tuple[Path, str]:
        self.samples.check()
        checked = super()._check()
        steps, time = self.autoencoder_steps, self.autoencoder_time
        if self.start_from is not None and self.autoencoder is not None:
            raise NelboError("--start-from brings its own autoencoder: leave --autoencoder out")
        if self.autoencoder is not None or self.start_from is not None:
            if steps is not None or time is not None:
                given = "--autoencoder" if self.start_from is None else "--start-from"
                raise NelboError(
                    "--autoencoder-steps and --autoencoder-time are for a run that trains its own "
                    f"autoencoder: leave them or {given} out"
                )
            return checked
        whole = self.training
        at_least_one(autoencoder_steps=steps)
        first = self.first_stage()
        if whole.steps is not None and (first.steps or 1) >= whole.steps:
            raise NelboError(
                f"--autoencoder-steps {first.steps} leave none of --steps {whole.steps} for the "
                "prior: both stages share them"
            )
        if whole.seconds is not None and (first.seconds or 0.0) >= whole.seconds:
            raise NelboError(
                f"--autoencoder-time {time} leaves nothing of the {whole.seconds:g} s of the whole "
                "run for the prior: both stages share --time-budget"
            )
        return checked

    def first_stage(self) -> TrainingConfig:
        """How the autoencoder is trained: its share of the length, or what was asked for."""
        whole, usual = self.training, TrainAutoencoder().training
        shared = {name: getattr(whole, name) for name in _SHARED}
        steps, time = self.autoencoder_steps, self.autoencoder_time
        if steps is None and time is None:
            if whole.steps is not None:
                steps = max(1, round(AUTOENCODER_SHARE * whole.steps))
            if whole.seconds is not None:
                time = f"{AUTOENCODER_SHARE * whole.seconds:.1f}s"
        if time is not None:
            parse_duration(time)
        return replace(usual, steps=steps, time_budget=time, **shared)

    def second_stage(self, autoencoder: RunDirectory) -> TrainingConfig:
        """How the prior is trained: what the autoencoder has left of the length.

        Raises:
            NelboError: nothing.
        """
        whole, taken = self.training, autoencoder.notes()["trained"]
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
        if self.autoencoder is not None or self.start_from is not None:
            return super()._train(out, images, processes)
        from nelbo.runs.run_directory import AUTOENCODER_RUN

        # A run that is resumed has its settings as they were resolved.
        model = self.model if self.resume else self._rehearse_prior(images, processes)
        run = self._directory(out, processes)
        stage = run.stage(AUTOENCODER_RUN)
        summary: dict[str, Any] = {}
        if not run.has_model and not stage.evaluation():
            summary[AUTOENCODER_RUN] = self._train_autoencoder(run, images, model, processes)
        prior = replace(
            self,
            model=model,
            out=run.path,
            autoencoder=stage.path,
            training=self.second_stage(stage),
            resume=run.has_model,
        )
        if processes.is_main:
            say("Stage 2 of 2: the prior of its latents")
        session = prior.session(images, processes)
        session.train(run, track=self.track, title="Prior 2/2")
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
        from nelbo.runs.run_directory import AUTOENCODER_RUN

        stage = run.stage(AUTOENCODER_RUN)
        resume = stage.has_model
        command = TrainAutoencoder(
            data=self.data,
            size=self.size,
            channels=self.channels,
            training=self.first_stage(),
            evaluate_images=self.evaluate_images,
            track=self.track,
            device=self.device,
            threads=self.threads,
            resume=resume,
            accept_changed_data=self.accept_changed_data,
            json=self.json,
        )
        if processes.is_main:
            say(f"Stage 1 of 2: the autoencoder, in {run.path / AUTOENCODER_RUN}")
        session = command.session(images, processes)
        if processes.is_main:
            if not resume:
                run.make_stage(AUTOENCODER_RUN)
            command.save_settings(stage, images, session.recipe.settings)
            self.save_settings(run, images, model)
        session.train(stage, track=self.track, title="Autoencoder 1/2")
        summary = command.finish(stage, session, AUTOENCODER_SHARE)
        processes.sum([0.0])  # the others wait for what the first one evaluates
        return summary

    def _rehearse_prior(self, images: TrainingImages, processes: Processes) -> LatentSettings:
        """The settings of the second stage as they resolve, after a step on a few images: what does
        not fit shows itself before the first stage begins."""
        import torch

        from nelbo.commands.training.latent_recipe import LatentRecipe, new_latent_model
        from nelbo.commands.training.session import TrainingSession
        from nelbo.training.build_latent import build_autoencoder
        from nelbo.training.latents import check_not_streamed

        train = images.train
        check_not_streamed(train)
        shown = [i for i, caption in enumerate(train.captions or ()) if caption] or range(
            len(train)
        )
        few = train.take(torch.tensor(shown[: self.training.batch_size]))
        tried = replace(images, train=few)
        autoencoder = build_autoencoder(few).to(processes.device)
        mirrored = self.training.horizontal_flip
        recipe = LatentRecipe(
            self.model,
            *new_latent_model(self.model, autoencoder, tried, mirrored=mirrored),
            tried,
            condition_dropout=self.training.label_dropout,
        )
        training = replace(self.training, precision="fp32")
        TrainingSession(recipe, tried, training, processes)
        return recipe.settings
