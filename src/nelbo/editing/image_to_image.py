r"""Image to image: forget the details of a picture, and let the decoder fill them in anew.

The image is taken up the encoder to a level, :math:`x_t \sim q(x_t|x_0)`, and from there down the
decoder (SDEdit, Meng et al. 2022, algorithm 1). Low levels keep the composition and redraw the
details; at the last level nothing of the image is left.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from nelbo.base.arguments import check_kind, check_number
from nelbo.base.errors import NelboError
from nelbo.chain.conditioning import Condition
from nelbo.chain.distributions import Generators, randn_like
from nelbo.diffusion import Diffusion, NoiseSchedule
from nelbo.editing.base import Edit
from nelbo.samplers import DDIM, Sampler, State


@dataclass(frozen=True)
class ImageToImage(Edit):
    """Noise to a level, and the last steps of a sampler from there.

    Args:
        sampler: which steps down the whole chain take.
        strength: share of these steps that are taken, rounded down, as in diffusers; 1 takes all.

    Raises:
        NelboError: a strength outside (0, 1] or too small for one step.
    """

    sampler: Sampler = field(default_factory=DDIM)
    strength: float = 0.6

    def __post_init__(self) -> None:
        check_kind("sampler", self.sampler, Sampler, "one of nelbo.samplers, such as DDIM(50)")
        check_strength(self.strength)

    def num_states(self, schedule: NoiseSchedule) -> int:
        """How many steps are taken."""
        return len(last_steps(self.sampler, schedule, self.strength).path(schedule))

    @torch.no_grad()
    def states(
        self,
        model: Diffusion,
        x_0: Tensor,
        condition: Condition | None,
        generator: Generators | None,
    ) -> Iterator[State]:
        """Draw x_t from q(x_t|x_0) and walk down, one state a step."""
        sampler = last_steps(self.sampler, model.schedule, self.strength)
        x_t = sampler.start_level(model.schedule).diffuse(x_0, randn_like(x_0, generator))
        yield from sampler.walk(model, x_t, condition=condition, generator=generator)


def last_steps(sampler: Sampler, schedule: NoiseSchedule, strength: float) -> Sampler:
    """The sampler without the first steps, a share `strength` of them left.

    Raises:
        NelboError: no step is left.
    """
    steps = len(sampler.path(schedule))
    taken = int(steps * strength)
    if taken == 0:
        raise NelboError(
            f"strength {strength} leaves none of {steps} steps: it must be at least "
            f"{1 / steps:.3g}, or the sampler have more steps"
        )
    changed: Any = sampler
    return replace(changed, skip=sampler.skip + steps - taken)


def check_strength(strength: float) -> None:
    """Raise `NelboError` unless 0 < strength ≤ 1."""
    check_number("strength", strength)
    if not 0 < strength <= 1:
        raise NelboError(f"strength must lie in (0, 1], got {strength}")
