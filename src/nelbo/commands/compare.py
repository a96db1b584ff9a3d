"""nelbo compare: two models on the same images, or the families of the taxonomy on one scale."""

from __future__ import annotations

from nelbo.commands.compare_families import compare_families
from nelbo.commands.compare_runs import compare_runs
from nelbo.commands.options.compare import Compare


def run(options: Compare) -> None:
    """What the arguments ask for: two runs, or families that are trained first."""
    if options.runs is None:
        compare_families(options)
    else:
        compare_runs(options, options.runs)
