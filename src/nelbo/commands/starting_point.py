"""The settings that the arguments of `nelbo train` add to: of a kind, a preset, or another run."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nelbo.base.errors import NelboError
from nelbo.base.suggestions import unknown
from nelbo.commands.arguments import (
    Option,
    arranged,
    check_arguments,
    options_of,
    parse,
    read_arguments,
)
from nelbo.training.kinds import KINDS
from nelbo.training.options import NAMES, Given, TrainOptions


@functools.cache
def train_options() -> Mapping[str, Option]:
    """The options of every kind of model, by name; several values win where kinds differ."""
    options: dict[str, Option] = {}
    for kind in KINDS.values():
        options |= options_of(kind)
    return options


def parse_train(arguments: Sequence[str]) -> TrainOptions:
    """What the arguments of `nelbo train` ask for.

    Raises:
        NelboError: what is misspelt, and as `starting_point`.
    """
    arguments = arranged(arguments, train_options())
    check_arguments("train", train_options(), arguments)
    start = starting_point(arguments)
    return parse("train", type(start), arguments, default=start)


def starting_point(arguments: Sequence[str]) -> TrainOptions:
    """The options that arguments add to: of the kind of model that --model names or that suits
    DATA, with the settings that --resume or --config names, if any.

    Raises:
        NelboError: an unknown kind, an option of another kind, no run to resume, or settings that
            make no sense.
    """
    given = read_arguments(arguments, train_options())
    options = _starting_point(given).begun(given)
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
        from nelbo.training.start_from import kind_at

        named = kind_at(start)
    if config is not None:
        file = Path(config)
    elif resume and out is not None:
        file = Path(out) / "config.yaml"
        if not file.is_file():
            raise NelboError(f"{out} holds no run to resume: there is no {file.name}")
    else:
        return options_for(named, data)()
    from nelbo.runs.settings_file import read_settings
    from nelbo.training.settings import parse_options

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


def options_for(kind: Any, data: str | None = None) -> type[TrainOptions]:
    """The options of a kind of model; None is the one that suits the data.

    Raises:
        NelboError: an unknown kind.
    """
    if kind is None:
        return next((of for of in KINDS.values() if data in of.suits), KINDS[NAMES[0]])
    if kind not in KINDS:
        raise NelboError(unknown("--model", str(kind), ("auto", *KINDS)))
    return KINDS[kind]
