"""One stage of a run from its first step to its last, as a user follows it in a terminal."""

from __future__ import annotations

import signal
import sys
import time
from functools import partial
from typing import Any

import torch

from nelbo.base.console import Minutes, notice, training_progress
from nelbo.data.duplicates import pixels_digest
from nelbo.data.sources import FIXED_SIZE
from nelbo.data.splits import TEST, TRAIN
from nelbo.report.formatting import duration
from nelbo.report.validation_trend import validation_trend
from nelbo.runs.run_directory import RunDirectory
from nelbo.training.balance import balanced_weights
from nelbo.training.hardware import describe_hardware
from nelbo.training.images import TrainingImages
from nelbo.training.kinds import kind_of
from nelbo.training.kinds.kind import Stage, Start
from nelbo.training.outlook import advice, outlook_text, passes_text
from nelbo.training.pace import Outlook, step_seconds
from nelbo.training.processes import Processes
from nelbo.training.rehearsal import check_memory, choose_precision
from nelbo.training.stopping import StopRequest
from nelbo.training.supervisor import Supervisor
from nelbo.training.threads import use_fastest_threads
from nelbo.training.tracking import TensorBoard
from nelbo.training.trainer import Step, Trainer
from nelbo.training.watch import Watch

# Images to choose the number of threads on, if a step takes more than this many seconds.
_TUNED_IMAGES, _SLOW_STEP = 16, 1.0


class TrainingSession:
    """Trains the model of a stage into a run directory, and reports on it in the terminal.

    Args:
        stage: what to train, and how.
        images: what it is trained on.
        processes: who trains.
        start: the trained model to begin with, if any.

    Raises:
        NelboError: settings that do not fit together, the data or the memory; nothing has been
            written by then.
    """

    def __init__(
        self,
        stage: Stage,
        images: TrainingImages,
        processes: Processes,
        start: Start | None = None,
    ) -> None:
        self.stage, self.options, self.images = stage, stage.options, images
        self.training = self.options.training
        # First what would be refused after the images have been encoded.
        training = self.training
        weights = balanced_weights(images.train, training.balance, training.balance_power)
        self._begun = time.perf_counter()
        self.kind = kind_of(self.options.trains)(self.options, images, processes.device, start)
        self._notes = self.kind.notes(start)
        self.trainer = Trainer(self.kind.task, processes=processes, weights=weights)
        check_memory(self.trainer)
        begun = time.perf_counter()
        self.trainer.rehearse()
        self._first_step = time.perf_counter() - begun
        if not self.options.resume:
            choose_precision(self.trainer)

    def train(self, run: RunDirectory) -> None:
        """Take all steps that are left; where asked to stop, save, and exit with that signal's
        code.

        Args:
            run: where to.

        Raises:
            KeyboardInterrupt: it was stopped by Ctrl-C.
            SystemExit: it was stopped by SIGTERM.
        """
        trainer, images, options = self.trainer, self.images.train, self.options
        alone = trainer.processes.count == 1
        measures = trainer.device.type == "cpu" and options.threads is None and alone
        if measures and not options.resume:
            # Of a slow step, a few images are enough.
            some = _TUNED_IMAGES if self._first_step > _SLOW_STEP else None
            use_fastest_threads(partial(trainer.rehearse, None, some))
        tracked = options.track == "tensorboard" and trainer.processes.is_main
        with StopRequest() as stop:
            supervisor = Supervisor(
                trainer,
                self.kind,
                run,
                self._run_notes(),
                stop,
                tracker=TensorBoard(run.tensorboard) if tracked else None,
                held_out=self._held_out(),
            )
            if options.resume:
                notes = supervisor.resume(
                    same_threads=measures, accept_changed_data=options.accept_changed_data
                )
                for note in notes:
                    trainer.processes.notice(note)
                trainer.processes.notice(f"Resumed at step {trainer.step}")
            amount = f"{len(images)} images" if images.stream is None else "a stream"
            trainer.processes.notice(
                f"Training on {amount} of {self.images.source}, shape {images.shape}, with "
                f"{self._parameters / 1e6:.2f}M parameters on {_where(trainer)}"
            )
            if trainer.fraction < 1.0:
                self._follow(supervisor, self._watch(run))
            else:
                list(supervisor.run())
        if not supervisor.finished:
            self._stopped(run, stop)

    def _watch(self, run: RunDirectory) -> Watch:
        """Time a few steps, report how far the run will get, and what looks at it meanwhile."""
        trainer = self.trainer
        each = step_seconds(trainer.rehearse, trainer.processes.of_first)
        outlook = Outlook.of(self.training, each, done=trainer.step, spent=trainer.seconds)
        trainer.processes.notice(outlook_text(outlook, self.training, self._examples))
        if outlook.is_short and trainer.step == 0:
            sized = self.images.source not in FIXED_SIZE
            trainer.processes.notice(advice(outlook, self.training, sized=sized))
        return Watch(
            self.kind,
            trainer,
            run,
            step_seconds=each,
            whole_seconds=trainer.seconds + outlook.seconds,
            begun=self._begun,
        )

    def _follow(self, supervisor: Supervisor, watch: Watch) -> None:
        """Show what happens: in a bar, or in a line a minute where no terminal shows it."""
        trainer = supervisor.trainer
        is_main = trainer.processes.is_main
        pace, minutes, last = _Pace(trainer.step), Minutes(), None
        with training_progress(disable=not is_main) as progress:
            task = progress.add_task(self.stage.title, total=1.0, figures="", step=0, pace="")
            for event in supervisor.run():
                if isinstance(event, str):
                    trainer.processes.notice(event)
                    continue
                last = event
                watch.at(event)
                figures, speed = self.kind.progress(event), pace.at(event.step)
                if watch.bits_per_dim is not None:
                    figures += f" · validation {watch.bits_per_dim:.3f} bits/dim"
                progress.update(
                    task, completed=event.fraction, step=event.step, figures=figures, pace=speed
                )
                if is_main and progress.disable and minutes.passed():
                    left = event.seconds * (1 - event.fraction) / event.fraction
                    notice(f"step {event.step:,}: {figures}, {speed}, {duration(round(left))} left")
            if last is not None and supervisor.finished and watch.bits_per_dim is not None:
                watch.read(last)
        if is_main and last is not None:
            notice(self._done_text(last, watch.run))

    def _done_text(self, last: Step, run: RunDirectory) -> str:
        """What a run has come to: its steps, its passes over the data, and its last figures."""
        figures = self.kind.progress(last)
        seen = passes_text(last.step, self.training.batch_size, self._examples)
        done = f"{last.step:,} step{'s' * (last.step != 1)} in {duration(last.seconds)}"
        text = f"Trained {done}{f', {seen} over the data' if seen else ''}: {figures}"
        trend = validation_trend(run.course())
        return f"{text}; {trend.sentence}" if trend else text

    @property
    def _examples(self) -> int | None:
        """How many images there are to train on; None for a stream."""
        train = self.images.train
        return len(train) if train.stream is None else None

    def _stopped(self, run: RunDirectory, stop: StopRequest) -> None:
        """Report what was saved, then exit with the signal's code."""
        if run.replaces is not None:
            what = f"before the first checkpoint; the run in {run.replaces} is untouched"
        elif self.trainer.step == 0:
            what = f"before the first step; {run.path} holds no trained model"
        else:
            what = (
                f"at step {self.trainer.step}; the model so far is in {run.path}, and nelbo train "
                f"--resume --out {run.whole.path} goes on with it"
            )
        self.trainer.processes.notice(f"stopped {what}")
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

    def _run_notes(self) -> dict[str, Any]:
        """What nelbo.json records of the run."""
        streamed = self.images.train.stream is not None
        return {
            "source": self.images.source,
            "training_images": None if streamed else len(self.images.train),
            "training_pixels": None if streamed else pixels_digest(self.images.train),
            # A run without this is one from before there was a validation split.
            **({} if self.images.watched == TEST else {"splits": self.images.counts}),
            "parameters": self._parameters,
            "hardware": describe_hardware(self.trainer.device),
            **self._notes,
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


def _where(trainer: Trainer) -> str:
    count = trainer.processes.count
    if trainer.device.type == "cpu":
        threads = torch.get_num_threads()
        place = f"the CPU, {threads} thread{'s' * (threads > 1)}"
    else:
        place = str(trainer.device)
    return f"{place}, {trainer.precision}" + (f", {count} processes" if count > 1 else "")
