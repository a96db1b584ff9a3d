"""A kind of model: how one is built, trained, saved, pictured and reported.

The loop, the supervisor and `nelbo train` ask a `Kind` and know none of them.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL.Image import Image
from rich.console import Console
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.data import ImageData
from nelbo.data.credits import ORIGIN
from nelbo.data.size import Size
from nelbo.evidence.inputs import check_images_fit
from nelbo.formats import load
from nelbo.formats.pipeline import Pipeline
from nelbo.runs.run_directory import RunDirectory
from nelbo.training.images import TrainingImages
from nelbo.training.kinds.final_samples import STEPS, FinalSamples
from nelbo.training.kinds.refinement import Asked
from nelbo.training.options import TrainOptions
from nelbo.training.processes import Processes
from nelbo.training.task import Task
from nelbo.training.trainer import Step
from nelbo.training.validation import IMAGES, Validation

# Samples of a grid during training, by the time there is, and the steps of each.
GRIDS, _STEPS = (16, 9, 4), 12


@dataclass(frozen=True)
class Start:
    """A trained model that a run begins with.

    Attributes:
        path: where it is: what the run names or, on resuming, the run itself.
        model: as its kind reads it to train on.
        origin: what the run records of it: whose images made it, and under which licence it stands.
        resumed: whether it is what has become of it in the run.
    """

    path: str
    model: Any
    origin: dict[str, Any]
    resumed: bool


@dataclass(frozen=True)
class Stage:
    """A part of a run that trains one model.

    Attributes:
        options: what is asked for.
        whole: the options of the run that this is a stage of; `options` where it is all of it.
        name: of the run within the run's directory that this stage is, "" for the run itself.
        title: what the progress bar shows.
        about: a line for the user as it begins; "" for none.
        share: its part of the least time for evaluation, samples and report.
    """

    options: TrainOptions
    whole: TrainOptions
    name: str = ""
    title: str = "Training"
    about: str = ""
    share: float = 1.0


@dataclass(frozen=True)
class Ending:
    """What to evaluate a finished run on, and how.

    Attributes:
        train: the images that it was trained on.
        test: the images to report on.
        for_fits: the images that a few numbers of the trained model are fitted to.
        asked: what of the evaluation is asked for by number.
        samples: what to draw.
        seconds: about how long all of it may take, beside what is asked for by number.
        seed: source of all noise.
        table_to: where to print the figures.
        coded: how many test images to code coarse to fine, for a curve of rate and distortion.
    """

    train: ImageData
    test: ImageData
    for_fits: ImageData
    asked: Asked
    samples: FinalSamples
    seconds: float
    seed: int
    table_to: Console
    coded: int = 0


class Kind(ABC):
    """A model to train, of one kind.

    Args:
        options: what is asked for.
        images: what it is trained, chosen and reported on.
        device: where to compute.
        start: the trained model to begin with, if any.

    Attributes:
        name: of the kind.
        draws: whether its models draw samples.
        fits: whether a report fits numbers of the trained model.
        exports: whether `nelbo export` makes a model of a checkpoint.
        options: what is asked for, with what it leaves to the data filled in.
        task: what the loop trains.
        validation: what `reading` reads the bound of.
        label_names: the classes that the model is conditioned on.

    Raises:
        NelboError: settings that do not fit together, the images or the start.
    """

    name: ClassVar[str]
    draws: ClassVar[bool] = True
    fits: ClassVar[bool] = False
    exports: ClassVar[bool] = True
    options: Any
    task: Task
    validation: Validation
    label_names: tuple[str, ...] = ()

    @abstractmethod
    def __init__(
        self,
        options: Any,
        images: TrainingImages,
        device: torch.device,
        start: Start | None = None,
    ) -> None: ...

    # What a run has, before it is built.

    @classmethod
    def is_at(cls, path: Path) -> bool:
        """Whether a model of this kind is in a directory: a pipeline, whose index is written last,
        unless a kind keeps its models otherwise."""
        try:
            pipeline = Pipeline.open(path)
            return pipeline.kind == cls.name and not pipeline.is_controlled
        except NelboError:
            return False

    @classmethod
    def load(cls, path: str | Path) -> Any:
        """The model in a directory, with its `shape` and `data`, as `nelbo.load`.

        Raises:
            NelboError: a file is missing or damaged.
        """
        return load(path)

    @classmethod
    @abstractmethod
    def starting_model(cls, path: str) -> Any:
        """The trained model at a path, name or Hub id, to train on.

        Raises:
            NelboError: as `nelbo.load`, or a model that cannot be trained on.
        """

    @classmethod
    def frame(cls, model: Any) -> tuple[Size | None, int | None]:
        """The size and channels of the images that a starting model is of, where it knows them."""
        if model.shape is None:
            return None, None
        channels, height, width = model.shape
        return (height, width), channels

    @classmethod
    def asked_frame(
        cls, options: Any, start: Start | None
    ) -> tuple[int | str | Size | None, int | None]:
        """The size and channels to cut the images to: as asked, or as a trained model has them."""
        if start is None:
            return options.size, options.channels
        size, channels = cls.frame(start.model)
        return options.size or size, options.channels or channels

    @classmethod
    def stages(
        cls,
        options: Any,
        images: TrainingImages,
        processes: Processes,
        run: RunDirectory,
    ) -> Iterator[Stage]:
        """The parts of a run, one after another; the next is asked for once one is done.

        Args:
            options: what is asked for.
            images: what is trained on.
            processes: who trains.
            run: where to, which exists once the first stage is under way.
        """
        yield Stage(options, options)

    @classmethod
    def announcement(cls, options: Any, source: str) -> str:
        """A line on what was chosen because of the data, before it is read; "" for none."""
        return ""

    @classmethod
    def unused(cls, options: Any, images: TrainingImages, start: Start | None) -> list[str]:
        """Lines on what of the data is not used, and how it would be."""
        return []

    # The loop and the supervisor.

    def whole(self, module: Any) -> Any:
        """The model that the averaged module is, or is a part of."""
        return module

    @abstractmethod
    def save(self, module: Any, directory: Path, notes: Mapping[str, Any]) -> None:
        """Write the averaged module as a model with its notes; each file is replaced as a whole."""

    def reading(self, module: Any, images: int = IMAGES) -> Tensor:
        """The negative bound of each of at most this number of held-out images, (n,), or their
        mean, (1,), bits per dimension; from the same noise each time."""
        return self.validation.each(self.whole(module), images)

    def of_reading(self, module: Any, bits: Tensor) -> dict[str, float]:
        """Further figures of the averaged module and of what its `reading` returned, by their names
        in metrics.jsonl."""
        return {}

    @abstractmethod
    def picture(self, module: Any, seed: int, calls: int | None = None) -> Image:
        """A grid of what the averaged module can do, from the same noise each time.

        Args:
            module: the averaged module.
            seed: of the noise.
            calls: about how many network calls it may take; by default a full grid.
        """

    def progress(self, step: Step) -> str:
        """What is shown of a step while training, with its unit."""
        return f"loss {step.running_loss:.3f} · {step.bits_per_dim:.3f} bits/dim"

    def notes(self, start: Start | None) -> dict[str, Any]:
        """What nelbo.json records of the model."""
        model = dataclasses.asdict(self.options.settings)
        found: dict[str, Any] = {"label_names": list(self.label_names)}
        if start is not None:
            found[ORIGIN] = start.origin
            chosen = {name: model[name] for name in self.options.free}
            model = {"start_from": self.options.start_from, **chosen}
        training = dataclasses.asdict(self.options.training)
        return {**found, "settings": {"training": training, "model": model}}

    # What follows training.

    @classmethod
    def with_weights(cls, model: Any, weights: Mapping[str, Tensor], run: str) -> Any:
        """The model of a run with other values of the weights that training knows by name.

        Raises:
            NelboError: weights of another model.
        """
        raise NelboError(f"{run} is of the kind {cls.name}, whose checkpoints make no model")

    @classmethod
    def check_fits(cls, model: Any, data: ImageData) -> None:
        """Raise `NelboError` unless the images are such as the model is of."""
        check_images_fit(model, data)

    @classmethod
    @abstractmethod
    def report(cls, run: RunDirectory, model: Any, ending: Ending) -> dict[str, Any]:
        """Evaluate the model of a run, print its figures, and write evaluation.json, samples/ and
        report.html.

        Args:
            run: what was trained.
            model: its model, on the device to compute on.
            ending: what to evaluate it on, and how.

        Returns:
            what `--json` prints: the evaluation, and where the report is.
        """


def grid_of(calls: int | None, levels: int, calls_of_a_step: int = 1) -> tuple[int, int]:
    """The number of samples of a grid, within a number of network calls, and the steps of each.

    Args:
        calls: network calls, None for a full grid.
        levels: of the chain, and so the most steps.
        calls_of_a_step: two where the samples are guided.
    """
    steps = min(STEPS, levels)
    if calls is None:
        return GRIDS[0], steps
    calls //= calls_of_a_step
    count = next((n for n in GRIDS if calls >= n * min(_STEPS, steps)), GRIDS[-1])
    return count, min(steps, max(min(_STEPS, steps), calls // count))


def unused_classes(
    options: TrainOptions, images: TrainingImages, start: Start | None, unless: str
) -> list[str]:
    """A line on classes of the images that a diffusion model is not conditioned on.

    Args:
        options: what is asked for.
        images: what is trained on.
        start: the trained model to begin with, if any.
        unless: the option that conditions a new model on them; "" where it is given.
    """
    if start is not None:
        reads = start.model.num_classes or start.model.reads_text
        unless = "" if reads or options.start_classes != "same" else "--start-classes new"
    if not images.train.num_classes or not unless:
        return []
    return [
        f"the {images.train.num_classes} classes of {images.source} are not used: {unless} "
        "conditions the model on them"
    ]
