r"""A generative adversarial network (Goodfellow et al. 2014) of the size of DCGAN.

A generator G turns z ~ N(0, I) into an image, a discriminator D separates images from those. With
:math:`s(a) = \log(1 + e^a)`, so that :math:`-s(-a) = \log \sigma(a)`, they minimise in turn

.. math::
    D:&\quad E_x[s(-D(x))] + E_z[s(D(G(z)))] + \tfrac{\gamma}{2}\, E_x \|\nabla D(x)\|^2 \\
    G:&\quad E_z[s(-D(G(z)))] \quad\text{(non-saturating)} \qquad\text{or}\qquad
        -E_z[s(D(G(z)))] \quad\text{(classical)}

The last term of D is the penalty R1, with which training converges near the equilibrium (Mescheder
et al. 2018). The classical game is Goodfellow's minimax without it. Samples are those of a moving
average of G's weights. G gives images no probability: the kind of its evidence is "none".
"""

from __future__ import annotations

import copy
import itertools
import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from nelbo.base.arguments import check_choice, check_counts
from nelbo.chain.data_space import DataSpace
from nelbo.chain.distributions import randn_like
from nelbo.chain.evidence import Costs, Evidence
from nelbo.families.arguments import check_positive, check_side
from nelbo.families.convolution import ImageToVector, VectorToImage, check_width
from nelbo.families.examples import Examples
from nelbo.families.family import Family
from nelbo.families.fitting import Budget, FitStep, Steps
from nelbo.families.optimizers import adam_of
from nelbo.families.rounding import nearest_pixels
from nelbo.families.training import shuffled, step

_BATCH = 64
_AVERAGE = 0.995
# name -> γ, the learning rate and the betas of Adam: Mescheder et al. 2018, Radford et al. 2016.
LOSSES = {
    "non_saturating": (1.0, 5e-4, (0.0, 0.99)),
    "classical": (0.0, 2e-4, (0.5, 0.999)),
}


class GAN(Family):
    """A generator trained against a discriminator; no likelihood.

    Args:
        latents: length of z.
        width: channels of the convolutions, a multiple of 8.
        loss: "non_saturating" with R1, or "classical".
        passes: over the images, without a time budget: no held-out figure can end the training.
        data: what the values of a tensor are; see `Family.fit`.
    """

    def __init__(
        self,
        latents: int = 64,
        *,
        width: int = 32,
        loss: str = "non_saturating",
        passes: float = 100.0,
        data: DataSpace | None = None,
    ) -> None:
        super().__init__(data, latents=latents, width=width, loss=loss, passes=passes)
        check_counts(latents=latents)
        check_choice("loss", loss, LOSSES)
        check_positive(passes=passes)
        check_width(width)
        self.latents, self.width, self.loss, self.passes = latents, width, loss, passes

    def build(self) -> None:
        """Generator, its average, and discriminator."""
        check_side(self.name, self.image_shape)
        self.generator = nn.Sequential(
            VectorToImage(self.latents, self.image_shape, self.width), nn.Tanh()
        )
        self.discriminator = ImageToVector(self.image_shape, self.width, 1)
        self.average = copy.deepcopy(self.generator).requires_grad_(False)

    def fitting(self, examples: Examples, budget: Budget, generator: torch.Generator) -> Steps:
        """Steps of both players in turn; `nats` is the loss of the discriminator."""
        penalty, rate, betas = LOSSES[self.loss]
        players = (self.discriminator, self.generator)
        discriminate, generate = (adam_of(player, rate, betas) for player in players)
        images = examples.all
        batches = shuffled(len(images), _BATCH, generator)
        a_pass = math.ceil(len(images) / _BATCH)
        for number in itertools.count(1):
            x = images[next(batches)]
            loss = self.discriminator_loss(x, self._made(len(x), generator).detach(), penalty)
            value = step(discriminate, loss)
            step(generate, self.generator_loss(self._made(len(x), generator)))
            self._follow(number)
            yield FitStep(number, number / a_pass, value)
            if budget.is_over or (not budget.has_end and number >= self.passes * a_pass):
                return

    def discriminator_loss(
        self,
        real: Float[Tensor, "batch channels height width"],
        made: Float[Tensor, "batch channels height width"],
        penalty: float,
    ) -> Float[Tensor, ""]:
        """E[s(−D(x))] + E[s(D(G(z)))] + γ/2 E‖∇D(x)‖², nats.

        Args:
            real: images of the data.
            made: images of the generator.
            penalty: γ.
        """
        real = real.detach().requires_grad_(penalty > 0)
        of_real, of_made = self.discriminator(real), self.discriminator(made)
        loss = softplus(-of_real).mean() + softplus(of_made).mean()
        if penalty > 0:
            (gradient,) = torch.autograd.grad(of_real.sum(), real, create_graph=True)
            loss = loss + penalty / 2 * gradient.square().flatten(1).sum(1).mean()
        return loss

    def generator_loss(
        self, made: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, ""]:
        """What the generator minimises of its images, nats."""
        of_made = self.discriminator(made)
        if self.loss == "classical":
            return -softplus(of_made).mean()
        return softplus(-of_made).mean()

    def costs(self, x_0: Tensor, generator: torch.Generator | None) -> Evidence:
        """None: an image has no probability."""
        return Costs.of("none", {}, x_0)

    def draws(self, n: int, generator: torch.Generator | None) -> Tensor:
        """Images of the averaged generator; of pixels, rounded."""
        return nearest_pixels(self.average(self._latents(n, generator)), self.data)

    def _made(self, n: int, generator: torch.Generator) -> Tensor:
        return self.generator(self._latents(n, generator))

    def _latents(self, n: int, generator: torch.Generator | None) -> Tensor:
        return randn_like(torch.empty(n, self.latents, device=self.device), generator)

    @torch.no_grad()
    def _follow(self, number: int) -> None:
        """Move the average a little towards the generator, faster at first."""
        keep = min(_AVERAGE, number / (number + 10))
        for mean, now in zip(self.average.parameters(), self.generator.parameters(), strict=True):
            mean.lerp_(now, 1 - keep)
