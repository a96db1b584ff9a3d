"""nelbo train: from images to a run with its model, bound, samples and report."""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, get_origin, get_type_hints

from nelbo.commands.arguments import Option, options_of
from nelbo.commands.training.autoencoder_command import TrainAutoencoder
from nelbo.commands.training.command import Kind, TrainCommand
from nelbo.commands.training.final_samples import FinalSamples
from nelbo.commands.training.latent_command import TrainLatent
from nelbo.errors import NelboError
from nelbo.suggestions import unknown
from nelbo.training.config import ModelConfig, option

if TYPE_CHECKING:
    import torch

    from nelbo.commands.training.recipe import Recipe
    from nelbo.commands.training.session import TrainingImages, TrainingSession
    from nelbo.data import ImageData
    from nelbo.training.processes import Processes

# The data sets that a model of latents suits best: pictures that come with a text each.
_CAPTIONED = ("emoji",)


@dataclass(frozen=True)
class Train(TrainCommand):
    """Train a diffusion model on images; evaluate its bound, sample, and write a report."""

    trains: ClassVar[Kind] = "pixel"
    model: ModelConfig = field(default_factory=ModelConfig)
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

    def session(self, images: TrainingImages, processes: Processes) -> TrainingSession:
        """As any; a network that is left open is chosen for the machine, the images and the time.

        Raises:
            NelboError: settings that do not fit together or the images.
        """
        if self.model.widths or self.start_from is not None or self.training.seconds is None:
            return super().session(images, processes)
        widths = self._fitting_widths(images, processes)
        sized = dataclasses.replace(self, model=dataclasses.replace(self.model, widths=widths))
        return super(Train, sized).session(images, processes)

    def _fitting_widths(self, images: TrainingImages, processes: Processes) -> tuple[int, ...]:
        """What the first process measures; every process goes by it."""
        from nelbo.commands.common import say
        from nelbo.training.network_size import choose_network

        seconds = self.training.seconds
        assert seconds is not None
        widths: tuple[int, ...] = ()
        if processes.is_main:
            found = choose_network(
                self.model,
                images.train,
                seconds,
                self.training.batch_size,
                processes.device,
                threads=self.threads,
                processes=processes.count,
            )
            widths = found.widths
            passes = ""
            if images.train.stream is None:
                count = len(images.train)
                passes = f", {found.examples / count:,.0f} passes over {count:,}"
            say(
                f"Network: {' '.join(map(str, widths))} channels, {found.weights / 1e6:.2f}M "
                f"weights, as the time is enough for about {found.examples:,.0f} images{passes} "
                "(--widths chooses another)"
            )
        first, depth = processes.sum(
            [float(widths[0]), float(len(widths))] if widths else [0.0, 0.0]
        )
        return (int(first), *[2 * int(first)] * (int(depth) - 1))

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
    command = _starting_point(asked)
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
    from nelbo.training.settings_file import read_settings

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
