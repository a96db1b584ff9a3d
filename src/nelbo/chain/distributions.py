r"""What `torch.distributions` lacks: a normal over pixel levels, and draws from a generator."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributions import Distribution, Normal, constraints
from torch.distributions.utils import broadcast_all

from nelbo.base.arguments import described
from nelbo.base.errors import NelboError

# One source of noise for a whole batch, or one an example.
Generators = torch.Generator | Sequence[torch.Generator]


def normal(mean: Tensor, stddev: Tensor | float) -> Normal:
    """A `Normal` without argument checks, which would wait for the device at every step."""
    return Normal(mean, stddev, validate_args=False)


def generator_for(*key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator whose seed is a hash of all the numbers, so that streams do not overlap."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest) >> 1)


def some_places(n: int, most: int, seed: int) -> Tensor:
    """At most `most` of the places 0..n−1, drawn at random by a seed, in their order."""
    if n <= most:
        return torch.arange(n)
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:most].sort().values


def draw(distribution: Distribution, generator: Generators | None = None) -> Tensor:
    """A reparameterised sample that takes its noise from `generator`.

    A location-scale family is drawn as mean + stddev · noise with one `torch.randn`, so that runs
    reproduce; anything else falls back on its own `rsample`, which knows no generator.
    """
    if isinstance(distribution, Normal):
        mean = distribution.mean
        return mean + distribution.stddev * randn_like(mean, generator)
    return distribution.rsample()


def drawn_on(generator: torch.Generator | None, default: torch.device) -> torch.device:
    """The device that a generator draws on, which without one is `default`.

    Raises:
        NelboError: a seed, or anything else that is no generator.
    """
    if generator is None:
        return default
    if not isinstance(generator, torch.Generator):
        raise NelboError(
            f"generator is {described(generator)}, expected a torch.Generator or None: pass "
            "torch.Generator().manual_seed(0)"
        )
    return generator.device


def randn_like(x: Tensor, generator: Generators | None = None) -> Tensor:
    """Standard normal noise of the shape, dtype and device of `x`, drawn where the generator is.

    With one generator an example, the noise of each does not depend on the rest of the batch.

    Raises:
        NelboError: generators of another number than examples.
    """
    if isinstance(generator, Sequence):
        if len(generator) != len(x):
            raise NelboError(f"{len(generator)} generators were given for {len(x)} examples")
        return torch.stack(
            [randn_like(example, g) for example, g in zip(x, generator, strict=True)]
        )
    device = drawn_on(generator, x.device)
    return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=device).to(x.device)


def rand_like(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Uniform noise in [0, 1) as `randn_like`, of one generator."""
    device = drawn_on(generator, x.device)
    return torch.rand(x.shape, generator=generator, dtype=x.dtype, device=device).to(x.device)


def narrow(distribution: Distribution) -> Float[Tensor, ""]:
    """The standard deviation that one value in twenty is below, float64."""
    stddev = distribution.stddev.flatten().double().cpu()
    return stddev.kthvalue(1 + len(stddev) // 20).values


def rows(distribution: Distribution, chosen: Tensor) -> Distribution:
    """A `Normal` or `Known` distribution of some of its examples."""
    if isinstance(distribution, Normal):
        return normal(distribution.mean[chosen], distribution.stddev[chosen])
    return Known(distribution.mean[chosen])


class Known(Distribution):
    """All of the probability at one value of each example, which a draw takes no noise for."""

    arg_constraints = {}  # noqa: RUF012 - the name and type are torch's

    def __init__(self, value: Tensor) -> None:
        self._value = value
        super().__init__(value.shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The value."""
        return self._value

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """The value."""
        return self._value.expand(self._extended_shape(torch.Size(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        """Zero, that of all of the probability, at each value."""
        return torch.zeros_like(self._value)

    def entropy(self) -> Tensor:
        """Zero, for nothing is unknown."""
        return torch.zeros_like(self._value)


class DiscretizedNormal(Distribution):
    r"""A normal rounded to `levels` evenly spaced values between −1 and 1.

    Level k stands for :math:`x = 2k/(L-1) - 1` and has the probability of its bin,

    .. math::
        P(x) = \Phi\!\left(\frac{x + h - \mu}{\sigma}\right)
             - \Phi\!\left(\frac{x - h - \mu}{\sigma}\right), \qquad h = \frac{1}{L-1},

    the first and last bins open to :math:`\mp\infty` (Ho et al. 2020, eq. 13).

    `mean`, `stddev` and `variance` are those of the normal before it is rounded; a sample is
    rounded. The log-probability is computed in float64 from logarithms of one-sided tails, so
    that it neither underflows far from the mean nor cancels in narrow bins.

    Args:
        loc: mean of the normal, any shape.
        scale: standard deviation, broadcast against `loc`.
        levels: the number of levels L, at least 2.
    """

    arg_constraints = {  # noqa: RUF012 - the name and type are torch's
        "loc": constraints.real,
        "scale": constraints.positive,
    }
    support = constraints.interval(-1.0, 1.0)
    has_rsample = True

    def __init__(
        self, loc: Tensor, scale: Tensor | float, levels: int, validate_args: bool | None = False
    ) -> None:
        self.loc, self.scale = broadcast_all(loc, scale)
        self.levels = levels
        super().__init__(self.loc.shape, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """Mean of the normal before rounding."""
        return self.loc

    @property
    def stddev(self) -> Tensor:
        """Standard deviation of the normal before rounding."""
        return self.scale

    @property
    def variance(self) -> Tensor:
        """Variance of the normal before rounding."""
        return self.scale.square()

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of the bin around each value, nats, in the dtype of `loc`.

        That is float32 at least: sums over an image in 16 bits would be off by many nats.
        """
        # Apple's devices have no float64.
        wide = torch.float32 if self.loc.device.type == "mps" else torch.float64
        loc, scale, value = torch.broadcast_tensors(
            self.loc.to(wide), self.scale.to(wide), value.to(wide)
        )
        found = torch.promote_types(self.loc.dtype, torch.float32)
        return _LogBin.apply(loc, scale, value, self.levels).to(found)

    def log_probs(self) -> Float[Tensor, "*batch levels"]:
        """Log-probability of every level, one more dimension of size `levels`."""
        grid = torch.linspace(-1.0, 1.0, self.levels, dtype=torch.float64, device=self.loc.device)
        wide = DiscretizedNormal(
            self.loc[..., None].double(), self.scale[..., None].double(), self.levels
        )
        return wide.log_prob(grid)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """A draw rounded to its level; the gradient passes straight through the rounding."""
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        raw = self.loc + self.scale * noise
        return raw + (nearest_level(raw, self.levels) - raw).detach()


def nearest_level(x: Tensor, levels: int) -> Tensor:
    """The value on the grid of `levels` between −1 and 1 that is nearest to `x`."""
    return from_levels(to_levels(x, levels), levels).to(x.dtype)


def to_levels(x: Float[Tensor, "..."], levels: int) -> Int[Tensor, "..."]:
    """Integer level 0..L−1 nearest to each value of [−1, 1]; values outside are clamped."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))  # bfloat16 has no place for 256 levels
    return ((wide.clamp(-1.0, 1.0) + 1.0) * ((levels - 1) / 2)).round().long()


def from_levels(k: Tensor, levels: int) -> Float[Tensor, "..."]:
    """The value 2k/(L−1) − 1 of each integer level, float32."""
    return k.float() * (2.0 / (levels - 1)) - 1.0


class _LogBin(torch.autograd.Function):
    r"""log P of a bin [b, a], both ends in standard deviations from the mean, and its gradient,

    .. math::
        \frac{\partial \log P}{\partial \mu} = \frac{\phi(b) - \phi(a)}{\sigma P}, \qquad
        \frac{\partial \log P}{\partial \sigma} = \frac{b\,\phi(b) - a\,\phi(a)}{\sigma P}.

    Written out, it takes half of the time of what would be recorded operation by operation.
    """

    @staticmethod
    def forward(ctx: Any, loc: Tensor, scale: Tensor, value: Tensor, levels: int) -> Tensor:
        half_width = 1.0 / (levels - 1)
        from_mean = value - loc
        # Mirror bins above the mean so that both bin edges lie in the lower tail, where log Φ is
        # accurate; the bin is then [-d - h, -d + h].
        is_above = from_mean > 0
        distance = from_mean.abs()
        inner = (half_width - distance) / scale
        outer = (-half_width - distance) / scale
        log_inner, log_outer = torch.special.log_ndtr(inner), torch.special.log_ndtr(outer)
        # An edge bin that opens away from the mean is the tail up to its inner edge; one that
        # opens across the mean is all but the tail beyond its other edge.
        is_first, is_last = value < half_width - 1.0, value > 1.0 - half_width
        opens_away = (is_first & ~is_above) | (is_last & is_above)
        opens_across = (is_first | is_last) & ~opens_away
        log_p = log_inner + _log1mexp(log_inner - log_outer)
        log_p = torch.where(opens_away, log_inner, log_p)
        log_p = torch.where(opens_across, torch.log1p(-log_outer.exp()), log_p)
        if any(ctx.needs_input_grad):
            # φ/P at both ends, nothing at one that is open.
            from_log = -log_p - 0.5 * math.log(2 * math.pi)
            at_inner = (from_log - 0.5 * inner.square()).exp().masked_fill(opens_across, 0.0)
            at_outer = (from_log - 0.5 * outer.square()).exp().masked_fill(opens_away, 0.0)
            slope = (at_inner - at_outer) / scale
            by_scale = (outer * at_outer - inner * at_inner) / scale
            ctx.save_for_backward(torch.where(is_above, slope, -slope), by_scale)
        return log_p

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        by_mean, by_scale = ctx.saved_tensors
        of_mean = gradient * by_mean
        return of_mean, gradient * by_scale, -of_mean, None


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 − exp(−x)) for x > 0 without cancellation (Mächler 2012)."""
    return torch.where(
        x < math.log(2.0),
        torch.log(-torch.expm1(-x.clamp(max=1.0))),
        torch.log1p(-torch.exp(-x.clamp(min=0.5))),
    )
