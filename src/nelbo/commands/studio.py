"""nelbo studio: a page in the browser to generate, edit, evaluate and compare."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

from nelbo.base.console import notice
from nelbo.base.errors import NelboError, optional
from nelbo.commands.common import choose_device
from nelbo.commands.options.studio import Studio
from nelbo.commands.taxonomy import TAXONOMY
from nelbo.evidence.standings import FIGURES, Figures, Standing
from nelbo.formats import Pipeline
from nelbo.formats.model_directory import INDEX_FILE, available, checkpoint_path

_RUNS = Path("runs")


def run(options: Studio) -> None:
    """Serve until interrupted."""
    server = optional("nelbo.studio.server", "nelbo studio", "studio")
    models, comparisons = _served(options.runs)
    studio = server.Studio(
        models, partial(choose_device, options.device), comparisons, options.users()
    )
    names = ", ".join([*models, *comparisons])
    studio.serve(
        options.host,
        options.port,
        lambda address: notice(f"nelbo studio: {address} (serving {names}; Ctrl-C ends it)"),
    )
    notice("nelbo studio: ended")
    sys.stdout.flush()
    # At an ordinary end torch takes seconds to be taken down, while the worker may be within it.
    os._exit(0)


def _served(runs: tuple[str, ...]) -> tuple[dict[str, str], dict[str, Any]]:
    """What the command line calls each model, and the comparisons, by their names on the page.

    Raises:
        NelboError: nothing to serve, or what is no model.
    """
    shelf = {str(checkpoint_path(name)): name for name in available()}
    # What was named is resolved already, to the directory of a checkpoint that ships.
    asked = [shelf.get(name, name) for name in runs] or [*available(), *_found()]
    if not asked:
        raise NelboError("there is no checkpoint and no run under runs/: name a RUN to serve")
    models: dict[str, str] = {}
    comparisons: dict[str, Any] = {}
    for name in asked:
        path = Path(name)
        if (path / FIGURES).is_dir() and not (path / INDEX_FILE).exists():
            comparisons[name.rstrip("/")] = partial(standings_of, path)
        elif path.is_dir() and not (path / INDEX_FILE).is_file() and name not in available():
            raise NelboError(f"{name} holds no model: there is no {INDEX_FILE}")
        else:
            if not path.is_dir() and name not in available():
                Pipeline.open(name)  # of the Hub, or a mistake that is better found now
            models[name.rstrip("/")] = name
    return models, comparisons


def _found() -> list[str]:
    """Runs and comparisons below runs/, the latest first."""
    if not _RUNS.is_dir():
        return []
    inside = [path for path in _RUNS.iterdir() if path.is_dir()]
    runs = [path for path in inside if (path / INDEX_FILE).is_file() or (path / FIGURES).is_dir()]
    return [str(path) for path in sorted(runs, key=lambda path: -path.stat().st_mtime)]


def standings_of(directory: Path) -> list[Standing]:
    """What the families of a comparison came to, in the order of the taxonomy."""
    files = sorted((directory / FIGURES).glob("*.json"))
    figures = [Figures.read(file) for file in files]
    return [
        Standing(name, entry.title, entry.group, runs, {})
        for name, entry in TAXONOMY.items()
        if (runs := tuple(each for each in figures if each.family == name))
    ]
