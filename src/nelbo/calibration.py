r"""The maximum-likelihood scale of a decoder (Rybkin et al. 2021, section 4).

An autoencoder decodes a latent to the mean of :math:`p(x|z) = N(\mathrm{decode}(z), \sigma^2 I)`
and says nothing of σ, which sets what a squared error costs in nats. The bound is best at

.. math::
    \hat\sigma = \arg\max_\sigma \sum_x E_{q(z|x)}[\log p_\sigma(x|z)],

which for a density is the root mean squared error, and for pixels, rounded to levels, is found by a
search on log σ.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nelbo.data import ImageData
from nelbo.diffusion import Pixels
from nelbo.distributions import draw
from nelbo.evaluation import check_fits

if TYPE_CHECKING:
    from nelbo.latent import LatentDiffusion

# The smallest and largest scale that are tried, in bins between two levels and in units of x.
_FEWEST_BINS, _LARGEST = 0.05, 2.0
_TOLERANCE = 1e-4
_GOLDEN = (math.sqrt(5) - 1) / 2


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
        NelboError: images of another size or number of levels than the model's.
    """
    check_fits(model, data)
    assert isinstance(model.data, Pixels)
    device = next(model.parameters()).device
    pairs = []
    for batch in data.batches(batch_size):
        x = model.data.to_network(batch.images).to(device)
        pairs.append((x, model.decode(draw(model.encode(x), generator))))
    return most_likely_scale(pairs, model.data)


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
    return math.exp(_golden_section(cost, low, high))


def _golden_section(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function with one minimum between `low` and `high` has it (Kiefer 1953)."""
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = function(left), function(right)
    while high - low > _TOLERANCE:
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = function(right)
    return (low + high) / 2
