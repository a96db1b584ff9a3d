"""The end of a training run: its bound on both splits, samples, and the report."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from rich.console import Console

from nelbo.bound import Bound, BoundMap
from nelbo.commands.common import MESSAGES, mention_files
from nelbo.commands.evaluation_progress import (
    cost_json,
    evaluate_with_progress,
    levels_to_evaluate,
    map_bits,
)
from nelbo.commands.sample import all_classes, sample_with_progress
from nelbo.commands.training.final_samples import PIXEL_STEPS, FinalSamples
from nelbo.conditioning import Condition
from nelbo.data import ImageData
from nelbo.diffusion import Diffusion, Pixels
from nelbo.evidence.file_sizes import file_sizes, sizes_json
from nelbo.evidence.sample_reading import READ_AT_END, SampleReading, read_samples
from nelbo.report.grids import save_grid
from nelbo.report.page import RunReport, write_report
from nelbo.report.strips import Strip, forward_strip, reverse_strip
from nelbo.report.tables import bound_json, bound_table
from nelbo.report.training_facts import settings_that_apply, training_facts
from nelbo.samplers import DDPM
from nelbo.samplers.spacing import spaced_levels
from nelbo.training.run_directory import RunDirectory

STRIP_ROWS = 4
# The bound of the training split is there to compare with: a few levels an image tell it well.
_TRAIN_LEVELS = 25


def finish(
    run: RunDirectory,
    model: Diffusion,
    *,
    train: ImageData,
    test: ImageData,
    levels: int | Literal["all"],
    images: int,
    samples: FinalSamples,
    seed: int,
    table_to: Console,
) -> dict[str, Any]:
    """Evaluate, sample, and write evaluation.json, samples/final.png and report.html.

    Args:
        run: where to.
        model: the trained model.
        train: the images it was trained on.
        test: images held out.
        levels: levels an image for the test bound, or "all".
        images: how many images of each split at most.
        samples: what to draw.
        seed: source of all noise.
        table_to: where to print the bound.
    """
    shown = {"train": train.subset(images, seed), "test": test.subset(images, seed)}
    bounds = {
        split: evaluate_with_progress(
            model,
            data,
            f"Evaluating {split}",
            levels=levels_to_evaluate(levels if split == "test" else _fewer(levels), model),
            seed=seed,
        )
        for split, data in shown.items()
    }
    summaries = {split: bound.mean() for split, bound in bounds.items()}
    table_to.print(bound_table(summaries))
    files = {split: file_sizes(data.images, data.levels) for split, data in shown.items()}
    mention_files(files, table_to)
    evaluation = {
        split: {
            **cost_json(bound, model),
            **bound_json(summaries[split]),
            "files": sizes_json(files[split]),
        }
        for split, bound in bounds.items()
    }
    run.write_evaluation(evaluation)

    steps = samples.steps(PIXEL_STEPS, model.num_levels)
    drawn = sample_with_progress(
        model,
        DDPM(steps, "trailing"),
        samples.sample_images,
        condition=all_classes(model, samples.sample_images),
        seed=seed,
    )
    assert isinstance(model.data, Pixels)
    picture = model.data.to_levels(drawn).byte()
    save_grid(picture, run.samples / "final.png", model.data.levels)
    with MESSAGES.status("Writing the report"):
        reading = read_samples(picture, train, test, most=READ_AT_END, seed=seed)
        if reading is not None:
            evaluation["samples"] = {**reading.to_json(), "steps": steps}
            run.write_evaluation(evaluation)
        _report(run, model, shown, bounds, picture, steps, seed, reading)
    return {"evaluation": evaluation, "report": str(run.report)}


def _report(
    run: RunDirectory,
    model: Diffusion,
    data: dict[str, ImageData],
    bounds: dict[str, Bound],
    samples: torch.Tensor,
    steps: int,
    seed: int,
    reading: SampleReading | None,
) -> None:
    assert isinstance(model.data, Pixels)
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    test = data["test"]
    rows = model.data.to_network(test.images[:STRIP_ROWS]).to(device)
    condition = all_classes(model, STRIP_ROWS)
    visited = spaced_levels(model.num_levels, steps, "trailing")
    notes = run.notes()
    trained, metrics = notes["trained"], run.metrics()
    report = RunReport(
        title=f"nelbo · {run.path.name}",
        subtitle=f"A diffusion model of {test.source}",
        model=model,
        real=test.images[: len(samples)],
        samples=samples,
        bounds=bounds,
        forward=forward_strip(model, rows, generator=generator),
        reverse=_reverse_strip(
            model.respace(visited),
            visited,
            generator,
            None if condition is None else condition.to(device),
        ),
        evaluated=test,
        metrics=metrics,
        facts=training_facts(notes, metrics),
        settings=settings_that_apply(
            {"run": {"source": notes["source"], **trained}, **notes.get("settings", {})}
        ),
        names=_class_names(notes, all_classes(model, len(samples))),
        real_names=_class_names(notes, test.condition() if model.num_classes else None),
        files=file_sizes(test.images, test.levels),
        reading=reading,
    )
    maps = map_bits(model, test.take(torch.cat(report.extremes())), seed)
    assert isinstance(maps, BoundMap)
    write_report(replace(report, maps=maps), run.report)


def _class_names(notes: dict[str, Any], condition: Condition | None) -> list[str]:
    """The name of the class of each image; its number where it has no name."""
    if condition is None or condition.label is None:
        return []
    names = notes.get("label_names") or []
    labels = condition.label.tolist()
    return [
        "" if label < 0 else names[label] if label < len(names) else str(label) for label in labels
    ]


def _fewer(levels: int | Literal["all"]) -> int:
    return _TRAIN_LEVELS if levels == "all" else min(levels, _TRAIN_LEVELS)


def _reverse_strip(
    chain: Diffusion, visited: list[int], generator: torch.Generator, condition: Condition | None
) -> Strip:
    """The reverse process along a respaced chain, labelled with the levels of the whole one."""
    strip = reverse_strip(chain, STRIP_ROWS, generator=generator, condition=condition)
    return replace(strip, levels=tuple([0, *visited][t] for t in strip.levels))
