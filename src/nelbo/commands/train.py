"""nelbo train: from images to a run with its model, bound, samples and report."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from nelbo.commands.train_command import TrainCommand
from nelbo.errors import NelboError
from nelbo.training.config import (
    AutoencoderSettings,
    LatentSettings,
    ModelConfig,
    TrainingConfig,
)

if TYPE_CHECKING:
    import torch

    from nelbo.commands.recipe import Recipe
    from nelbo.data import ImageData


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


def starting_point(arguments: list[str]) -> TrainCommand:
    """The command that arguments add to: the kind of model that --model names, with the settings
    that --resume or --config names, if any.

    Raises:
        NelboError: an unknown kind, no run to resume, or settings that make no sense.
    """
    asked, _ = _peek().parse_known_args(arguments)
    if asked.config is not None:
        file = Path(asked.config)
    elif asked.resume and asked.out is not None:
        file = Path(asked.out) / "config.yaml"
        if not file.is_file():
            raise NelboError(f"{asked.out} holds no run to resume: there is no {file.name}")
    else:
        return command_for(asked.model)()
    # Only here, so that --help need not wait for torch.
    from nelbo.commands.train_settings import parse_command
    from nelbo.training.settings_file import read_settings

    content = read_settings(file)
    kind = command_for(content.get("kind", asked.model))
    if asked.model is not None and asked.model != kind.kind:
        raise NelboError(f"{file} is of a model {kind.kind}: leave --model out")
    return parse_command(kind, content, file)


def _peek() -> Any:
    """A parser of the few options that decide which settings the others are added to."""
    import argparse

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    parser.add_argument("--out")
    parser.add_argument("--model")
    parser.add_argument("--resume", action="store_true")
    return parser
