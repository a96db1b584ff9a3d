"""nelbo compare --runs: which of two models explains images better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from nelbo.base.errors import NelboError
from nelbo.chain.model import Model
from nelbo.commands.asked import asked_source
from nelbo.commands.common import answer, compute_on
from nelbo.commands.options.compare import Compare
from nelbo.data import ImageData
from nelbo.data.splits import TRAIN
from nelbo.evidence import compare
from nelbo.evidence.file_sizes import file_sizes, sizes_json
from nelbo.evidence.given import given_of
from nelbo.evidence.inputs import check_probability
from nelbo.evidence.progress import evaluate_with_progress, levels_to_compare
from nelbo.formats import Pipeline
from nelbo.report.formatting import number
from nelbo.report.tables import estimate_text
from nelbo.runs.run_data import load_with_data


def compare_runs(options: Compare, runs: tuple[str, str]) -> None:
    """Evaluate both, compare, print."""
    pipelines = [Pipeline.open(run) for run in runs]
    split, keep = options.split, options.keep_duplicates
    sources = [asked_source(options, run, split, keep_duplicates=keep) for run in pipelines]
    trained = [source.own for source in sources]
    # What one of them was trained on is left out, and cropped and resized as then, for the other,
    # too.
    own, validation = (any(getattr(s, n) for s in sources) for n in ("own", "validation"))
    resize = options.resize or own
    sources = [replace(s, own=own, validation=validation, resize=resize) for s in sources]
    device = compute_on(options.computing)
    # Both, before the long work: the second may not be there. The seed draws the same images.
    loaded = [
        load_with_data(run, source, device) for run, source in zip(pipelines, sources, strict=True)
    ]
    for _, data in loaded:
        if len(data) < 2:
            raise NelboError(f"a paired comparison needs at least 2 images, got {len(data)}")
    if options.embedded_guidance is not None:
        loaded = _at_guidance(loaded, options.embedded_guidance)
    _check_shapes(runs, [data.shape for _, data in loaded])
    given = [given_of(model, data) for model, data in loaded]
    for name, (model, data) in zip(runs, loaded, strict=True):
        check_probability(name, model, data)
    levels = levels_to_compare(options.levels, loaded, options.computing.seed)
    bounds = [
        evaluate_with_progress(
            *found,
            f"Evaluating {run}",
            levels=chosen,
            batch_size=options.batch_size,
            seed=options.computing.seed,
        )
        for run, found, chosen in zip(runs, loaded, levels, strict=True)
    ]
    first, second = bounds
    result = compare(first, second, generator=torch.Generator().manual_seed(options.computing.seed))
    means = [bound.mean().bits_per_dim for bound in bounds]
    shown = loaded[0][1]
    files = file_sizes(shown.images, shown.levels)
    warnings = [*_trained_on(runs, trained, shown), *result.warnings(shown.names)]
    low, high = result.mean.interval()
    better = runs[0] if result.mean.mean < 0 else runs[1]
    share = result.first_wins if result.mean.mean < 0 else 1 - result.first_wins
    verdict = "These images show no difference between the two models"
    if result.p_value < 0.05:
        verdict = f"{better} explains the images better, {share:.0%} of them one by one"
    same = given[0].what == given[1].what
    answer(
        options.computing.json,
        {
            "data": options.data,
            "split": options.split,
            "duplicates_left_out": shown.left_out,
            "images": len(result.difference),
            "runs": [
                {
                    "run": run,
                    "bits_per_dim": mean.mean,
                    "standard_error": mean.standard_error,
                    "interval": mean.interval(),
                    **what.to_json(),
                }
                for run, mean, what in zip(runs, means, given, strict=True)
            ],
            "difference": result.mean.mean,
            "standard_error": result.mean.standard_error,
            "interval": result.mean.interval(),
            "p_value": result.p_value,
            "first_wins": result.first_wins,
            "files": sizes_json(files),
            "skewness": result.skewness,
            "warnings": warnings,
        },
        *(
            f"{estimate_text(mean, 3)} bits/dim{what.suffix}  {run}"
            for run, mean, what in zip(runs, means, given, strict=True)
        ),
        files.line if files else None,
        f"difference {result.mean.mean:+.4f} ± {number(result.mean.standard_error, 4)} bits/dim, "
        f"95% interval {low:+.4f} to {high:+.4f}, "
        f"paired over {len(result.difference):,} images; p = {result.p_value:.2g}",
        *(
            None if same else f"{run} is conditioned on {what.fact}"
            for run, what in zip(runs, given, strict=True)
        ),
        verdict,
        warnings=warnings,
    )


def _trained_on(runs: tuple[str, str], trained: Sequence[bool], data: ImageData) -> list[str]:
    """Which of the two has seen the images in training, which flatters it."""
    seen = (data.splits or ()).count(TRAIN)
    return [
        f"{run} was trained on {seen:,} of these {len(data):,} images, which flatters it: compare "
        "on --split test"
        for run, own in zip(runs, trained, strict=True)
        if own and seen
    ]


def _check_shapes(runs: tuple[str, str], shapes: list[tuple[int, int, int]]) -> None:
    if shapes[0] != shapes[1]:
        takes = " and ".join(
            f"{run} takes {'×'.join(map(str, shape))}"
            for run, shape in zip(runs, shapes, strict=True)
        )
        raise NelboError(f"a paired comparison needs models of images of one size: {takes}")


def _at_guidance(
    loaded: list[tuple[Model, ImageData]], guidance: float
) -> list[tuple[Model, ImageData]]:
    """Those of the models whose networks receive a guidance at this one; an error for none."""
    embeds = [model.embedded_guidance is not None for model, _ in loaded]
    if not any(embeds):
        embeds = [True] * len(loaded)
    return [
        (model.with_embedded_guidance(guidance) if one else model, data)
        for one, (model, data) in zip(embeds, loaded, strict=True)
    ]
