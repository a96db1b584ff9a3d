"""The end of the training of a ControlNet: its bound, what the control explains, and samples."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from nelbo.base.console import MESSAGES
from nelbo.coding.rate_distortion import RateDistortion
from nelbo.evidence.explained import IMAGES, LEVELS, Explained, explained_by_control
from nelbo.report.explained import headline, warning
from nelbo.report.grids import image_grid, save_image
from nelbo.training.kinds.controlnet.drawing import beside, controlled_samples
from nelbo.training.kinds.run_end import Ends, Evaluations, GuidedEnd

_SHOWN = 32
# Of what the control explains: evaluations of an image, part of the time, fewest images.
_CONDITIONS, _SHARE, _FEWEST = 5, 0.15, 8


class ControlEnd(GuidedEnd):
    """The bound of held-out images with their controls, and samples drawn by these."""

    _explained: Explained | None = None

    @property
    def further(self) -> dict[str, Any]:
        """What the control explains."""
        return {} if self._explained is None else {"control": self._explained.to_json()}

    def draw(self, calls: float) -> Tensor:
        """A sample for each of some held-out images' controls, as pixel levels."""
        n, steps = self.plan(calls)
        data, seed, path = self.ending.test.take(slice(n)), self.ending.seed, str(self.run.path)
        with MESSAGES.status("Sampling"):
            drawn = controlled_samples(self.model, path, data, steps, self.guidance, seed)
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

    def rate_distortion(self) -> RateDistortion | None:
        """None: pictures are coded without their controls."""
        return None

    def shown(
        self, drawn: Tensor, evaluations: Evaluations, closer: Ends | None, calls: float
    ) -> dict[str, Any]:
        """As `RunEnd.shown`."""
        drawn = drawn[:_SHOWN]
        data = self.ending.test.take(slice(len(drawn)))
        return {
            "subtitle": f"A ControlNet of {data.source}",
            "samples": drawn,
            "real": data.images,
            "controls": data.controls,
            "prompts": [caption or "" for caption in data.captions or ()],
            "explained": self._explained,
        }
