r"""A hidden Markov model of the rows of an image, or of its pixels in raster order.

.. math::
    p(x, s) = \pi_{s_1}\, p(x_1|s_1) \prod_{t=2}^{T} A_{s_{t-1} s_t}\, p(x_t|s_t),

with the emissions of `nelbo.families.emissions` (Rabiner 1989). It is fitted by EM (Baum et al.
1970): the E-step is `nelbo.families.hmm_inference.hmm_smoother`, the M-step takes expected
frequencies. EM ends where the held-out images no longer improve; then a pseudocount is
chosen on them, and the last M-step is made on all images.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nelbo.base.arguments import check_choice, check_counts
from nelbo.base.errors import NelboError
from nelbo.base.golden_section import golden_section
from nelbo.chain.data_space import DataSpace
from nelbo.chain.evidence import Costs, Evidence
from nelbo.chain.model import Conditionals
from nelbo.families.arguments import check_not_negative
from nelbo.families.emissions import EMISSIONS, Emission
from nelbo.families.examples import Examples
from nelbo.families.family import Family
from nelbo.families.fitting import Budget, Steps, iterate
from nelbo.families.hmm_em import Chain, Expected, expect, log_likelihood, maximise
from nelbo.families.noise import choose
from nelbo.families.raster import from_rows, to_rows

_LARGEST_EMISSION = 2**24
# Of the states that start a run of EM: rounds of k-means.
_ROUNDS = 5
# The pseudocounts, in images' worth of rows, that are searched, and how often they are cut.
_LOG_PSEUDOCOUNT = (math.log(1e-3), math.log(1e3))
_CUTS = 12
# While EM runs: without it a level not yet seen in any image would end the reading.
_SMALL = 0.1


class HMM(Family):
    """A hidden Markov model, exact.

    Args:
        states: the number S of hidden states.
        emission: "categorical" for pixel levels; "gaussian", which of pixels is rounded to them.
            By default the first for pixels and the second for continuous data.
        by: "row", each a vector of values that are independent given the state, or "pixel" in
            raster order.
        tolerance: EM ends where the held-out images gain less than this many nats a value in 5
            iterations; the best are kept.
        data: what the values of a tensor are; see `Family.fit`.
    """

    initial: Tensor
    transition: Tensor
    emission_parameters: Tensor

    def __init__(
        self,
        states: int,
        *,
        emission: str | None = None,
        by: str = "row",
        tolerance: float = 1e-4,
        data: DataSpace | None = None,
    ) -> None:
        super().__init__(data, states=states, emission=emission, by=by, tolerance=tolerance)
        check_counts(states=states)
        check_not_negative(tolerance=tolerance)
        if emission is not None:
            check_choice("emission", emission, EMISSIONS)
        check_choice("by", by, ("row", "pixel"))
        self.states, self.by, self.tolerance = states, by, tolerance
        self.emission_name = emission

    @property
    def emission(self) -> Emission:
        """What a state emits."""
        usual = "gaussian" if self.data.is_density else "categorical"
        return EMISSIONS[self.emission_name or usual](self.data)

    @property
    def chain_parameters(self) -> Chain:
        """π, A and the parameters of the emission."""
        return Chain(self.initial, self.transition, self.emission_parameters)

    def build(self) -> None:
        """π, A and the emission, float64."""
        if self.emission_name == "categorical" and self.data.is_density:
            raise NelboError(
                "categorical emissions are of pixel levels: use emission='gaussian' for continuous "
                "data, or give an ImageData"
            )
        channels, _, width = self.image_shape
        values = channels * (width if self.by == "row" else 1)
        shape = self.emission.shapes(self.states, values)
        if math.prod(shape) > _LARGEST_EMISSION:
            raise NelboError(
                f"{self.states} states with emissions of {math.prod(shape[1:]):,} numbers are more "
                f"than {_LARGEST_EMISSION:,}: use fewer states, by='pixel', emission='gaussian' or "
                "smaller images"
            )
        wide = torch.float64
        self.register_buffer("initial", torch.full((self.states,), 1 / self.states, dtype=wide))
        self.register_buffer(
            "transition", torch.full((self.states, self.states), 1 / self.states, dtype=wide)
        )
        self.register_buffer("emission_parameters", torch.ones(shape, dtype=wide))

    def fitting(self, examples: Examples, budget: Budget, generator: torch.Generator) -> Steps:
        """The iterations of EM."""
        train, held_out = self._sequences(examples.train), self._sequences(examples.held_out)
        emission = self.emission
        expected = self._start(train, emission, generator)

        def step() -> tuple[Expected, float, float]:
            nonlocal expected
            before = expected
            self._set(maximise(before, emission, _SMALL))
            held = -float(log_likelihood(self.chain_parameters, emission, held_out).mean())
            expected = expect(self.chain_parameters, emission, train)
            return before, -float(expected.log_likelihood) / expected.sequences, held

        def finish(best: Expected) -> None:
            self._finish(best, emission, self._sequences(examples.all), held_out)

        yield from iterate(step, finish, self.tolerance * self.dims, budget)

    def _start(self, x: Tensor, emission: Emission, generator: torch.Generator) -> Expected:
        """Sums for the first M-step, from states that are clusters of observations."""
        flat = x.flatten(0, 1)
        order = torch.randperm(len(flat), generator=generator)[: self.states]
        centres = flat[order.repeat(self.states)[: self.states]]
        for _ in range(_ROUNDS):
            nearest = torch.cat([torch.cdist(p, centres).argmin(1) for p in flat.split(2**16)])
            counts = torch.bincount(nearest, minlength=self.states)[:, None]
            sums = torch.zeros_like(centres).index_add_(0, nearest, flat)
            centres = torch.where(counts > 0, sums / counts.clamp(min=1), centres)
        states = torch.nn.functional.one_hot(nearest, self.states).to(x.dtype)
        states = states.unflatten(0, x.shape[:2])
        moved = torch.einsum("btr,bts->rs", states[:, :-1], states[:, 1:])
        zero = x.new_zeros(())
        return Expected(states[:, 0].sum(0), moved, emission.moments(x, states), zero, len(x))

    def _finish(
        self, expected: Expected, emission: Emission, every: Tensor, held_out: Tensor
    ) -> None:
        """Choose the pseudocount on the held-out images, then take the last M-step on all."""

        def cost(log_pseudocount: float) -> float:
            p = maximise(expected, emission, math.exp(log_pseudocount))
            return -float(log_likelihood(p, emission, held_out).mean())

        pseudocount = math.exp(golden_section(cost, *_LOG_PSEUDOCOUNT, steps=_CUTS))
        sums = expect(maximise(expected, emission, pseudocount), emission, every)
        self._set(maximise(sums, emission, pseudocount))

    def _set(self, p: Chain) -> None:
        self.initial.copy_(p.initial)
        self.transition.copy_(p.transition)
        self.emission_parameters.copy_(p.emission)

    def costs(self, x_0: Tensor, generator: torch.Generator | None) -> Evidence:
        """−log p(x), exact."""
        found = log_likelihood(self.chain_parameters, self.emission, self._sequences(x_0))
        return Costs.of("exact", {"likelihood": -found}, x_0)

    def draws(self, n: int, generator: torch.Generator | None) -> Tensor:
        """The states one after the other, and what each emits."""
        p, emission = self.chain_parameters, self.emission
        length = self._length()
        state = choose(p.initial.expand(n, -1), generator)
        rows = []
        for t in range(length):
            if t:
                state = choose(p.transition[state], generator)
            rows.append(emission.draw(p.emission, state, generator))
        return from_rows(torch.stack(rows, 1).reshape(n, self.image_shape[1], -1), self.image_shape)

    def conditionals(self, n: int) -> Conditionals | None:
        """The states' emissions, weighted by what the states are given all values before.

        After each value the weights are those of Bayes' rule, and after each observation the
        states move on.
        """
        return None if self.data.is_density else self._conditionals(n)

    def _conditionals(self, n: int) -> Conditionals:
        p, table = self.chain_parameters, self.emission.log_table(self.emission_parameters)
        log_state = p.initial.log().expand(n, -1)
        for t in range(self._length()):
            if t:
                log_state = (log_state.softmax(1) @ p.transition).log()
            for of_value in table.unbind(1):
                log_state = log_state.log_softmax(1)
                k = yield (log_state[:, :, None] + of_value).logsumexp(1)
                log_state = log_state + of_value[:, k.to(of_value.device)].T

    def _length(self) -> int:
        _, height, width = self.image_shape
        return height if self.by == "row" else height * width

    def _sequences(self, x: Tensor) -> Tensor:
        """(B, T, M): rows, or pixels in raster order."""
        rows = to_rows(x.double())
        return rows if self.by == "row" else rows.reshape(len(x), self._length(), -1)
