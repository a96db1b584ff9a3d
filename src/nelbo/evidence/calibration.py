r"""The maximum-likelihood scale of a decoder (Rybkin et al. 2021, section 4).

An autoencoder decodes a latent to the mean of :math:`p(x|z) = N(\mathrm{decode}(z), \sigma^2 I)`
and does not determine σ, which sets what a squared error costs in nats. The bound is best at

.. math::
    \hat\sigma = \arg\max_\sigma \sum_x E_{q(z|x)}[\log p_\sigma(x|z)],

which for a density is the root mean squared error, and for pixels, rounded to levels, is found by a
search on log σ.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nelbo.base.arguments import check_count
from nelbo.base.errors import NelboError
from nelbo.base.golden_section import RATIO, golden_section
from nelbo.chain.distributions import draw
from nelbo.data import ImageData
from nelbo.diffusion import Pixels
from nelbo.evidence.inputs import check_fits
from nelbo.latent import LatentDiffusion
from nelbo.networks.encoding import Autoencoder

# The smallest and largest scale that are tried, in bins between two levels and in units of x.
_FEWEST_BINS, _LARGEST = 0.05, 2.0
_TOLERANCE = 1e-4


@torch.no_grad()
def fit_decoder_scale(
    model: LatentDiffusion,
    data: ImageData,
    *,
    batch_size: int = 64,
    generator: torch.Generator | None = None,
) -> float:
    """The σ of p(x|z_0) under which images are most likely, each given one draw of z_0.

    Args:
        model: the model, whose `decoder_scale` stays as it is.
        data: images to fit to, such as training ones; a few hundred are enough.
        batch_size: images at a time.
        generator: the source of the draws.

    Raises:
        NelboError: images of another size or number of levels than the model's, or a model that
            has no decoder.
    """
    check_fits(model, data)
    check_count("batch_size", batch_size)
    if not hasattr(model, "decoder_scale"):
        raise NelboError(
            f"model is a {type(model).__name__}, expected a LatentDiffusion: no other has a "
            "decoder with a scale"
        )
    return reconstruction_scale(model, data, batch_size=batch_size, generator=generator)


@torch.no_grad()
def reconstruction_scale(
    model: Autoencoder | LatentDiffusion,
    data: ImageData,
    *,
    batch_size: int = 64,
    generator: torch.Generator | None = None,
) -> float:
    """`fit_decoder_scale` of whatever encodes and decodes images of this size."""
    pixels, device = Pixels(data.levels), next(model.parameters()).device
    pairs = []
    for batch in data.batches(batch_size):
        x = pixels.to_network(batch.images).to(device)
        pairs.append((x, model.decode(draw(model.encode(x), generator))))
    return most_likely_scale(pairs, pixels)


def most_likely_scale(pairs: list[tuple[Tensor, Tensor]], data: Pixels) -> float:
    """The scale under which each x, given its mean, is most likely; pairs are (x, mean)."""

    def cost(log_scale: float) -> float:
        scale = math.exp(log_scale)
        return -sum(
            data.likelihood(mean, mean.new_tensor(scale)).log_prob(x).double().sum().item()
            for x, mean in pairs
        )

    bin_width = 2.0 / (data.levels - 1)
    low, high = math.log(_FEWEST_BINS * bin_width), math.log(_LARGEST)
    steps = math.ceil(math.log(_TOLERANCE / (high - low)) / math.log(RATIO))
    return math.exp(golden_section(cost, low, high, steps=steps))
