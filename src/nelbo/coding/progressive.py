r"""Lossy coding of one picture, coarse to fine: any prefix decodes (Ho et al. 2020, section 4.3).

Encoder and decoder walk the decoder chain from x_T down. At each level they share
:math:`p(x_{t-1}|x_t)`, and the encoder alone knows :math:`q(x_{t-1}|x_t, x_0)`. It makes the
decoder take a draw of q by reverse-channel coding (`nelbo.coding.reverse_channel`), in groups of
about 14.5 bits of KL(q‖p). How many groups a level has is sent before them, as the difference from
what both sides expect: KL of an optimal variance is :math:`\frac12 \log(\Sigma_t / \tilde\beta_t)`
a value on average, corrected by what the levels above took. x_T is a draw of p that both know.

What is not sent is a draw of p; from the last level that is there, the picture is finished without
noise, by the flow. Nothing that is decoded depends on the last digits of a network's output, so
float32 serves on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import kl_divergence

from nelbo.base.arguments import check_count, check_kind, check_numbers
from nelbo.base.digest import digest
from nelbo.base.errors import NelboError
from nelbo.chain.conditioning import Condition, check_condition
from nelbo.chain.distributions import draw, generator_for
from nelbo.chain.model import Model
from nelbo.coding.arguments import as_bytes, check_model
from nelbo.coding.arithmetic import LOG_STEPS
from nelbo.coding.bits import Bits, Exhausted
from nelbo.coding.identity import weights_digest
from nelbo.coding.reverse_channel import NATS, sent
from nelbo.diffusion import Diffusion, optimal_levels
from nelbo.samplers import DDIM

MAGIC = b"\x89nb3"
STEPS = 20
_HASH = 4
_START = len(MAGIC) + _HASH + 1
# Signal-to-noise ratios that a quality is counted between, at most.
_LEAST_SNR, _MOST_SNR = 1e-4, 1e6


@torch.no_grad()
def compress_progressive(
    model: Model,
    image: Tensor,
    bits: float | None = None,
    *,
    quality: float | None = None,
    steps: int | None = None,
    condition: Condition | None = None,
) -> bytes:
    """Code a picture coarse to fine; `decompress_progressive` takes any prefix of the result.

    Args:
        model: a model with a chain of levels. The best levels and variances are taken where it
            has a profile (`nelbo.fit_variance`), else even ones and its own.
        image: pixel levels (C, H, W).
        bits: the most bits to write, without the 9 bytes at the start; None for no limit.
        quality: how far down the chain to go, from 0 to 100: the picture is coded down to the
            first level whose log SNR is this percentage of the way from that of x_T to that of
            x_1, of all levels of the model; None goes to the end.
        steps: the levels of the chain that is walked; by default 20, without those that a profile
            expects to take less than a group.
        condition: what the model is conditioned on, (1, ...), which the decoder knows as well.

    Raises:
        NelboError: a model without a chain, a picture that is not of its size, a quality outside
            0..100, or fewer bits than none.
    """
    check_model(model)
    check_kind("image", image, Tensor, "a tensor of pixel levels (C, H, W)")
    given = {"bits": bits, "quality": quality}
    check_numbers(**{name: value for name, value in given.items() if value is not None})
    check_condition(condition, 1)
    if quality is not None and not 0 <= quality <= 100:
        raise NelboError(f"quality must lie in 0..100, got {quality:g}")
    if bits is not None and not bits >= 0:
        raise NelboError(f"bits must be at least 0, got {bits:g}")
    chain = chain_of(model, steps)
    x = model.data.to_network(image[None]).to(model.device)
    model.check_data(x)
    content = Bits(most=math.inf if bits is None else bits)
    last = 1 if quality is None else level_of(quality, chain, model.chain)
    for _ in walk(chain, content, condition_of(model, condition), model.encode(x).mean, last):
        pass
    return MAGIC + _identity(model, chain) + bytes([steps or 0]) + content.to_bytes()


@torch.no_grad()
def decompress_progressive(
    model: Model, data: bytes, *, condition: Condition | None = None
) -> Tensor:
    """The picture that a prefix of `compress_progressive`'s bytes decodes to, levels (C, H, W).

    Raises:
        NelboError: other bytes, fewer than the 9 at the start, or a model of other weights or with
            another level profile.
    """
    check_model(model)
    check_condition(condition, 1)
    data = as_bytes(data)
    if not is_progressive(data) or len(data) < _START:
        raise NelboError("this is no progressive picture of nelbo, or less than its first 9 bytes")
    steps = data[_START - 1]
    if model.chain is not None:  # no more than it has, which another model may have
        steps = min(steps, model.chain.num_levels)
    chain = chain_of(model, steps or None)
    if data[len(MAGIC) : _START - 1] != _identity(model, chain):
        raise NelboError(
            "the picture was compressed by a model of other weights, or with another level profile "
            "of nelbo fit or none: give the model as it was"
        )
    condition = condition_of(model, condition)
    *_, (x, t, _) = walk(chain, Bits(data[_START:]), condition, None)
    return model.data.to_levels(model.decode(finished(chain, x, t, condition)))[0]


def is_progressive(data: bytes) -> bool:
    """Whether a file is, or begins, what `compress_progressive` writes."""
    return as_bytes(data).startswith(MAGIC)


def _identity(model: Model, chain: Diffusion) -> bytes:
    """The start of a hash of the weights, and of the levels and variances of what is walked."""
    signal = (chain.schedule.alphas_cumprod * 2**24).round().long()
    variances = (chain.reverse_variance.least[2:].log() * LOG_STEPS).round().long()
    parts = [weights_digest(model), chain.variance, signal, variances]
    return bytes.fromhex(digest(parts))[:_HASH]


def chain_of(model: Model, steps: int | None) -> Diffusion:
    """The chain that is walked: K of its levels.

    Raises:
        NelboError: a model without a chain, or more steps than levels.
    """
    chain: Diffusion | None = model.chain
    if chain is None:
        raise NelboError(f"{model.noun} has no chain of levels to code a picture along")
    K = min(STEPS, chain.num_levels) if steps is None else steps
    check_count("steps", K)
    T = min(chain.num_levels, 255)
    if K > T:
        raise NelboError(f"steps must lie in 1..{T}, got {K}")
    if chain.profile is None:
        even = torch.linspace(1, chain.num_levels, K).round().long()
        even[-1] = chain.num_levels  # where there is one, it is x_T
        return chain.respace(even)
    fitted = chain.with_profile(chain.profile, variance="analytic")
    levels = torch.as_tensor(optimal_levels(chain.profile, K)).tolist()
    short = fitted.respace(levels)
    return short if steps is not None else fitted.respace(_merged(levels, expected_groups(short)))


def _merged(levels: list[int], expected: list[float]) -> list[int]:
    """Those of the levels between which a group or more is expected, the first and the last kept.

    Args:
        levels: of the chain, increasing.
        expected: the groups that each takes, by its place from 1.
    """
    kept, groups = [levels[-1]], 0.0
    for t in range(len(levels) - 1, 0, -1):
        groups += expected[t]
        if groups >= 1 or t == 1:
            kept.append(levels[t - 1])
            groups = 0.0
    return kept[::-1]


def condition_of(model: Model, given: Condition | None) -> Condition | None:
    """What the chain is conditioned on: what is given, or what stands for nothing."""
    return given if given is not None and given.batch_size else model.condition_for(1)


class Walked(NamedTuple):
    """x_t, its level, and of the encoder the KL of this level, which was coded, in bits."""

    x: Tensor
    t: int
    bits: float = 0.0


def walk(
    chain: Diffusion,
    content: Bits,
    condition: Condition | None,
    x_0: Tensor | None,
    last: int = 1,
) -> Iterator[Walked]:
    """The states from x_T down to x_1, written or read, until there are no more bits.

    Args:
        chain: the chain.
        content: what is written, if `x_0` is given, or read.
        condition: what the chain is conditioned on.
        x_0: what the encoder knows.
        last: the level to end at.
    """
    T = chain.num_levels
    x = draw(chain.p_prior((1, *(chain.shape or ()))), generator_for(T, 0))
    yield Walked(x, T)
    expected, seen, meant = expected_groups(chain), 0.5, 0.5
    with suppress(Exhausted):
        for t in range(T - 1, last - 1, -1):
            p = chain.p_step(x, t + 1, condition)
            q = None if x_0 is None else chain.q_posterior(x, x_0, t + 1)
            cost = 0.0 if q is None else float(kl_divergence(q, p).sum())
            guess = round(expected[t] * seen / meant)
            count = guess + content.integer(min(round(cost / NATS), x.numel()) - guess)
            seen, meant = seen / 2 + count, meant / 2 + expected[t]
            x = sent(p, q, min(max(count, 0), x.numel()), content, t)
            yield Walked(x, t, cost / math.log(2))


def expected_groups(chain: Diffusion) -> list[float]:
    """The groups that x_t takes on average, for t < T; of numbers that all machines agree on."""
    betas, posterior = chain.schedule.betas[2:], chain.schedule.posterior_variance[2:]
    own = chain.reverse_variance.least[2:].double().to(betas.device)
    variance = torch.where(own > 1.001 * posterior, own, betas)
    assert chain.shape is not None
    nats = 0.5 * math.prod(chain.shape) * (variance / posterior).log()
    return [0.0, *(nats / NATS).tolist()]


def level_of(quality: float, chain: Diffusion, whole: Diffusion) -> int:
    """The first level from above of a quality, which is counted along the whole chain."""
    here, log_snr = (
        each.schedule.snr[1:].clamp(_LEAST_SNR, _MOST_SNR).log() for each in (chain, whole)
    )
    wanted = log_snr[-1] + quality / 100 * (log_snr[0] - log_snr[-1])
    reached = (here >= wanted - 1e-9).nonzero()
    return int(reached.max()) + 1 if len(reached) else 1


def finished(chain: Diffusion, x: Tensor, t: int, condition: Condition | None) -> Tensor:
    """From x_t down to x_0 without noise, by the steps of DDIM (Song et al. 2021)."""
    *_, last = DDIM(levels=range(1, t + 1)).walk(chain, x, condition=condition)
    return last.x
