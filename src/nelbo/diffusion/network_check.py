r"""Whether a network follows the conventions that its chain assumes, measured on data.

Of data of variance V, the best linear guess from :math:`x_t` that knows only mean and variance has
the squared error

.. math::
    \frac{V}{1 + \mathrm{SNR}_t V},

which at high noise is that of the mean of the data, and at low noise that of :math:`x_t` itself. A
network that works is as good at every level, but for a small part of its own output. One with
another sign, time or scale of data is far worse at some level, and as good once the mistake is
undone: so the likely mistake is found by undoing each.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.chain.conditioning import Condition
from nelbo.chain.examples import check_examples
from nelbo.diffusion.conventions import conventions, other_states
from nelbo.diffusion.model import Diffusion
from nelbo.diffusion.network_trial import REFUSALS, Trial

LEAST_EXAMPLES = 8


@torch.no_grad()
def check_network(
    model: Diffusion,
    x_0: Tensor,
    condition: Condition | None = None,
    *,
    generator: torch.Generator | None = None,
) -> None:
    """Raise where a network cannot follow the conventions of its chain, and name what may be wrong.

    The network is called at eight levels, and at one or more for each convention that is tried:
    about 100 times.

    Args:
        model: the chain of the network.
        x_0: data in the space of the network, (B, C, H, W), B at least 8, better some dozens.
        condition: of the data, one entry an example.
        generator: the source of the noise, by default a fixed one.

    Raises:
        NelboError: predictions of x_0 that are much worse than a linear guess at some level, or
            worse than by another convention; fewer than 8 examples, or examples of another shape or
            of pixel levels.
    """
    if message := likely_mistake(model, x_0, condition, generator=generator):
        raise NelboError(message)


@torch.no_grad()
def likely_mistake(
    model: Diffusion,
    x_0: Tensor,
    condition: Condition | None = None,
    *,
    generator: torch.Generator | None = None,
    quick: bool = False,
) -> str | None:
    """What `check_network` raises, and None where the conventions fit.

    Args:
        quick: while the network denoises, try other states alone: about 12 calls.

    Raises:
        NelboError: as `check_network` of bad examples.
    """
    _check_examples(model, x_0)
    generator = generator or torch.Generator().manual_seed(0)
    noise = torch.randn(x_0.shape, generator=generator, dtype=x_0.dtype, device=generator.device)
    trial = Trial(model, x_0, noise.to(x_0.device), condition)
    assumed = f"prediction={model.prediction!r}"
    try:
        t, excess = trial.read_own()
    except REFUSALS as error:
        if not (found := trial.likely(conventions(model.parameterization))):
            raise
        reason = " ".join(str(error).split())
        return f"the network refuses what {assumed} gives it ({reason}). Likely: {found}"
    if excess > 1:
        found = trial.likely(conventions(model.parameterization))
        if not found and not trial.is_useless():
            return None
        found = found or (
            "check the sign and the scale of its answer, its state and time, and the range of x_0; "
            "or it is not trained"
        )
        return (
            f"the network does not denoise x_0 as {assumed} assumes: at level {t} of "
            f"{model.num_levels} (σ = {float(model.schedule.sigmas[t]):.3g}) its squared error is "
            f"{excess:.3g} times what a linear guess allows. Likely: {found}"
        )
    others = other_states if quick else conventions
    if found := trial.likely(others(model.parameterization)):
        return (
            f"the network denoises x_0 as {assumed} assumes, and better by another convention. "
            f"Likely: {found}"
        )
    return None


def _check_examples(model: Diffusion, x_0: Tensor) -> None:
    check_examples(x_0=x_0)
    if len(x_0) < LEAST_EXAMPLES:
        raise NelboError(
            f"check_network needs at least {LEAST_EXAMPLES} examples to know the mean and "
            f"variance of data, got {len(x_0)}"
        )
    if model.shape is not None and tuple(x_0.shape[1:]) != model.shape:
        raise NelboError(
            f"x_0 has examples of shape {tuple(x_0.shape[1:])}, the model takes {model.shape}"
        )
