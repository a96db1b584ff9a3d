"""What one kind of model adds to `nelbo train`; the engine is the same for all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from rich.console import Console
    from torch import nn

    from nelbo.data import ImageData
    from nelbo.training.config import TrainingConfig
    from nelbo.training.latents import LatentData
    from nelbo.training.processes import Processes
    from nelbo.training.run_directory import RunDirectory


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
    def picture(self, model: Any, seed: int) -> Image:
        """A grid of what the averaged model can do, from the same noise each time."""

    @abstractmethod
    def finish(
        self,
        run: RunDirectory,
        *,
        levels: int | Literal["all"],
        images: int,
        seed: int,
        device: torch.device,
        table_to: Console,
    ) -> dict[str, Any]:
        """Evaluate the model of a finished run, and print and write what there is to see."""
