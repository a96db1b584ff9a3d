"""nelbo train: from images to a run with its model, bound, samples and report."""

from __future__ import annotations

import dataclasses
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
from nelbo.training.config import ModelConfig, TrainingConfig, parse_duration

if TYPE_CHECKING:
    from nelbo.data import ImageData
    from nelbo.training.run_directory import RunDirectory
    from nelbo.training.trainer import Step, Trainer

# Steps between two lines of metrics.jsonl.
_LOG_EVERY = 10


@dataclass(frozen=True)
class Train:
    """Train a diffusion model on images; evaluate its bound, sample, and write a report."""

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """digits, emoji, mnist5k, mnist, fashion_mnist, cifar10, a folder of pictures, a .parquet file,
    or hub:USER/NAME."""
    out: Path
    """The run directory to make."""
    overwrite: bool = False
    """Replace a run that is already there."""
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
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, mps."""
    threads: int | None = None
    """CPU threads; by default the faster of one and all is measured. Fix it to repeat a run to the
    last bit."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> None:
        """Train, evaluate, sample, report."""
        import torch

        from nelbo.data import load_data
        from nelbo.training.build import build_model
        from nelbo.training.run_directory import RunDirectory
        from nelbo.training.threads import use_fastest_threads
        from nelbo.training.trainer import Trainer

        self.training.check()
        if self.evaluate_images < 1:
            raise NelboError(f"--evaluate-images must be at least 1, got {self.evaluate_images}")
        if self.evaluate_levels != "all" and self.evaluate_levels < 1:
            raise NelboError(f"--evaluate-levels must be at least 1, got {self.evaluate_levels}")
        device = choose_device(self.device)
        if self.threads is not None:
            if self.threads < 1:
                raise NelboError(f"--threads must be at least 1, got {self.threads}")
            torch.set_num_threads(self.threads)
        data = load_data(self.data, "train", size=self.size, channels=self.channels)
        test = load_data(self.data, "test", size=self.size, channels=data.shape[0])
        mention_skipped(data, test)
        torch.manual_seed(self.training.seed)
        trainer = Trainer(build_model(self.model, data), data, self.training, device)
        # Settings that do not fit show themselves here, before anything is replaced on disk.
        trainer.rehearse()
        if device.type == "cpu" and self.threads is None:
            use_fastest_threads(trainer.rehearse)
        run = RunDirectory.create(self.out, overwrite=self.overwrite)
        finished = self._train(trainer, run)
        if not finished:
            say(f"stopped early; the model so far is in {run.path}")
            raise KeyboardInterrupt
        from nelbo.commands.evaluate import levels_to_evaluate
        from nelbo.commands.finish import finish

        summary = finish(
            run,
            trainer.average.model,
            train=data,
            test=test,
            levels=levels_to_evaluate(self.evaluate_levels, trainer.model),
            images=self.evaluate_images,
            seed=self.training.seed,
        )
        if self.json:
            print_json({"run": str(run.path), **summary})
        else:
            say(f"Report: {run.report.resolve().as_uri()}")

    def _train(self, trainer: Trainer, run: RunDirectory) -> bool:
        """Take all steps, saving now and then; False if interrupted."""
        from nelbo.training.trainer import DivergedError

        model = trainer.average.model
        parameters = sum(p.numel() for p in model.parameters())
        say(
            f"Training on {len(trainer.data)} images of {trainer.data.source}, shape "
            f"{trainer.data.shape}, with {parameters / 1e6:.2f}M parameters on {_where(trainer)}"
        )
        notes = self._notes(trainer.data, parameters)
        run.save_model(model, notes)
        save_every, saved = parse_duration(self.training.save_every), time.monotonic()
        step = None
        try:
            with training_progress() as progress:
                task = progress.add_task("Training", total=1.0, loss="", bits="", step=0)
                for step in trainer.run():
                    progress.update(
                        task,
                        completed=step.fraction,
                        step=step.step,
                        loss=f"{step.running_loss:.3f}",
                        bits=f"{step.bits_per_dim:.3f}",
                    )
                    if step.step % _LOG_EVERY == 0 or step.fraction == 1.0:
                        run.append_metrics(dataclasses.asdict(step))
                    if time.monotonic() - saved > save_every:
                        run.save_model(model, notes | _progress_notes(step))
                        saved = time.monotonic()
        except KeyboardInterrupt:
            if step is not None:
                run.save_model(model, notes | _progress_notes(step))
            return False
        except DivergedError as error:
            saved_step = run.notes().get("trained", {}).get("steps", 0)
            raise DivergedError(
                f"{error}. {run.path} keeps the model saved last, of step {saved_step}"
            ) from error
        assert step is not None
        run.save_model(model, notes | _progress_notes(step))
        return True

    def _notes(self, data: ImageData, parameters: int) -> dict[str, Any]:
        from nelbo.data.sources import absolute

        return {
            # A path is found again from wherever the run is evaluated.
            "source": absolute(data.source),
            "training_images": len(data),
            "label_names": list(data.label_names) if self.model.class_conditional else [],
            "parameters": parameters,
            "settings": {
                "training": dataclasses.asdict(self.training),
                "model": dataclasses.asdict(self.model),
            },
        }


def _where(trainer: Trainer) -> str:
    if trainer.device.type != "cpu":
        return str(trainer.device)
    import torch

    threads = torch.get_num_threads()
    return f"the CPU, {threads} thread{'s' * (threads > 1)}"


def _progress_notes(step: Step) -> dict[str, Any]:
    return {"trained": {"steps": step.step, "seconds": round(step.seconds, 1)}}
