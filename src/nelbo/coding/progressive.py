r"""Lossy coding of one picture, coarse to fine: any prefix decodes (Ho et al. 2020, section 4.3).

Encoder and decoder walk the decoder chain from x_T down. At each level they share
:math:`p(x_{t-1}|x_t)`, and the encoder alone knows :math:`q(x_{t-1}|x_t, x_0)`. It makes the
decoder take a draw of q by *reverse-channel coding*: both draw the same N = 2¹⁵ candidates from p,
and the encoder sends the number of one, chosen with probability in proportion to q/p (minimal
random coding, Havasi et al. 2019; Theis & Yosri 2022). N candidates stand for q where log₂ N is a
little more than KL(q‖p) in bits, so that the values of a level are divided into about KL / 14.5
groups, each with a number of 15 bits. How many groups a level has is sent before them, by the code
of Elias.

What is not sent is a draw of p; from the last level that is there, the picture is finished without
noise, by the flow. Nothing that is decoded depends on the last digits of a network's output, so
float32 serves on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from nelbo.base.errors import NelboError
from nelbo.chain.conditioning import Condition
from nelbo.chain.distributions import draw, generator_for
from nelbo.chain.model import Model
from nelbo.coding.identity import weights_digest
from nelbo.diffusion import Diffusion, optimal_levels
from nelbo.samplers import DDIM

MAGIC = b"\x89nbp"
# Of a group: the bits of its number, and the KL that it stands for.
BITS, NATS = 15, 14.5 * math.log(2)
STEPS = 20
_AT_ONCE = 2**22
_HASH = 4
_START = len(MAGIC) + _HASH + 1


class Exhausted(Exception):
    """There are no more bits to write or to read."""


class Bits:
    """Bits to write, up to a number, or to read.

    Args:
        content: to read; None to write.
        most: how many to write at most.
    """

    def __init__(self, content: bytes | None = None, most: float = math.inf) -> None:
        self.bits = [byte >> i & 1 for byte in content or b"" for i in range(7, -1, -1)]
        self.reads, self.most, self.at, self.over = content is not None, most, 0, False

    def number(self, count: int, value: int = 0) -> int:
        """The next `count` bits as a number, which is written or read."""
        end = (self.at if self.reads else len(self.bits)) + count
        self.over = self.over or end > (len(self.bits) if self.reads else self.most)
        if self.over:  # once there is no room, a shorter number has none either
            raise Exhausted
        if self.reads:
            bits = self.bits[self.at : end]
            self.at = end
            return int("".join(map(str, bits)) or "0", 2)
        self.bits += [value >> i & 1 for i in range(count - 1, -1, -1)]
        return value

    def natural(self, value: int = 0) -> int:
        """A number from 0 by Elias' gamma code, written or read."""
        if not self.reads:
            length = (value + 1).bit_length()
            self.number(length - 1)
            return self.number(length, value + 1) - 1
        zeros = 0
        while not self.number(1):
            zeros += 1
        return (1 << zeros | self.number(zeros)) - 1

    def to_bytes(self) -> bytes:
        """The bits, the last byte filled with zeros, which end no number."""
        bits = self.bits + [0] * (-len(self.bits) % 8)
        return int("".join(map(str, bits)) or "0", 2).to_bytes(len(bits) // 8)


@torch.no_grad()
def compress_progressive(
    model: Model,
    image: Tensor,
    bits: float | None = None,
    *,
    steps: int | None = None,
    condition: Condition | None = None,
) -> bytes:
    """Code a picture coarse to fine; `decompress_progressive` takes any prefix of the result.

    Args:
        model: a model with a chain of levels. The best levels and variances are taken where it
            has a profile (`nelbo.fit_variance`), else even ones and its own.
        image: pixel levels (C, H, W).
        bits: the most bits to write, without the 9 bytes at the start; None goes down to level 1.
        steps: the levels of the chain that is walked, 20 by default.
        condition: what the model is conditioned on, (1, ...), which the decoder knows as well.

    Raises:
        NelboError: a model without a chain, or a picture that is not of its size.
    """
    chain = _chain(model, steps)
    x = model.data.to_network(image[None]).to(model.device)
    model.check_data(x)
    x_0 = model.encode(x).mean
    content = Bits(most=math.inf if bits is None else bits)
    for _ in _walk(chain, content, _condition(model, condition), x_0):
        pass
    start = MAGIC + bytes.fromhex(weights_digest(model))[:_HASH] + bytes([chain.num_levels])
    return start + content.to_bytes()


@torch.no_grad()
def decompress_progressive(
    model: Model, data: bytes, *, condition: Condition | None = None
) -> Tensor:
    """The picture that a prefix of `compress_progressive`'s bytes decodes to, levels (C, H, W).

    Raises:
        NelboError: other bytes, fewer than the 9 at the start, or a model of other weights.
    """
    if not is_progressive(data) or len(data) < _START:
        raise NelboError("this is no progressive picture of nelbo, or less than its first 9 bytes")
    if data[len(MAGIC) : _START - 1] != bytes.fromhex(weights_digest(model))[:_HASH]:
        raise NelboError("the picture was compressed by a model of other weights: give that one")
    chain = _chain(model, data[_START - 1])
    condition = _condition(model, condition)
    *_, (state, t) = _walk(chain, Bits(data[_START:]), condition, None)
    return model.data.to_levels(model.decode(_finished(chain, state, t, condition)))[0]


def is_progressive(data: bytes) -> bool:
    """Whether a file is, or begins, what `compress_progressive` writes."""
    return data.startswith(MAGIC)


def _chain(model: Model, steps: int | None) -> Diffusion:
    """The chain that is walked: K of its levels."""
    chain: Diffusion | None = model.chain
    if chain is None:
        raise NelboError(f"{model.title} has no chain of levels to code a picture along")
    K = min(STEPS, chain.num_levels) if steps is None else steps
    if not 1 <= K <= min(chain.num_levels, 255):
        raise NelboError(f"steps must lie in 1..{min(chain.num_levels, 255)}, got {K}")
    if chain.profile is not None:
        fitted = chain.with_profile(chain.profile, variance="analytic")
        return fitted.respace(optimal_levels(chain.profile, K))
    return chain.respace(torch.linspace(1, chain.num_levels, K).round().long())


def _condition(model: Model, given: Condition | None) -> Condition | None:
    """What the chain is conditioned on: what is given, or what stands for nothing."""
    return given if given is not None and given.batch_size else model.condition_for(1)


def _walk(
    chain: Diffusion, content: Bits, condition: Condition | None, x_0: Tensor | None
) -> Iterator[tuple[Tensor, int]]:
    """The states from x_T down to x_1, written or read, until there are no more bits.

    Args:
        chain: the chain.
        content: what is written, if `x_0` is given, or read.
        condition: what the chain is conditioned on.
        x_0: what the encoder knows.
    """
    T = chain.num_levels
    like = chain.start(1)
    prior = chain.p_prior(tuple(like.shape))
    goal = None if x_0 is None else chain.q_marginal(x_0, T)
    yield draw(prior, generator_for(T, 0)), T  # for a prefix that ends before x_T
    with suppress(Exhausted):
        x = _step(prior, goal, content, T)
        yield x, T
        for t in range(T, 1, -1):
            p = chain.p_step(x, t, condition)
            goal = None if x_0 is None else chain.q_posterior(x, x_0, t)
            x = _step(p, goal, content, t - 1)
            yield x, t - 1


def _step(p: Normal, q: Normal | None, content: Bits, t: int) -> Tensor:
    """The state of level t, each group of its values a candidate of p that is sent by its number.

    Args:
        p: what both sides know, (1, ...).
        q: what the encoder draws from.
        content: what is written or read.
        t: the level, which seeds the candidates.

    Raises:
        Exhausted: not even the number of groups is there.
    """
    mean, stddev = p.mean.flatten(), p.stddev.expand_as(p.mean).flatten()
    cost = 0.0 if q is None else float(kl_divergence(q, p).sum())
    count = min(round(cost / NATS), len(mean))
    count = content.natural(count)
    order = torch.randperm(len(mean), generator=generator_for(t, -1)).to(mean.device)
    x = draw(p, generator_for(t, 0)).flatten()
    for group, where in enumerate(order.tensor_split(count) if count else []):
        index = 0
        if q is not None:
            goal = q.mean.flatten()[where], q.stddev.expand_as(q.mean).flatten()[where]
            index = _choose(mean[where], stddev[where], *goal, t, group)
        try:
            index = content.number(BITS, index)
        except Exhausted:
            break  # the rest of the level is a draw of p
        noise = _candidates(len(where), t, group, index // _rows(len(where)))
        x[where] = mean[where] + stddev[where] * noise[index % _rows(len(where))].to(x)
    return x.view(p.mean.shape)


def _rows(values: int) -> int:
    """How many candidates are drawn at a time."""
    return max(1, min(2**BITS, _AT_ONCE // values))


def _candidates(values: int, t: int, group: int, part: int) -> Tensor:
    """A part of the candidates' noise, the same on both sides."""
    return torch.randn(_rows(values), values, generator=generator_for(t, group + 1, part))


def _choose(mean: Tensor, stddev: Tensor, goal: Tensor, spread: Tensor, t: int, group: int) -> int:
    """The number of a candidate, drawn in proportion to q/p by Gumbel's trick."""
    p, q = Normal(mean.cpu(), stddev.cpu()), Normal(goal.cpu(), spread.cpu())
    random = generator_for(t, group + 1, -1)
    best, chosen, rows = -math.inf, 0, _rows(len(mean))
    for part in range(math.ceil(2**BITS / rows)):
        x = p.mean + p.stddev * _candidates(len(mean), t, group, part)
        score = (q.log_prob(x) - p.log_prob(x)).sum(1)
        gumbel = -torch.rand(rows, generator=random).clamp(1e-38, 1 - 1e-7).log().neg().log()
        last = min(rows, 2**BITS - part * rows)
        found = float((score + gumbel)[:last].max())
        if found > best:
            best, chosen = found, part * rows + int((score + gumbel)[:last].argmax())
    return chosen


def _finished(chain: Diffusion, x: Tensor, t: int, condition: Condition | None) -> Tensor:
    """From x_t down to x_0 without noise, by the steps of DDIM (Song et al. 2021)."""
    *_, last = DDIM(levels=range(1, t + 1)).walk(chain, x, condition=condition)
    return last.x
