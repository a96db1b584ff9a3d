"""A run on disk around the training loop: checkpoints, metrics, validation, and going back.

Like the loop it is a generator; it yields each `Step`, and a line on what the user should know.
"""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from nelbo.base.errors import NelboError, UnwritableError
from nelbo.base.suggestions import listed
from nelbo.data.splits import TEST, TRAIN
from nelbo.data.splits import VALIDATION as FOR_VALIDATION
from nelbo.report.grids import save_image
from nelbo.runs.checkpoints import VALIDATION, Checkpoint, Checkpoints
from nelbo.runs.run_directory import RunDirectory
from nelbo.training.config import parse_duration
from nelbo.training.kinds.kind import Kind
from nelbo.training.order import changed_images
from nelbo.training.readings import Readings
from nelbo.training.rehearsal import choose_precision
from nelbo.training.snapshots import forget_snapshots_after, save_snapshot
from nelbo.training.state import averaged, restore, state_of
from nelbo.training.stopping import StopRequest
from nelbo.training.tracking import TensorBoard
from nelbo.training.trainer import DivergedError, Step, Trainer

# Steps between two lines of metrics.jsonl.
_LOG_EVERY = 10
# The learning rate after going back, as a share of what it was.
_LOWER_RATE = 0.5
# The advantage in bits/dim for which an earlier checkpoint is reported.
_CLEARLY = 0.01
# What a checkpoint calls the keys of the images of each split, and what it calls these images.
_KEYS = {TRAIN: "keys", FOR_VALIDATION: "validation", TEST: "held_out"}
_IMAGES = {
    TRAIN: "the images are not those that the run was trained on",
    FOR_VALIDATION: "the validation images are not those of before",
    TEST: "the test images are not those of before",
}


@contextmanager
def _resumable() -> Iterator[None]:
    """What cannot be written beside the checkpoints is said with the way to go on."""
    try:
        yield
    except UnwritableError as error:
        raise NelboError(f"{error}; --resume goes on from the last checkpoint") from error


class Supervisor:
    """Trains into a run directory.

    Args:
        trainer: the loop.
        kind: saves, reads and pictures the averaged model.
        run: where to.
        notes: what nelbo.json records of the run.
        stop: asked whether to end early.
        tracker: where metrics go beside metrics.jsonl.
        held_out: `ImageData.keys` of the images that the bound is read on, (N, 2) int64, by their
            split, to notice where they have changed when the run is resumed.

    Attributes:
        finished: whether all steps were taken.
    """

    def __init__(
        self,
        trainer: Trainer,
        kind: Kind,
        run: RunDirectory,
        notes: Mapping[str, Any],
        stop: StopRequest,
        *,
        tracker: TensorBoard | None = None,
        held_out: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.trainer = trainer
        self.kind = kind
        self.run_directory = run
        self.notes = notes
        self.stop = stop
        self.tracker = tracker
        self.held_out = dict(held_out or {})
        self.finished = False
        self._is_main = trainer.processes.is_main
        self._best = float("inf")
        self._validated: tuple[int, float] | None = None
        self._readings = Readings()
        # Not read from the disk: there one process may be ahead of another.
        self._saved_step: int | None = None

    @property
    def checkpoints(self) -> Checkpoints:
        """Where the state goes."""
        keep = self.trainer.config.keep_checkpoints
        return Checkpoints(self.run_directory.training, keep)

    def resume(self, *, same_threads: bool = False, accept_changed_data: bool = False) -> list[str]:
        """Restore the newest checkpoint that is whole; notes on what was found.

        A run that was killed before its first checkpoint begins again.

        Args:
            same_threads: also compute with as many threads as then.
            accept_changed_data: go on although the images are not those of before.

        Raises:
            NelboError: no checkpoint is whole, or the images or their classes have changed.
        """
        if not self.checkpoints.steps():
            choose_precision(self.trainer)
            return ["the run has no checkpoint yet and begins again"]
        checkpoint, problems = self.checkpoints.newest()
        notes = [f"a damaged checkpoint is passed over: {problem}" for problem in problems]
        if checkpoint is None:
            damaged = f": {'; '.join(problems)}" if problems else ""
            raise NelboError(
                f"{self.run_directory.training} holds no whole checkpoint to go on from{damaged}"
            )
        if same_threads:
            torch.set_num_threads(checkpoint.progress["threads"])
        self._check_classes()
        notes += self._changes(checkpoint)
        notes += self._changed_data(checkpoint, accept_changed_data)
        self._go_to(checkpoint)
        # What is there may be of an earlier step, or damaged.
        self._save_model()
        return notes

    def run(self) -> Iterator[Step | str]:
        """Train, saving now and then, until the end or until asked to stop.

        Raises:
            DivergedError: training diverged again after going back with a lower learning rate.
        """
        if self.trainer.step == 0:
            self._save()
        while True:
            try:
                yield from self._steps()
                break
            except DivergedError as error:
                yield self._go_back(error)
        self.finished = self.trainer.fraction >= 1.0
        self._end()
        if self.finished and (better := self._better()):
            yield better
        if self.tracker is not None:
            self.tracker.close()

    def _steps(self) -> Iterator[Step]:
        config = self.trainer.config
        save_every, saved = parse_duration(config.save_every), self.trainer.seconds
        for step in self.trainer.run(self.stop):
            row, improved = dataclasses.asdict(step), False
            if config.validate_every and step.step % config.validate_every == 0:
                row |= self._validate(step)
                # What is exploding is not saved, so that it cannot be the best that is kept.
                improved = row[VALIDATION] < self._best and not self.trainer.watch.suspicious
                if improved:
                    self._best = row[VALIDATION]
            if step.step % _LOG_EVERY == 0 or step.fraction == 1.0 or VALIDATION in row:
                self._log(row)
            if config.snapshot_every and step.step % config.snapshot_every == 0:
                self._snapshot()
            yield step
            due = step.seconds - saved > save_every
            if (due or improved) and not self.trainer.watch.suspicious and step.fraction < 1.0:
                self._save()
                saved = step.seconds

    def _log(self, row: Mapping[str, Any]) -> None:
        if self._is_main:
            self.run_directory.metrics.append(row)
            if self.tracker is not None:
                self.tracker.row(row)

    def _validate(self, step: Step) -> dict[str, float]:
        """Read the bound of held-out images, and draw a grid; the figures for metrics.jsonl."""
        model, bits, figures = self.trainer.average.model, 0.0, dict[str, float]()
        if self.trainer.processes.takes_part:
            each = self.kind.reading(model)
            bits = each.mean().item()
            figures = self.kind.of_reading(model, each) | self._readings.change(step, each)
            self._picture(self.kind.picture(model, self.trainer.config.seed), step.step)
        # Every process goes by what the first one read.
        bits = self.trainer.processes.of_first(bits)
        self._validated = step.step, bits
        return {VALIDATION: bits, **figures}

    def _picture(self, grid: Image, step: int) -> None:
        if self._is_main:
            save_image(grid, self.run_directory.grid_of(step))
            if self.tracker is not None:
                self.tracker.picture("samples", grid, step)

    def _snapshot(self) -> None:
        assert self.trainer.power_averages is not None
        averages = self.trainer.power_averages.named()
        if self._is_main:
            with _resumable():
                save_snapshot(self.run_directory.training, self.trainer.step, averages)

    def _save(self) -> None:
        """A checkpoint, then the model of the run; the checkpoint is what a run resumes from."""
        state = state_of(self.trainer)
        step, bits = self._validated or (None, None)
        validation = {VALIDATION: bits if step == state.step else None, "best": self._best}
        progress = {**state.progress, **validation}
        if self._is_main:
            tensors = dict(state.tensors)
            if self.held_out:
                keys = {_KEYS[split]: keys for split, keys in self.held_out.items()}
                tensors["data"] = {**tensors.get("data", {}), **keys}
            self.checkpoints.save(Checkpoint(state.step, tensors, progress))
        self._saved_step = state.step
        self._save_model()
        if state.step > 0:
            self.run_directory.establish(move=self._is_main)

    def _save_model(self) -> None:
        model = averaged(self.trainer)
        if self._is_main:
            trained: dict[str, Any] = {
                "steps": self.trainer.step,
                "seconds": round(self.trainer.seconds, 1),
                "precision": self.trainer.precision,
            }
            if self.trainer.device.type == "cpu":
                trained["threads"] = torch.get_num_threads()
            run = self.run_directory.path
            with _resumable():
                self.kind.save(model, run, {**self.notes, "trained": trained})

    def _end(self) -> None:
        """Save, unless that would replace an old run with one stopped in its first moments."""
        hasty = not self.finished and self.stop.signal == signal.SIGINT
        if self.run_directory.replaces is not None and hasty:
            if self._is_main:
                self.run_directory.abandon()
            return
        if self.trainer.step != self._saved_step:
            self._save()

    def _better(self) -> str | None:
        """That an earlier checkpoint has a better validation bound, where it clearly has."""
        step = self.checkpoints.best()
        if step is None or self._validated is None or self._validated[1] < self._best + _CLEARLY:
            return None
        run = self.run_directory.path
        text = (
            f"the validation bound was lowest after step {step}, {self._best:.3f} bits/dim, and is "
            f"{self._validated[1]:.3f} now; that checkpoint is kept"
        )
        if self.kind.exports:
            text += f", and nelbo export {run} --checkpoint best --out DIR makes a model of it"
        return text

    def _go_back(self, error: DivergedError) -> str:
        kept = f"{self.run_directory.path} keeps the model saved last, of step"
        if self.trainer.rate_scale < 1.0:
            step = self.run_directory.notes.get("trained", {}).get("steps", 0)
            raise DivergedError(
                f"{error}. It was the second time, after going back to a checkpoint. {kept} {step}"
            ) from error
        seconds = self.trainer.seconds
        checkpoint, _ = self.checkpoints.newest()
        if checkpoint is None:
            raise error
        self._go_to(checkpoint)
        # What is lost of a time budget stays lost.
        self.trainer.seconds = seconds
        self.trainer.rate_scale *= _LOWER_RATE
        return (
            f"{str(error).partition(';')[0]}; going back to the checkpoint of step "
            f"{checkpoint.step} with {_LOWER_RATE:g} of the learning rate"
        )

    def _go_to(self, checkpoint: Checkpoint) -> None:
        restore(self.trainer, checkpoint)
        self._saved_step = checkpoint.step
        self._best = checkpoint.progress["best"]
        if self._is_main:
            self.checkpoints.discard_after(checkpoint.step)
            self.run_directory.metrics.forget_after(checkpoint.step)
            self.run_directory.readings.forget_after(checkpoint.step)
            forget_snapshots_after(self.run_directory.training, checkpoint.step)
            if self.tracker is not None:
                self.tracker.forget_after(checkpoint.step)

    def _check_classes(self) -> None:
        """Raise `NelboError` where a label is no longer the class that it was."""
        before, now = (
            list(map(str, notes.get("label_names") or ()))
            for notes in (self.run_directory.whole_notes, self.notes)
        )
        if before and now != before:
            run = self.run_directory.path
            raise NelboError(
                f"{run} was trained on the classes {listed(before)}, and the images now have "
                f"{listed(now) or 'none'}, in which a number is another class: put the classes "
                f"back, or train a new run with --start-from {run} --start-classes new"
            )

    def _changed_data(self, checkpoint: Checkpoint, accept: bool) -> list[str]:
        before = checkpoint.tensors.get("data", {})
        found = []
        for split, now in {TRAIN: self.trainer.task.keys, **self.held_out}.items():
            kind, what = _KEYS[split], _IMAGES[split]
            if kind in before and now is not None:
                changes = changed_images(before[kind], now)
                found += [] if changes is None else [f"{what}: {changes}"]
        if found and not accept:
            raise NelboError(
                f"{'; '.join(found)}. Put them back, or go on with what is there now by "
                "--accept-changed-data"
            )
        return [f"{what}; it goes on with what is there now" for what in found]

    def _changes(self, checkpoint: Checkpoint) -> list[str]:
        """What differs from before, so that the steps to come differ in their last digits."""
        here = {
            "threads": torch.get_num_threads(),
            "processes": self.trainer.processes.count,
            "precision": self.trainer.precision,
        }
        auto = self.trainer.config.precision == "auto"
        return [
            (
                f"the run had {name} {checkpoint.progress[name]} and goes on with {value}: the "
                "result will differ in its last digits from that of an unbroken run"
            )
            for name, value in here.items()
            if value != checkpoint.progress[name] and not (name == "precision" and auto)
        ]
