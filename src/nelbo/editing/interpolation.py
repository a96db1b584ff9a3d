r"""Interpolation: between two images through the encoder.

Both images are encoded, their states are joined by the great circle between them, which keeps the
norm that noise has (Shoemake 1985; Song et al. 2021, section 5.3),

.. math::
    \mathrm{slerp}_\lambda(a, b) = \frac{\sin((1-\lambda)\theta)}{\sin\theta}\, a
        + \frac{\sin(\lambda\theta)}{\sin\theta}\, b,
    \qquad \cos\theta = \frac{a \cdot b}{\|a\| \|b\|},

and each point of it is walked down the decoder. Encoding is by DDIM inversion, whose ends come
back as the images themselves, or by :math:`q(x_t|x_0)` with one noise for both
(Ho et al. 2020, section 4.3), which draws something new the more, the higher the level.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.base.arguments import check_choice, check_count, check_kind
from nelbo.base.errors import NelboError
from nelbo.chain.conditioning import Condition, check_condition
from nelbo.chain.distributions import Generators, randn_like
from nelbo.diffusion import Diffusion, NoiseSchedule
from nelbo.editing.base import Edit
from nelbo.editing.image_to_image import check_strength, last_steps
from nelbo.editing.inversion import Inversion
from nelbo.samplers import DDIM, Sampler, State

ENCODERS = ("inversion", "diffusion")


@dataclass(frozen=True)
class Interpolation(Edit):
    """From two images to `frames` of them, the first and last standing for the two.

    Args:
        frames: how many images, at least 2, with λ evenly from 0 to 1.
        sampler: the steps down; a DDIM with η = 0 where the encoder is inversion.
        encoder: "inversion", up the levels of `sampler`, or "diffusion", by noise that the two
            share.
        strength: share of the sampler's steps that both are encoded over; 1 is up to x_T.
        refinements: of the inversion, see `Inversion`.

    Raises:
        NelboError: fewer than two frames, an unknown encoder, a sampler that cannot be inverted,
            or a strength outside (0, 1].
    """

    frames: int = 8
    sampler: Sampler = field(default_factory=DDIM)
    encoder: str = "inversion"
    strength: float = 1.0
    refinements: int = 3

    def __post_init__(self) -> None:
        check_count("frames", self.frames, least=2)
        check_kind("sampler", self.sampler, Sampler, "one of nelbo.samplers, such as DDIM(50)")
        check_choice("encoder", self.encoder, ENCODERS)
        check_strength(self.strength)
        if self.encoder == "inversion":
            self._inversion(self.sampler)

    def num_states(self, schedule: NoiseSchedule) -> int:
        """How many steps down are taken, and as many up before them where DDIM is inverted."""
        return len(last_steps(self.sampler, schedule, self.strength).path(schedule))

    def outputs(self, n: int) -> int:
        """How many images come out."""
        return self.frames

    @torch.no_grad()
    def states(
        self,
        model: Diffusion,
        x_0: Tensor,
        condition: Condition | None,
        generator: Generators | None,
    ) -> Iterator[State]:
        """Encode the two images x_0 (2, C, H, W), and walk all frames down, one state a step.

        The condition and generators are one a frame. Of the generators the first draws the noise
        that the two images share; generators of one seed give all frames the same noise.
        """
        if len(x_0) != 2:
            raise NelboError(f"an interpolation is between 2 images, got {len(x_0)}")
        check_condition(condition, self.frames)
        sampler = last_steps(self.sampler, model.schedule, self.strength)
        if self.encoder == "inversion":
            ends = None if condition is None else condition[torch.tensor([0, self.frames - 1])]
            # Guidance on the way up would lead away from what it leads back to.
            encoded = self._inversion(sampler).edit(model.unguided, x_0, condition=ends)
        else:
            # Every generator draws it, so that those of one seed stay alike.
            copies = self.frames if isinstance(generator, Sequence) else 1
            noise = randn_like(x_0[:1].expand(copies, -1, -1, -1), generator)[0]
            encoded = sampler.start_level(model.schedule).diffuse(x_0, noise)
        fractions = torch.linspace(0.0, 1.0, self.frames, device=x_0.device, dtype=x_0.dtype)
        between = slerp(encoded[0], encoded[1], fractions)
        yield from sampler.walk(model, between, condition=condition, generator=generator)

    def _inversion(self, sampler: Sampler) -> Inversion:
        if not isinstance(sampler, DDIM):
            raise NelboError(
                f"{type(sampler).__name__} cannot be inverted: use DDIM, or encoder='diffusion'"
            )
        return Inversion(sampler, self.refinements)


def slerp(
    a: Float[Tensor, "..."], b: Float[Tensor, "..."], fractions: Float[Tensor, " n"]
) -> Float[Tensor, "n ..."]:
    """The points at `fractions` of the way from `a` to `b` along the great circle, (n, ...).

    Where the two point the same way, or one is zero, the way is straight.
    """
    cosine = torch.nn.functional.cosine_similarity(a.flatten().double(), b.flatten().double(), 0)
    angle = torch.arccos(cosine.clamp(-1.0, 1.0))
    weight = fractions.double()
    if angle.sin() < 1e-6:
        from_a, from_b = 1 - weight, weight
    else:
        from_a = torch.sin((1 - weight) * angle) / angle.sin()
        from_b = torch.sin(weight * angle) / angle.sin()
    shape = (-1, *[1] * a.ndim)
    return from_a.to(a.dtype).view(shape) * a + from_b.to(a.dtype).view(shape) * b
