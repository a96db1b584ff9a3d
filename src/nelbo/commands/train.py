"""nelbo train: from images to a run with its model, bound, samples and report."""

from __future__ import annotations

import dataclasses
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from nelbo.commands.common import (
    choose_device,
    mention_skipped,
    print_json,
    say,
    training_progress,
)
from nelbo.errors import NelboError
from nelbo.training.config import ModelConfig, TrainingConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    from nelbo.data import ImageData
    from nelbo.diffusion import Diffusion
    from nelbo.training.processes import Processes
    from nelbo.training.run_directory import RunDirectory
    from nelbo.training.stopping import StopRequest
    from nelbo.training.supervisor import Supervisor
    from nelbo.training.trainer import Trainer

# Fields that say what to do now rather than how to train.
_NOT_SAVED = ("out", "overwrite", "resume", "config", "json")
# Fields that a run may go on with another value of.
_MAY_CHANGE = {
    *("device", "threads", "track", "evaluate_levels", "evaluate_images"),
    *("steps", "time_budget", "save_every", "keep_checkpoints", "validate_every"),
    *("gradient_accumulation", "checkpoint_activations", "compile", "shard", "precision"),
}
# Samples that are drawn along with each reading of the bound, and the steps that each takes.
_GRID, _GRID_STEPS = 16, 50


@dataclass(frozen=True)
class Train:
    """Train a diffusion model on images; evaluate its bound, sample, and write a report."""

    data: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")] = None
    """digits, emoji, mnist5k, mnist, fashion_mnist, cifar10, a folder of pictures, a .parquet file,
    or hub:USER/NAME; with --resume or --config, by default what the settings name."""
    out: Path | None = None
    """The run directory to make, or to go on with."""
    overwrite: bool = False
    """Replace a run that is already there, once the new one has its first checkpoint."""
    resume: bool = False
    """Go on with the run in --out from its last checkpoint, with its settings. Beside the length
    of the run, little can be changed."""
    config: Path | None = None
    """Take the settings from the config.yaml of another run; what is given here comes first."""
    size: int | None = None
    """Height and width to cut the pictures of a folder to; 32 by default."""
    channels: int | None = None
    """1 for grey or 3 for colour; by default what the pictures of a folder are."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    evaluate_levels: int | Literal["all"] = 50
    """Levels an image for the bound of the test split in the report: a number, or all."""
    evaluate_images: int = 300
    """At most so many images of each split are evaluated for the report."""
    track: Literal["none", "tensorboard"] = "none"
    """Where to follow training, beside metrics.jsonl: tensorboard needs the extra `tracking`."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, mps."""
    threads: int | None = None
    """CPU threads; by default the faster of one and all is measured, now and then. Fix it, and the
    precision, to repeat a run to the last bit."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> None:
        """Train, evaluate, sample, report."""
        import torch

        from nelbo.data import load_data
        from nelbo.data.sources import absolute
        from nelbo.training.build import build_model, resolve
        from nelbo.training.processes import Processes
        from nelbo.training.trainer import Trainer

        out, source = self._check()
        device = choose_device(self.device)
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        processes = Processes.join(device, sharded=self.training.shard)
        data = load_data(source, "train", size=self.size, channels=self.channels)
        test = load_data(source, "test", size=self.size, channels=data.shape[0])
        if processes.is_main:
            mention_skipped(data, test)
        torch.manual_seed(self.training.seed)
        model = build_model(self.model, data)
        self._check_memory(model, processes)
        trainer = Trainer(model, data, self.training, processes=processes)
        # Settings that do not fit show themselves here, before anything is replaced on disk.
        trainer.rehearse()
        if not self.resume:
            trainer.choose_precision()
        run = self._directory(out, processes)
        # A path is found again from wherever the run is evaluated or resumed.
        where = absolute(source)
        settings = dataclasses.replace(
            self, data=where, channels=data.shape[0], model=resolve(self.model, data)
        )
        if processes.is_main:
            settings.save(run.config)
        finished = self._train(trainer, run, test, where)
        processes.leave()
        if not finished or not processes.is_main:
            return
        from nelbo.commands.finish import finish_run

        summary = finish_run(
            run,
            levels=self.evaluate_levels,
            images=self.evaluate_images,
            seed=self.training.seed,
            device=device,
            train=data,
            test=test,
        )
        if self.json:
            print_json({"run": str(run.path), **summary})
        else:
            say(f"Report: {run.report.resolve().as_uri()}")

    @classmethod
    def defaults(cls, arguments: list[str]) -> Train:
        """What the command starts from: the settings that --resume or --config names, if any."""
        from nelbo.training.settings_file import from_mapping, read_settings

        asked, _ = _peek().parse_known_args(arguments)
        if asked.config is not None:
            file = Path(asked.config)
        elif asked.resume and asked.out is not None:
            file = Path(asked.out) / "config.yaml"
            if not file.is_file():
                raise NelboError(f"{asked.out} holds no run to resume: there is no {file.name}")
        else:
            return cls()
        content = read_settings(file)
        forbidden = [name for name in _NOT_SAVED if name in content]
        if forbidden:
            raise NelboError(f"{file}: {forbidden[0]!r} is given on the command line only")
        return from_mapping(cls, content, str(file))

    def save(self, path: Path) -> None:
        """Write the settings, to be read by --config."""
        from nelbo.training.settings_file import write_settings

        names = [f.name for f in dataclasses.fields(self) if f.name not in _NOT_SAVED]
        write_settings(path, {name: getattr(self, name) for name in names})

    def _check(self) -> tuple[Path, str]:
        self.training.check()
        if self.out is None:
            raise NelboError("--out is missing: give the run directory")
        if self.data is None:
            raise NelboError("DATA is missing: give digits, or a folder of pictures")
        if self.resume and self.overwrite:
            raise NelboError("--resume goes on with a run and --overwrite replaces it: choose one")
        if self.resume and self.config is not None:
            raise NelboError("--resume takes the run's own settings: leave --config out")
        if self.evaluate_images < 1:
            raise NelboError(f"--evaluate-images must be at least 1, got {self.evaluate_images}")
        if self.evaluate_levels != "all" and self.evaluate_levels < 1:
            raise NelboError(f"--evaluate-levels must be at least 1, got {self.evaluate_levels}")
        if self.threads is not None and self.threads < 1:
            raise NelboError(f"--threads must be at least 1, got {self.threads}")
        if self.resume:
            self._check_unchanged(self.out)
        return self.out, self.data

    def _check_unchanged(self, out: Path) -> None:
        """A run cannot go on with settings that would make it another run."""
        before = Train.defaults(["--resume", "--out", str(out)])
        for mine, kept in (
            (self, before),
            (self.training, before.training),
            (self.model, before.model),
        ):
            for name in (f.name for f in dataclasses.fields(mine)):
                value, old = getattr(mine, name), getattr(kept, name)
                if dataclasses.is_dataclass(value) or name in (*_NOT_SAVED, *_MAY_CHANGE):
                    continue
                if value != old:
                    raise NelboError(
                        f"the run in {out} has {name} {old!r}, which cannot change to {value!r} "
                        "halfway: leave it out, or start a new run"
                    )

    def _check_memory(self, model: Diffusion, processes: Processes) -> None:
        from nelbo.training.memory import check_memory, estimate_memory

        training = self.training
        parts = processes.parts(training.batch_size, training.gradient_accumulation)
        images = max(part.stop - part.start for part in parts)
        estimate = estimate_memory(
            model,
            images,
            averages=3 if training.snapshot_every else 1,
            recompute=training.checkpoint_activations,
        )
        check_memory(estimate, processes.device)

    def _directory(self, out: Path, processes: Processes) -> RunDirectory:
        """The run directory, made or opened by the first process."""
        from nelbo.training.run_directory import RunDirectory

        if self.resume:
            run = RunDirectory.open(out)
        elif processes.is_main:
            run = RunDirectory.create(out, overwrite=self.overwrite)
        else:
            run = RunDirectory(out)
        processes.sum([0.0])  # none goes on before the directory is there
        return run

    def _train(self, trainer: Trainer, run: RunDirectory, test: ImageData, source: str) -> bool:
        """Take all steps; False where they were all taken before, and exits if stopped early."""
        from nelbo.training.stopping import StopRequest
        from nelbo.training.supervisor import Supervisor
        from nelbo.training.threads import ThreadTuner
        from nelbo.training.tracking import TensorBoard
        from nelbo.training.validation import Validation

        is_main = trainer.processes.is_main
        tuner = None
        alone = trainer.processes.count == 1
        if trainer.device.type == "cpu" and self.threads is None and alone:
            tuner = ThreadTuner(trainer.rehearse)
            if not self.resume:
                tuner.tune()
        tracker = None
        if self.track == "tensorboard" and is_main:
            tracker = TensorBoard(run.tensorboard)
        parameters = sum(p.numel() for p in trainer.model.parameters())
        with StopRequest() as stop:
            supervisor = Supervisor(
                trainer,
                run,
                self._notes(trainer.data, source, parameters),
                stop,
                validation=Validation(test) if self.training.validate_every else None,
                draw=self._grids(run, tracker, is_main) if self.training.validate_every else None,
                tracker=tracker,
                after_save=tuner.tune_again if tuner else lambda: None,
            )
            if is_main:
                say(
                    f"Training on {len(trainer.data)} images of {source}, shape "
                    f"{trainer.data.shape}, with {parameters / 1e6:.2f}M parameters on "
                    f"{_where(trainer)}"
                )
            if self.resume:
                for note in supervisor.resume(same_threads=tuner is not None):
                    if is_main:
                        say(note.text)
                if is_main:
                    say(f"Resumed at step {trainer.step}")
            self._follow(supervisor)
        if not supervisor.finished:
            self._stopped(supervisor, run, stop)
        return supervisor.finished

    def _follow(self, supervisor: Supervisor) -> None:
        """Show what happens."""
        from nelbo.training.supervisor import Note

        trainer = supervisor.trainer
        pace = _Pace(trainer.step)
        with training_progress(disable=not trainer.processes.is_main) as progress:
            task = progress.add_task("Training", total=1.0, loss="", bits="", step=0, pace="")
            for event in supervisor.run():
                if isinstance(event, Note):
                    if trainer.processes.is_main:
                        say(event.text)
                    continue
                progress.update(
                    task,
                    completed=event.fraction,
                    step=event.step,
                    loss=f"{event.running_loss:.3f}",
                    bits=f"{event.bits_per_dim:.3f}",
                    pace=pace.at(event.step),
                )

    def _stopped(self, supervisor: Supervisor, run: RunDirectory, stop: StopRequest) -> None:
        """Say where things are, and exit as one does on that signal."""
        trainer = supervisor.trainer
        if trainer.processes.is_main:
            if run.replaces is not None:
                say(f"stopped before the first checkpoint; the run in {run.replaces} is untouched")
            elif trainer.step == 0:
                say(f"stopped before the first step; {run.path} holds no trained model")
            else:
                say(
                    f"stopped at step {trainer.step}; the model so far is in {run.path}, and "
                    f"nelbo train --resume --out {run.path} goes on with it"
                )
        trainer.processes.leave()
        if stop.signal == signal.SIGTERM:
            sys.exit(128 + signal.SIGTERM)
        raise KeyboardInterrupt

    def _grids(
        self, run: RunDirectory, tracker: Any, is_main: bool
    ) -> Callable[[Diffusion, int], None]:
        """What draws a grid of samples for a step, from the same noise each time."""

        def draw(model: Diffusion, step: int) -> None:
            import torch

            from nelbo.commands.sample import all_classes
            from nelbo.diffusion import Pixels
            from nelbo.report.grids import image_grid, save_image
            from nelbo.samplers import DDIM

            assert isinstance(model.data, Pixels)
            condition = all_classes(model, _GRID)
            device = next(model.parameters()).device
            samples = model.sample(
                _GRID,
                DDIM(min(_GRID_STEPS, model.num_levels), spacing="trailing"),
                condition=None if condition is None else condition.to(device),
                generator=torch.Generator().manual_seed(self.training.seed),
            )
            if not is_main:
                return
            grid = image_grid(model.data.to_levels(samples).byte().cpu(), model.data.levels)
            save_image(grid, run.samples / f"step-{step:06d}.png")
            if tracker is not None:
                tracker.picture("samples", grid, step)

        return draw

    def _notes(self, data: ImageData, source: str, parameters: int) -> dict[str, Any]:
        return {
            "source": source,
            "training_images": len(data),
            "label_names": list(data.label_names) if self.model.class_conditional else [],
            "parameters": parameters,
            "settings": {
                "training": dataclasses.asdict(self.training),
                "model": dataclasses.asdict(self.model),
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


def _peek() -> Any:
    """A parser of the few options that decide which settings the others are added to."""
    import argparse

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    parser.add_argument("--out")
    parser.add_argument("--resume", action="store_true")
    return parser


def _where(trainer: Trainer) -> str:
    count = trainer.processes.count
    if trainer.device.type == "cpu":
        import torch

        threads = torch.get_num_threads()
        place = f"the CPU, {threads} thread{'s' * (threads > 1)}"
    else:
        place = str(trainer.device)
    return f"{place}, {trainer.precision}" + (f", {count} processes" if count > 1 else "")
