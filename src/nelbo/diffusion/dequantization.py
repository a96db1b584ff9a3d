r"""How pixels become the real numbers that a flow gives a density to.

With any distribution :math:`q(z|x_0)` of a real-valued state z,

.. math::
    \log P(x_0) = \log \int p(x_0|z)\, p(z)\, dz
        \ge E_{q(z|x_0)}[\log p(x_0|z) + \log p(z) - \log q(z|x_0)],

where p(z) is the flow's density at its start. The weight below is
:math:`\log p(x_0|z) - \log q(z|x_0)`.

* ``decoder``: z is :math:`x_1 \sim q(x_1|x_0)` and p(x_0|z) the model's own reconstruction term.
  The network sees what it was trained on, and the flow replaces all terms of the bound but this.
* ``uniform``: z is uniform in the bin of x_0, and p(x_0|z) is 1 where z is in it, else 0
  (Theis et al. 2016).
* ``truncated_normal``: the same with a normal of the flow's own noise scale, cut off at the edges
  of the bin (Zheng et al. 2023, section 4.1); with narrow noise it is nearly q(x_1|x_0).
* ``none``: z is x_0 itself, for continuous data. The density is then that of the data with the
  noise of level 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.base.arguments import check_choice
from nelbo.base.errors import NelboError
from nelbo.chain.conditioning import Condition
from nelbo.chain.distributions import draw, rand_like
from nelbo.chain.terms import per_example
from nelbo.diffusion.model import Diffusion

DEQUANTIZATIONS = ("decoder", "truncated_normal", "uniform", "none")


@dataclass(frozen=True)
class Dequantization:
    """A draw of the state that the flow starts from.

    Attributes:
        x: the state with preserved variance, (B, ...).
        log_noise: log(s/a) there.
        log_weight: log p(x_0|z) − log q(z|x_0) with the volume of the rescaling, nats, (B,).
        evaluations: network calls that it took.
    """

    x: Float[Tensor, "batch ..."]
    log_noise: float
    log_weight: Float[Tensor, " batch"]
    evaluations: int = 0


def default_dequantization(model: Diffusion) -> str:
    """What fits the model's data: "decoder" for pixels, "none" for continuous data."""
    return "none" if model.data.is_density else "decoder"


def dequantize(
    model: Diffusion,
    x_0: Float[Tensor, "batch ..."],
    condition: Condition | None,
    kind: str,
    noise_scale: float | None = None,
    generator: torch.Generator | None = None,
) -> Dequantization:
    """One state an example, drawn in the way that `kind` names, with its log-weight.

    Args:
        model: whose data and level 1.
        x_0: data, (B, ...).
        condition: what the model is conditioned on for each example.
        kind: "decoder", "truncated_normal", "uniform" or "none".
        noise_scale: s/a at which the flow starts; by default that of level 1.
        generator: the source of all noise.

    Raises:
        NelboError: an unknown kind, one that does not fit the data, or a noise scale outside of
            the chain.
    """
    check_choice("dequantization", kind, DEQUANTIZATIONS)
    if kind == "decoder":
        if noise_scale is not None:
            raise NelboError("dequantization 'decoder' starts at level 1: give no noise_scale")
        return _by_decoder(model, x_0, condition, generator)
    data = model.data
    if kind == "none":
        if not data.is_density:
            raise NelboError(
                f"the model gives a probability to pixels of {data.shown_levels} levels, which are "
                "no real numbers: use dequantization='decoder', 'truncated_normal' or 'uniform'"
            )
        noise, log_q = torch.zeros_like(x_0), x_0.new_zeros(len(x_0))
    elif data.is_density:
        raise NelboError(
            f"dequantization {kind!r} is for pixels, the model is of continuous data, without "
            "levels: use 'none' or 'decoder'"
        )
    sigma = _start(model, noise_scale)
    if not data.is_density:
        uniform = 2 * rand_like(x_0, generator) - 1
        half_width = 1.0 / (data.shown_levels - 1)
        within = _within_uniform if kind == "uniform" else _within_normal
        noise, log_q = within(uniform, half_width, sigma)
        noise = noise.to(x_0.dtype)
    # The state is the draw scaled by a, which is 1/√(1 + σ²) with preserved variance.
    log_a = -0.5 * math.log1p(sigma**2)
    return Dequantization(
        x=math.exp(log_a) * (x_0 + noise),
        log_noise=math.log(sigma),
        log_weight=x_0[0].numel() * log_a - log_q,
    )


def _by_decoder(
    model: Diffusion,
    x_0: Tensor,
    condition: Condition | None,
    generator: torch.Generator | None,
) -> Dequantization:
    q = model.q_marginal(x_0, 1)
    x_1 = draw(q, generator)
    with torch.no_grad():
        reconstruction = model.reconstruction(x_0, x_1, condition)
    log_q = per_example(q.log_prob(x_1).double())
    log_noise = -0.5 * float(model.schedule.log_snr[1])
    return Dequantization(x_1, log_noise, reconstruction.double() - log_q, evaluations=1)


def _within_uniform(uniform: Tensor, half_width: float, sigma: float) -> tuple[Tensor, Tensor]:
    noise = half_width * uniform
    return noise, -math.log(2 * half_width) * per_example(torch.ones_like(noise).double())


def _within_normal(uniform: Tensor, half_width: float, sigma: float) -> tuple[Tensor, Tensor]:
    """A centred normal cut off at ±half_width, by its inverse distribution function.

    Generators draw the end −1 itself, where the inverse is infinite if the normal is much narrower
    than the bin: a draw at an end stands for the half of its step that is inside.
    """
    inside = 1 - 0.5 * torch.finfo(uniform.dtype).eps
    uniform = uniform.double().clamp(-inside, inside)
    mass = math.erf(half_width / (sigma * math.sqrt(2.0)))
    standard = math.sqrt(2.0) * torch.erfinv(uniform * mass)
    log_density = -0.5 * (standard.square() + math.log(2 * math.pi)) - math.log(sigma * mass)
    return sigma * standard, per_example(log_density)


def _start(model: Diffusion, noise_scale: float | None) -> float:
    low, high = (math.exp(-0.5 * float(model.schedule.log_snr[t])) for t in (1, -1))
    sigma = low if noise_scale is None else noise_scale
    if not low * (1 - 1e-9) <= sigma < high:
        raise NelboError(
            f"noise_scale must lie between those of the chain's levels, {low:.4g} to {high:.4g}, "
            f"got {noise_scale}"
        )
    return sigma
