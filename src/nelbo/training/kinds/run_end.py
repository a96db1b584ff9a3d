"""The end of a run: a first report early, then one that uses its time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from nelbo.base.console import MESSAGES, say
from nelbo.chain.distributions import generator_for
from nelbo.chain.model import Model
from nelbo.coding.rate_distortion import RateDistortion, rate_distortion
from nelbo.data import ImageData
from nelbo.evidence.extremes import Extremes, find_extremes
from nelbo.evidence.given import given_of
from nelbo.evidence.sample_reading import READ_AT_END, SampleReading, read_samples
from nelbo.evidence.timed_evaluation import TimedEvaluation
from nelbo.report.formatting import duration
from nelbo.report.tables import bound_table
from nelbo.runs.run_directory import RunDirectory
from nelbo.training.allowance import EARLY, SOON, Allowance
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

Evaluations = Mapping[str, TimedEvaluation]


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

    @property
    @abstractmethod
    def calls(self) -> int:
        """Network calls of all samples, where there is time."""

    @abstractmethod
    def draw(self, calls: float) -> Tensor:
        """Samples, as pixel levels, from about `calls` network calls; kept in samples/."""

    @abstractmethod
    def write(
        self,
        evaluations: Evaluations,
        drawn: Tensor,
        closer: tuple[Extremes, Extremes] | None = None,
        calls: float = 0.0,
    ) -> dict[str, Any]:
        """evaluation.json, whose content is returned, and the report with what there is.

        Args:
            evaluations: of each of `splits`.
            drawn: the samples.
            closer: the extremes; None in the first report.
            calls: about how many network calls there is time for.
        """

    def remark(self, evaluations: Evaluations) -> str:
        """A line on the figures, printed below them; "" for none."""
        return ""

    @property
    def data(self) -> dict[str, ImageData]:
        """The images of each of `splits`."""
        return {split: getattr(self.ending, split) for split in self.splits}

    def read(self, drawn: Tensor) -> SampleReading | None:
        """How good the samples are beside the images of training and test."""
        ending = self.ending
        return read_samples(drawn, ending.train, ending.test, most=READ_AT_END, seed=ending.seed)

    def judged(
        self,
        evaluations: Evaluations,
        drawn: Tensor,
        closer: tuple[Extremes, Extremes] | None,
        **how: Any,
    ) -> tuple[dict[str, Any], SampleReading | None]:
        """What evaluation.json holds, and how good the samples are; the first report does without.

        Args:
            evaluations: of each of `splits`.
            drawn: the samples.
            closer: None in the first report.
            how: how the samples were drawn.
        """
        evaluation = evaluation_json(evaluations, self.data)
        reading = None if closer is None else self.read(drawn)
        if reading is not None:
            evaluation["samples"] = {**reading.to_json(), **how}
        return evaluation, reading

    def rate_distortion(self) -> RateDistortion | None:
        """Rate and distortion of the test images that are asked for; None where none are."""
        ending = self.ending
        if not ending.coded:
            return None
        images = ending.test.subset(ending.coded, ending.seed).images
        return rate_distortion(self.model, images, generator=generator_for(ending.seed))

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
        if call * (expected_calls(whole) + self.calls) > SOON:
            refine(first, EARLY / 2 * seconds)
            self.write(first, self.draw(EARLY / 2 * seconds / call))
            say(
                f"A first report is in {self.run.report}; to refine it may take "
                f"{duration(round(allowance.left))} more"
            )
        left = allowance.left
        refine(whole, of_bound * left)
        test = whole["test"]
        table_to.print(bound_table({split: e.bound.mean() for split, e in whole.items()}))
        if line := given_of(model, test.data).line:
            table_to.print(line, soft_wrap=True)
        table_to.print(evaluated_text(whole, self.data), soft_wrap=True)
        print_files({split: sizes_of(e) for split, e in whole.items()}, table_to)
        for warning in test.bound.mean().bits_per_dim.warnings(test.data.names):
            say(f"warning: test: {warning}")
        if line := self.remark(whole):
            table_to.print(line, soft_wrap=True)
        if whole is not first:  # what was asked for took its time, and leaves the rest theirs
            allowance = Allowance((1 - of_bound) * left)
        drawn = self.draw(of_samples * allowance.left / test.call_seconds)
        closer = find_extremes(
            model,
            test.data,
            test.bound,
            test.proposal,
            shown=self.extremes,
            seconds=of_extremes * allowance.left,
            seed=ending.seed,
        )
        with MESSAGES.status("Writing the report"):
            evaluation = self.write(whole, drawn, closer, allowance.left / test.call_seconds)
        return {"evaluation": evaluation, "report": str(self.run.report)}

    def _evaluations(self, asked: Asked) -> dict[str, TimedEvaluation]:
        return {
            split: asked.of(self.model, split, data, self.ending.seed)
            for split, data in self.data.items()
        }
