"""What families with a learned encoder share: the hierarchy, its tighter bound, its samples."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.base.arguments import check_counts
from nelbo.chain.data_space import DataSpace
from nelbo.families.arguments import check_depth, check_side
from nelbo.families.convolution import check_width
from nelbo.families.examples import Examples
from nelbo.families.family import Family
from nelbo.families.fitting import Budget, Steps
from nelbo.families.hierarchy import Hierarchy
from nelbo.families.rounding import nearest_pixels
from nelbo.families.training import Recipe, train

# Draws of the latents behind the evidence of an image.
DRAWS = 8


class VariationalFamily(Family):
    """A family that is trained by raising the bound of a `Hierarchy`.

    Args:
        latents: length of each latent.
        width: of the convolutions.
        data: what the values of a tensor are; see `Family.fit`.
        **options: the arguments of the subclass.

    Attributes:
        recipe: how it is trained.
        hierarchy: the latents, with encoder and decoder.
    """

    recipe: Recipe = Recipe(learning_rate=1e-3)
    hierarchy: Hierarchy

    def __init__(self, latents: int, width: int, data: DataSpace | None, **options: Any) -> None:
        super().__init__(data, latents=latents, width=width, **options)
        self.levels: int = options.get("levels", 1)
        check_counts(latents=latents)
        check_depth(levels=self.levels)
        check_width(width)
        self.latents, self.width = latents, width

    def build(self) -> None:
        """The hierarchy."""
        check_side(self.name, self.image_shape, ", or train a latent diffusion model")
        self.hierarchy = Hierarchy(
            self.image_shape, self.data, self.latents, self.levels, self.width
        )

    @property
    def latent_chain(self) -> Hierarchy:
        """The hierarchy."""
        return self.hierarchy

    @abstractmethod
    def one_draw(self, x: Tensor, generator: torch.Generator | None) -> Float[Tensor, " batch"]:
        """The negative bound by one draw of the latents, nats of each image."""

    def loss(self, x: Tensor, generator: torch.Generator | None) -> Float[Tensor, " batch"]:
        """What training minimises, nats of each image."""
        return self.one_draw(x, generator)

    def fitting(self, examples: Examples, budget: Budget, generator: torch.Generator) -> Steps:
        """Updates of the weights that raise the bound.

        Held-out images are read by one draw, the same every time: the evidence, of several, would
        take a quarter of the time.
        """
        return train(self, self.loss, self.one_draw, examples, self.recipe, budget, generator)

    def importance_weighted_elbo(
        self,
        x_0: Float[Tensor, "batch channels height width"],
        *,
        paths: int,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, " batch"]:
        """A tighter bound from `paths` draws of the latents; see `MHVAE`. Nats, (B,).

        Raises:
            NelboError: `paths` below one, or images that are not data of this model.
        """
        self.check_data(x_0)
        return self.hierarchy.importance_weighted_elbo(x_0, paths=paths, generator=generator)

    def draws(self, n: int, generator: torch.Generator | None) -> Tensor:
        """Walk the decoder; of p(x|z_1) the mean, of pixels its nearest levels."""
        return nearest_pixels(self.hierarchy.sample(n, generator=generator), self.data)
