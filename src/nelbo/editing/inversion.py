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

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor

from nelbo.base.arguments import check_count, check_kind
from nelbo.base.errors import NelboError
from nelbo.chain.conditioning import Condition
from nelbo.chain.distributions import Generators
from nelbo.diffusion import Diffusion, NoiseLevel, NoiseSchedule
from nelbo.diffusion.sampler import Step
from nelbo.editing.base import Edit
from nelbo.samplers import DDIM, State
from nelbo.samplers.loop import StepRule, Walk


@dataclass(frozen=True)
class Inversion(Edit, StepRule):
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
        check_kind("sampler", self.sampler, DDIM, "nelbo.samplers.DDIM, whose steps are undone")
        if self.sampler.eta != 0:
            raise NelboError(
                f"a sampler that draws noise cannot be undone: eta must be 0, got "
                f"{self.sampler.eta}"
            )
        check_count("refinements", self.refinements, least=0)

    def num_states(self, schedule: NoiseSchedule) -> int:
        """How many steps there are to undo."""
        return len(self.path(schedule))

    def states(
        self,
        model: Diffusion,
        x_0: Tensor,
        condition: Condition | None,
        generator: Generators | None,
    ) -> Iterator[State]:
        """Walk from x_0 up to x_T, one state a step; nothing is drawn."""
        return self.walk(model, x_0, condition=condition)

    def path(self, schedule: NoiseSchedule) -> list[Step]:
        """The steps of the sampler from where they lead to, the last first."""
        return [(s, t) for t, s in reversed(self.sampler.path(schedule))]

    def step(self, walk: Walk, x_s: Tensor, s: NoiseLevel, t: NoiseLevel) -> tuple[Tensor, Tensor]:
        """The state x_t that DDIM takes to x_s."""
        x_t = x_s
        for _ in range(1 + self.refinements):
            epsilon = walk.predict(x_t, t).epsilon
            x_0 = (x_s - s.noise_scale * epsilon) / s.signal_scale
            x_t = t.signal_scale * x_0 + t.noise_scale * epsilon
        return x_t, x_0
