"""nelbo fit: measure what each level costs, for the best variances and levels of short chains."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch
from rich.table import Table

from nelbo.base.console import Counting
from nelbo.base.errors import NelboError
from nelbo.base.suggestions import directories_near
from nelbo.chain.estimate import Estimate
from nelbo.chain.model import Model
from nelbo.commands.common import answer, check_place, compute_on
from nelbo.commands.options.fit import Fit
from nelbo.data import ImageData
from nelbo.data.splits import EmptySplitError
from nelbo.diffusion import LevelProfile
from nelbo.diffusion.measurement import collect_levels, levels_to_measure, measure_levels
from nelbo.diffusion.profile import PROFILE_FILE
from nelbo.evidence.given import given_of
from nelbo.evidence.inputs import check_fits, condition_for
from nelbo.evidence.short_chains import costs_of_images, doubts, expected_bounds, states_of
from nelbo.formats import Pipeline
from nelbo.report.formatting import number
from nelbo.report.tables import new_table
from nelbo.runs.model_copy import copy_model
from nelbo.runs.run_data import RunSource, check_data, load_with_data


def run(options: Fit) -> None:
    """Measure, store, and print the bounds that short chains will have."""
    if not Path(options.run_path).is_dir():
        raise NelboError(
            f"{options.run_path} is no directory{directories_near(Path(options.run_path))}: the "
            "profile is stored in the run's"
        )
    check_place(options.run_path, options.out, PROFILE_FILE, "the profile")
    pipeline = Pipeline.open(options.run_path)
    source = _source(options, pipeline)
    device = compute_on(options.computing)
    source, model, data = _load(options, pipeline, source, device)
    if not options.captions:
        if not model.reads_text:
            raise NelboError(f"--no-captions: {model.noun} reads no text, leave it out")
        data = replace(data, captions=None)
    profile, autoencoder, spread = _measure(options, model, data)
    if options.out is not None:
        copy_model(options.run_path, options.out)
    file = (options.out or Path(options.run_path)) / PROFILE_FILE
    profile.save(file)
    bounds = expected_bounds(profile, math.prod(data.shape), autoencoder)
    error = spread * (1 / (math.prod(data.shape) * math.log(2)))
    doubted = doubts(profile, bounds)
    given, warnings = given_of(model, data), error.warnings()
    plural = profile.examples > 1
    of_split = "" if source.split == "all" else f"{source.split} "
    measured = (
        f"{profile.examples:,} {of_split}images that were"
        if plural
        else f"one {of_split}image that was"
    )
    # One image has no spread.
    spread_shown = "without an error"
    if math.isfinite(error.standard_error):
        spread_shown = f"each ± {number(error.standard_error, 3)} over images"
    where = "" if options.out is None else f" {options.out}"
    answer(
        options.computing.json,
        {
            "run": options.run_path,
            "data": data.source,
            "split": source.split,
            **given.to_json(),
            "examples": profile.examples,
            "levels_measured": len(profile.levels),
            "bits_per_dim": bounds,
            "standard_error": None if profile.examples < 2 else error.standard_error,
            "of_the_images_fitted_on": True,
            "warnings": warnings,
            "doubts": doubted,
            "out": str(file),
        },
        _table(bounds, given.suffix),
        f"These are of the {measured} fitted on, {spread_shown}; evaluate others",
        f"Stored in {file}; sample and evaluate{where} use it with --levels optimal",
        warnings=warnings,
        notes=doubted,
    )


def _source(options: Fit, pipeline: Pipeline) -> RunSource:
    """The images to measure on: by default those for validation, else those to train on."""
    if options.split not in (None, "validation", "train", "all"):
        raise NelboError(
            f"--split {options.split}: levels are fitted to validation or train images; those for "
            "test are what figures are reported on"
        )
    source = check_data(pipeline, options.data, options.split or "train", resize=options.resize)
    if source.split == "all" and source.own:
        raise NelboError(
            "--split all holds the test images of the run, on which figures are reported: give "
            "validation or train"
        )
    by_default = options.split is None and source.validation
    return replace(source, split="validation") if by_default else source


def _load(
    options: Fit, pipeline: Pipeline, source: RunSource, device: torch.device
) -> tuple[RunSource, Model, ImageData]:
    """The model and the images; by default those to train on where none are for validation."""
    try:
        return source, *load_with_data(pipeline, source, device)
    except EmptySplitError:
        if options.split is not None:
            raise
    source = replace(source, split="train")
    return source, *load_with_data(pipeline, source, device)


def _measure(options: Fit, model: Model, data: ImageData) -> tuple[LevelProfile, float, Estimate]:
    """The profile of the chain, what an image costs beside the chain, and the whole, nats."""
    check_fits(model, data)
    generator = torch.Generator().manual_seed(options.computing.seed)
    if options.images is not None and options.images < len(data):
        data = data.take(torch.randperm(len(data), generator=generator)[: options.images])
    x_0, autoencoder = states_of(model, data, generator)
    chain = model.chain
    steps = measure_levels(
        chain,
        x_0,
        condition_for(model, data),
        levels=options.levels,
        draws=options.draws,
        batch_size=options.batch_size,
        generator=generator,
    )
    costs = []
    total = len(levels_to_measure(chain.schedule, options.levels))
    with Counting("Measuring levels", total) as progress:
        for cost in steps:
            costs.append(cost)
            progress(1, status=f"level {cost.t}")
    profile = collect_levels(chain, x_0, iter(costs), draws=options.draws)
    spread = Estimate.of(autoencoder + costs_of_images(costs, profile))
    return profile, autoencoder.mean().item(), spread


def _table(bounds: dict[str, dict[str, float]], suffix: str) -> Table:
    table = new_table(
        (),
        ("levels", "evenly spaced", "optimal"),
        caption=f"expected bits/dim{suffix} of shorter chains with the optimal variance",
    )
    for K, even in bounds["even"].items():
        table.add_row(K, f"{even:.3f}", f"{bounds['optimal'][K]:.3f}")
    return table
