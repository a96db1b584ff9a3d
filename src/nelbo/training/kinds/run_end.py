"""The end of a run: a first report early, then one that uses its time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from torch import Tensor

from nelbo.base.console import MESSAGES, notice
from nelbo.chain.conditioning import Condition
from nelbo.chain.distributions import generator_for
from nelbo.chain.model import Model
from nelbo.coding.rate_distortion import RateDistortion, rate_distortion
from nelbo.data import ImageData
from nelbo.evidence.cost import levels_of
from nelbo.evidence.extremes import Extremes, find_extremes, told_apart
from nelbo.evidence.file_sizes import FileSizes
from nelbo.evidence.given import data_facts, given_of
from nelbo.evidence.sample_reading import READ_AT_END, read_samples
from nelbo.evidence.timed_evaluation import TimedEvaluation
from nelbo.formats.files import usual_guidance
from nelbo.report.formatting import duration
from nelbo.report.page import render, write_html
from nelbo.report.run_report import RunReport
from nelbo.report.tables import bound_table
from nelbo.report.training_facts import run_settings, training_facts
from nelbo.runs.run_directory import RunDirectory
from nelbo.training.allowance import EARLY, SOON, Allowance
from nelbo.training.kinds.kind import Ending
from nelbo.training.kinds.refinement import (
    OF_FILES,
    Asked,
    evaluated_text,
    evaluation_json,
    print_files,
    refine,
    sizes_of,
)

Evaluations = Mapping[str, TimedEvaluation]
Ends = tuple[Extremes, ...]


@dataclass
class RunEnd(ABC):
    """Evaluates, draws and writes what there is to see of a finished run.

    Args:
        run: what was trained.
        model: its model, on the device to compute on.
        ending: what to evaluate it on, and how.

    Attributes:
        splits: the splits whose bound is reported, "test" among them.
        shares: the part of the time left that the bound, the samples and a closer look at the
            extremes take, each in turn.
        extremes: how many of the least, and of the most, surprising images are shown.
    """

    run: RunDirectory
    model: Model
    ending: Ending
    splits: ClassVar[tuple[str, ...]]
    shares: ClassVar[tuple[float, float, float]]
    extremes: ClassVar[int]
    _steps = 0

    @abstractmethod
    def draw(self, calls: float) -> Tensor:
        """Samples, as pixel levels, from about `calls` network calls; kept in samples/."""

    @abstractmethod
    def shown(
        self, drawn: Tensor, evaluations: Evaluations, closer: Ends | None, calls: float
    ) -> dict[str, Any]:
        """The parts of the `RunReport` that are of this kind of model, such as its samples.

        Args:
            drawn: the samples.
            evaluations: of each of `splits`.
            closer: the extremes, if any are known; None in the first report.
            calls: about how many network calls there is time for.
        """

    def remark(self, evaluations: Evaluations) -> str:
        """A line on the figures, printed below them; "" for none."""
        return ""

    @property
    def calls_of_a_step(self) -> int:
        """Network calls of a step of a sample."""
        return 1

    @property
    def how(self) -> dict[str, Any]:
        """How the samples were drawn, for evaluation.json."""
        return {"steps": self._steps}

    @property
    def further(self) -> dict[str, Any]:
        """What else evaluation.json holds."""
        return {}

    @property
    def facts(self) -> dict[str, Any]:
        """Further facts at the top of the report."""
        return {}

    @property
    def data(self) -> dict[str, ImageData]:
        """The images of each of `splits`."""
        return {split: getattr(self.ending, split) for split in self.splits}

    @property
    def num_levels(self) -> int:
        """Levels of the chain, and so the most steps of a sample."""
        return levels_of(self.model) + 1

    @property
    def calls(self) -> int:
        """Network calls of all samples, where there is time."""
        return self.calls_of_a_step * self.ending.samples.calls(self.num_levels)

    def plan(self, calls: float) -> tuple[int, int]:
        """How many samples there are, and the steps of each, in about `calls` network calls."""
        calls /= self.calls_of_a_step
        n, self._steps = self.ending.samples.plan(self.num_levels, calls)
        return n, self._steps

    def rate_distortion(self) -> RateDistortion | None:
        """Rate and distortion of the test images that are asked for; None where none are."""
        ending = self.ending
        if not ending.coded:
            return None
        images = ending.test.subset(ending.coded, ending.seed).images
        return rate_distortion(self.model, images, generator=generator_for(ending.seed))

    def write(
        self,
        evaluations: Evaluations,
        drawn: Tensor,
        files: Mapping[str, FileSizes | None] | None = None,
        closer: Ends | None = None,
        calls: float = 0.0,
    ) -> dict[str, Any]:
        """evaluation.json, whose content is returned, and the report with what there is.

        Samples are judged and images coded for the last report alone, which has `files` of the
        images of each split. Other arguments are those of `shown`.
        """
        run, model, ending, test = self.run, self.model, self.ending, evaluations["test"]
        files = files or {}
        reading = coded = None
        evaluation = evaluation_json(evaluations, self.data, files)
        if closer is not None:
            reading = read_samples(
                drawn, ending.train, ending.test, most=READ_AT_END, seed=ending.seed
            )
            coded = self.rate_distortion()
        if reading is not None:
            evaluation["samples"] = {**reading.to_json(), **self.how}
        evaluation |= self.further
        run.write_evaluation(evaluation)
        notes, course = run.notes, run.course()
        report = RunReport(
            title=f"nelbo · {run.path.resolve().name}",
            model=model,
            bounds={split: e.bound for split, e in evaluations.items()},
            evaluated=test.data,
            closer=closer,
            metrics=course,
            facts=training_facts(notes, course) | data_facts(model, test.data) | self.facts,
            settings=run_settings(notes, condition=_read_by(model)),
            files=files.get("test"),
            reading=reading,
            coded=coded,
            **self.shown(drawn, evaluations, closer, calls),
        )
        write_html(render(report), run.report)
        return evaluation

    def report(self) -> dict[str, Any]:
        """Evaluate, sample, and write evaluation.json, samples/ and report.html.

        Where that takes its time, a first report is written early. See `Kind.report`.
        """
        model, ending = self.model, self.ending
        seconds, table_to = ending.seconds, ending.table_to
        of_bound, of_samples, of_extremes = self.shares
        allowance = Allowance(seconds)
        first = self._evaluations(Asked())
        refine(first, 0.0)  # what a call takes
        call = first["test"].call_seconds
        whole = first if ending.asked == Asked() else self._evaluations(ending.asked)
        if call * (sum(e.expected_calls for e in whole.values()) + self.calls) > SOON:
            refine(first, EARLY / 2 * seconds)
            drawn = self.draw(EARLY / 2 * seconds / call)
            begun = allowance.spent
            self.write(first, drawn)
            # The last report will take at least as long to be written.
            allowance.seconds -= allowance.spent - begun
            notice(
                f"A first report is in {self.run.report}; to refine it may take "
                f"{duration(round(allowance.left))} more"
            )
        left = allowance.left
        refine(whole, (of_bound - OF_FILES) * left)
        test = whole["test"]
        table_to.print(bound_table({split: e.bound.mean() for split, e in whole.items()}))
        if line := given_of(model, test.data).line:
            table_to.print(line, soft_wrap=True)
        table_to.print(evaluated_text(whole, self.data), soft_wrap=True)
        files = sizes_of(whole, OF_FILES * left)
        print_files(files, table_to)
        for warning in test.bound.mean().bits_per_dim.warnings(test.data.names):
            notice(f"warning: test: {warning}")
        if line := self.remark(whole):
            table_to.print(line, soft_wrap=True)
        if whole is not first:  # what was asked for took its time, and leaves the rest theirs
            allowance = Allowance((1 - of_bound) * left)
        drawn = self.draw(of_samples * allowance.left / test.call_seconds)
        ends = find_extremes(
            model,
            test.data,
            test.bound,
            test.proposal,
            shown=self.extremes,
            seconds=of_extremes * allowance.left,
            seed=ending.seed,
        )
        with MESSAGES.status("Writing the report"):
            closer = told_apart(*ends)
            calls = allowance.left / test.call_seconds
            evaluation = self.write(whole, drawn, files, closer, calls)
        return {"evaluation": evaluation, "report": str(self.run.report)}

    def _evaluations(self, asked: Asked) -> dict[str, TimedEvaluation]:
        return {
            split: asked.of(self.model, split, data, self.ending.seed)
            for split, data in self.data.items()
        }


class GuidedEnd(RunEnd):
    """The end of a run whose samples are guided, as its notes have it."""

    splits = ("test",)
    shares = (0.5, 0.5, 0.8)
    extremes = 8

    @cached_property
    def guidance(self) -> float:
        """The scale of the guidance of samples that are conditional."""
        return usual_guidance(self.run.notes)

    @property
    def is_conditional(self) -> bool:
        """Whether samples are drawn for something, which alone can be guided."""
        return True

    @property
    def calls_of_a_step(self) -> int:
        """Two where the samples are guided."""
        return 2 if self.guidance != 1.0 and self.is_conditional else 1

    @property
    def how(self) -> dict[str, Any]:
        """How the samples were drawn, for evaluation.json."""
        return {**super().how, "guidance": self.guidance}


def _read_by(model: Model) -> str:
    """What a model is conditioned on, as the setting `condition` names it."""
    if model.reads_text:
        return "text"
    return "label" if model.num_classes else "none"


def class_names(notes: Mapping[str, Any], condition: Condition | None) -> list[str]:
    """The name of the class of each image; its number where it has no name."""
    if condition is None or condition.label is None:
        return []
    names = notes.get("label_names") or []
    labels = condition.label.tolist()
    return [
        "" if label < 0 else names[label] if label < len(names) else str(label) for label in labels
    ]
