"""What was typed, looked at before it is parsed: misspelt names and values, with what was meant."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import tyro

from nelbo.base.arguments import check_choice
from nelbo.base.errors import NelboError
from nelbo.base.suggestions import did_you_mean, question, unknown
from nelbo.training.options import Given

# What other programs call options, by the names that they have here; those that a command has are
# suggested.
_ELSEWHERE = {
    "learning-rate": "lr",
    "steps time-budget": "epochs epoch num-train-epochs",
    "steps": "max-steps max-train-steps num-steps iterations iters num-inference-steps",
    "levels steps": "timesteps num-timesteps diffusion-steps",
    "time-budget": "time hours minutes",
    "batch-size": "bs train-batch-size",
    "weight-decay": "wd",
    "warmup-steps": "lr-warmup-steps",
    "gradient-clip": "grad-clip max-grad-norm",
    "gradient-accumulation": "grad-accum gradient-accumulation-steps",
    "ema-decay": "ema",
    "objective": "loss",
    "schedule": "noise-schedule beta-schedule",
    "size": "resolution image-size img-size height",
    "size widths": "width",
    "horizontal-flip": "flip random-flip",
    "widths channels": "num-channels",
    "widths": "dim",
    "class-conditional": "conditional class-cond",
    "label": "labels",
    "label class-conditional": "class",
    "prompt": "text caption",
    "negative": "negative-prompt",
    "guidance": "cfg cfg-scale guidance-scale",
    "sampler schedule": "scheduler",
    "sampler": "solver",
    "precision": "mixed-precision dtype amp fp16 bf16",
    "device": "gpu cuda cpu",
    "out": "output output-dir out-dir outdir save-dir o",
    "n images": "num num-samples num-images count",
    "images": "limit subset",
    "data": "dataset data-dir",
    "image data": "input",
    "image": "init-image",
    "save-every": "checkpoint-every",
    "start-from": "pretrained finetune init-from",
    "resume": "continue",
    "overwrite": "force",
    "seed": "random-seed",
    "error": "tolerance",
}
MEANT = {other: ours.split() for ours, others in _ELSEWHERE.items() for other in others.split()}


@dataclass(frozen=True)
class Option:
    """An option or argument of a command.

    Attributes:
        hint: its type, without annotations.
        positional: whether it has no name on the command line.
        repeatable: whether each use adds to the ones before.
        required: whether it has no default.
    """

    hint: Any
    positional: bool
    repeatable: bool
    required: bool

    @property
    def count(self) -> int | None:
        """How many values it takes; None for any number."""
        if self.hint is bool:
            return 0
        hint = get_args(self.hint)[0] if self.repeatable else self.hint
        inner = [get_args(each) for each in _members(hint) if get_origin(each) is tuple]
        if not inner:
            return 1
        return None if Ellipsis in inner[0] else len(inner[0])

    def own(self, values: Sequence[str]) -> list[str]:
        """Those of the values after it that are its own."""
        none = values[:1] == ["None"] and types.NoneType in _members(self.hint)
        return list(values[: 1 if none else self.count])


# Of each command: to read its hints takes longer than to parse what was typed.
_options: dict[type, Mapping[str, Option]] = {}


def options_of(command: type) -> Mapping[str, Option]:
    """The options of a command, those of its groups included, by name with dashes."""
    if command not in _options:
        _options[command] = _read(command)
    return _options[command]


def _read(command: type) -> dict[str, Option]:
    options: dict[str, Option] = {}
    hints = get_type_hints(command, include_extras=True)
    for field in dataclasses.fields(command):
        hint = hints[field.name]
        marks: tuple[Any, ...] = ()
        if get_origin(hint) is Annotated:
            hint, *rest = get_args(hint)
            marks = tuple(rest)
        if dataclasses.is_dataclass(hint):
            assert isinstance(hint, type)
            options |= options_of(hint)
            continue
        if tyro.conf.Suppress in marks or tyro.conf.Fixed in marks:
            continue  # no option of the command line
        name, aliases = field.name, ()
        for mark in marks:
            name = getattr(mark, "name", None) or name
            aliases = getattr(mark, "aliases", None) or aliases
        option = Option(
            hint,
            positional=tyro.conf.Positional in marks,
            repeatable=tyro.conf.UseAppendAction in marks,
            required=field.default is field.default_factory is dataclasses.MISSING,
        )
        for each in (name, *aliases):
            options[each.lstrip("-").replace("_", "-")] = option
    return options


def parse(command: str, kind: type, arguments: Sequence[str], **start: Any) -> Any:
    """The options that arguments ask for, with those of `default`, if given, for the others."""
    cli: Any = tyro.cli
    config = (tyro.conf.OmitArgPrefixes,)
    return cli(kind, prog=f"nelbo {command}", args=arguments, config=config, **start)


def read_arguments(arguments: Sequence[str], options: Mapping[str, Option]) -> Given:
    """What was typed, by the options that there are; nothing is checked.

    Args:
        arguments: what was typed after the name of the command.
        options: see `options_of`.
    """
    positional: list[str] = []
    values: dict[str, tuple[str, ...]] = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument == "--" or not _looks_like_option(argument):
            positional += rest if argument == "--" else [argument]
            rest = [] if argument == "--" else rest
            continue
        name, value = _split(argument)
        flag = name.removeprefix("no-")
        if flag in options and options[flag].hint is bool:
            values[flag] = ()
        elif value is not None:
            values[name] = (value,)
        else:
            taken = _values_after(rest, -1)
            taken = options[name].own(taken) if name in options else taken[:1]
            values[name] = tuple(taken)
            rest = rest[len(taken) :]
    return Given(tuple(positional), values)


def arranged(arguments: Sequence[str], options: Mapping[str, Option]) -> list[str]:
    """The same with what has no name in front, where options of any number of values take it.

    An argument that is missing is the last value of such an option, of the last that has several:
    RUN is d in `--label 3 d -n 2` and in `--label 3 d --control-scale 1`. One that need not be
    given is so where it is no value of the option, as in `--widths 8 16 d`.

    Args:
        arguments: what was typed after the name of the command.
        options: see `options_of`.
    """
    rest, front = list(arguments), []
    several: list[tuple[Option, range]] = []
    i = 0
    while i < len(rest) and rest[i] != "--":
        if not _looks_like_option(rest[i]):
            front.append(i)
            i += 1
            continue
        name, value = _split(rest[i])
        option = options.get(name)
        own = option.own(_values_after(rest, i)) if option is not None and value is None else []
        if option is not None and not option.positional and option.count is None:
            several.append((option, range(i + 1, i + 1 + len(own))))
        i += 1 + len(own)
    places = [option for option in options.values() if option.positional]
    needed = sum(option.required for option in places)
    takes = [(option, at[-1]) for option, at in several if len(at) > 1]
    if len(front) >= needed:
        takes = [(option, at) for option, at in takes if not _parses(rest[at], _each_of(option))]
    if len(front) < len(places) and takes:
        front.append(takes[-1][1])
    if not several or len(front) < needed:
        return rest
    return [*(rest[k] for k in front), *(each for k, each in enumerate(rest) if k not in front)]


def check_arguments(command: str, options: Mapping[str, Option], arguments: Sequence[str]) -> None:
    """Raise `NelboError` for a misspelt option or value, with what may have been meant, and for
    arguments that are missing or too many.

    Args:
        command: its name.
        options: those that it has.
        arguments: what was typed after its name.
    """
    known = {name for name, option in options.items() if not option.positional}
    flags = {f"no-{name}" for name in known if options[name].hint is bool}
    seen: set[str] = set()
    for i, argument in enumerate(arguments):
        if argument == "--":
            break
        if not _looks_like_option(argument):
            continue
        name, value = _split(argument)
        if name in ("help", "help-verbose", "h"):
            return
        if name in flags:
            continue
        if name not in known:
            raise _no_such_option(command, argument.partition("=")[0], name, options)
        option = options[name]
        if name in seen and get_origin(option.hint) is tuple and not option.repeatable:
            raise NelboError(f"--{name} is given twice: give all of its values after one")
        seen.add(name)
        values = _values_after(arguments, i) if value is None else [value]
        _check_values(_flag(name), option, values)
    _check_positional(command, options, read_arguments(arguments, options))


def _check_positional(command: str, options: Mapping[str, Option], given: Given) -> None:
    """Raise `NelboError` for too few of what is given without a name, or too many."""
    places = {name.upper(): option for name, option in options.items() if option.positional}
    missing = [name for name, option in places.items() if option.required][len(given.positional) :]
    # An option of any number of values leaves the last ones where they are missing.
    if missing and not any(options[name].count is None for name in given.values):
        raise NelboError(
            f"{missing[0]} is missing: nelbo {command} {missing[0]} ...; nelbo {command} --help "
            "describes it"
        )
    beyond = given.positional[len(places) :]
    if beyond and not any(option.count is None for option in places.values()):
        raise NelboError(
            f"nothing is asked for by {beyond[0]!r}: nelbo {command} takes "
            f"{' and '.join(places) or 'options alone'} without a name; put quotes around a text "
            "with blanks"
        )


def check_command(name: str, known: Iterable[str]) -> None:
    """Raise `NelboError` for the name of no command."""
    if name.startswith("-"):
        raise NelboError(f"nelbo has no option {name}; nelbo --help lists the commands")
    check_choice("command", name, known)


def _split(argument: str) -> tuple[str, str | None]:
    """The name of an option with dashes, and the value that was typed with it, if one was."""
    typed, equals, value = argument.lstrip("-").partition("=")
    if argument[:2] != "--" and argument[1:2] in ("n", "h") and len(typed) > 1:  # as in -n16
        return argument[1], argument[2:].removeprefix("=")
    return typed.replace("_", "-"), value if equals else None


def _looks_like_option(argument: str) -> bool:
    """As argparse takes it for one: not a number, and no text with blanks."""
    if not argument.startswith("-") or " " in argument.partition("=")[0] or argument == "-":
        return False
    return not argument[1:2].isdecimal() and argument[1:2] != "."


def _no_such_option(
    command: str, typed: str, name: str, options: Mapping[str, Option]
) -> NelboError:
    by_use = [other for other in (name, *MEANT.get(name, ())) if other in options]
    named = [other for other in by_use if not options[other].positional]
    if by_use and not named:
        return NelboError(
            f"nelbo {command} has no option {typed}: {by_use[0].upper()} is given without a name, "
            f"as in nelbo {command} {by_use[0].upper()}"
        )
    names = [other for other, option in options.items() if not option.positional]
    hint = question([_flag(other) for other in named])
    hint = hint or did_you_mean(name, map(_flag, names))
    hint = hint or question([_flag(other) for other in names if name in other.split("-")])
    return NelboError(
        f"nelbo {command} has no option {typed}{hint}; nelbo {command} --help lists them"
    )


def _flag(name: str) -> str:
    return f"--{name}" if len(name) > 1 else f"-{name}"


def _values_after(arguments: Sequence[str], i: int) -> list[str]:
    values = []
    for argument in arguments[i + 1 :]:
        if argument == "--" or _looks_like_option(argument):
            break
        values.append(argument)
    return values


def _check_values(flag: str, option: Option, values: Sequence[str]) -> None:
    members = _members(option.hint)
    if tuple in {get_origin(member) for member in members}:
        inner = _each_of(option)
        values = option.own(values)
        if option.count is not None and 0 < len(values) < option.count and values != ["None"]:
            raise NelboError(f"{flag} takes {option.count} values, got {len(values)}")
        members = [*inner, types.NoneType]
    # What follows belongs to something else.
    for place, value in enumerate(option.own(values)):
        if float in members:
            _check_finite(flag, value)
        # Of any number of values, all but the first may belong to something else, too.
        if (place and option.count is None) or _parses(value, members):
            continue
        choices = [c for m in members if get_origin(m) is Literal for c in get_args(m)]
        if choices and value not in map(str, choices):
            others = ["a number"] if {int, float} & set(members) else []
            raise NelboError(unknown(flag, value, (*map(str, choices), *others)))
        if set(members) <= {int, float, types.NoneType}:
            kind = "a number" if float in members else "a whole number"
            raise NelboError(f"{flag} must be {kind}, got {value!r}")


def _each_of(option: Option) -> list[Any]:
    """The types that one of several values may be of."""
    found = _members(option.hint)
    return [each for member in found for each in get_args(member) if each is not Ellipsis]


def _members(hint: Any) -> list[Any]:
    """The types that a value may be of."""
    if get_origin(hint) in (Union, types.UnionType):
        return [member for each in get_args(hint) for member in _members(each)]
    if get_origin(hint) is Annotated:
        return _members(get_args(hint)[0])
    return [hint]


def _parses(value: str, members: Sequence[Any]) -> bool:
    """Whether a value is of one of the types that are no choice of words."""
    for member in members:
        try:
            if member in (int, float):
                member(value)
                return True
        except ValueError:
            continue
        if member is str or (member is types.NoneType and value == "None"):
            return True
    return False


def _check_finite(option: str, value: str) -> None:
    try:
        number = float(value)
    except ValueError:
        return  # which is refused as it is parsed
    if not math.isfinite(number):
        raise NelboError(f"{option} must be a finite number, got {value}")
