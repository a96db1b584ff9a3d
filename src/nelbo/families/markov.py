r"""A Markov model of order k over pixel levels in raster order.

.. math::
    P(x) = \prod_i p_k(x_i | x_{i-1}, \dots, x_{i-k}),

with a mark for what is before the first value, and one table for each channel. Contexts that were
seen seldom borrow from shorter ones (MacKay & Peto 1995): with n the counts and c the context,
:math:`c'` without its oldest value,

.. math::
    p_j(x|c) = \frac{n_j(c, x) + \alpha_j\, p_{j-1}(x|c')}{n_j(c) + \alpha_j}, \qquad
    p_{-1}(x) = 1/L.

Each :math:`\alpha_j` is the one of least cost on the held-out images, the lowest order first.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nelbo.base.arguments import check_counts
from nelbo.base.errors import NelboError
from nelbo.base.golden_section import golden_section
from nelbo.chain.data_space import DataSpace, Pixels
from nelbo.chain.evidence import Costs, Evidence
from nelbo.chain.model import Conditionals
from nelbo.families.examples import Examples
from nelbo.families.family import Family
from nelbo.families.fitting import Budget, FitStep, Steps
from nelbo.families.noise import choose
from nelbo.families.raster import from_raster, to_raster

# The largest table, in numbers of 8 bytes.
LARGEST_TABLE = 2**24
# The logarithms of α that are searched, and how often the interval is cut.
_LOG_ALPHA = (math.log(1e-3), math.log(1e6))
_CUTS = 30
# How many images are counted at a time.
_GROUP = 4096


def contexts(
    sequence: Int[Tensor, "batch length"], order: int, levels: int
) -> Int[Tensor, "batch length"]:
    """A number for the last `order` values before each, the latest in its lowest digit.

    Digits are of base L + 1; L itself stands for what is before the first value.
    """
    code = torch.zeros_like(sequence)
    for back in range(1, order + 1):
        shifted = torch.full_like(sequence, levels)
        shifted[:, back:] = sequence[:, :-back]
        code += shifted * (levels + 1) ** (back - 1)
    return code


def count(
    sequence: Int[Tensor, "batch length"], order: int, levels: int, channels: int
) -> Float[Tensor, "channels contexts levels"]:
    """How often each value follows each context, in each channel, float64."""
    size = (channels, (levels + 1) ** order, levels)
    at = sequence.device
    total = torch.zeros(math.prod(size), dtype=torch.float64, device=at)
    for group in sequence.split(_GROUP):
        cell = contexts(group, order, levels) * levels + group
        cell += (torch.arange(group.shape[1], device=at) % channels) * (size[1] * levels)
        total += torch.bincount(cell.flatten(), minlength=len(total))
    return total.view(size)


def smooth(
    counts: Float[Tensor, "channels contexts levels"],
    shorter: Float[Tensor, "channels fewer levels"],
    alpha: float,
) -> Float[Tensor, "channels contexts levels"]:
    """p_j from the counts of order j and p_{j−1}."""
    base = shorter.repeat(1, counts.shape[1] // shorter.shape[1], 1)
    return (counts + alpha * base) / (counts.sum(2, keepdim=True) + alpha)


class MarkovModel(Family):
    """A Markov model of order k over pixels in raster order; its likelihood is exact.

    The channels of a colour pixel follow one another, so that an order of 3 sees the pixel before.

    Args:
        order: k, how many values before it a value depends on; 0 for none.
        data: what the values of a tensor are, `Pixels(levels)`; see `Family.fit`.
    """

    spaces = (Pixels,)
    table: Tensor
    smoothing: Tensor

    def __init__(self, order: int, *, data: DataSpace | None = None) -> None:
        super().__init__(data, order=order)
        check_counts(0, order=order)
        self.order = order

    @property
    def levels(self) -> int:
        """The number of pixel levels L."""
        return self.data.shown_levels

    def build(self) -> None:
        """p_k, (C, (L+1)^k, L), and the α of each order, float64."""
        channels, levels = self.image_shape[0], self.levels
        largest = math.log(LARGEST_TABLE / channels / levels, levels + 1)
        if self.order > largest:
            raise NelboError(
                f"a Markov model of order {self.order} of {levels} pixel levels has a table of "
                f"more than {LARGEST_TABLE:,} numbers: use an order of at most {int(largest)}, or "
                "fewer pixel levels"
            )
        shape = (channels, (levels + 1) ** self.order, levels)
        self.register_buffer("table", torch.full(shape, 1 / levels, dtype=torch.float64))
        self.register_buffer("smoothing", torch.zeros(self.order + 1, dtype=torch.float64))

    def fitting(self, examples: Examples, budget: Budget, generator: torch.Generator) -> Steps:
        """One step for each order from 0."""
        train, held_out = self._sequence(examples.train), self._sequence(examples.held_out)
        every = self._sequence(examples.all)
        chosen = self._uniform()  # of the train images, for the choice of α
        final = self._uniform()  # of all images
        for order in range(self.order + 1):
            counts = count(train, order, self.levels, self.image_shape[0])
            kept = count(held_out, order, self.levels, self.image_shape[0])

            def cost(log_alpha: float) -> float:
                p = smooth(counts, chosen, math.exp(log_alpha))  # noqa: B023 - used at once
                return -float(torch.special.xlogy(kept, p).sum())  # noqa: B023

            alpha = math.exp(golden_section(cost, *_LOG_ALPHA, steps=_CUTS))
            self.smoothing[order] = alpha
            held = cost(math.log(alpha)) / len(held_out)
            chosen = smooth(counts, chosen, alpha)
            final = smooth(count(every, order, self.levels, self.image_shape[0]), final, alpha)
            self.table.copy_(final.repeat(1, self.table.shape[1] // final.shape[1], 1))
            nats = -float(torch.special.xlogy(counts, chosen).sum()) / len(train)
            yield FitStep(order + 1, float(order + 1), nats, held)
            if budget.is_over:
                return

    def costs(self, x_0: Tensor, generator: torch.Generator | None) -> Evidence:
        """−log P(x), exact."""
        sequence = self._sequence(x_0)
        code = contexts(sequence, self.order, self.levels)
        channel = torch.arange(sequence.shape[1], device=x_0.device) % self.image_shape[0]
        log_p = self.table[channel, code, sequence].log()
        return Costs.of("exact", {"likelihood": -log_p.sum(1)}, x_0)

    def draws(self, n: int, generator: torch.Generator | None) -> Tensor:
        """One value after the other."""
        at = self.table.device
        sequence = torch.full((n, self.order + self.dims), self.levels, device=at)
        digits = (self.levels + 1) ** torch.arange(self.order - 1, -1, -1, device=at)
        for i in range(self.dims):
            code = (sequence[:, i : i + self.order] * digits).sum(1)
            p = self.table[i % self.image_shape[0], code]
            sequence[:, i + self.order] = choose(p, generator)
        return self.data.to_network(from_raster(sequence[:, self.order :], self.image_shape))

    def conditionals(self, n: int) -> Conditionals:
        """The row of the table for the values before."""
        code = torch.full((n,), (self.levels + 1) ** self.order - 1, device=self.table.device)
        for i in range(self.dims):
            k = yield self.table[i % self.image_shape[0], code].log()
            # The latest value is the lowest digit.
            code = (code * (self.levels + 1) + k.to(code)) % (self.levels + 1) ** self.order

    def _sequence(self, x: Tensor) -> Tensor:
        return to_raster(self.data.to_levels(x))

    def _uniform(self) -> Tensor:
        shape = (self.image_shape[0], 1, self.levels)
        return torch.full(shape, 1 / self.levels, dtype=torch.float64, device=self.device)
