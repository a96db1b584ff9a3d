"""The command line: the first word names a command, and that one alone is imported.

A command is two modules of its name: `nelbo.commands.options.NAME` holds a dataclass called Name,
its options with their help and a `check` of them, and imports nothing heavy; `nelbo.commands.NAME`
has `run(options)`. So help and usage errors answer at once.
"""

from __future__ import annotations

import dataclasses
import gc
import importlib
import os
import pkgutil
import shutil
import sys
import textwrap
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

from nelbo.base.errors import NelboError
from nelbo.commands import options
from nelbo.commands.arguments import arranged, check_arguments, check_command, options_of, parse
from nelbo.commands.printing import make_printable
from nelbo.version import __version__

MISTAKE = 2
INTERRUPTED = 130
BROKEN_PIPE = 141

# What a newcomer needs comes first in the help.
_FIRST = ("train", "sample", "evaluate")


def main(arguments: list[str] | None = None) -> None:
    """Run a command; a mistake in the input is printed and exits with code 2."""
    console = Console(stderr=True)
    warnings.showwarning = _show_warning
    # Pillow's, of a picture that it reads all the same; what it does not read is reported.
    warnings.filterwarnings("ignore", r"Image size \(\d+ pixels\) exceeds limit")
    try:
        arguments = sys.argv[1:] if arguments is None else arguments
        make_printable(sys.stdout, sys.stderr)
        if arguments == ["--version"]:
            print(f"nelbo {__version__}")
        elif arguments[:1] in (["--help"], ["-h"]):
            print(overview())
        else:
            _run(arguments)
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(BROKEN_PIPE)
    except (NelboError, OSError) as error:  # OSError: a path that cannot be read or written
        # As text, not markup: messages quote lists in brackets.
        console.print(Text.assemble(("error: ", "bold red"), str(error)), soft_wrap=True)
        sys.exit(MISTAKE)
    except KeyboardInterrupt:
        console.print("interrupted")
        sys.exit(INTERRUPTED)


def commands() -> list[str]:
    """The names of the commands, in the order of the help."""
    found = sorted(module.name for module in pkgutil.iter_modules(options.__path__))
    return [*_FIRST, *(name for name in found if name not in _FIRST)]


def options_class(command: str) -> type[Any]:
    """The dataclass of a command's options."""
    module = importlib.import_module(f"{options.__name__}.{command}")
    return getattr(module, command.capitalize())


def overview() -> str:
    """What `nelbo --help` prints."""
    width = shutil.get_terminal_size().columns
    lines = ["usage: nelbo COMMAND ...", ""]
    lines += ["Diffusion models with their evidence: train, sample, and read the bound.", ""]
    for name in commands():
        summary = " ".join((options_class(name).__doc__ or "").split())
        indent = " " * 14
        lines.append(
            textwrap.fill(summary, width, initial_indent=f"  {name:12}", subsequent_indent=indent)
        )
    lines += ["", "nelbo COMMAND --help shows its options, and nelbo --version the version."]
    return "\n".join(lines)


def _run(arguments: Sequence[str]) -> None:
    """Parse the arguments and run the command that they name."""
    if not arguments:
        raise NelboError(f"give a command, one of {', '.join(commands())}; see nelbo --help")
    name, rest = arguments[0], arguments[1:]
    check_command(name, commands())
    asked = _parse(name, rest)
    asked.check()
    command = _module(f"nelbo.commands.{name}")
    if name != "studio":  # which is idle for most of the time
        from nelbo.base.memory import keep_freed_memory

        keep_freed_memory()
    command.run(_resolved(asked))


def _module(name: str) -> ModuleType:
    """A module, imported without a search for garbage, of which there is next to none.

    Nor is it searched for later among the 200,000 objects that torch brings along.
    """
    if name in sys.modules:
        return sys.modules[name]
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        gc.freeze()
        gc.enable()


def _parse(name: str, arguments: Sequence[str]) -> Any:
    """The options of a command, as they were given.

    Raises:
        NelboError: what is misspelt.
    """
    if name == "train":
        # Its options depend on the kind of model, and its defaults on presets and other runs.
        from nelbo.commands.starting_point import parse_train

        return parse_train(arguments)
    kind = options_class(name)
    arguments = arranged(arguments, options_of(kind))
    check_arguments(name, options_of(kind), arguments)
    return parse(name, kind, arguments)


def _resolved(asked: Any) -> Any:
    """The options on the directories of checkpoints that ship with nelbo, where they were named."""
    from nelbo.formats.model_directory import resolve

    found: dict[str, Any] = {}
    if isinstance(getattr(asked, "run_path", None), str):
        found["run_path"] = resolve(asked.run_path)
    if isinstance(getattr(asked, "runs", None), tuple):
        found["runs"] = tuple(resolve(run) for run in asked.runs)
    return dataclasses.replace(asked, **found) if found else asked


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Show the message of a warning, not its place in the code."""
    text = Text.assemble(("note: ", "yellow"), str(message))
    Console(stderr=True).print(text, soft_wrap=True)
