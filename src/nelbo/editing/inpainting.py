r"""Inpainting: paint a part of a picture so that it fits the rest (RePaint, Lugmayr et al. 2022).

At every step down, the unknown part is drawn from the decoder and the known part from the encoder
(eqs. 8a to 8c),

.. math::
    x_{t-1} = m \odot x^{\text{unknown}}_{t-1} + (1 - m) \odot x^{\text{known}}_{t-1}, \qquad
    x^{\text{unknown}}_{t-1} \sim p(x_{t-1}|x_t), \quad x^{\text{known}}_{t-1} \sim q(x_{t-1}|x_0).

The known part is drawn without regard to the unknown one, so the two do not fit yet. Walking back
up the encoder, :math:`x_t \sim q(x_t|x_{t-1})`, and down again lets the decoder see both, and
brings them into harmony (section 4.2).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from jaxtyping import Bool
from torch import Tensor

from nelbo.base.arguments import check_count, check_kind
from nelbo.base.errors import NelboError
from nelbo.chain.conditioning import Condition
from nelbo.chain.distributions import Generators, draw, randn_like
from nelbo.diffusion import Diffusion, NoiseLevel, NoiseSchedule
from nelbo.diffusion.sampler import Step
from nelbo.diffusion.start import warn_of_signal
from nelbo.editing.base import Edit
from nelbo.samplers import DDPM, State
from nelbo.samplers.loop import StepRule, Walk


@dataclass(frozen=True, eq=False)
class Inpainting(Edit):
    """RePaint: ancestral sampling that is given the known part at every level.

    Args:
        mask: True where the picture is to be painted, False where it is known and comes back
            exactly; (H, W), or (B, 1, H, W) with one for each image.
        sampler: whose levels; 250 of the chain as in the paper.
        jump_length: j, how many levels to go back up at a time.
        jump_n_sample: r, how often each stretch of `jump_length` levels is walked down; 1 never
            goes back.

    Raises:
        NelboError: a mask that is not boolean or has another shape, or jumps below 1.
    """

    mask: Tensor
    sampler: DDPM = field(default_factory=lambda: DDPM(250))
    jump_length: int = 10
    jump_n_sample: int = 10

    def __post_init__(self) -> None:
        check_kind("mask", self.mask, Tensor, "a boolean tensor, True where to paint")
        check_kind("sampler", self.sampler, DDPM, "nelbo.samplers.DDPM, whose steps are redrawn")
        if self.mask.dtype != torch.bool or self.mask.ndim not in (2, 4):
            raise NelboError(
                "the mask must be boolean, True where to paint, of shape (height, width) or "
                f"(images, 1, height, width); got {self.mask.dtype} of shape "
                f"{tuple(self.mask.shape)}"
            )
        for name in ("jump_length", "jump_n_sample"):
            check_count(name, getattr(self, name))

    def num_states(self, schedule: NoiseSchedule) -> int:
        """How many steps there are, up and down."""
        return len(_jumps(self, schedule))

    @torch.no_grad()
    def states(
        self,
        model: Diffusion,
        x_0: Tensor,
        condition: Condition | None,
        generator: Generators | None,
    ) -> Iterator[State]:
        """Walk down and back up, one state a step; the last one has t = 0."""
        start = self.sampler.start_level(model.schedule)
        warn_of_signal(model.schedule, start, type(self).__name__)
        rule = _RePaint(self, x_0, self._mask_of(x_0))
        x_T = randn_like(x_0, generator)
        yield from rule.walk(model, x_T, condition=condition, generator=generator)

    def of_latents(self, size: tuple[int, int]) -> Inpainting:
        """The same edit of latents: one is painted where any of its pixels is."""
        mask = self.mask if self.mask.ndim == 4 else self.mask[None, None]
        reduced = torch.nn.functional.adaptive_max_pool2d(mask.float(), size) > 0
        return replace(self, mask=reduced)

    def keep(self, x_0: Tensor, edited: Tensor) -> Tensor:
        """The decoded images with the known pixels put back."""
        return torch.where(self._mask_of(x_0), edited, x_0)

    def _mask_of(self, x_0: Tensor) -> Bool[Tensor, "n one height width"]:
        mask = self.mask if self.mask.ndim == 4 else self.mask[None, None]
        batch, _, height, width = x_0.shape
        if mask.shape not in ((1, 1, height, width), (batch, 1, height, width)):
            raise NelboError(
                f"the mask has shape {tuple(self.mask.shape)}, expected ({height}, {width}) or "
                f"({batch}, 1, {height}, {width}) as the images"
            )
        return mask.expand(batch, 1, height, width).to(x_0.device)


@dataclass(frozen=True, eq=False)
class _RePaint(StepRule):
    """The walk of an inpainting of images x_0, which are known where `paint` is False."""

    edit: Inpainting
    x_0: Tensor
    paint: Tensor

    def path(self, schedule: NoiseSchedule) -> list[Step]:
        return _jumps(self.edit, schedule)

    def prepare(self, model: Diffusion) -> Diffusion:
        return self.edit.sampler.prepare(model)

    def step(
        self, walk: Walk, x: Tensor, level: NoiseLevel, following: NoiseLevel
    ) -> tuple[Tensor, Tensor]:
        chain = walk.model
        t, target = (chain.schedule.level_of(at.network_time) for at in (level, following))
        if target > t:
            return draw(chain.q_step(x, target), walk.generator), walk.past[0][1]
        prediction = chain.predict(x, t, walk.condition)
        p = chain.step_from(prediction, t)
        if target == 0:
            return torch.where(self.paint, p.mean, self.x_0), prediction.x_0
        # A pixel takes its noise from one of the two, so they can share the draw.
        noise = walk.noise(x)
        known = chain.diffuse(self.x_0, noise, target)
        return torch.where(self.paint, p.mean + p.stddev * noise, known), prediction.x_0


def _jumps(edit: Inpainting, schedule: NoiseSchedule) -> list[Step]:
    """The noise levels of each step, up and down."""
    levels = [0, *edit.sampler.visited(schedule)]
    walk = jump_levels(len(levels) - 1, edit.jump_length, edit.jump_n_sample)
    places = [schedule.noise_level(t) for t in levels]
    return list(pairwise(places[k] for k in walk))


def jump_levels(T: int, jump_length: int, jump_n_sample: int) -> list[int]:
    """The levels in the order of the walk, from T to 0 (Lugmayr et al. 2022, appendix B).

    At the levels 0, j, 2j, ... below T − j the walk goes j levels up, r − 1 times at each.
    """
    left = dict.fromkeys(range(0, T - jump_length, jump_length), jump_n_sample - 1)
    walk, t = [T], T
    while t > 0:
        t -= 1
        walk.append(t)
        if left.get(t, 0) > 0:
            left[t] -= 1
            walk.extend(range(t + 1, t + jump_length + 1))
            t += jump_length
    return walk
