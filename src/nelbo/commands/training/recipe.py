"""What one kind of model adds to `nelbo train`; the engine is the same for all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from rich.console import Console
from torch import Tensor, nn

from nelbo.commands.training.refinement import Asked
from nelbo.data import ImageData
from nelbo.runs.run_directory import RunDirectory
from nelbo.training.config import TrainingConfig
from nelbo.training.latents import LatentData
from nelbo.training.processes import Processes
from nelbo.training.trainer import Step

# Samples of a grid that is drawn while training: as many as there is time for, at so many steps.
_GRIDS, _STEPS = (16, 9, 4), 12


def grid_of(calls: int | None, steps: int) -> tuple[int, int]:
    """How many samples a grid has that may take so many network calls, and the steps of each.

    Args:
        calls: network calls, None for a full grid.
        steps: of each sample, where there is time.
    """
    if calls is None:
        return _GRIDS[0], steps
    count = next((n for n in _GRIDS if calls >= n * min(_STEPS, steps)), _GRIDS[-1])
    return count, min(steps, max(min(_STEPS, steps), calls // count))


class Recipe(ABC):
    """A kind of model, from its making to its report.

    Attributes:
        model: what is trained, for `nelbo.training.Trainer`.
        data: what it is trained on.
        settings: the settings of the model, with what they left to the data filled in.
        label_names: the classes that it is told of.
        noted: what the run notes of the settings, where that is not all of them.
        origin: what is remembered of the trained model that it begins with, if it does.
    """

    model: nn.Module
    data: ImageData | LatentData
    settings: Any
    label_names: tuple[str, ...] = ()
    noted: Mapping[str, Any] | None = None
    origin: Mapping[str, Any] | None = None

    def check_memory(  # noqa: B027 - by default nothing is refused
        self, training: TrainingConfig, processes: Processes
    ) -> None:
        """Refuse what will not fit, where that can be told before.

        Raises:
            NelboError: it will not.
        """

    @abstractmethod
    def save(self, model: Any, directory: Path, notes: Mapping[str, Any]) -> None:
        """Write the averaged model into the run directory."""

    @abstractmethod
    def validation(self, model: Any) -> float:
        """The negative bound of a few validation images, bits per dimension."""

    @abstractmethod
    def reading(self, model: Any, images: int) -> Tensor:
        """The same of each of at most so many held-out images, (n,), or their mean, (1,)."""

    @abstractmethod
    def picture(self, model: Any, seed: int, calls: int | None = None) -> Image:
        """A grid of what the averaged model can do, from the same noise each time.

        Args:
            model: the averaged model.
            seed: of the noise.
            calls: about how many network calls it may take; by default a full grid.
        """

    def progress(self, step: Step, objective: str) -> str:
        """What is shown of a step while training, with its unit.

        Args:
            step: what happened.
            objective: what is minimised.
        """
        return f"loss {step.running_loss:.3f} · {step.bits_per_dim:.3f} bits/dim"

    @abstractmethod
    def finish(
        self,
        run: RunDirectory,
        *,
        asked: Asked,
        seconds: float,
        seed: int,
        device: torch.device,
        table_to: Console,
    ) -> dict[str, Any]:
        """Evaluate the model of a finished run, and print and write what there is to see.

        Args:
            run: what was trained.
            asked: what of the evaluation was asked for by number.
            seconds: about how long all else may take.
            seed: source of all noise.
            device: where to compute.
            table_to: where to print the figures.
        """
