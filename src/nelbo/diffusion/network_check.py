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

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product

import torch
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.chain.conditioning import Condition
from nelbo.diffusion.description import Network
from nelbo.diffusion.model import Diffusion
from nelbo.diffusion.noise_level import wide
from nelbo.diffusion.prediction import PARAMETERIZATIONS, Parameterization

_LEVELS = 6
# How far above the linear guess an error may lie, and how large a part of the power of its output
# a network may be wrong by beside.
_TIMES_THE_GUESS, _OF_THE_OUTPUT = 1.25, 0.02
LEAST_EXAMPLES = 8

_SIGNS: dict[str, float] = {"": 1.0, "its answer has the other sign": -1.0}
_TIMES: dict[str, Callable[[Tensor], Tensor]] = {
    "": lambda time: time,
    "it expects a time 1000 times as large (0..1000, not 0..1)": lambda time: 1000 * time,
    "it expects a time 1000 times smaller (0..1, not 0..1000)": lambda time: time / 1000,
    "its time runs the other way (1 − time)": lambda time: 1 - time,
    "it expects log(σ)/4 as its time, as EDM's raw network (use nelbo.preconditioned)": (
        lambda time: time.clamp(min=1e-12).log() / 4
    ),
}
# What an answer that is taken for the other is, by the power of −σ that is missing.
_SCORES = {
    "it answers a score (use nelbo.from_score)": 1,
    "it answers the noise, not a score (use nelbo.from_epsilon)": -1,
}
_DATA: dict[str, Callable[[Tensor], Tensor]] = {
    "x_0 lies in [0, 1] and the network expects data in [-1, 1]: pass 2 * x_0 - 1": (
        lambda x: 2 * x - 1
    ),
    "the network expects data in [0, 1] and x_0 lies in [-1, 1]: pass (x_0 + 1) / 2": (
        lambda x: (x + 1) / 2
    ),
    "x_0 lies in 0..255 and the network expects data in [-1, 1]: pass x_0 / 127.5 - 1": (
        lambda x: x / 127.5 - 1
    ),
}


@torch.no_grad()
def check_network(
    model: Diffusion,
    x_0: Tensor,
    condition: Condition | None = None,
    *,
    generator: torch.Generator | None = None,
) -> None:
    """Raise where a network cannot follow the conventions of its chain, and name what may be wrong.

    The network is called at six levels, and at as many for every mistake that is tried.

    Args:
        model: the chain of the network.
        x_0: data in the space of the network, (B, C, H, W), B at least 8, better some dozens.
        condition: of the data, one entry an example.
        generator: the source of the noise, by default a fixed one.

    Raises:
        NelboError: predictions of x_0 that are much worse than a linear guess at some level,
            fewer than 8 examples, or examples of another shape or of pixel levels.
    """
    if len(x_0) < LEAST_EXAMPLES:
        raise NelboError(
            f"check_network needs at least {LEAST_EXAMPLES} examples to know the mean and "
            f"variance of data, got {len(x_0)}"
        )
    if not x_0.is_floating_point():
        raise NelboError(
            f"x_0 is of {x_0.dtype}, expected numbers in the space of the network: pass "
            "model.data.to_network(x_0) for pixel levels"
        )
    if model.shape is not None and tuple(x_0.shape[1:]) != model.shape:
        raise NelboError(
            f"x_0 has examples of shape {tuple(x_0.shape[1:])}, the model takes {model.shape}"
        )
    generator = generator or torch.Generator().manual_seed(0)
    noise = torch.randn(x_0.shape, generator=generator, dtype=x_0.dtype, device=generator.device)
    noise = noise.to(x_0.device)
    excess, t = _worst(model, x_0, noise, condition)
    if excess <= 1:
        return
    found: list[tuple[float, str]] = []
    for name, other, data, kind in _mistakes(model, x_0):
        try:
            left, _ = _worst(other, data, noise, condition, kind)
        except (NelboError, RuntimeError, IndexError):  # a time or state that it refuses
            continue
        if left <= 1:
            found.append((left, name))
    likely = (
        "; ".join(name for _, name in sorted(found, key=lambda item: item[0])[:1])
        or "check the sign and the scale of its answer, its time, and the range of x_0"
    )
    sigma = float(model.schedule.sigmas[t])
    raise NelboError(
        f"the network does not denoise x_0 as prediction={model.prediction!r} assumes: at level "
        f"{t} of {model.num_levels} (σ = {sigma:.3g}) its squared error is {excess:.3g} times what "
        f"a linear guess allows. Likely: {likely}"
    )


def _worst(
    model: Diffusion,
    x_0: Tensor,
    noise: Tensor,
    condition: Condition | None,
    kind: Parameterization | None = None,
) -> tuple[float, int]:
    """The largest error as a multiple of what is allowed, and its level."""
    kind = kind or model.parameterization
    variance, found = float(x_0.var()), []
    for t in _levels(model):
        prediction = model.predict(model.diffuse(x_0, noise, t), t, condition)
        prediction = replace(prediction, parameterization=kind, threshold=None)
        error = float((prediction.x_0 - x_0).square().mean())
        target = float(prediction.target(x_0, noise).square().mean())
        guess = variance / (1 + float(model.schedule.snr[t]) * variance)
        own = float(kind.data_error(model.schedule.log_snr[t])) * target
        found.append((error / (_TIMES_THE_GUESS * guess + _OF_THE_OUTPUT * own), t))
    return max(found)


def _levels(model: Diffusion) -> list[int]:
    """Levels that are even in log SNR, from the first to the last with signal."""
    log_snr = model.schedule.log_snr[1:]
    log_snr = log_snr[log_snr.isfinite()]
    places = torch.linspace(float(log_snr[0]), float(log_snr[-1]), _LEVELS, dtype=torch.float64)
    return sorted({int((log_snr - place).abs().argmin()) + 1 for place in places})


def _mistakes(
    model: Diffusion, x_0: Tensor
) -> Iterator[tuple[str, Diffusion, Tensor, Parameterization]]:
    """Each mistake with the model, the data and the reading that undo it."""
    own = model.parameterization
    for name, change in _DATA.items():
        yield name, model, change(x_0), own
    for kind in PARAMETERIZATIONS.values():
        # "denoiser" and "sample" read alike.
        if kind.name != own.name and {kind.name, own.name} != {"denoiser", "sample"}:
            yield f"it answers what prediction={kind.name!r} reads", model, x_0, kind
    if (sigma := own.own_noise_scale) is not None:
        for name, power in _SCORES.items():
            yield name, model.replace(network=_rescaled(model, sigma, power)), x_0, own
    for (sign_name, sign), (time_name, time) in product(_SIGNS.items(), _TIMES.items()):
        names = [name for name in (sign_name, time_name) if name]
        if names:
            changed = model.replace(network=_changed(model, sign, time))
            yield " and ".join(names), changed, x_0, own


def _rescaled(model: Diffusion, sigma: Callable[[Tensor], Tensor], power: int) -> Network:
    network = model.network

    def rescaled(x: Tensor, time: Tensor, condition: Condition | None) -> Tensor:
        return wide(-sigma(time), x).to(x.dtype) ** power * network(x, time, condition)

    return rescaled


def _changed(model: Diffusion, sign: float, time_of: Callable[[Tensor], Tensor]) -> Network:
    network = model.network

    def changed(x: Tensor, time: Tensor, condition: Condition | None) -> Tensor:
        return sign * network(x, time_of(time), condition)

    return changed
