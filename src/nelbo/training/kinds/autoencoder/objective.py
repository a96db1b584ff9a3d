r"""What training an autoencoder minimises: its own negative bound, and what else one asks for.

.. math::
    L = -E_{q(z|x)}[\log p_\sigma(x|z)] + \beta\, KL(q(z|x) \,\|\, N(0, I))
        + w \lambda\, L_{\mathrm{adversarial}} + v\, L_{\mathrm{perceptual}}

With β = 1 and w = v = 0 this is the negative bound of a VAE. A diffusion model that is to be the
prior later takes more than N(0, I) can, so a smaller β gives it latents with more information.

p(x|z) is one of

* ``normal``: a density times the width of a bin between two levels, with the σ under which the
  batch is most likely, :math:`\hat\sigma^2 = \mathrm{mean}(x - \hat x)^2` (Rybkin et al. 2021,
  section 4.2). It needs no tuning, and its two terms stay in balance as reconstructions improve;
* ``laplace``: the same with the mean absolute error, an L1 loss;
* ``discretized``: the probability of the bin, as the bound of the finished model has it, with a σ
  that is learned. The bins at either end of the range are open, so the decoder learns to go beyond
  an end where it is sure of it: for drawings with much black or white that saves up to one bit for
  each such pixel, and a picture looks the same once it is clipped.

The adversarial term is that of Esser et al. (2021, eqs. 5 to 7) with a hinge loss: λ makes its
gradient at the decoder's last layer as large as that of the reconstruction. The perceptual term is
LPIPS between an image and its reconstruction as it is shown, clipped (`nelbo.networks.perceptual`).
It is added to the other terms in nats a dimension, of which a reconstruction has about one.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, Laplace, Normal
from torch.func import functional_call
from torch.nn.functional import relu

from nelbo.base.arguments import check_choice
from nelbo.base.errors import NelboError
from nelbo.chain.distributions import drawn_on
from nelbo.chain.terms import per_example
from nelbo.diffusion import Pixels
from nelbo.diffusion.objectives import BatchPart, part_of_noise
from nelbo.networks import AutoencoderKL
from nelbo.networks.discriminator import PatchDiscriminator
from nelbo.networks.perceptual import PerceptualDistance

LIKELIHOODS = ("normal", "laplace", "discretized")
_LARGEST_BALANCE = 1e4
_SMALLEST_GRADIENT = 1e-4
# Where a learned σ starts: about the spread of pixels.
_FIRST_SCALE = 0.5
# The smallest scale, in bins between two levels: a smaller one would not change a probability.
_FEWEST_BINS = 0.1


class AutoencoderTerms(NamedTuple):
    """One training batch: what to minimise, and the terms of the bound beside it.

    Attributes:
        loss: the objective, scalar, nats a dimension.
        nelbo: the negative bound of each image with the prior N(0, I), nats, (B,), no gradient.
        reconstruction: log p(x|z), nats, (B,), no gradient.
        divergence: KL(q(z|x) || N(0, I)), nats, (B,), no gradient.
        scale: σ, or b of the Laplace distribution, scalar, no gradient.
        generator: the adversarial loss of the autoencoder, scalar; zero without a discriminator.
        discriminator: the hinge loss of the discriminator, scalar; zero without one.
        perceptual: LPIPS of the reconstructions, scalar; zero where none is asked for.
    """

    loss: Tensor
    nelbo: Float[Tensor, " batch"]
    reconstruction: Float[Tensor, " batch"]
    divergence: Float[Tensor, " batch"]
    scale: Tensor
    generator: Tensor
    discriminator: Tensor
    perceptual: Tensor


class AutoencoderObjective(nn.Module):
    """The objective of a batch of images, for one optimiser over all `parameters()`.

    The discriminator learns from the same `loss`: each side's part of it sees the other side's
    weights as constants.

    Args:
        autoencoder: what to train.
        data: what pixels are.
        likelihood: "normal", "laplace" or "discretized".
        kl_weight: β.
        discriminator: what to train against, if anything.
        adversarial_weight: w; a trainer may raise it from zero once images are recognisable.
        perceptual: how different two images look, if that is to be minimised as well.
        perceptual_weight: v.
        mirrored: share of the images that are learned as their mirror image.
        recoloured: share of the images whose channels are learned in a random order.

    Raises:
        NelboError: an unknown likelihood, a negative weight, or a share outside [0, 1].
    """

    def __init__(
        self,
        autoencoder: AutoencoderKL,
        data: Pixels = Pixels(256),  # noqa: B008 - frozen
        *,
        likelihood: str = "normal",
        kl_weight: float = 1.0,
        discriminator: PatchDiscriminator | None = None,
        adversarial_weight: float = 0.5,
        perceptual: PerceptualDistance | None = None,
        perceptual_weight: float = 1.0,
        mirrored: float = 0.0,
        recoloured: float = 0.0,
    ) -> None:
        super().__init__()
        check_choice("likelihood", likelihood, LIKELIHOODS)
        weights = {
            "kl_weight": kl_weight,
            "adversarial_weight": adversarial_weight,
            "perceptual_weight": perceptual_weight,
        }
        for name, value in weights.items():
            if value < 0:
                raise NelboError(f"{name} must not be negative, got {value}")
        for name, value in (("mirrored", mirrored), ("recoloured", recoloured)):
            if not 0 <= value <= 1:
                raise NelboError(f"{name} must lie in [0, 1], got {value}")
        self.mirrored, self.recoloured = mirrored, recoloured
        self.autoencoder = autoencoder
        self.data = data
        self.likelihood = likelihood
        self.kl_weight = kl_weight
        learned = torch.tensor(math.log(_FIRST_SCALE)) if likelihood == "discretized" else None
        self.log_scale = None if learned is None else nn.Parameter(learned)
        self.discriminator = discriminator
        self.adversarial_weight = adversarial_weight
        self.perceptual = perceptual
        self.perceptual_weight = perceptual_weight

    def forward(
        self,
        x: Float[Tensor, "batch channels height width"],
        *,
        generator: torch.Generator | None = None,
        part: BatchPart | None = None,
    ) -> AutoencoderTerms:
        """The terms of a batch of images in [−1, 1], or of a part of one.

        Mirroring and channels are drawn with `generator`, then z.
        """
        x = self._augmented(x, generator, part or BatchPart(0, len(x), len(x)))
        q = self.autoencoder.encode(x)
        mean = self.autoencoder.decode(q.mean + q.stddev * part_of_noise(q.mean, part, generator))
        log_likelihood, scale = self._log_likelihood(mean, x)
        reconstruction = per_example(log_likelihood)
        variance = q.stddev.square()
        divergence = per_example(0.5 * (q.mean.square() + variance - 1 - variance.log()))
        dims = x[0].numel()
        loss = (self.kl_weight * divergence - reconstruction).mean() / dims
        fooling = judging = looks = loss.new_zeros(())
        if self.perceptual is not None and self.perceptual_weight > 0:
            looks = self.perceptual(mean.clamp(-1, 1), x).mean()
            loss = loss + self.perceptual_weight * looks
        if self.discriminator is not None and self.adversarial_weight > 0:
            fooling = self._generator_loss(mean)
            balance = self._balance(-reconstruction.mean() / dims, fooling)
            judging = hinge_loss(self.discriminator(x), self.discriminator(mean.detach()))
            loss = loss + self.adversarial_weight * balance * fooling + judging
        return AutoencoderTerms(
            loss,
            (divergence - reconstruction).detach(),
            reconstruction.detach(),
            divergence.detach(),
            scale.detach(),
            fooling.detach(),
            judging.detach(),
            looks.detach(),
        )

    def _augmented(self, x: Tensor, generator: torch.Generator | None, part: BatchPart) -> Tensor:
        """The images as they are to be learned: some mirrored, some with channels exchanged."""
        device = drawn_on(generator, x.device)
        if self.mirrored > 0:
            chance = torch.rand(part.batch, generator=generator, device=device)[part.slice]
            chosen = (chance < self.mirrored).to(x.device)[:, None, None, None]
            x = torch.where(chosen, x.flip(-1), x)
        if self.recoloured > 0:
            chance = torch.rand(part.batch, generator=generator, device=device)[part.slice]
            order = torch.rand(part.batch, x.shape[1], generator=generator, device=device)
            order = order[part.slice].argsort(1).to(x.device)[:, :, None, None]
            chosen = (chance < self.recoloured).to(x.device)[:, None, None, None]
            x = torch.where(chosen, x.gather(1, order.expand_as(x)), x)
        return x

    def _log_likelihood(self, mean: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        bin_width = 2.0 / (self.data.levels - 1)
        smallest = _FEWEST_BINS * bin_width
        if self.log_scale is not None:
            scale = self.log_scale.exp().clamp(min=smallest)
            return self.data.likelihood(mean, scale).log_prob(x), scale
        error = (x - mean).detach()
        density: Distribution
        if self.likelihood == "normal":
            scale = error.square().mean().sqrt().clamp(min=smallest)
            density = Normal(mean, scale, validate_args=False)
        else:
            scale = error.abs().mean().clamp(min=smallest)
            density = Laplace(mean, scale, validate_args=False)
        return density.log_prob(x) + math.log(bin_width), scale

    def _generator_loss(self, mean: Tensor) -> Tensor:
        """How far the images are from being taken for real; the discriminator is a constant."""
        assert self.discriminator is not None
        constants = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        return -functional_call(self.discriminator, constants, (mean,)).mean()

    def _balance(self, reconstruction: Tensor, fooling: Tensor) -> Tensor:
        last = self.autoencoder.decoder.conv_out.weight
        if not reconstruction.requires_grad:
            return reconstruction.new_zeros(())
        (by_reconstruction,) = torch.autograd.grad(reconstruction, last, retain_graph=True)
        (by_fooling,) = torch.autograd.grad(fooling, last, retain_graph=True)
        ratio = by_reconstruction.norm() / (by_fooling.norm() + _SMALLEST_GRADIENT)
        return ratio.clamp(max=_LARGEST_BALANCE).detach()


def hinge_loss(real: Tensor, made: Tensor) -> Tensor:
    """½ (mean max(0, 1 − real) + mean max(0, 1 + made)) (Lim & Ye 2017, eq. 8)."""
    return 0.5 * (relu(1 - real).mean() + relu(1 + made).mean())
