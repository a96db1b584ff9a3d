"""What the commands that train have in common: their options, and the order of what happens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from nelbo.base.errors import NelboError
from nelbo.commands.common import (
    choose_device,
    mention_duplicates,
    mention_skipped,
    print_json,
    results_to,
    say,
    show,
)
from nelbo.commands.options.train import TrainOptions
from nelbo.commands.training.allowance import allowed_seconds, report_where_on_interrupt
from nelbo.commands.training.recipe import Recipe
from nelbo.commands.training.refinement import Asked
from nelbo.commands.training.session import TrainingImages, TrainingSession
from nelbo.commands.training.settings import check_unchanged, parse_options, save_options
from nelbo.commands.training.start_from import (
    check_settings,
    fit_classes,
    frame_of,
    kind_at,
    origin_of,
    starting_model,
)
from nelbo.data import ImageData
from nelbo.data.credits import ORIGIN
from nelbo.data.size import Size
from nelbo.data.sources import FIXED_SIZE, absolute, check_source, with_crops
from nelbo.data.splits import TEST, TRAIN, VALIDATION
from nelbo.diffusion.objectives import check_objective
from nelbo.runs.run_directory import AUTOENCODER_RUN, RunDirectory
from nelbo.runs.settings_file import read_settings
from nelbo.training.balance import balanced_weights
from nelbo.training.processes import Processes


class TrainCommand(ABC):
    """Trains a model on images; evaluates its bound, samples, and writes a report.

    Args:
        options: what was asked for.
    """

    def __init__(self, options: TrainOptions) -> None:
        self.options: Any = options

    def run(self) -> None:
        """Train, evaluate, sample, report."""
        if self.options.crops is not None and self.options.data is not None:
            # From here on the source says it, and every command that reads the run.
            cropped = with_crops(self.options.data, self.options.crops)
            self.options = replace(self.options, data=cropped, crops=None)
        out, source = self._check()
        # Before anything is made that a name may then stand for.
        self.options = replace(self.options, **self._paths())

        self._announce(source)
        device = choose_device(self.options.device)
        if self.options.threads is not None:
            torch.set_num_threads(self.options.threads)
        processes = Processes.join(device, sharded=self.options.training.shard)
        images = TrainingImages.load(
            source, *self._frame(source), validation=not self._predates_validation(out)
        )
        if processes.is_main:
            self._mention(images)
        run, summary = self._train(out, images, processes)
        if not processes.is_main:
            return
        if self.options.json:
            print_json({"run": str(run.path), **summary})
        elif "report" in summary:
            show(f"Report: {run.report.resolve().as_uri()}")
        else:
            show(f"Run: {run.path}")

    def _train(
        self, out: Path, images: TrainingImages, processes: Processes
    ) -> tuple[RunDirectory, dict[str, Any]]:
        """The run, and what its end says."""
        session = self.session(images, processes)
        run = self._directory(out, processes)
        if processes.is_main:
            self.save_settings(run, images, session.recipe.settings)
        session.train(run, track=self.options.track)
        processes.leave()
        return run, self.finish(run, session)

    def session(self, images: TrainingImages, processes: Processes) -> TrainingSession:
        """What trains this kind of model; nothing is written.

        Raises:
            NelboError: settings that do not fit together or the images.
        """

        # First what would be refused after the images have been encoded.
        weights = balanced_weights(
            images.train, self.options.training.balance, self.options.training.balance_power
        )
        if self.options.trains != "autoencoder":
            check_objective(self.options.training.objective, self.options.training.level_shift)
            if self.options.start_from is not None:
                fit_classes(
                    self._start, self.starting_model, images.train, self.options.start_classes
                )
        torch.manual_seed(self.options.training.seed)
        recipe = self.recipe(images, processes.device)
        if self.options.start_from is not None:
            chosen = {name: getattr(recipe.settings, name) for name in self.options.free}
            recipe.noted = {"start_from": self.options.start_from, **chosen}
            recipe.origin = self._origin()
        return TrainingSession(
            recipe,
            images,
            self.options.training,
            processes,
            weights=weights,
            threads=self.options.threads,
            resume=self.options.resume,
            accept_changed_data=self.options.accept_changed_data,
        )

    def save_settings(self, run: RunDirectory, images: TrainingImages, model: Any) -> None:
        """Write config.yaml, with what was left to the data filled in.

        Args:
            run: where to.
            images: what is trained on.
            model: the settings of the model.
        """
        settings = replace(
            self.options,
            kind=self.options.trains,
            data=images.source,
            channels=images.train.shape[0],
            model=model,
        )
        save_options(settings, run.config)

    def finish(
        self, run: RunDirectory, session: TrainingSession, share_of_least: float = 1.0
    ) -> dict[str, Any]:
        """Evaluate the finished run, as the first process does; the others do nothing.

        Ctrl-C ends it with a word on where the weights are.

        Args:
            run: what was trained.
            session: what trained it.
            share_of_least: its part of the least time, for a run that is a stage of another.
        """
        if not session.trainer.processes.is_main:
            return {}

        with report_where_on_interrupt(run):
            return session.recipe.finish(
                run,
                asked=Asked(self.options.evaluate_levels, self.options.evaluate_images),
                seconds=allowed_seconds(session.trainer.seconds, share_of_least),
                seed=self.options.training.seed,
                device=session.trainer.device,
                table_to=results_to(self.options.json),
            )

    @abstractmethod
    def recipe(self, images: TrainingImages, device: torch.device) -> Recipe:
        """What this kind of model adds.

        Raises:
            NelboError: settings that do not fit together or the images.
        """

    @cached_property
    def starting_model(self) -> Any:
        """The model that --start-from names or, on resuming, what has become of it.

        Raises:
            NelboError: as `nelbo.load`, or a model that this command does not train.
        """
        return starting_model(self._start, self.options.trains)

    @cached_property
    def _start(self) -> str:
        """Where the model is that --start-from names or, on resuming, what has become of it.

        What was killed while its first model was written has none yet.
        """
        assert self.options.start_from is not None
        own = None if self.options.out is None else str(self.options.out.resolve())
        if self.options.resume and own is not None and kind_at(own) == self.options.trains:
            return own
        return self.options.start_from

    def _origin(self) -> dict[str, Any]:
        """What is remembered of the model that --start-from names."""
        assert self.options.start_from is not None
        if self.options.resume and self.options.out is not None:
            kept = RunDirectory(self.options.out).notes.get(ORIGIN)
            if kept is not None:
                return kept
        return origin_of(self.options.start_from)

    def _frame(self, source: str) -> tuple[int | str | Size | None, int | None]:
        """The size and channels to cut the images to: as asked, or as a trained model has them."""
        if self.options.start_from is None or source in FIXED_SIZE:
            return self.options.size, self.options.channels
        size, channels = frame_of(self.starting_model)
        return self.options.size or size, self.options.channels or channels

    def _paths(self) -> dict[str, Any]:
        """Settings that are paths, as they are found again from another directory."""
        start = self.options.start_from
        if start is None or not Path(start).exists():  # the name of a checkpoint, or a Hub id
            return {}
        return {"start_from": str(Path(start).resolve())}

    def _announce(self, source: str) -> None:
        """Say what was chosen, where it was left to the data."""
        if (
            self.options.kind == "auto"
            and self.options.trains == "latent"
            and self.options.start_from is None
        ):
            say(
                f"{source} has captions: training a diffusion model of latents that is told of "
                "them (--model latent); --model pixel trains one of pixels"
            )

    def _mention(self, images: TrainingImages) -> None:
        """Say what is trained on, and what of the data is not used."""
        if self.options.start_from is not None:
            start, kind = self.options.start_from, self.options.trains
            say(f"Training on from the model of {start} (--model {kind})")
        mention_skipped(images.train, images.validation, images.test)
        mention_duplicates(images.reported)
        self._mention_splits(images)
        if (
            self.options.kind == "auto"
            and self.options.trains == "pixel"
            and images.train.has_captions
        ):
            say(
                f"the captions of {images.source} are not used: a diffusion model of pixels takes "
                "none (--model pixel); --model latent trains one of latents that does"
            )

        if images.train.num_classes and not self.reads_classes(images.train):
            say(
                f"the {images.train.num_classes} classes of {images.source} are not used: "
                f"{self.class_option} conditions the model on them"
            )

    def reads_classes(self, data: ImageData) -> bool:
        """Whether classes of the images are used, or are meant not to be."""
        if (
            self.options.start_from is None
            or self.options.trains == "autoencoder"
            or self.options.start_classes != "same"
        ):
            return True
        model = self.starting_model
        return model.num_classes > 0 or getattr(model, "text", None) is not None

    @property
    def class_option(self) -> str:
        """What conditions the model on the classes of the images."""
        return "--start-classes new"

    def _mention_splits(self, images: TrainingImages) -> None:
        """Say which images are for what, where that is not as one would expect."""
        if images.train.split_note is not None:
            say(f"{images.source}: {images.train.split_note}")
        if images.watched == TEST:
            say(
                "this run was begun before there was a validation split, and trains on the images "
                "that it began with"
            )
        if self.options.training.validate_every and images.watched != VALIDATION:
            told = {
                TEST: "test images, as it began: the bound of its best checkpoint on them is an "
                "optimistic one",
                TRAIN: f"the images that it trains on, for {images.source} is too small for a "
                "validation split",
            }
            say(f"--validate-every reads {told[images.watched]}")

    def _predates_validation(self, out: Path) -> bool:
        """Whether the run to go on with was begun before there was a validation split."""
        if not self.options.resume:
            return False
        run = RunDirectory(out)
        try:
            return any(one.predates_validation for one in (run, run.stage(AUTOENCODER_RUN)))
        except NelboError:
            # Its nelbo.json is damaged, which going on writes anew. Other images than those that
            # its checkpoint has learned from are refused later.
            return False

    def _check(self) -> tuple[Path, str]:
        """Where to and what on, once nothing speaks against it."""
        assert self.options.out is not None
        assert self.options.data is not None
        if self.options.start_from is not None:
            check_settings(self.options.model, type(self.options)().model, self.options.free)
            check_source(self.options.data, "train")  # before a large model is read
        if self.options.resume:
            self._check_unchanged(self.options.out)
        else:
            RunDirectory.check_free(self.options.out, overwrite=self.options.overwrite)
        return self.options.out, self.options.data

    def _check_unchanged(self, out: Path) -> None:

        run = RunDirectory(out)
        before = parse_options(type(self.options), read_settings(run.config), run.config)
        assert self.options.data is not None
        # As they are kept.
        mine = replace(self.options, data=absolute(self.options.data), **self._paths())
        check_unchanged(mine, before, run)

    def _directory(self, out: Path, processes: Processes) -> RunDirectory:
        """The run directory, made or opened by the first process."""
        run = None
        if processes.is_main and self.options.resume:
            run = RunDirectory.reopen(out)
        elif processes.is_main:
            run = RunDirectory.create(out, overwrite=self.options.overwrite)
        processes.sum([0.0])  # none goes on before the directory is there
        return run or RunDirectory.join(out)
