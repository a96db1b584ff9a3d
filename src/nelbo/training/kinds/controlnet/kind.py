"""ControlNets, from their settings to their report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from nelbo.base.errors import NelboError, explained
from nelbo.base.files import write_json
from nelbo.chain.estimate import Estimate
from nelbo.chain.model import Model
from nelbo.data.controls import controls_of
from nelbo.data.credits import ORIGIN
from nelbo.data.size import Size
from nelbo.diffusion.objectives import check_objective
from nelbo.evidence.explained import with_exchanged_controls
from nelbo.evidence.inputs import check_fits
from nelbo.formats import Pipeline, save
from nelbo.formats.files import read_own, usual_guidance
from nelbo.formats.model_directory import INDEX_FILE, NELBO_FILE
from nelbo.networks import ControlledUNet, ControlNet
from nelbo.report.control import EXPLAINED, OWN, error_of
from nelbo.report.explained import bits_text
from nelbo.report.grids import image_grid
from nelbo.runs.run_directory import RunDirectory
from nelbo.training.images import TrainingImages
from nelbo.training.kinds.controlnet.base import (
    base_within,
    fresh_controlnet,
    read_base,
    trained_controlnet,
)
from nelbo.training.kinds.controlnet.drawing import beside, controlled_samples
from nelbo.training.kinds.controlnet.examples import examples_of
from nelbo.training.kinds.controlnet.objective import ControlObjective
from nelbo.training.kinds.controlnet.options import TrainControl
from nelbo.training.kinds.controlnet.report import ControlEnd
from nelbo.training.kinds.controlnet.task import ControlTask
from nelbo.training.kinds.kind import Ending, Kind, Start, grid_of
from nelbo.training.kinds.refinement import MOST_IMAGES
from nelbo.training.run_model import assign_weights
from nelbo.training.start_from import origin_of
from nelbo.training.task import ImageSource
from nelbo.training.trainer import Step
from nelbo.training.validation import IMAGES, Validation


class ControlNets(Kind):
    """A ControlNet of a base that stays as it is."""

    name = "controlnet"
    options: TrainControl

    def __init__(
        self,
        options: TrainControl,
        images: TrainingImages,
        device: torch.device,
        start: Start | None = None,
    ) -> None:
        control = options.control
        assert control is not None
        check_objective(options.training.objective, options.training.level_shift)
        # First what would be refused after the images have been encoded.
        controls = controls_of(control, images.train)
        path, base = _base(options)
        check_fits(base, images.train)
        notes = Pipeline.open(path).notes
        if "objective" in options.left_open:
            options = _trained_as(notes, options)
        guidance = options.model.guidance or usual_guidance(notes)
        self.options = options.with_settings(replace(options.model, guidance=guidance))
        self.label_names = tuple((read_own(path) or {}).get("label_names") or ())
        self.base, self._path = base.to(device), path
        self._origin = origin_of(options.base or path)
        torch.manual_seed(options.training.seed)
        net = fresh_controlnet(base) if start is None else start.model
        # Which checks that it is of this base.
        self.task = self._task(ControlledUNet(base.chain.network, net).nets[0], images, controls)
        validation = images.validation.subset(IMAGES, 0)
        controls = controls_of(control, validation)
        self._watched = controls.of_all(validation)
        self.validation = Validation(self._watched)
        self._exchanged = Validation(with_exchanged_controls(self._watched))
        self._without: dict[int, Tensor] = {}
        self._explained: dict[str, Estimate] = {}

    def _task(self, net: ControlNet, images: TrainingImages, controls: Any) -> ControlTask:
        training = self.options.training
        source = ImageSource(images.train, training.seed)
        examples = examples_of(self.base, images, source, mirrored=training.horizontal_flip)
        objective = ControlObjective(net.requires_grad_(True), self.base.chain)
        dropout = self.options.model.control_dropout
        return ControlTask(objective, source, examples, controls, training, dropout)

    @classmethod
    def is_at(cls, path: Path) -> bool:
        """Whether a pipeline with a ControlNet is in a directory."""
        try:
            return Pipeline.open(path).is_controlled
        except NelboError:
            return False

    @classmethod
    def starting_model(cls, path: str) -> ControlNet:
        """A ControlNet, of a directory of its own or of a run."""
        with explained("--start-from"):
            return trained_controlnet(path, "; give it as --base")

    @classmethod
    def asked_frame(
        cls, options: TrainControl, start: Start | None
    ) -> tuple[int | str | Size | None, int | None]:
        """That of the base."""
        size, channels = cls.frame(_base(options)[1])
        return options.size or size, options.channels or channels

    def whole(self, trained: ControlObjective) -> Model:
        """The base with this ControlNet."""
        network = ControlledUNet(self.base.chain.network, trained.controlnet)
        return self.base.with_network(network).eval()

    def save(self, module: ControlObjective, directory: Path, notes: Mapping[str, Any]) -> None:
        """The pipeline of the base with the ControlNet; the base's part of it is written once."""
        if (directory / INDEX_FILE).is_file():
            module.controlnet.save_pretrained(directory / "controlnet")
            write_json(directory / NELBO_FILE, {**(read_own(directory) or {}), **notes})
            return
        save(
            self.whole(module), directory, sampler=Pipeline.open(self._path).sampler(), notes=notes
        )

    def of_reading(self, module: ControlObjective, bits: Tensor) -> dict[str, float]:
        """What the control explains of the images that were read, at the same levels and noise:
        the bound of the base without it less that with it, and the bound with another image's
        control less that with its own."""
        count, values = len(bits), math.prod(self._watched.shape)
        if count not in self._without:  # the base does not change
            self._without[count] = self.validation.each(self.base, count)
        bounds = {
            EXPLAINED: self._without[count],
            OWN: self._exchanged.each(self.whole(module), count),
        }
        self._explained = {
            name: Estimate.of((without - bits) * values, 0.0) for name, without in bounds.items()
        }
        figures = {}
        for name, bits_an_image in self._explained.items():
            figures[name] = bits_an_image.mean
            figures[error_of(name)] = bits_an_image.standard_error
        return figures

    def progress(self, step: Step) -> str:
        """The loss, and what the control explains."""
        text = f"loss {step.running_loss:.4f}"
        if self._explained:
            text += (
                f" · the control explains {bits_text(self._explained[EXPLAINED])} bits an image, "
                f"{bits_text(self._explained[OWN])} over another image's"
            )
        return text

    def picture(self, module: ControlObjective, seed: int, calls: int | None = None) -> Image:
        """Controls of held-out images, each beside what is drawn by it."""
        whole = self.whole(module)
        n, steps = grid_of(calls, whole.chain.num_levels, calls_of_a_step=2)
        data = self._watched.take(slice(n))
        guidance = self.options.model.guidance or 1.0
        drawn = controlled_samples(whole, self._path, data, steps, guidance, seed)
        return image_grid(beside(data, drawn), data.levels)

    def notes(self, start: Start | None) -> dict[str, Any]:
        """What nelbo.json records: also the base and the control."""
        found = super().notes(start)
        found.setdefault(ORIGIN, self._origin)
        return {**found, "base": self._origin["model"], "control": self.options.control}

    @classmethod
    def with_weights(cls, model: Any, weights: Mapping[str, Tensor], run: str) -> Any:
        """The model with this ControlNet."""
        network = model.chain.network
        base = model.with_network(network.unet)
        assign_weights(ControlObjective(network.nets[0], base.chain), weights, run)
        return model

    @classmethod
    def report(cls, run: RunDirectory, model: Any, ending: Ending) -> dict[str, Any]:
        """The bound of held-out images with their controls, what these explain, and samples."""
        few = ending.test.subset(ending.asked.images or MOST_IMAGES["test"], ending.seed)
        test = controls_of(run.notes["control"], few).of_all(few, ending.seed)
        return ControlEnd(run, model, replace(ending, test=test)).report()


def _trained_as(base: Mapping[str, Any], options: TrainControl) -> TrainControl:
    """The options with the objective that the base was trained by, where its notes state one."""
    training = options.training
    stated = base.get("settings", {}).get("training", {}).get("objective", training.objective)
    check_objective(stated, training.level_shift)
    return replace(options, training=replace(training, objective=stated), left_open=())


def _base(options: TrainControl) -> tuple[str, Model]:
    """The base of a run, and where it was read from: of one that goes on, the run itself."""
    if options.resume and options.out is not None and ControlNets.is_at(options.out):
        return str(options.out), base_within(str(options.out))
    if options.base is not None:
        return options.base, read_base(options.base)
    assert options.start_from is not None
    if not ControlNets.is_at(Path(options.start_from)):
        raise NelboError(f"--base is missing: {options.start_from} is a ControlNet without a base")
    return options.start_from, base_within(options.start_from)


KIND = ControlNets
