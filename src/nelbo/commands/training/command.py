"""What the commands that train have in common: their options, and the order of what happens."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import tyro

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
from nelbo.commands.options import at_least_one
from nelbo.data.credits import ORIGIN
from nelbo.data.splits import TEST, TRAIN, VALIDATION
from nelbo.training.config import TrainingConfig

if TYPE_CHECKING:
    import torch

    from nelbo.commands.training.recipe import Recipe
    from nelbo.commands.training.session import TrainingImages, TrainingSession
    from nelbo.data import ImageData
    from nelbo.data.size import Size
    from nelbo.runs.run_directory import RunDirectory
    from nelbo.training.processes import Processes


Kind = Literal["pixel", "autoencoder", "latent"]


@dataclass(frozen=True)
class TrainCommand(ABC):
    """Train a model on images; evaluate its bound, sample, and write a report.

    Attributes:
        trains: the kind of model that this command trains.
        free: settings of the model that can be chosen for a trained one, too.
    """

    data: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")] = None
    """digits, emoji, mnist5k, mnist, fashion_mnist, cifar10, a folder of pictures, a .parquet file,
    or hub:USER/NAME; with --resume or --config, by default what the settings name."""
    trains: ClassVar[Kind]
    free: ClassVar[tuple[str, ...]] = ()
    kind: Annotated[Literal["auto"] | Kind, tyro.conf.arg(name="model")] = "auto"
    """What to train: pixel, a diffusion model of the images; autoencoder; or latent, a diffusion
    model of the latents of an autoencoder. auto is latent for emoji and pixel for other data. Each
    has options of its own: --model latent --help."""
    out: Path | None = None
    """The run directory to make, or to go on with."""
    overwrite: bool = False
    """Replace a run that is already there, once the new one has its first checkpoint."""
    resume: bool = False
    """Go on with the run in --out from its last checkpoint, with its settings. Beside the length
    of the run, little can be changed."""
    accept_changed_data: bool = False
    """Resume although images were added, removed or changed since the run was stopped."""
    config: Path | None = None
    """Take the settings from the config.yaml of another run; what is given here comes first."""
    start_from: str | None = None
    """Begin with the trained weights of this run, pipeline of diffusers or checkpoint that ships
    (its path, name or Hub id) rather than anew; the new run keeps its networks and its chain."""
    start_classes: Literal["same", "new", "none"] = "same"
    """With --start-from, for images of other classes than the model's: new gives it an embedding of
    theirs, where classes of the same name keep what they learned; none takes its classes away."""
    size: int | str | None = None
    """What to cut the pictures of a folder to, 32, or 16x24, height × width; 32 by default."""
    crops: int | None = None
    """Of photographs that are much larger than --size: how many crops at random places each one
    gives to train on, the same ones each time; those for validation and test give one."""
    channels: int | None = None
    """1 for grey or 3 for colour; by default what the pictures of a folder are."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluate_levels: int | Literal["all"] | None = None
    """Levels an image for the bound of the test split in the report: a number, or all, whatever
    time that takes. By default as many as fit into what may follow training: evaluation, samples
    and report together take a fifth of its time, or 20 s."""
    evaluate_images: int | None = None
    """At most so many images of each split are evaluated for the report, whatever time that takes;
    by default as many as fit, or 300 with --evaluate-levels."""
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
        from nelbo.data.sources import with_crops

        if self.crops is not None and self.data is not None:
            # From here on the source says it, and every command that reads the run.
            cropped = with_crops(self.data, self.crops)
            dataclasses.replace(self, data=cropped, crops=None).run()
            return
        out, source = self._check()
        # Before anything is made that a name may then stand for.
        dataclasses.replace(self, **self._paths())._run(out, source)

    def _run(self, out: Path, source: str) -> None:
        import torch

        from nelbo.commands.training.session import TrainingImages
        from nelbo.training.processes import Processes

        self._announce(source)
        device = choose_device(self.device)
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        processes = Processes.join(device, sharded=self.training.shard)
        images = TrainingImages.load(
            source, *self._frame(source), validation=not self._predates_validation(out)
        )
        if processes.is_main:
            self._mention(images)
        run, summary = self._train(out, images, processes)
        if not processes.is_main:
            return
        if self.json:
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
        session.train(run, track=self.track)
        processes.leave()
        return run, self.finish(run, session)

    def session(self, images: TrainingImages, processes: Processes) -> TrainingSession:
        """What trains this kind of model; nothing is written.

        Raises:
            NelboError: settings that do not fit together or the images.
        """
        import torch

        from nelbo.commands.training.session import TrainingSession
        from nelbo.commands.training.start_from import fit_classes
        from nelbo.diffusion.objectives import check_objective
        from nelbo.training.balance import balanced_weights

        # First what would be refused after the images have been encoded.
        weights = balanced_weights(images.train, self.training.balance, self.training.balance_power)
        if self.trains != "autoencoder":
            check_objective(self.training.objective, self.training.level_shift)
            if self.start_from is not None:
                fit_classes(self._start, self.starting_model, images.train, self.start_classes)
        torch.manual_seed(self.training.seed)
        recipe = self.recipe(images, processes.device)
        if self.start_from is not None:
            chosen = {name: getattr(recipe.settings, name) for name in self.free}
            recipe.noted = {"start_from": self.start_from, **chosen}
            recipe.origin = self._origin()
        return TrainingSession(
            recipe,
            images,
            self.training,
            processes,
            weights=weights,
            threads=self.threads,
            resume=self.resume,
            accept_changed_data=self.accept_changed_data,
        )

    def save_settings(self, run: RunDirectory, images: TrainingImages, model: Any) -> None:
        """Write config.yaml, with what was left to the data filled in.

        Args:
            run: where to.
            images: what is trained on.
            model: the settings of the model.
        """
        from nelbo.commands.training.settings import save_command

        settings = dataclasses.replace(
            self,
            kind=self.trains,
            data=images.source,
            channels=images.train.shape[0],
            model=model,  # type: ignore[call-arg]  # every kind has its own
        )
        save_command(settings, run.config)

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
        from nelbo.commands.training.allowance import allowed_seconds, told_where
        from nelbo.commands.training.refinement import Asked

        with told_where(run):
            return session.recipe.finish(
                run,
                asked=Asked(self.evaluate_levels, self.evaluate_images),
                seconds=allowed_seconds(session.trainer.seconds, share_of_least),
                seed=self.training.seed,
                device=session.trainer.device,
                table_to=results_to(self.json),
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
        from nelbo.commands.training.start_from import starting_model

        return starting_model(self._start, self.trains)

    @cached_property
    def _start(self) -> str:
        """Where the model is that --start-from names or, on resuming, what has become of it.

        What was killed while its first model was written has none yet.
        """
        from nelbo.commands.training.start_from import kind_at

        assert self.start_from is not None
        own = None if self.out is None else str(self.out.resolve())
        if self.resume and own is not None and kind_at(own) == self.trains:
            return own
        return self.start_from

    def _origin(self) -> dict[str, Any]:
        """What is remembered of the model that --start-from names."""
        from nelbo.commands.training.start_from import origin_of
        from nelbo.runs.run_directory import RunDirectory

        assert self.start_from is not None
        if self.resume and self.out is not None:
            kept = RunDirectory(self.out).notes().get(ORIGIN)
            if kept is not None:
                return kept
        return origin_of(self.start_from)

    def _frame(self, source: str) -> tuple[int | str | Size | None, int | None]:
        """The size and channels to cut the images to: as asked, or as a trained model has them."""
        from nelbo.commands.training.start_from import frame_of
        from nelbo.data.sources import FIXED_SIZE

        if self.start_from is None or source in FIXED_SIZE:
            return self.size, self.channels
        size, channels = frame_of(self.starting_model)
        return self.size or size, self.channels or channels

    def _paths(self) -> dict[str, Any]:
        """Settings that are paths, as they are found again from another directory."""
        start = self.start_from
        if start is None or not Path(start).exists():  # the name of a checkpoint, or a Hub id
            return {}
        return {"start_from": str(Path(start).resolve())}

    def _announce(self, source: str) -> None:
        """Say what was chosen, where it was left to the data."""
        if self.kind == "auto" and self.trains == "latent" and self.start_from is None:
            say(
                f"{source} has captions: training a diffusion model of latents that is told of "
                "them (--model latent); --model pixel trains one of pixels"
            )

    def _mention(self, images: TrainingImages) -> None:
        """Say what is trained on, and what of the data is not used."""
        if self.start_from is not None:
            say(f"Training on from the model of {self.start_from} (--model {self.trains})")
        mention_skipped(images.train, images.validation, images.test)
        mention_duplicates(images.reported)
        self._mention_splits(images)
        if self.kind == "auto" and self.trains == "pixel" and images.train.has_captions:
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
        if self.start_from is None or self.trains == "autoencoder" or self.start_classes != "same":
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
        if self.training.validate_every and images.watched != VALIDATION:
            told = {
                TEST: "test images, as it began: the bound of its best checkpoint on them is an "
                "optimistic one",
                TRAIN: f"the images that it trains on, for {images.source} is too small for a "
                "validation split",
            }
            say(f"--validate-every reads {told[images.watched]}")

    def _predates_validation(self, out: Path) -> bool:
        """Whether the run to go on with was begun before there was a validation split."""
        from nelbo.runs.run_directory import AUTOENCODER_RUN, RunDirectory

        if not self.resume:
            return False
        run = RunDirectory(out)
        try:
            return any(one.predates_validation for one in (run, run.stage(AUTOENCODER_RUN)))
        except NelboError:
            # Its nelbo.json is damaged, which going on writes anew. Other images than those that
            # its checkpoint has learned from are refused later.
            return False

    def _check(self) -> tuple[Path, str]:
        from nelbo.runs.run_directory import RunDirectory

        self.training.check()
        self.model.check()  # type: ignore[attr-defined]  # every kind has its own
        at_least_one(evaluate_images=self.evaluate_images, threads=self.threads)
        if self.out is None:
            raise NelboError("--out is missing: give the run directory")
        if self.data is None:
            raise NelboError("DATA is missing: give digits, another data set, or a folder")
        if self.resume and self.overwrite:
            raise NelboError("--resume goes on with a run and --overwrite replaces it: choose one")
        if self.resume and self.config is not None:
            raise NelboError("--resume takes the run's own settings: leave --config out")
        if self.start_from is None and self.start_classes != "same":
            raise NelboError("--start-classes takes effect with --start-from only")
        if self.trains == "autoencoder" and self.start_classes != "same":
            raise NelboError("--start-classes: an autoencoder has no classes")
        if self.start_from is not None:
            from nelbo.commands.training.start_from import check_settings
            from nelbo.data.sources import check_source

            # Every kind has a field of its own for the model.
            mine, usual = (each.model for each in (self, type(self)()))  # type: ignore[attr-defined]
            check_settings(mine, usual, self.free)
            check_source(self.data, "train")  # before a large model is read
        levels = None if self.evaluate_levels == "all" else self.evaluate_levels
        at_least_one(
            evaluate_images=self.evaluate_images, evaluate_levels=levels, threads=self.threads
        )
        if self.resume:
            self._check_unchanged(self.out)
        else:
            RunDirectory.check_free(self.out, overwrite=self.overwrite)
        return self.out, self.data

    def _check_unchanged(self, out: Path) -> None:
        from nelbo.commands.training.settings import check_unchanged, parse_command
        from nelbo.data.sources import absolute
        from nelbo.runs.run_directory import RunDirectory
        from nelbo.runs.settings_file import read_settings

        run = RunDirectory(out)
        before = parse_command(type(self), read_settings(run.config), run.config)
        assert self.data is not None
        # As they are kept.
        mine = dataclasses.replace(self, data=absolute(self.data), **self._paths())
        check_unchanged(mine, before, run)

    def _directory(self, out: Path, processes: Processes) -> RunDirectory:
        """The run directory, made or opened by the first process."""
        from nelbo.runs.run_directory import RunDirectory

        run = None
        if processes.is_main and self.resume:
            run = RunDirectory.reopen(out)
        elif processes.is_main:
            run = RunDirectory.create(out, overwrite=self.overwrite)
        processes.sum([0.0])  # none goes on before the directory is there
        return run or RunDirectory.join(out)
