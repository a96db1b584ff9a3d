"""Ancestral sampling (Ho et al. 2020, algorithm 2), on the whole chain or a respaced one."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from nelbo.chain.distributions import draw
from nelbo.diffusion import Diffusion, NoiseLevel
from nelbo.samplers.base import GridSampler
from nelbo.samplers.loop import Walk


@dataclass(frozen=True)
class DDPM(GridSampler):
    """Draws each x_{t-1} from p(x_{t-1}|x_t).

    Args:
        steps: number of network calls; None visits every level. Fewer levels make a respaced
            chain, which is an MHVAE of its own (Nichol & Dhariwal 2021, section 4).

    The other options are those of `GridSampler`.
    """

    def prepare(self, model: Diffusion) -> Diffusion:
        """The chain through the levels visited."""
        return model.respace(self.visited(model.schedule))

    def step(
        self, walk: Walk, x: Tensor, level: NoiseLevel, following: NoiseLevel
    ) -> tuple[Tensor, Tensor]:
        """Draw from p(x_{t-1}|x_t); the last step takes its mean."""
        t = walk.model.schedule.level_of(level.network_time)
        prediction = walk.model.predict(x, t, walk.condition)
        p = walk.model.step_from(prediction, t)
        return draw(p, walk.generator) if t > 1 else p.mean, prediction.x_0
