"""The command line: `nelbo COMMAND`, one module of `nelbo.commands` each."""

from __future__ import annotations

import dataclasses
import os
import sys
import warnings
from typing import Any, TextIO

import tyro
from rich.console import Console
from rich.text import Text

from nelbo.base.errors import NelboError
from nelbo.commands.arguments import check_arguments, check_command, options_of
from nelbo.commands.classify import Classify
from nelbo.commands.compare import Compare
from nelbo.commands.data import Data
from nelbo.commands.edit import Edit
from nelbo.commands.evaluate import Evaluate
from nelbo.commands.export import Export
from nelbo.commands.fit import Fit
from nelbo.commands.likelihood import Likelihood
from nelbo.commands.printing import make_printable
from nelbo.commands.rank import Rank
from nelbo.commands.report import Report
from nelbo.commands.sample import Sample
from nelbo.commands.train import Train, starting_point, train_options
from nelbo.formats.model_directory import resolve
from nelbo.version import __version__

MISTAKE = 2
INTERRUPTED = 130
BROKEN_PIPE = 141

COMMANDS = {
    "train": Train,
    "sample": Sample,
    "edit": Edit,
    "evaluate": Evaluate,
    "likelihood": Likelihood,
    "rank": Rank,
    "classify": Classify,
    "compare": Compare,
    "fit": Fit,
    "data": Data,
    "report": Report,
    "export": Export,
}


def main(arguments: list[str] | None = None) -> None:
    """Run a command; a mistake in the input is printed and exits with code 2."""
    console = Console(stderr=True)
    warnings.showwarning = _show_warning
    try:
        arguments = sys.argv[1:] if arguments is None else arguments
        make_printable(sys.stdout, sys.stderr)
        if arguments == ["--version"]:
            print(f"nelbo {__version__}")
            return
        if arguments[:1] == ["train"]:
            # Its defaults may come from the settings of a run.
            options = arguments[1:]
            check_arguments("train", train_options(), options)
            default = starting_point(options)
            tyro.cli(
                type(default),
                prog="nelbo train",
                default=default,
                args=options,
                config=(tyro.conf.OmitArgPrefixes,),
            ).run()
            return
        _check(arguments)
        command = tyro.extras.subcommand_cli_from_dict(
            COMMANDS,  # type: ignore[arg-type]  # tyro builds the dataclasses
            prog="nelbo",
            description="Diffusion models with their evidence: train, sample, and read the bound.",
            args=arguments,
            config=(tyro.conf.OmitArgPrefixes,),
        )
        _resolved(command).run()
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


def _check(arguments: list[str]) -> None:
    """Raise `NelboError` for what is misspelt."""
    if not arguments:
        return
    name = arguments[0]
    check_command(name, COMMANDS)
    if name in COMMANDS:
        check_arguments(name, options_of(COMMANDS[name]), arguments[1:])


def _resolved(command: Any) -> Any:
    """The command on the directories of checkpoints that ship with nelbo, where they were named."""
    found: dict[str, Any] = {}
    if isinstance(getattr(command, "run_path", None), str):
        found["run_path"] = resolve(command.run_path)
    if isinstance(getattr(command, "runs", None), tuple):
        found["runs"] = tuple(resolve(run) for run in command.runs)
    return dataclasses.replace(command, **found) if found else command


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A warning is for the user here: what it says, not where in the code."""
    text = Text.assemble(("note: ", "yellow"), str(message))
    Console(stderr=True).print(text, soft_wrap=True)
