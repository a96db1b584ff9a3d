"""The end of the training of a ControlNet: its bound, what the control explains, and samples."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from torch import Tensor

from nelbo.base.console import MESSAGES
from nelbo.evidence.explained import IMAGES, LEVELS, Explained, explained_by_control
from nelbo.evidence.extremes import Extremes
from nelbo.evidence.given import data_facts
from nelbo.formats.files import usual_guidance
from nelbo.report.explained import headline, warning
from nelbo.report.grids import image_grid, save_image
from nelbo.report.page import write_report
from nelbo.report.run_report import RunReport
from nelbo.report.training_facts import run_settings, training_facts
from nelbo.training.kinds.controlnet.drawing import beside, controlled_samples
from nelbo.training.kinds.final_samples import LATENT_STEPS
from nelbo.training.kinds.refinement import sizes_of
from nelbo.training.kinds.run_end import Evaluations, RunEnd

_SHOWN = 32
# Of what the control explains: evaluations of an image, part of the time, fewest images.
_CONDITIONS, _SHARE, _FEWEST = 5, 0.15, 8


class ControlEnd(RunEnd):
    """The bound of held-out images with their controls, and samples drawn by these."""

    splits = ("test",)
    shares = (0.5, 0.5, 0.8)
    extremes = 8
    _steps = 0
    _explained: Explained | None = None

    @cached_property
    def guidance(self) -> float:
        """The scale of the guidance of the samples."""
        return usual_guidance(self.run.notes)

    @property
    def calls(self) -> int:
        """Network calls of all samples, where there is time."""
        each = 1 if self.guidance == 1.0 else 2
        return each * self.ending.samples.calls(LATENT_STEPS, self.model.chain.num_levels)

    def draw(self, calls: float) -> Tensor:
        """A sample for each of some held-out images' controls, as pixel levels."""
        model, test = self.model, self.ending.test
        each = 1 if self.guidance == 1.0 else 2
        levels = model.chain.num_levels
        n, self._steps = self.ending.samples.plan(LATENT_STEPS, levels, calls / each)
        data, seed = test.take(slice(n)), self.ending.seed
        with MESSAGES.status("Sampling"):
            drawn = controlled_samples(
                model, str(self.run.path), data, self._steps, self.guidance, seed
            )
        grid = image_grid(beside(data, drawn), data.levels)
        save_image(grid, self.run.samples / "final.png")
        return drawn

    def remark(self, evaluations: Evaluations) -> str:
        """What the control explains, measured in a part of the time."""
        asked, evaluated = self.ending.asked, evaluations["test"]
        per_image = _CONDITIONS * (LEVELS + 2) * evaluated.call_seconds
        fitting = int(min(_SHARE * self.ending.seconds / max(per_image, 1e-9), IMAGES))
        images = asked.images or max(_FEWEST, fitting)
        data = self.ending.test.subset(min(images, IMAGES), self.ending.seed)
        if len(data) < 2:
            return ""
        self._explained = explained_by_control(self.model, data, seed=self.ending.seed)
        return "\n".join(filter(None, (headline(self._explained), warning(self._explained))))

    def write(
        self,
        evaluations: Evaluations,
        drawn: Tensor,
        closer: tuple[Extremes, Extremes] | None = None,
        calls: float = 0.0,
    ) -> dict[str, Any]:
        """As `RunEnd.write`."""
        run, model, evaluated = self.run, self.model, evaluations["test"]
        evaluation, reading = self.judged(
            evaluations, drawn, closer, steps=self._steps, guidance=self.guidance
        )
        if self._explained is not None:
            evaluation["control"] = self._explained.to_json()
        run.write_evaluation(evaluation)
        notes, shown = run.notes, drawn[:_SHOWN]
        data = self.ending.test.take(slice(len(shown)))
        report = RunReport(
            title=f"nelbo · {run.path.resolve().name}",
            subtitle=f"A ControlNet of {data.source}",
            model=model,
            bounds={"test": evaluated.bound},
            evaluated=evaluated.data,
            samples=shown,
            real=data.images,
            controls=data.controls,
            prompts=[caption or "" for caption in data.captions or ()],
            explained=self._explained,
            closer=closer,
            facts=training_facts(notes, run.course()) | data_facts(model, evaluated.data),
            metrics=run.course(),
            settings=run_settings(notes),
            files=sizes_of(evaluated),
            reading=reading,
        )
        write_report(report, run.report)
        return evaluation
