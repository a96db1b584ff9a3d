"""What all edits share: they are generators of states, as samplers are, that start from images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.chain.conditioning import Condition
from nelbo.chain.distributions import Generators
from nelbo.chain.examples import check_examples
from nelbo.diffusion import Diffusion, NoiseSchedule
from nelbo.diffusion.sampler import last
from nelbo.networks.guidance import Guidance
from nelbo.samplers import State
from nelbo.samplers.base import check_walked


class Edit(ABC):
    """A way to change images with a diffusion model.

    A notebook, a progress bar and a test drive the same loop::

        for state in edit.iterate(model, x_0):
            show(state.x_0)

    `LatentDiffusion.edit` takes the same edits to latents.
    """

    @abstractmethod
    def num_states(self, schedule: NoiseSchedule) -> int:
        """How many states `iterate` yields."""

    @abstractmethod
    def states(
        self,
        model: Diffusion,
        x_0: Tensor,
        condition: Condition | None,
        generator: Generators | None,
    ) -> Iterator[State]:
        """The states on the way by a model that is guided where it is to be."""

    def iterate(
        self,
        model: Diffusion,
        x_0: Tensor,
        *,
        condition: Condition | None = None,
        guidance: float | Guidance = 1.0,
        generator: Generators | None = None,
    ) -> Iterator[State]:
        """The states on the way from images (B, C, H, W) in network space to the edited ones.

        Args:
            model: whose chain.
            x_0: the images.
            condition: one entry an image that comes out.
            guidance: as for samplers.
            generator: the source of all noise, or one an image that comes out.

        Raises:
            NelboError: images that the model does not take.
        """
        check_images(model, x_0)
        return self.states(model.guided(guidance), x_0, condition, generator)

    @torch.no_grad()
    def edit(
        self,
        model: Diffusion,
        x_0: Tensor,
        *,
        condition: Condition | None = None,
        guidance: float | Guidance = 1.0,
        generator: Generators | None = None,
    ) -> Tensor:
        """The edited images: x of the last state."""
        states = self.iterate(
            model, x_0, condition=condition, guidance=guidance, generator=generator
        )
        return last(states, x_0)

    def outputs(self, n: int) -> int:
        """How many images come out where `n` go in."""
        return n

    def of_latents(self, size: tuple[int, int]) -> Edit:
        """The same edit of latents of this height and width."""
        return self

    def keep(self, x_0: Tensor, edited: Tensor) -> Tensor:
        """The decoded images with the pixels put back that the edit leaves alone."""
        return edited


def check_images(model: Diffusion, x_0: Tensor) -> None:
    """Raise `NelboError` for images that the model does not take."""
    check_walked(model)
    check_examples(x_0=x_0)
    expected = model.shape or x_0.shape[1:]
    if x_0.ndim != 4 or tuple(x_0.shape[1:]) != tuple(expected):
        raise NelboError(
            f"the images to edit have shape {tuple(x_0.shape)}, expected (n, "
            f"{', '.join(str(side) for side in expected)})"
        )
