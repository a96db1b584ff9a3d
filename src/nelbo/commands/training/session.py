"""One training run from its first step to its last, as a user follows it in a terminal."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import sys
import time
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch

from nelbo.commands.common import Minutes, say, training_progress
from nelbo.commands.training.outlook import advice, outlook_text
from nelbo.commands.training.recipe import Recipe
from nelbo.commands.training.run_facts import passes_text, verdict
from nelbo.commands.training.watch import Watch
from nelbo.data import ImageData, load_data
from nelbo.data.credits import ORIGIN
from nelbo.data.duplicates import without_duplicates
from nelbo.data.size import Size
from nelbo.data.sources import FIXED_SIZE, absolute
from nelbo.data.splits import PARTS, TEST, TRAIN, VALIDATION, EmptySplitError
from nelbo.report.formatting import duration
from nelbo.report.grids import save_image
from nelbo.runs.run_directory import RunDirectory
from nelbo.training.config import TrainingConfig
from nelbo.training.hardware import describe_hardware
from nelbo.training.pace import Outlook, step_seconds
from nelbo.training.processes import Processes
from nelbo.training.stopping import StopRequest
from nelbo.training.supervisor import Note, Supervisor
from nelbo.training.threads import ThreadTuner
from nelbo.training.tracking import TensorBoard
from nelbo.training.trainer import Step, Trainer

# Images that the number of threads is found on, where a step takes more than so many seconds.
_TUNED_IMAGES, _SLOW_STEP = 16, 1.0


@dataclass(frozen=True)
class TrainingImages:
    """What is trained on, what choices are made by, and what is reported on.

    Attributes:
        source: where they come from, as it is found again from another directory.
        train: the images to train on.
        validation: the images that are read while training, and that choices are made by.
        test: the images that figures are reported on.
        watched: the split that `validation` is of: where there is no such split, another one.
    """

    source: str
    train: ImageData
    validation: ImageData
    test: ImageData
    watched: str = VALIDATION

    @classmethod
    def load(
        cls,
        source: str,
        size: int | str | Size | None,
        channels: int | None,
        *,
        validation: bool = True,
    ) -> TrainingImages:
        """The splits of a source, alike; arguments and errors as `nelbo.data.load_data`.

        A set too small for a validation split watches the images that it trains on, and a run from
        before there was one goes on to watch those for test.
        """
        train = load_data(source, TRAIN, size=size, channels=channels, validation=validation)

        def like(split: str) -> ImageData:
            channels = train.shape[0]
            return load_data(source, split, size=size, channels=channels, validation=validation)

        test, place = like(TEST), absolute(source)
        if not validation:
            return cls(place, train, test, test, TEST)
        with contextlib.suppress(EmptySplitError):
            return cls(place, train, like(VALIDATION), test)
        return cls(place, train, train, test, TRAIN)

    @cached_property
    def reported(self) -> ImageData:
        """The test images that are in no other split, which figures are reported on."""
        seen = [self.train, self.validation] if self.watched == VALIDATION else [self.train]
        return without_duplicates(self.test, *seen)

    @property
    def for_fits(self) -> ImageData:
        """What a few numbers are fitted to once the network is trained, never images for test."""
        return self.validation if self.watched == VALIDATION else self.train

    @property
    def counts(self) -> dict[str, int]:
        """How many images each split has; none of train where they are streamed."""
        parts = (self.train, self.validation, self.test)
        counts = {
            split: len(data)
            for split, data in zip(PARTS, parts, strict=True)
            if data.stream is None
        }
        return counts if self.watched == VALIDATION else counts | {VALIDATION: 0}


class TrainingSession:
    """Trains what a recipe makes, into a run directory.

    Args:
        recipe: the model.
        images: what it is trained on.
        training: how to train.
        processes: who trains.
        weights: how often to show each image; see `nelbo.training.balance`.
        threads: CPU threads; None measures how many are best, now and then.
        resume: go on with what the run directory holds.
        accept_changed_data: also where images were added, removed or changed since, of whichever
            split.

    Raises:
        NelboError: settings that do not fit together, the data or the memory; nothing has been
            written by then.
    """

    def __init__(
        self,
        recipe: Recipe,
        images: TrainingImages,
        training: TrainingConfig,
        processes: Processes,
        *,
        weights: torch.Tensor | None = None,
        threads: int | None = None,
        resume: bool = False,
        accept_changed_data: bool = False,
    ) -> None:
        self.recipe = recipe
        self.images = images
        self.training = training
        self.threads = threads
        self.resume = resume
        self.accept_changed_data = accept_changed_data
        self._begun = time.perf_counter()
        recipe.check_memory(training, processes)
        self.trainer: Trainer[Any] = Trainer(
            recipe.model,
            recipe.data,
            training,
            processes=processes,
            weights=weights,
        )
        begun = time.perf_counter()
        self.trainer.rehearse()
        self._first_step = time.perf_counter() - begun
        if not resume:
            self.trainer.choose_precision()

    def train(self, run: RunDirectory, *, track: str = "none", title: str = "Training") -> None:
        """Take all steps that are left; where asked to stop, save, and exit as one does then.

        Args:
            run: where to.
            track: "tensorboard" writes the metrics there as well.
            title: what the progress bar says.

        Raises:
            KeyboardInterrupt: it was stopped by Ctrl-C.
            SystemExit: it was stopped by SIGTERM.
        """
        trainer, images = self.trainer, self.images.train
        is_main = trainer.processes.is_main
        tuner = None
        alone = trainer.processes.count == 1
        if trainer.device.type == "cpu" and self.threads is None and alone:
            # Of a slow step, a few images tell enough.
            some = _TUNED_IMAGES if self._first_step > _SLOW_STEP else None
            tuner = ThreadTuner(partial(trainer.rehearse, None, some))
            if not self.resume:
                tuner.tune()
        tracker = None
        if track == "tensorboard" and is_main:
            tracker = TensorBoard(run.tensorboard)
        validates = bool(self.training.validate_every)

        def draw(model: Any, step: int) -> None:
            grid = self.recipe.picture(model, self.training.seed)
            if not is_main:
                return
            save_image(grid, run.samples / f"step-{step:06d}.png")
            if tracker is not None:
                tracker.picture("samples", grid, step)

        with StopRequest() as stop:
            supervisor = Supervisor(
                trainer,
                run,
                self._notes(),
                stop,
                validation=self.recipe.validation if validates else None,
                draw=draw if validates else None,
                save=self.recipe.save,
                tracker=tracker,
                after_save=tuner.tune_again if tuner else lambda: None,
                held_out=self._held_out(),
            )
            if self.resume:
                notes = supervisor.resume(
                    same_threads=tuner is not None, accept_changed_data=self.accept_changed_data
                )
                for note in notes:
                    if is_main:
                        say(note.text)
                if is_main:
                    say(f"Resumed at step {trainer.step}")
            if is_main:
                amount = f"{len(images)} images" if images.stream is None else "a stream"
                say(
                    f"Training on {amount} of {self.images.source}, shape "
                    f"{images.shape}, with {self._parameters / 1e6:.2f}M parameters on "
                    f"{_where(trainer)}"
                )
            if trainer.fraction < 1.0:
                self._follow(supervisor, title, self._watch(run, reads=not validates))
            else:
                list(supervisor.run())
        if not supervisor.finished:
            self._stopped(run, stop)

    def _watch(self, run: RunDirectory, *, reads: bool) -> Watch:
        """Time a few steps, say how far the run will get, and what looks at it meanwhile."""
        trainer = self.trainer
        each = step_seconds(trainer.rehearse, trainer.processes.of_first)
        outlook = Outlook.of(self.training, each, done=trainer.step, spent=trainer.seconds)
        if trainer.processes.is_main:
            say(outlook_text(outlook, self.training, self._examples))
            if outlook.is_short and trainer.step == 0:
                say(advice(outlook, self.training, sized=self.images.source not in FIXED_SIZE))
        return Watch(
            self.recipe,
            trainer,
            run,
            seed=self.training.seed,
            step_seconds=each,
            whole_seconds=trainer.seconds + outlook.seconds,
            begun=self._begun,
            reads=reads,
        )

    def _follow(self, supervisor: Supervisor, title: str, watch: Watch) -> None:
        """Show what happens: in a bar, or in a line a minute where no terminal shows it."""
        trainer, objective = supervisor.trainer, self.training.objective
        is_main = trainer.processes.is_main
        pace, minutes, last = _Pace(trainer.step), Minutes(), None
        with training_progress(disable=not is_main) as progress:
            task = progress.add_task(title, total=1.0, figures="", step=0, pace="")
            for event in supervisor.run():
                if isinstance(event, Note):
                    if is_main:
                        say(event.text)
                    continue
                last = event
                watch.at(event)
                figures, speed = self.recipe.progress(event, objective), pace.at(event.step)
                if watch.bits_per_dim is not None:
                    figures += f" · validation {watch.bits_per_dim:.3f} bits/dim"
                progress.update(
                    task, completed=event.fraction, step=event.step, figures=figures, pace=speed
                )
                if is_main and progress.disable and minutes.passed():
                    left = event.seconds * (1 - event.fraction) / event.fraction
                    say(f"step {event.step:,}: {figures}, {speed}, {duration(round(left))} left")
            if last is not None and supervisor.finished and watch.bits_per_dim is not None:
                watch.read(last)
        if is_main and last is not None:
            say(self._done_text(last, watch.run))

    def _done_text(self, last: Step, run: RunDirectory) -> str:
        """What a run has come to: its steps, its passes over the data, and its last figures."""
        figures = self.recipe.progress(last, self.training.objective)
        seen = passes_text(last.step, self.training.batch_size, self._examples)
        done = f"{last.step:,} steps in {duration(last.seconds)}"
        text = f"Trained {done}{f', {seen} over the data' if seen else ''}: {figures}"
        found = verdict(run.readings())
        return f"{text}; {found}" if found else text

    @property
    def _examples(self) -> int | None:
        """How many images there are to train on; None for a stream."""
        train = self.images.train
        return len(train) if train.stream is None else None

    def _stopped(self, run: RunDirectory, stop: StopRequest) -> None:
        """Say where things are, and exit as one does on that signal."""
        if self.trainer.processes.is_main:
            if run.replaces is not None:
                say(f"stopped before the first checkpoint; the run in {run.replaces} is untouched")
            elif self.trainer.step == 0:
                say(f"stopped before the first step; {run.path} holds no trained model")
            else:
                say(
                    f"stopped at step {self.trainer.step}; the model so far is in {run.path}, and "
                    f"nelbo train --resume --out {run.whole.path} goes on with it"
                )
        self.trainer.processes.leave()
        if stop.signal == signal.SIGTERM:
            sys.exit(128 + signal.SIGTERM)
        raise KeyboardInterrupt

    @property
    def _parameters(self) -> int:
        return sum(p.numel() for p in self.trainer.model.parameters())

    def _held_out(self) -> dict[str, torch.Tensor]:
        """The keys of the images that are not trained on, by their split."""
        held_out = {TEST: self.images.test, self.images.watched: self.images.validation}
        return {split: data.keys for split, data in held_out.items() if split != TRAIN}

    def _notes(self) -> dict[str, Any]:
        """What nelbo.json says of the run."""
        streamed = self.images.train.stream is not None
        return {
            "source": self.images.source,
            "training_images": None if streamed else len(self.images.train),
            # A run without this is one from before there was a validation split.
            **({} if self.images.watched == TEST else {"splits": self.images.counts}),
            "label_names": list(self.recipe.label_names),
            **({} if self.recipe.origin is None else {ORIGIN: self.recipe.origin}),
            "parameters": self._parameters,
            "hardware": describe_hardware(self.trainer.device),
            "settings": {
                "training": dataclasses.asdict(self.training),
                "model": self.recipe.noted or dataclasses.asdict(self.recipe.settings),
            },
        }


class _Pace:
    """Steps a second over the last few seconds."""

    def __init__(self, step: int) -> None:
        self._marks = [(time.perf_counter(), step)]

    def at(self, step: int) -> str:
        now = time.perf_counter()
        if now - self._marks[-1][0] > 1.0:
            self._marks = [*self._marks[-5:], (now, step)]
        since, first = self._marks[0]
        rate = (step - first) / max(now - since, 1e-9)
        return f"{rate:.1f} steps/s" if rate >= 1 else f"{1 / max(rate, 1e-9):.1f} s/step"


def _where(trainer: Trainer[Any]) -> str:
    count = trainer.processes.count
    if trainer.device.type == "cpu":
        threads = torch.get_num_threads()
        place = f"the CPU, {threads} thread{'s' * (threads > 1)}"
    else:
        place = str(trainer.device)
    return f"{place}, {trainer.precision}" + (f", {count} processes" if count > 1 else "")
