"""nelbo train: from images to a run with its model, bound, samples and report."""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_origin, get_type_hints

import tyro

from nelbo.base.errors import NelboError
from nelbo.base.suggestions import unknown
from nelbo.commands.arguments import Option, options_of
from nelbo.commands.training.autoencoder_command import TrainAutoencoder
from nelbo.commands.training.command import Kind, TrainCommand
from nelbo.commands.training.final_samples import FinalSamples
from nelbo.commands.training.latent_command import TrainLatent
from nelbo.training.config import ModelConfig, TrainingConfig, option
from nelbo.training.presets import DEFAULT_PRESET, PRESETS, preset_of

if TYPE_CHECKING:
    import torch

    from nelbo.commands.training.recipe import Recipe
    from nelbo.commands.training.session import TrainingImages
    from nelbo.data import ImageData
    from nelbo.runs.run_directory import RunDirectory
    from nelbo.training.processes import Processes

# The data sets that a model of latents suits best: pictures that come with a text each.
_CAPTIONED = ("emoji",)


@dataclass(frozen=True)
class Train(TrainCommand):
    """Train a diffusion model on images; evaluate its bound, sample, and write a report."""

    trains: ClassVar[Kind] = "pixel"
    preset: Literal["both", "likelihood", "pictures"] = DEFAULT_PRESET
    """What the model is for, which decides on objective and schedule: likelihood, few bits/dim;
    pictures, samples that look like the data; or both. Options that are given come first.
    docs/training.md has the figures of each."""
    left_to_data: tyro.conf.Suppress[tuple[str, ...]] = ()
    """What the pictures decide, whatever the settings are: mirroring, objective."""
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(**PRESETS[DEFAULT_PRESET].training)
    )
    model: ModelConfig = field(default_factory=lambda: ModelConfig(**PRESETS[DEFAULT_PRESET].model))
    samples: FinalSamples = field(default_factory=FinalSamples)

    def recipe(self, images: TrainingImages, device: torch.device) -> Recipe:
        """A model of pixels."""
        from nelbo.commands.training.pixel_recipe import PixelRecipe, trained_pixel_model
        from nelbo.training.build import build_model, resolve

        if self.start_from is not None:
            trained = trained_pixel_model(self.starting_model, images.train)
            return PixelRecipe(self.model, trained, images, self.samples)
        settings = resolve(self.model, images.train)
        return PixelRecipe(settings, build_model(self.model, images.train), images, self.samples)

    def reads_classes(self, data: ImageData) -> bool:
        """Whether the model is class-conditional."""
        return super().reads_classes(data) and (
            self.start_from is not None or self.model.class_conditional
        )

    @property
    def class_option(self) -> str:
        """What conditions the model on the classes of the images."""
        return "--class-conditional" if self.start_from is None else super().class_option

    def _train(
        self, out: Path, images: TrainingImages, processes: Processes
    ) -> tuple[RunDirectory, dict[str, Any]]:
        from nelbo.commands.training.choices import with_choices

        return super(Train, with_choices(self, images, processes))._train(out, images, processes)

    def _check(self) -> tuple[Path, str]:
        self.samples.check()
        return super()._check()


KINDS: dict[str, type[TrainCommand]] = {
    command.trains: command for command in (Train, TrainAutoencoder, TrainLatent)
}


def train_options() -> dict[str, Option]:
    """The options of every kind of model, by name."""
    options: dict[str, Option] = {}
    for command in KINDS.values():
        options |= options_of(command)
    return options


def starting_point(arguments: list[str]) -> TrainCommand:
    """The command that arguments add to: the kind of model that --model names or that suits DATA,
    with the settings that --resume or --config names, if any.

    Raises:
        NelboError: an unknown kind, an option of another kind, no run to resume, or settings that
            make no sense.
    """
    asked, _ = _peek().parse_known_args(arguments)
    command = _with_preset(_starting_point(asked), asked)
    own = _options_of(type(command))
    for name, value in vars(asked).items():
        if value is not None and name not in own and name != "data":
            kinds = [kind for kind, other in KINDS.items() if name in _options_of(other)]
            raise NelboError(
                f"{option(name)} is an option of --model {' and '.join(kinds)}, and the model here "
                f"is {command.trains}: see nelbo train --model {command.trains} --help"
            )
    return command


def _starting_point(asked: argparse.Namespace) -> TrainCommand:
    named = None if asked.model == "auto" else asked.model
    if named is None and asked.start_from is not None and not asked.resume:
        from nelbo.commands.training.start_from import kind_at

        named = kind_at(asked.start_from)
    if asked.config is not None:
        file = Path(asked.config)
    elif asked.resume and asked.out is not None:
        file = Path(asked.out) / "config.yaml"
        if not file.is_file():
            raise NelboError(f"{asked.out} holds no run to resume: there is no {file.name}")
    else:
        return command_for(named, asked.data)()
    # Only here, so that --help need not wait for torch.
    from nelbo.commands.training.settings import parse_command
    from nelbo.runs.settings_file import read_settings

    content = read_settings(file)
    kind = command_for(content.get("kind", named), asked.data)
    if named is not None and named != kind.trains:
        other = "leave --model out"
        if asked.model in (None, "auto"):
            other = f"--start-from {asked.start_from} is a model {named}"
        raise NelboError(f"{file} is of a model {kind.trains}: {other}")
    if asked.start_from is not None and content.get("start_from") is None:
        # The model of that run is not the one to start from.
        model = content.get("model") or {}
        content["model"] = {name: model[name] for name in kind.free if name in model}
        content.pop("autoencoder", None)
    return parse_command(kind, content, file)


def _with_preset(command: TrainCommand, asked: argparse.Namespace) -> TrainCommand:
    """A new run with the defaults of the preset that is asked for, and those that its data decide.

    What another run or a file has is no default, and stays.

    Raises:
        NelboError: a preset that there is not, or one for settings that are taken from elsewhere.
    """
    if not isinstance(command, Train):
        return command
    if asked.resume or asked.config is not None:
        if asked.preset is not None:
            raise NelboError(
                "--preset chooses the defaults of a new run, and --resume and --config take the "
                "settings of another: leave --preset out"
            )
        return command
    left = {
        "mirroring": asked.horizontal_flip is None,
        "objective": asked.preset is asked.objective is asked.schedule is asked.start_from is None,
    }
    left_to_data = tuple(name for name, is_left in left.items() if is_left)
    command = dataclasses.replace(command, left_to_data=left_to_data)
    if asked.preset is not None:
        preset = preset_of(asked.preset)
        # A model that is there already keeps its chain.
        model = command.model if asked.start_from is not None else ModelConfig(**preset.model)
        training = TrainingConfig(**preset.training)
        command = dataclasses.replace(command, preset=asked.preset, training=training, model=model)
    if asked.schedule == "learned":
        # It follows the bound, whatever the preset has; another objective that is given is refused.
        training = dataclasses.replace(command.training, objective="bound")
        command = dataclasses.replace(command, training=training)
    return command


def command_for(kind: Any, data: str | None = None) -> type[TrainCommand]:
    """The command that trains a kind of model; None is the one that suits the data.

    Raises:
        NelboError: there is no such kind.
    """
    if kind is None:
        return KINDS["latent" if data in _CAPTIONED else "pixel"]
    if kind not in KINDS:
        raise NelboError(unknown("--model", str(kind), ("auto", *KINDS)))
    return KINDS[kind]


def _peek() -> argparse.ArgumentParser:
    """A parser that finds what decides on the settings that the other arguments are added to.

    It knows the options of every kind, for their values are not to be taken for DATA.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("data", nargs="?")
    for name, hint in _options().items():
        flags = {f"--{name}", f"--{name.replace('_', '-')}"}
        if hint is bool:
            parser.add_argument(*flags, dest=name, action=argparse.BooleanOptionalAction)
        else:
            parser.add_argument(*flags, dest=name, nargs="*" if get_origin(hint) is tuple else "?")
    return parser


def _options() -> dict[str, Any]:
    """The type of each option, by name; several values win where kinds differ."""
    options: dict[str, Any] = {}
    for command in KINDS.values():
        options |= _options_of(command)
    return options


def _options_of(command: type[TrainCommand]) -> dict[str, Any]:
    """The type of each option of one kind, by name."""
    options: dict[str, Any] = {}
    hints = get_type_hints(command)
    settings = [command] + [
        hint for hint in hints.values() if dataclasses.is_dataclass(hint) and hint is not command
    ]
    for group in settings:
        types = get_type_hints(group)
        options |= {f.name: types[f.name] for f in dataclasses.fields(group)}
    options["model"] = options.pop("kind")
    for name in ("data", "training"):
        del options[name]
    return options
