"""nelbo train: from images to a run with its model, bound, samples and report."""

from __future__ import annotations

import dataclasses
import signal
import sys
import time
from abc import ABC, abstractmethod
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
from nelbo.training.config import (
    AutoencoderSettings,
    LatentSettings,
    ModelConfig,
    TrainingConfig,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from nelbo.commands.recipe import Recipe
    from nelbo.data import ImageData
    from nelbo.training.processes import Processes
    from nelbo.training.run_directory import RunDirectory
    from nelbo.training.stopping import StopRequest
    from nelbo.training.supervisor import Supervisor
    from nelbo.training.trainer import Trainer

# Fields that say what to do now rather than how to train.
_NOT_SAVED = ("out", "overwrite", "resume", "accept_changed_data", "config", "json")
# Fields that a run may go on with another value of.
_MAY_CHANGE = {
    *("device", "threads", "track", "evaluate_levels", "evaluate_images"),
    *("steps", "time_budget", "save_every", "keep_checkpoints", "validate_every"),
    *("gradient_accumulation", "checkpoint_activations", "compile", "shard", "precision"),
}


@dataclass(frozen=True)
class TrainCommand(ABC):
    """Train a model on images; evaluate its bound, sample, and write a report."""

    data: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")] = None
    """digits, emoji, mnist5k, mnist, fashion_mnist, cifar10, a folder of pictures, a .parquet file,
    or hub:USER/NAME; with --resume or --config, by default what the settings name."""
    kind: Annotated[Literal["pixel", "autoencoder", "latent"], tyro.conf.arg(name="model")] = (
        "pixel"
    )
    """What to train: pixel, a diffusion model of the images; autoencoder; or latent, a diffusion
    model of the latents of an --autoencoder. Each has options of its own: --model latent --help."""
    out: Path | None = None
    """The run directory to make, or to go on with."""
    overwrite: bool = False
    """Replace a run that is already there, once the new one has its first checkpoint."""
    resume: bool = False
    """Go on with the run in --out from its last checkpoint, with its settings. Beside the length
    of the run, little can be changed."""
    accept_changed_data: bool = False
    """Resume although images were added or removed since the run was stopped."""
    config: Path | None = None
    """Take the settings from the config.yaml of another run; what is given here comes first."""
    size: int | None = None
    """Height and width to cut the pictures of a folder to; 32 by default."""
    channels: int | None = None
    """1 for grey or 3 for colour; by default what the pictures of a folder are."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
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
        recipe = self.recipe(data, test, processes.device)
        recipe.check_memory(self.training, processes)
        trainer = Trainer(recipe.model, recipe.data, self.training, processes=processes)
        # Settings that do not fit show themselves here, before anything is replaced on disk.
        trainer.rehearse()
        if not self.resume:
            trainer.choose_precision()
        run = self._directory(out, processes)
        # A path is found again from wherever the run is evaluated or resumed.
        where = absolute(source)
        settings = dataclasses.replace(
            self,
            data=where,
            channels=data.shape[0],
            model=recipe.settings,  # type: ignore[call-arg]  # every kind has its own
            **self._paths(),
        )
        if processes.is_main:
            settings.save(run.config)
        finished = self._train(trainer, run, recipe, data, where)
        processes.leave()
        if not finished or not processes.is_main:
            return
        summary = recipe.finish(
            run,
            levels=self.evaluate_levels,
            images=self.evaluate_images,
            seed=self.training.seed,
            device=device,
        )
        if self.json:
            print_json({"run": str(run.path), **summary})
        elif "report" in summary:
            say(f"Report: {run.report.resolve().as_uri()}")
        else:
            say(f"Run: {run.path}")

    @abstractmethod
    def recipe(self, data: ImageData, test: ImageData, device: torch.device) -> Recipe:
        """What this kind of model adds.

        Raises:
            NelboError: settings that do not fit together or the images.
        """

    def _paths(self) -> dict[str, Any]:
        """Settings that are paths, as they are found again from another directory."""
        return {}

    @classmethod
    def defaults(cls, arguments: list[str]) -> TrainCommand:
        """What the command starts from: the kind of model that --model names, with the settings
        that --resume or --config names, if any."""
        from nelbo.training.settings_file import from_mapping, read_settings

        asked, _ = _peek().parse_known_args(arguments)
        if asked.config is not None:
            file = Path(asked.config)
        elif asked.resume and asked.out is not None:
            file = Path(asked.out) / "config.yaml"
            if not file.is_file():
                raise NelboError(f"{asked.out} holds no run to resume: there is no {file.name}")
        else:
            return command_for(asked.model)()
        content = read_settings(file)
        kind = command_for(content.get("kind", asked.model))
        if asked.model is not None and asked.model != kind.kind:
            raise NelboError(f"{file} is of a model {kind.kind}: leave --model out")
        forbidden = [name for name in _NOT_SAVED if name in content]
        if forbidden:
            raise NelboError(f"{file}: {forbidden[0]!r} is given on the command line only")
        if isinstance(content.get("training"), dict):
            # What is left out is as this kind of model has it.
            content["training"] = dataclasses.asdict(kind().training) | content["training"]
        return from_mapping(kind, content, str(file))

    def save(self, path: Path) -> None:
        """Write the settings, to be read by --config."""
        from nelbo.training.settings_file import write_settings

        names = [f.name for f in dataclasses.fields(self) if f.name not in _NOT_SAVED]
        write_settings(path, {name: getattr(self, name) for name in names})

    def _check(self) -> tuple[Path, str]:
        from nelbo.training.run_directory import RunDirectory

        self.training.check()
        if self.out is None:
            raise NelboError("--out is missing: give the run directory")
        if self.data is None:
            raise NelboError("DATA is missing: give digits, another data set, or a folder")
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
        else:
            RunDirectory.check_free(self.out, overwrite=self.overwrite)
        return self.out, self.data

    def _check_unchanged(self, out: Path) -> None:
        """A run cannot go on with settings that would make it another run."""
        from nelbo.training.checkpoints import Checkpoints
        from nelbo.training.run_directory import RunDirectory

        before = TrainCommand.defaults(["--resume", "--out", str(out)])
        done = max(Checkpoints(RunDirectory(out).training).steps(), default=0)
        if self.training.steps is not None and self.training.steps < done:
            raise NelboError(
                f"the run in {out} has taken {done} steps already, which is more than --steps "
                f"{self.training.steps}"
            )
        groups = [(self, before)] + [
            (getattr(self, name), getattr(before, name)) for name in ("training", "model")
        ]
        for mine, kept in groups:
            for name in (f.name for f in dataclasses.fields(mine)):
                value, old = getattr(mine, name), getattr(kept, name)
                if dataclasses.is_dataclass(value) or name in (*_NOT_SAVED, *_MAY_CHANGE):
                    continue
                if value != old:
                    raise NelboError(
                        f"the run in {out} has {name} {old!r}, which cannot change to {value!r} "
                        "halfway: leave it out, or start a new run"
                    )

    def _directory(self, out: Path, processes: Processes) -> RunDirectory:
        """The run directory, made or opened by the first process."""
        from nelbo.training.run_directory import RunDirectory

        if not processes.is_main:
            run = RunDirectory(out)
        elif self.resume:
            run = RunDirectory.reopen(out)
        else:
            run = RunDirectory.create(out, overwrite=self.overwrite)
        processes.sum([0.0])  # none goes on before the directory is there
        return run

    def _train(
        self,
        trainer: Trainer[Any],
        run: RunDirectory,
        recipe: Recipe,
        data: ImageData,
        source: str,
    ) -> bool:
        """Take all steps; False where they were all taken before, and exits if stopped early."""
        from nelbo.training.stopping import StopRequest
        from nelbo.training.supervisor import Supervisor
        from nelbo.training.threads import ThreadTuner
        from nelbo.training.tracking import TensorBoard

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
        validates = bool(self.training.validate_every)
        with StopRequest() as stop:
            supervisor = Supervisor(
                trainer,
                run,
                self._notes(recipe, data, source, parameters),
                stop,
                validation=recipe.validation if validates else None,
                draw=self._grids(run, recipe, tracker, is_main) if validates else None,
                save=recipe.save,
                tracker=tracker,
                after_save=tuner.tune_again if tuner else lambda: None,
            )
            if is_main:
                amount = f"{len(data)} images" if data.stream is None else "a stream"
                say(
                    f"Training on {amount} of {source}, shape "
                    f"{data.shape}, with {parameters / 1e6:.2f}M parameters on "
                    f"{_where(trainer)}"
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
        self, run: RunDirectory, recipe: Recipe, tracker: Any, is_main: bool
    ) -> Callable[[Any, int], None]:
        """What draws the grid of a step."""

        def draw(model: Any, step: int) -> None:
            from nelbo.report.grids import save_image

            grid = recipe.picture(model, self.training.seed)
            if not is_main:
                return
            save_image(grid, run.samples / f"step-{step:06d}.png")
            if tracker is not None:
                tracker.picture("samples", grid, step)

        return draw

    def _notes(
        self, recipe: Recipe, data: ImageData, source: str, parameters: int
    ) -> dict[str, Any]:
        return {
            "source": source,
            "training_images": len(data) if data.stream is None else None,
            "label_names": list(recipe.label_names),
            "parameters": parameters,
            "settings": {
                "training": dataclasses.asdict(self.training),
                "model": dataclasses.asdict(recipe.settings),
            },
        }


@dataclass(frozen=True)
class Train(TrainCommand):
    """Train a diffusion model on images; evaluate its bound, sample, and write a report."""

    model: ModelConfig = field(default_factory=ModelConfig)

    def recipe(self, data: ImageData, test: ImageData, device: torch.device) -> Recipe:
        """A model of pixels."""
        from nelbo.commands.pixel_recipe import PixelRecipe

        return PixelRecipe(self.model, data, test)


@dataclass(frozen=True)
class TrainAutoencoder(TrainCommand):
    """Train an autoencoder on images; evaluate it, and draw reconstructions."""

    kind: Annotated[Literal["pixel", "autoencoder", "latent"], tyro.conf.arg(name="model")] = (
        "autoencoder"
    )
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(batch_size=32, ema_decay=0.995)
    )
    model: AutoencoderSettings = field(default_factory=AutoencoderSettings)

    def recipe(self, data: ImageData, test: ImageData, device: torch.device) -> Recipe:
        """An autoencoder."""
        from nelbo.commands.autoencoder_recipe import AutoencoderRecipe

        return AutoencoderRecipe(self.model, data, test)


@dataclass(frozen=True)
class TrainLatent(TrainCommand):
    """Train a diffusion model of latents, with its text encoder; evaluate its bound, and sample."""

    kind: Annotated[Literal["pixel", "autoencoder", "latent"], tyro.conf.arg(name="model")] = (
        "latent"
    )
    autoencoder: Path | None = None
    """The run of --model autoencoder, or another autoencoder in the format of diffusers, whose
    latents to model; it stays as it is."""
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            objective="simple", learning_rate=1e-3, ema_decay=0.999
        )
    )
    model: LatentSettings = field(default_factory=LatentSettings)

    def recipe(self, data: ImageData, test: ImageData, device: torch.device) -> Recipe:
        """A prior of the latents of the autoencoder, of which the run keeps a copy."""
        from nelbo.commands.latent_recipe import LatentRecipe, read_autoencoder

        if self.autoencoder is None:
            raise NelboError(
                "--autoencoder is missing: train one first, with nelbo train DATA --model "
                "autoencoder --out AE, and give --autoencoder AE"
            )
        own = read_autoencoder(self.out) if self.resume and self.out is not None else None
        autoencoder = own or read_autoencoder(self.autoencoder)
        if autoencoder is None:
            raise NelboError(f"{self.autoencoder} holds no autoencoder: there is no vae/")
        training = self.training
        return LatentRecipe(
            self.model,
            autoencoder.to(device),
            data,
            test,
            objective=training.objective,
            condition_dropout=training.label_dropout,
        )

    def _paths(self) -> dict[str, Any]:
        assert self.autoencoder is not None
        return {"autoencoder": self.autoencoder.resolve()}


def command_for(kind: Any) -> type[TrainCommand]:
    """The command that trains a kind of model; None is the usual one.

    Raises:
        NelboError: there is no such kind.
    """
    kinds = {command.kind: command for command in (Train, TrainAutoencoder, TrainLatent)}
    if kind is not None and kind not in kinds:
        raise NelboError(f"--model must be one of {', '.join(kinds)}, got {kind!r}")
    return kinds[kind or "pixel"]


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
    parser.add_argument("--model")
    parser.add_argument("--resume", action="store_true")
    return parser


def _where(trainer: Trainer[Any]) -> str:
    count = trainer.processes.count
    if trainer.device.type == "cpu":
        import torch

        threads = torch.get_num_threads()
        place = f"the CPU, {threads} thread{'s' * (threads > 1)}"
    else:
        place = str(trainer.device)
    return f"{place}, {trainer.precision}" + (f", {count} processes" if count > 1 else "")
