"""nelbo evaluate: the bound of a model on images, term by term."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from nelbo.base.console import notice
from nelbo.chain.evidence import Evidence
from nelbo.chain.model import Model
from nelbo.commands.asked import load_asked
from nelbo.commands.common import check_optimal, optimal_chain, print_json, show, warn
from nelbo.commands.evaluation_progress import (
    evaluate_at_levels,
    evaluate_to_error_with_progress,
)
from nelbo.commands.options.evaluate import Evaluate
from nelbo.commands.shared_evaluation import join_processes, open_store, stored_bounds
from nelbo.data import ImageData
from nelbo.evidence import write_ranking
from nelbo.evidence.bound_store import BoundStore, stored_settings
from nelbo.evidence.cost import cost_json, cost_line, levels_of
from nelbo.evidence.explained import IMAGES as EXPLAINED_IMAGES
from nelbo.evidence.explained import Explained, explained_by_control
from nelbo.evidence.file_sizes import file_sizes, sizes_json
from nelbo.evidence.first_guess import profiled_square
from nelbo.evidence.given import given_of
from nelbo.evidence.identity import identify_profile
from nelbo.evidence.inputs import check_fits, inputs
from nelbo.evidence.precision import try_bfloat16
from nelbo.formats.model_directory import holds_autoencoder_alone
from nelbo.report.explained import explained_table, warning
from nelbo.report.tables import bits_unit, bound_json, bound_table, result_line
from nelbo.samplers.grid import spaced_levels
from nelbo.training.processes import Processes

DEFAULT_ERROR = 0.01
# How far bf16 may move the bound, as a share of the Monte Carlo error that is asked for.
PRECISION_SHARE = 0.1
IMAGES_FILE = "images.csv"
# What does not decide the bounds.
_NO_SETTINGS = ("run_path", "computing", "out")
_TRIED_IMAGES = 16


def run(options: Evaluate) -> None:
    """Print the bound."""
    if holds_autoencoder_alone(options.run_path):
        # Which has the plots of a report with it.
        from nelbo.commands.evaluate_autoencoder import evaluate_autoencoder_run

        evaluate_autoencoder_run(options)
        return
    if options.levels == "optimal":
        check_optimal(options.run_path, options.steps)
    processes = join_processes(options.computing.device, options.out, options.precision)
    loaded, data = load_asked(options, processes.device, quiet=not processes.is_main)
    description = f"Evaluating {Path(data.source).name}, {options.split}"
    model = _chain(options, loaded)
    dtype, tried = choose_dtype(
        model,
        data,
        _stored_precision(options) or options.precision,
        (options.error or DEFAULT_ERROR) * PRECISION_SHARE,
        options.computing.seed,
    )
    store = _store(options, model, data, processes, dtype)
    how: dict[str, Any] = {
        "batch_size": options.batch_size,
        "seed": options.computing.seed,
        "dtype": dtype,
        "store": store,
    }
    # The whole of the best short chain is evaluated, in as many calls as that needs.
    if options.levels in (None, "optimal"):
        square, error = profiled_square(model.chain), options.error or DEFAULT_ERROR
        bound, calls = evaluate_to_error_with_progress(
            model, data, description, error, score_matching_square=square, **how
        )
    else:
        count = None if options.levels == "all" else int(options.levels)
        bound, calls = evaluate_at_levels(model, data, description, count, **how)
    stored = 0 if store is None else store.stored_calls
    explained = None
    if data.controls is not None and processes.is_main and len(data) > 1:
        few = data.subset(EXPLAINED_IMAGES, options.computing.seed)
        explained = explained_by_control(model, few, seed=options.computing.seed)
        calls += sum(int(each.calls.sum()) for each in explained.bounds.values())
    _show(options, bound, model, data, calls + tried, stored, dtype, processes, explained)


def _store(
    options: Evaluate,
    model: Model,
    data: ImageData,
    processes: Processes,
    dtype: torch.dtype,
) -> BoundStore | None:
    if options.out is None:
        return None
    settings = {k: v for k, v in asdict(options).items() if k not in _NO_SETTINGS}
    # What was computed in, whichever way it was chosen.
    settings |= {"seed": options.computing.seed, "precision": _name(dtype)}
    if options.levels != "all":
        # A profile guides the draws of levels; every level once needs none.
        settings["proposal"] = identify_profile(model)
    return open_store(options.out, model, data, settings, processes)


def _stored_precision(options: Evaluate) -> str | None:
    """With --precision auto, that of the evaluation that goes on, whatever is faster now."""
    if options.out is None or options.precision != "auto":
        return None
    stored = stored_settings(stored_bounds(options.out)).get("precision")
    return stored if stored in ("fp32", "bf16") else None


def _show(
    options: Evaluate,
    bound: Evidence,
    model: Model,
    data: ImageData,
    calls: int,
    stored: int,
    dtype: torch.dtype,
    processes: Processes,
    explained: Explained | None,
) -> None:
    processes.leave()
    if not processes.is_main:
        return
    if options.out is not None:
        write_ranking(options.out / IMAGES_FILE, data, bound, ranked=False)
    summary = bound.mean()
    density = model.data.is_density
    given = given_of(model, data)
    files = None if density else file_sizes(data.images, data.levels)
    if options.computing.json:
        content: dict[str, Any] = {
            "run": options.run_path,
            "data": data.source,
            "split": options.split,
            **given.to_json(),
            "duplicates_left_out": data.left_out,
            **cost_json(bound, model, calls),
            "calls_stored": stored,
            "precision": str(dtype).removeprefix("torch."),
            "skipped": list(data.skipped),
            **bound_json(summary, density=density, names=data.names),
            "files": sizes_json(files),
            **({} if explained is None else {"control": explained.to_json()}),
        }
        print_json(content)
    else:
        show(bound_table({options.split: summary}, density=density))
        show(result_line(summary, bits_unit(density) + given.suffix))
        show(given.line)
        if explained is not None:
            show(explained_table(explained))
            show(warning(explained))
        show(files.line if files else None)
        show(cost_line(len(bound), levels_of(model) + 1, calls))
        if stored:
            show(f"{stored:,} of them had been made before and were read from {options.out}")
        warn(summary.bits_per_dim.warnings(data.names))
        if options.out is not None:
            show(f"Each image: {options.out / IMAGES_FILE}")


def _chain(options: Evaluate, model: Model) -> Model:
    """The chain to evaluate: the whole one, or a shorter one of its own bound."""
    if options.levels == "optimal":
        return optimal_chain(model, options.steps)
    if options.steps is None:
        return model
    return model.respace(spaced_levels(levels_of(model) + 1, options.steps, "linspace"))


def choose_dtype(
    model: Model, data: ImageData, precision: str, tolerance: float, seed: int
) -> tuple[torch.dtype, int]:
    """The type to compute the network in, and the network evaluations that finding it took.

    Args:
        model: the model.
        data: images, of which a few are tried.
        precision: "fp32", "bf16", or "auto" to try both.
        tolerance: how far bfloat16 may move the bound, bits per dimension.
        seed: of the noise of the trial.
    """
    if precision != "auto":
        return (torch.bfloat16 if precision == "bf16" else torch.float32), 0
    check_fits(model, data)
    if len(data) < 2:
        return torch.float32, 0
    # Not the first ones: folders have one class after the other.
    few = data.subset(_TRIED_IMAGES, seed)
    trial = try_bfloat16(model, *inputs(model, few), seed=seed)
    dtype = trial.dtype(tolerance)
    notice(
        f"{_name(dtype)}: bf16 takes 1/{trial.speedup:.2f} of the "
        f"time and moves the bound by {trial.shift:+.5f} ± {trial.shift_error:.5f} bits/dim "
        f"(at most {tolerance:g} is allowed)"
    )
    return dtype, trial.calls


def _name(dtype: torch.dtype) -> str:
    """What --precision calls a type."""
    return "bf16" if dtype == torch.bfloat16 else "fp32"
