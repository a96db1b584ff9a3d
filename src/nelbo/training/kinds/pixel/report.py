"""The end of the training of a model of pixels: its bound on both splits, samples, and report."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nelbo.data import ImageData
from nelbo.diffusion import Diffusion
from nelbo.evidence.bit_map import MAP_LEVELS, map_bits
from nelbo.report.grids import save_grid
from nelbo.report.run_report import EXTREMES
from nelbo.report.strips import Strip, forward_strip, reverse_strip
from nelbo.samplers.batches import sample_in_batches
from nelbo.samplers.default import suited_sampler
from nelbo.samplers.grid import spaced_levels
from nelbo.training.kinds.run_end import Ends, Evaluations, RunEnd, class_names

STRIP_ROWS = 4
# Steps that a reverse process takes, at least and at most, to be looked at.
STRIP_STEPS, MOST_STRIP_STEPS = 20, 250
# Levels an image for maps, where there is time and where there is not.
_FEWEST_MAP_LEVELS = 10
# The part of the time that is left for maps.
_MAPS = 0.5


class PixelEnd(RunEnd):
    """The bound of both splits, samples of every class, maps and the chain at work."""

    splits = ("train", "test")
    shares = (0.45, 0.55, 0.4)
    extremes = EXTREMES

    def draw(self, calls: float) -> Tensor:
        """Samples of every class in turn, as pixel levels; kept as samples/final.png."""
        model = self.model
        n, steps = self.plan(calls)
        sampler, condition = suited_sampler(model, steps), model.classes_in_turn(n)
        drawn = sample_in_batches(model, sampler, n, condition=condition, seed=self.ending.seed)
        picture = model.data.to_levels(drawn).byte()
        save_grid(picture, self.run.samples / "final.png", model.data.shown_levels)
        return picture

    def shown(
        self, drawn: Tensor, evaluations: Evaluations, closer: Ends | None, calls: float
    ) -> dict[str, Any]:
        """As `RunEnd.shown`; maps and the reverse process come with the extremes."""
        model, notes, count = self.model, self.run.notes, len(drawn)
        test = evaluations["test"].data
        generator = torch.Generator().manual_seed(self.ending.seed)
        rows = model.data.to_network(test.images[:STRIP_ROWS])
        real = test.condition() if model.num_classes else None
        return {
            "subtitle": f"{model.title} of {test.source}",
            "samples": drawn,
            "real": test.images[:count],
            "names": class_names(notes, model.classes_in_turn(count)),
            "real_names": class_names(notes, real)[:count],
            "forward": self._forward(rows, generator),
            "reverse": None if closer is None else self._reverse(calls, generator),
            "maps": self._maps(test, closer, calls) if closer else None,
        }

    def _maps(self, test: ImageData, closer: Ends, calls: float) -> Any:
        """Where the bits of the extremes go."""
        shown = test.take(torch.cat([end.index for end in closer]))
        levels = max(_FEWEST_MAP_LEVELS, int(_MAPS * calls / len(shown)))
        return map_bits(self.model, shown, self.ending.seed, levels=min(MAP_LEVELS, levels))

    def _forward(self, rows: Tensor, generator: torch.Generator) -> Strip | None:
        """The forward process of some images; None without a chain."""
        chain: Diffusion | None = self.model.chain
        if chain is None:
            return None
        return forward_strip(chain, rows.to(self.model.device), generator=generator)

    def _reverse(self, calls: float, generator: torch.Generator) -> Strip | None:
        """The reverse process of a respaced chain, labelled with the levels of the whole one."""
        model: Diffusion | None = self.model.chain
        if model is None:
            return None
        steps = max(STRIP_STEPS, int(calls / 2 / STRIP_ROWS))
        visited = spaced_levels(
            model.num_levels, min(steps, MOST_STRIP_STEPS, model.num_levels), "trailing"
        )
        strip = reverse_strip(
            model.respace(visited),
            STRIP_ROWS,
            generator=generator,
            condition=model.classes_in_turn(STRIP_ROWS),
        )
        return replace(strip, levels=tuple([0, *visited][t] for t in strip.levels))
