"""The settings that the arguments of `nelbo train` add to: of a kind, a preset, or another run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nelbo.base.errors import NelboError
from nelbo.base.suggestions import unknown
from nelbo.commands.arguments import Given, Option, options_of, read_arguments
from nelbo.commands.options.train import KINDS, Train, TrainOptions
from nelbo.training.config import ModelConfig, TrainingConfig
from nelbo.training.presets import preset_of

# The data sets that a model of latents suits best: pictures that come with a text each.
_CAPTIONED = ("emoji",)


def train_options() -> dict[str, Option]:
    """The options of every kind of model, by name; several values win where kinds differ."""
    options: dict[str, Option] = {}
    for kind in KINDS.values():
        options |= options_of(kind)
    return options


def starting_point(arguments: Sequence[str]) -> TrainOptions:
    """The options that arguments add to: of the kind of model that --model names or that suits
    DATA, with the settings that --resume or --config names, if any.

    Raises:
        NelboError: an unknown kind, an option of another kind, no run to resume, or settings that
            make no sense.
    """
    given = read_arguments(arguments, train_options())
    options = _with_preset(_starting_point(given), given)
    own = options_of(type(options))
    for name in given.values:
        kinds = [kind for kind, other in KINDS.items() if name in options_of(other)]
        if kinds and name not in own:
            raise NelboError(
                f"--{name} is an option of --model {' and '.join(kinds)}, and the model here "
                f"is {options.trains}: see nelbo train --model {options.trains} --help"
            )
    return options


def _starting_point(given: Given) -> TrainOptions:
    model, start, out = (given.value(name) for name in ("model", "start-from", "out"))
    data = next(iter(given.positional), None)
    resume, config = "resume" in given, given.value("config")
    named = None if model == "auto" else model
    if named is None and start is not None and not resume:
        # Reads a model: only where one is named, so that --help need not wait for torch.
        from nelbo.commands.training.start_from import kind_at

        named = kind_at(start)
    if config is not None:
        file = Path(config)
    elif resume and out is not None:
        file = Path(out) / "config.yaml"
        if not file.is_file():
            raise NelboError(f"{out} holds no run to resume: there is no {file.name}")
    else:
        return options_for(named, data)()
    from nelbo.commands.training.settings import parse_options
    from nelbo.runs.settings_file import read_settings

    content = read_settings(file)
    kind = options_for(content.get("kind", named), data)
    if named is not None and named != kind.trains:
        other = "leave --model out"
        if model in (None, "auto"):
            other = f"--start-from {start} is a model {named}"
        raise NelboError(f"{file} is of a model {kind.trains}: {other}")
    if start is not None and content.get("start_from") is None:
        # The model of that run is not the one to start from.
        former = content.get("model") or {}
        content["model"] = {name: former[name] for name in kind.free if name in former}
        content.pop("autoencoder", None)
    return parse_options(kind, content, file)


def _with_preset(options: TrainOptions, given: Given) -> TrainOptions:
    """A new run with the defaults of the preset that is asked for, and those that its data decide.

    What another run or a file has is no default, and stays.

    Raises:
        NelboError: an unknown preset, or one for settings that are taken from elsewhere.
    """
    if not isinstance(options, Train):
        return options
    name, start = given.value("preset"), given.value("start-from")
    if "resume" in given or given.value("config") is not None:
        if name is not None:
            raise NelboError(
                "--preset chooses the defaults of a new run, and --resume and --config take the "
                "settings of another: leave --preset out"
            )
        return options
    left = {
        "mirroring": "horizontal-flip" not in given,
        "objective": not given.values.keys() & {"preset", "objective", "schedule", "start-from"},
    }
    options = replace(
        options, left_to_data=tuple(name for name, is_left in left.items() if is_left)
    )
    if name is not None:
        preset = preset_of(name)
        # A model that is there already keeps its chain.
        model = options.model if start is not None else ModelConfig(**preset.model)
        training = TrainingConfig(**preset.training)
        asked: Any = name  # as preset_of has checked
        options = replace(options, preset=asked, training=training, model=model)
    if given.value("schedule") == "learned":
        # It follows the bound, whatever the preset has; another objective that is given is refused.
        options = replace(options, training=replace(options.training, objective="bound"))
    return options


def options_for(kind: Any, data: str | None = None) -> type[TrainOptions]:
    """The options of a kind of model; None is the one that suits the data.

    Raises:
        NelboError: an unknown kind.
    """
    if kind is None:
        return KINDS["latent" if data in _CAPTIONED else "pixel"]
    if kind not in KINDS:
        raise NelboError(unknown("--model", str(kind), ("auto", *KINDS)))
    return KINDS[kind]
