r"""The likelihood of images by the flow of a model's chain, in place of its bound.

.. math::
    \log p(x) \ge E_{q(z_0|x)}[\log p(x|z_0) + \log p_{\mathrm{flow}}(z_0) - \log q(z_0|x)],

where the density of the latents is that of the probability-flow ODE (Song et al. 2021, eq. 39),
as Vahdat et al. (2021) evaluate a prior of latents. The terms of a chain of latents are one bound
inside another; here the only gap that is left is that of the autoencoder, KL(q(z_0|x) || p(z_0|x)).
A chain of the data itself has z_0 = x, and starts its flow as `nelbo.diffusion.flow` describes.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.chain.conditioning import Condition, check_condition
from nelbo.chain.distributions import draw
from nelbo.chain.model import Model
from nelbo.chain.terms import per_example
from nelbo.diffusion import Diffusion, flow


def log_likelihood(
    model: Model,
    x_0: Float[Tensor, "batch channels height width"],
    condition: Condition | None = None,
    *,
    draws: int = 1,
    generator: torch.Generator | None = None,
    **options: Any,
) -> flow.FlowLikelihood:
    """The log-likelihood of each image by the flow of the chain, or a bound on it.

    Args:
        model: the model, in evaluation mode.
        x_0: images on the levels of the model, (B, C, H, W).
        condition: what the chain is conditioned on for each; without one a model of text is the
            unconditional one.
        draws: of z_0 or of dequantised pixels, averaged in the likelihood, which tightens the
            bound (Burda et al. 2016); more than one needs the exact trace.
        generator: the source of all noise.
        options: of the flow, as `nelbo.diffusion.flow.log_likelihood`.

    Raises:
        MissingExtraError: torchdiffeq is not installed.
        NelboError: a model without a chain, no `decoder_scale`, images that are not data of this
            model, or an option that the flow has no use for.
    """
    chain: Diffusion | None = model.chain
    if chain is None:
        raise NelboError("a likelihood by flow needs a model with a chain of noise levels")
    model.check_data(x_0)
    flow.check_draws(draws, options.get("trace", flow.TRACES[0]))
    check_condition(condition, len(x_0))
    condition = model.condition_for(len(x_0)) if condition is None else condition
    log_weights, evaluations = [], 0
    for _ in range(draws):
        with torch.no_grad():
            q = model.encode(x_0)
            z = draw(q, generator)
            weight = model.decoder_log_prob(x_0, z) - per_example(q.log_prob(z))
        prior = flow.log_likelihood(chain, z, condition, generator=generator, **options)
        log_weights.append(weight.double() + prior.log_likelihood.double())
        evaluations += prior.evaluations
    total = torch.stack(log_weights).logsumexp(0) - math.log(draws)
    return flow.FlowLikelihood(total.to(prior.log_likelihood), x_0[0].numel(), evaluations)
