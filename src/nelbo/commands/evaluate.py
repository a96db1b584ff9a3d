"""nelbo evaluate: the bound of a model on images, term by term."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nelbo.chain.evidence import Evidence
from nelbo.chain.model import Model
from nelbo.commands.asked import heading, load_asked
from nelbo.commands.common import answer, check_optimal
from nelbo.commands.options.evaluate import Evaluate
from nelbo.commands.shared_evaluation import join_processes, open_store, stored_bounds
from nelbo.data import ImageData
from nelbo.evidence import write_ranking
from nelbo.evidence.bound_store import stored_settings
from nelbo.evidence.cost import cost_json, cost_line, levels_of
from nelbo.evidence.explained import IMAGES as EXPLAINED_IMAGES
from nelbo.evidence.explained import explained_by_control
from nelbo.evidence.file_sizes import file_sizes, sizes_json
from nelbo.evidence.given import given_of
from nelbo.evidence.identity import identify_profile
from nelbo.evidence.precision import choose_dtype, precision_of
from nelbo.evidence.progress import evaluate_at_levels, evaluate_to_error_with_progress
from nelbo.evidence.reading_levels import profiled_square
from nelbo.evidence.short_chains import optimal_chain
from nelbo.formats.model_directory import holds_autoencoder_alone
from nelbo.report.explained import explained_table, warning
from nelbo.report.tables import bits_unit, bound_json, bound_table, result_line
from nelbo.samplers.grid import spaced_levels

DEFAULT_ERROR = 0.01
# How far bf16 may move the bound, as a share of the Monte Carlo error that is asked for.
PRECISION_SHARE = 0.1
IMAGES_FILE = "images.csv"


def run(options: Evaluate) -> None:
    """Print the bound."""
    if holds_autoencoder_alone(options.run_path):
        # Which has the plots of a report with it.
        from nelbo.commands.evaluate_autoencoder import evaluate_autoencoder_run

        evaluate_autoencoder_run(options)
        return
    if options.levels == "optimal":
        check_optimal(options.run_path, options.steps)
    out, seed, error = options.out, options.computing.seed, options.error or DEFAULT_ERROR
    processes = join_processes(options.computing, out, options.precision)
    loaded, data = load_asked(options, processes.device, quiet=not processes.is_main)
    model = _chain(options, loaded)
    dtype, calls = choose_dtype(model, data, _precision(options), error * PRECISION_SHARE, seed)
    # What was computed in, whichever way it was chosen.
    found = {"precision": precision_of(dtype)}
    if options.levels != "all":
        # A profile guides the draws of levels; every level once needs none.
        found["proposal"] = identify_profile(model)
    store = open_store(options, model, data, processes, **found)
    bound, made = _evaluate(options, model, data, error, seed=seed, dtype=dtype, store=store)
    calls += made
    explained = None
    if data.controls is not None and processes.is_main and len(data) > 1:
        explained = explained_by_control(model, data.subset(EXPLAINED_IMAGES, seed), seed=seed)
        calls += sum(int(each.calls.sum()) for each in explained.bounds.values())
    processes.leave()
    if not processes.is_main:
        return
    if out is not None:
        write_ranking(out / IMAGES_FILE, data, bound, ranked=False)
    summary, density, given = bound.mean(), model.data.is_density, given_of(model, data)
    has_bits = summary.kind != "none"
    files = None if density else file_sizes(data.images, data.levels)
    stored = 0 if store is None else store.stored_calls
    answer(
        options.computing.json,
        {
            **heading(options, data, given.to_json()),
            **cost_json(bound, model, calls),
            "calls_stored": stored,
            "precision": str(dtype).removeprefix("torch."),
            "skipped": list(data.skipped),
            **bound_json(summary, density=density, names=data.names),
            "files": sizes_json(files),
            **({} if explained is None else {"control": explained.to_json()}),
        },
        bound_table({options.split: summary}, density=density) if has_bits else None,
        result_line(summary, bits_unit(density) + given.suffix),
        given.line,
        *(() if explained is None else (explained_table(explained), warning(explained))),
        files.line if files else None,
        cost_line(len(bound), levels_of(model) + 1, calls) if has_bits else None,
        f"{stored:,} of them had been made before and were read from {out}" if stored else None,
        None if out is None else f"Each image: {out / IMAGES_FILE}",
        warnings=summary.bits_per_dim.warnings(data.names),
    )


def _precision(options: Evaluate) -> str:
    """The precision to compute in; auto is that of the evaluation that goes on, whatever is faster
    now."""
    if options.out is not None and options.precision == "auto":
        stored = stored_settings(stored_bounds(options.out)).get("precision")
        if stored in ("fp32", "bf16"):
            return stored
    return options.precision


def _chain(options: Evaluate, model: Model) -> Model:
    """The chain to evaluate: the whole one, or a shorter one of its own bound."""
    if options.steps is None:
        return model
    if options.levels == "optimal":
        return optimal_chain(model, options.steps)
    T = levels_of(model) + 1
    # Of both ends one step keeps the last, which is noise.
    return model.respace([T] if options.steps == 1 else spaced_levels(T, options.steps, "linspace"))


def _evaluate(
    options: Evaluate, model: Model, data: ImageData, error: float, **how: Any
) -> tuple[Evidence, int]:
    """The bound, and the network evaluations that it took."""
    description = f"Evaluating {Path(data.source).name}, {options.split}"
    how["batch_size"] = options.batch_size
    # The whole of the best short chain is evaluated, in as many calls as that needs.
    if options.levels in (None, "optimal"):
        how["score_matching_square"] = profiled_square(model.chain)
        return evaluate_to_error_with_progress(model, data, description, error, **how)
    count = None if options.levels == "all" else int(options.levels)
    return evaluate_at_levels(model, data, description, count, **how)
