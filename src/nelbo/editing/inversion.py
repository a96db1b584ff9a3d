r"""DDIM inversion: from an image to the :math:`x_T` that DDIM takes back to it.

DDIM with η = 0 is deterministic, so each of its steps from level t to s can be undone: x_t solves

.. math::
    x_t = \sqrt{\bar\alpha_t}\, \hat x_0 + \sqrt{1 - \bar\alpha_t}\, \hat\epsilon(x_t, t), \qquad
    \hat x_0 = (x_s - \sqrt{1 - \bar\alpha_s}\, \hat\epsilon(x_t, t)) / \sqrt{\bar\alpha_s}.

The right side needs x_t. Putting x_s there makes an explicit step, whose error vanishes with its
size (Song et al. 2021, section 4.3); repeating it with what came out is a fixed-point iteration,
whose limit is exact (Pan et al. 2023).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.chain.conditioning import Condition
from nelbo.chain.distributions import Generators
from nelbo.diffusion import Diffusion, NoiseSchedule
from nelbo.editing.base import Edit, check_images
from nelbo.networks.guidance import Guidance
from nelbo.samplers import DDIM, State


@dataclass(frozen=True)
class Inversion(Edit):
    """Walks the levels of a DDIM sampler upwards; the last state has x_T.

    Args:
        sampler: whose steps to undo; η must be 0.
        refinements: fixed-point iterations after the explicit step, one network call each. None
            is what diffusers' DDIMInverseScheduler does.

    The predicted x_0 is not clipped, since clipping cannot be undone.

    Raises:
        NelboError: a sampler that draws noise, or a negative number of refinements.
    """

    sampler: DDIM = field(default_factory=DDIM)
    refinements: int = 0

    def __post_init__(self) -> None:
        if self.sampler.eta != 0:
            raise NelboError(
                f"a sampler that draws noise cannot be undone: eta must be 0, got "
                f"{self.sampler.eta}"
            )
        if self.refinements < 0:
            raise NelboError(f"refinements must be at least 0, got {self.refinements}")

    def num_states(self, schedule: NoiseSchedule) -> int:
        """How many steps there are to undo."""
        return len(self.sampler.timesteps(schedule))

    @torch.no_grad()
    def iterate(
        self,
        model: Diffusion,
        x_0: Tensor,
        *,
        condition: Condition | None = None,
        guidance: float | Guidance = 1.0,
        generator: Generators | None = None,
    ) -> Iterator[State]:
        """Walk from x_0 up to x_T, one state a step; nothing is drawn."""
        check_images(model, x_0)
        guided = model.guided(guidance)
        schedule = model.schedule
        x_s, s = x_0, 0 if self.sampler.set_alpha_to_one else 1
        for t in self.sampler.visited(schedule):
            signal_s, noise_s = _scales(schedule, s)
            signal_t, noise_t = _scales(schedule, t)
            x_t = x_s
            for _ in range(1 + self.refinements):
                epsilon = guided.predict(x_t, t, condition).epsilon
                predicted = (x_s - noise_s * epsilon) / signal_s
                x_t = signal_t * predicted + noise_t * epsilon
            yield State(x_t, predicted, t)
            x_s, s = x_t, t


def _scales(schedule: NoiseSchedule, t: int) -> tuple[float, float]:
    return math.sqrt(float(schedule.alphas_cumprod[t])), math.sqrt(float(schedule.noise_power[t]))
