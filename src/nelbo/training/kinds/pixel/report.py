"""The end of the training of a model of pixels: its bound on both splits, samples, and report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nelbo.base.console import MESSAGES, say
from nelbo.chain.conditioning import Condition
from nelbo.chain.model import Model
from nelbo.data import ImageData
from nelbo.diffusion import Diffusion
from nelbo.evidence.bit_map import MAP_LEVELS, map_bits
from nelbo.evidence.cost import levels_of
from nelbo.evidence.extremes import Extremes, find_extremes
from nelbo.evidence.given import data_facts, given_of
from nelbo.evidence.sample_reading import READ_AT_END, read_samples
from nelbo.evidence.timed_evaluation import TimedEvaluation
from nelbo.report.formatting import duration
from nelbo.report.grids import save_grid
from nelbo.report.page import RunReport, write_report
from nelbo.report.run_report import EXTREMES
from nelbo.report.strips import Strip, forward_strip, reverse_strip
from nelbo.report.tables import bound_table
from nelbo.report.training_facts import settings_that_apply, training_facts
from nelbo.runs.run_directory import RunDirectory
from nelbo.samplers.grid import spaced_levels
from nelbo.samplers.one_call import suited_sampler
from nelbo.training.allowance import EARLY, SOON, Allowance
from nelbo.training.kinds.drawing import all_classes, draw
from nelbo.training.kinds.final_samples import PIXEL_STEPS, FinalSamples
from nelbo.training.kinds.kind import Ending
from nelbo.training.kinds.refinement import (
    Asked,
    evaluated_text,
    evaluation_json,
    expected_calls,
    print_files,
    refine,
    sizes_of,
)

STRIP_ROWS = 4
# Steps that a reverse process takes, at least and at most, to be looked at.
_STRIP_STEPS, _MOST_STRIP_STEPS = 20, 250
# Levels an image for maps, where there is time and where there is not.
_FEWEST_MAP_LEVELS = 10
# The part of the time that is left for each thing in turn.
_BOUND, _SAMPLES, _EXTREMES, _MAPS = 0.45, 0.55, 0.4, 0.5


def report(run: RunDirectory, model: Model, ending: Ending) -> dict[str, Any]:
    """Evaluate, sample, and write evaluation.json, samples/final.png and report.html.

    Where that takes its time, a first report is written early. See `Kind.report`.
    """
    asked, seed, seconds, table_to = ending.asked, ending.seed, ending.seconds, ending.table_to
    allowance = Allowance(seconds)
    splits = {"train": ending.train, "test": ending.test}
    first = {split: Asked().of(model, split, data, seed) for split, data in splits.items()}
    refine(first, 0.0)  # what a call takes
    call = first["test"].call_seconds
    whole = first
    if asked != Asked():
        whole = {split: asked.of(model, split, data, seed) for split, data in splits.items()}
    end = _End(run, model, splits, ending.samples, seed)
    calls = expected_calls(whole) + ending.samples.calls(PIXEL_STEPS, levels_of(model) + 1)
    if call * calls > SOON:
        refine(first, EARLY / 2 * seconds)
        end.write(first, end.draw(EARLY / 2 * seconds / call))
        say(
            f"A first report is in {run.report}; to refine it may take "
            f"{duration(round(allowance.left))} more"
        )
    refine(whole, _BOUND * allowance.left)
    table_to.print(bound_table({split: e.bound.mean() for split, e in whole.items()}))
    if line := given_of(model, whole["test"].data).line:
        table_to.print(line, soft_wrap=True)
    table_to.print(evaluated_text(whole, splits), soft_wrap=True)
    print_files({split: sizes_of(e) for split, e in whole.items()}, table_to)
    call = whole["test"].call_seconds
    drawn = end.draw(_SAMPLES * allowance.left / call)
    test_bound = whole["test"]
    closer = find_extremes(
        model,
        test_bound.data,
        test_bound.bound,
        test_bound.proposal,
        shown=EXTREMES,
        seconds=_EXTREMES * allowance.left,
        seed=seed,
    )
    with MESSAGES.status("Writing the report"):
        levels = int(_MAPS * allowance.left / call / sum(len(end.data) for end in closer))
        evaluation = end.write(
            whole,
            drawn,
            closer=closer,
            map_levels=min(MAP_LEVELS, max(_FEWEST_MAP_LEVELS, levels)),
            strip_steps=max(_STRIP_STEPS, int(allowance.left / 2 / call / STRIP_ROWS)),
        )
    return {"evaluation": evaluation, "report": str(run.report)}


@dataclass
class _End:
    """Draws and writes what there is to see of a finished run."""

    run: RunDirectory
    model: Model
    splits: Mapping[str, ImageData]
    samples: FinalSamples
    seed: int
    steps: int = 0

    def draw(self, calls: float) -> Tensor:
        """Samples, as pixel levels, from about `calls` network calls; kept as samples/final.png."""
        model = self.model
        n, steps = self.samples.plan(PIXEL_STEPS, levels_of(model) + 1, calls)
        self.steps = steps
        drawn = draw(model, suited_sampler(model, steps), n, self.seed)
        picture = model.data.to_levels(drawn).byte()
        save_grid(picture, self.run.samples / "final.png", model.data.shown_levels)
        return picture

    def write(
        self,
        evaluations: Mapping[str, TimedEvaluation],
        samples: Tensor,
        *,
        closer: tuple[Extremes, Extremes] | None = None,
        map_levels: int | None = None,
        strip_steps: int | None = None,
    ) -> dict[str, Any]:
        """evaluation.json, whose content is returned, and the report with what there is."""
        run, model = self.run, self.model
        evaluation = evaluation_json(evaluations, self.splits)
        reading = None
        if closer is not None:  # the first report does without
            train, held_out = self.splits["train"], self.splits["test"]
            reading = read_samples(samples, train, held_out, most=READ_AT_END, seed=self.seed)
        if reading is not None:
            evaluation["samples"] = {**reading.to_json(), "steps": self.steps}
        run.write_evaluation(evaluation)
        generator = torch.Generator().manual_seed(self.seed)
        test = evaluations["test"].data
        rows = model.data.to_network(test.images[:STRIP_ROWS])
        notes = run.notes
        report = RunReport(
            title=f"nelbo · {run.path.name}",
            subtitle=f"{model.title} of {test.source}",
            model=model,
            real=test.images[: len(samples)],
            samples=samples,
            bounds={split: e.bound for split, e in evaluations.items()},
            forward=self._forward(rows, generator),
            reverse=None if strip_steps is None else self._reverse(strip_steps, generator),
            evaluated=test,
            closer=closer,
            metrics=run.course(),
            facts=training_facts(notes, run.course()) | data_facts(model, test),
            settings=settings_that_apply(
                {
                    "run": {"source": notes["source"], **notes["trained"]},
                    **notes.get("settings", {}),
                }
            ),
            names=_class_names(notes, all_classes(model, len(samples))),
            real_names=_class_names(notes, test.condition() if model.num_classes else None)[
                : len(samples)
            ],
            files=sizes_of(evaluations["test"]),
            reading=reading,
        )
        maps: Any = None
        if closer is not None and map_levels is not None:
            shown = test.take(torch.cat([end.index for end in closer]))
            maps = map_bits(model, shown, self.seed, levels=map_levels)
        write_report(replace(report, maps=maps), run.report)
        return evaluation

    def _forward(self, rows: Tensor, generator: torch.Generator) -> Strip | None:
        """The forward process of some images; None without a chain."""
        chain: Diffusion | None = self.model.chain
        if chain is None:
            return None
        return forward_strip(chain, rows.to(self.model.device), generator=generator)

    def _reverse(self, steps: int, generator: torch.Generator) -> Strip | None:
        """The reverse process of a respaced chain, labelled with the levels of the whole one."""
        model: Diffusion | None = self.model.chain
        if model is None:
            return None
        visited = spaced_levels(
            model.num_levels, min(steps, _MOST_STRIP_STEPS, model.num_levels), "trailing"
        )
        strip = reverse_strip(
            model.respace(visited),
            STRIP_ROWS,
            generator=generator,
            condition=all_classes(model, STRIP_ROWS),
        )
        return replace(strip, levels=tuple([0, *visited][t] for t in strip.levels))


def _class_names(notes: dict[str, Any], condition: Condition | None) -> list[str]:
    """The name of the class of each image; its number where it has no name."""
    if condition is None or condition.label is None:
        return []
    names = notes.get("label_names") or []
    labels = condition.label.tolist()
    return [
        "" if label < 0 else names[label] if label < len(names) else str(label) for label in labels
    ]
