r"""Markovian hierarchical VAEs: the chain, its bound by definition, and the theorem.

A Markovian hierarchical VAE has latents :math:`x_1, \dots, x_T` over data :math:`x_0`, a decoder
and an encoder that are both Markov chains:

.. math::
    p(x_{0:T}) &= p(x_T)\, p(x_0|x_1) \prod_{t=2}^{T} p(x_{t-1}|x_t) \\
    q(x_{1:T}|x_0) &= q(x_1|x_0) \prod_{t=2}^{T} q(x_t|x_{t-1})

`MHVAE` is any such model. Its evidence lower bound is estimated from whole paths of the encoder,

.. math::
    \mathrm{ELBO} = E_{q(x_{1:T}|x_0)}\left[\log \frac{p(x_{0:T})}{q(x_{1:T}|x_0)}\right].

**Theorem.** By Bayes' rule and the Markov property
:math:`q(x_t|x_{t-1}) = q(x_{t-1}|x_t, x_0)\, q(x_t|x_0) / q(x_{t-1}|x_0)`. Put this into the
product for t ≥ 2: the marginals telescope to :math:`q(x_T|x_0) / q(x_1|x_0)`, and the bound splits
into reconstruction, prior matching and score matching terms (see `nelbo.chain.bound`). Each term
needs one level at a time, no path. `TractableMHVAE` is a model for which :math:`q(x_t|x_0)` and
:math:`q(x_{t-1}|x_t, x_0)` are known, so that it can be evaluated this way.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

from nelbo.base.arguments import check_count
from nelbo.base.errors import NelboError
from nelbo.chain.bound import Bound, BoundMap
from nelbo.chain.conditioning import Condition, check_condition
from nelbo.chain.distributions import Generators, draw, narrow
from nelbo.chain.estimators import ChosenLevels, Estimator, as_estimator
from nelbo.chain.evidence import Costs, Evidence
from nelbo.chain.examples import check_examples
from nelbo.chain.level import Level, check_level
from nelbo.chain.model import BaseModel
from nelbo.chain.terms import VALUES_PER_CALL, Drawing, Draws, draw_term, per_example


class MHVAE(BaseModel):
    """A Markovian hierarchical VAE with `num_levels` latents of one shape.

    Subclasses define the two chains; the bound by its definition and ancestral sampling follow.
    A level `t` is an int or one int64 for each example, (B,).

    Attributes:
        num_levels: the number of latents T.
    """

    num_levels: int

    @abstractmethod
    def q_step(self, x_prev: Tensor, t: Level) -> Distribution:
        """The encoder's step q(x_t | x_{t-1})."""

    @abstractmethod
    def p_prior(self, shape: tuple[int, ...]) -> Distribution:
        """The prior p(x_T) for a batch of this shape."""

    @abstractmethod
    def p_step(self, x_t: Tensor, t: Level, condition: Condition | None = None) -> Distribution:
        """The decoder's step p(x_{t-1} | x_t), 2 ≤ t ≤ T."""

    @abstractmethod
    def p_data(self, x_1: Tensor, condition: Condition | None = None) -> Distribution:
        """The decoder's last step p(x_0 | x_1)."""

    def p_below(self, x_t: Tensor, t: int, condition: Condition | None = None) -> Distribution:
        """The decoder's step p(x_{t-1} | x_t) at any level, the last one at t = 1."""
        return self.p_data(x_t, condition) if t == 1 else self.p_step(x_t, t, condition)

    @property
    def latent_chain(self) -> Any:
        """The model itself."""
        return self

    @torch.no_grad()
    def scales(
        self,
        x_0: Float[Tensor, "batch ..."],
        condition: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, " levels"]:
        """How fine the values of each level are known, (T+1,): the narrower of q and p there.

        That is the smaller standard deviation of q(x_t|x_{t−1}) and p(x_t|x_{t+1}), at level 0 that
        of p(x_0|x_1); where they vary, of one in twenty values of a path from `x_0`.
        """
        x, found = x_0, torch.full((self.num_levels + 1,), math.inf, dtype=torch.float64)
        for t in range(1, self.num_levels + 1):
            q = self.q_step(x, t)
            x = draw(q, generator)
            p = self.p_below(x, t, condition)
            found[t] = narrow(q)
            found[t - 1] = torch.minimum(found[t - 1], narrow(p))
        found[-1] = torch.minimum(found[-1], narrow(self.p_prior(tuple(x.shape))))
        return found

    def sensitivity(self, side: str) -> Float[Tensor, " levels"]:
        """How far means move where the output of a network does by one, at each level, (T+1,).

        Args:
            side: "q" for q(x_t|x_{t−1}), "p" for p(x_t|x_{t+1}), which at T is the prior.
        """
        return torch.ones(self.num_levels + 1, dtype=torch.float64)

    def evidence(
        self,
        x_0: Float[Tensor, "batch ..."],
        condition: Condition | None = None,
        *,
        levels: int | Estimator | None = None,
        generator: torch.Generator | None = None,
    ) -> Evidence:
        """The bound of one encoder path, which takes every level; see `path_elbo`."""
        cost = -self.path_elbo(x_0, condition, generator=generator)
        calls = torch.full((len(x_0),), self.num_levels, device=x_0.device)
        return Costs("bound", {"path": cost}, x_0[0].numel(), calls)

    def path_elbo(
        self,
        x_0: Float[Tensor, "batch ..."],
        condition: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, " batch"]:
        """The bound by its definition: log p(x_{0:T}) − log q(x_{1:T}|x_0) of one encoder path.

        Unbiased for the ELBO; nats per example, (B,). Costs T network calls.
        """
        self.check_data(x_0)
        check_condition(condition, len(x_0))
        q = self.q_step(x_0, 1)
        x = draw(q, generator)
        elbo = _log_prob(self.p_data(x, condition), x_0) - _log_prob(q, x)
        for t in range(2, self.num_levels + 1):
            q = self.q_step(x, t)
            x_next = draw(q, generator)
            elbo = elbo + _log_prob(self.p_step(x_next, t, condition), x) - _log_prob(q, x_next)
            x = x_next
        return elbo + _log_prob(self.p_prior(tuple(x.shape)), x)

    def importance_weighted_elbo(
        self,
        x_0: Float[Tensor, "batch ..."],
        condition: Condition | None = None,
        *,
        paths: int,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, " batch"]:
        r"""A tighter bound from S whole paths (Burda et al. 2016, eq. 8), nats per example, (B,).

        .. math::
            E\left[\log \frac{1}{S} \sum_{s=1}^{S}
                \frac{p(x_{0:T}^{(s)})}{q(x_{1:T}^{(s)}|x_0)}\right] \le \log p(x_0)

        Its expectation is the ELBO for S = 1 and never falls with S. Costs S·T network calls an
        example; paths are stacked as far as memory is bounded. Terms drawn apart for each level
        give no bound (docs/tighter-bounds.md).

        Raises:
            NelboError: `paths` below one, or `x_0` that is not data of this model.
        """
        check_count("paths", paths)
        check_examples(x_0=x_0)
        check_condition(condition, len(x_0))
        group = max(1, VALUES_PER_CALL // max(1, x_0.numel()))
        total = torch.full_like(x_0.flatten(1)[:, 0], -math.inf)
        for start in range(0, paths, group):
            repeat = min(group, paths - start)
            log_weight = self.path_elbo(
                x_0.repeat(repeat, *[1] * (x_0.ndim - 1)),
                None if condition is None else condition.repeat(repeat),
                generator=generator,
            )
            total = torch.logaddexp(total, log_weight.view(repeat, -1).logsumexp(0))
        return total - math.log(paths)

    def walk(
        self,
        x_T: Float[Tensor, "batch ..."],
        condition: Condition | None = None,
        *,
        generator: Generators | None = None,
    ) -> Iterator[tuple[int, Tensor]]:
        """Walk the decoder from x_T down: yields (t, x_t) for t = T−1, ..., 1, then (0, x_0).

        x_0 is the mean of p(x_0|x_1): no noise is drawn at the last step.
        """
        x = x_T
        for t in range(self.num_levels, 1, -1):
            x = draw(self.p_step(x, t, condition), generator)
            yield t - 1, x
        yield 0, self.p_data(x, condition).mean

    @torch.no_grad()
    def sample(
        self,
        n: int,
        sampler: Any = None,
        *,
        condition: Condition | None = None,
        x_T: Tensor | None = None,
        generator: Generators | None = None,
    ) -> Float[Tensor, "n ..."]:
        """`n` examples from the decoder by ancestral sampling, from `x_T` if it is given."""
        check_condition(condition, n)
        x = self.start(n, x_T, generator)
        for _, state in self.walk(x, condition, generator=generator):
            x = state
        return x

    def start(
        self, n: int, x_T: Tensor | None = None, generator: Generators | None = None
    ) -> Float[Tensor, "n ..."]:
        """The state that sampling starts from: `x_T` checked, or `n` draws from the prior.

        Raises:
            NelboError: n below one, no `shape` to draw, or `x_T` of another batch or shape.
        """
        check_count("the number of samples", n)
        if x_T is None:
            if self.shape is None:
                raise NelboError(
                    "sampling needs the shape of one example: pass shape=(C, H, W) to the model, "
                    "or x_T to sample"
                )
            return draw(self.p_prior((n, *self.shape)), generator)
        check_examples(x_T=x_T)
        if len(x_T) != n or (self.shape is not None and tuple(x_T.shape[1:]) != self.shape):
            expected = (n, *(self.shape or x_T.shape[1:]))
            raise NelboError(f"x_T has shape {tuple(x_T.shape)}, expected {expected}")
        return x_T


class TractableMHVAE(MHVAE):
    """An MHVAE whose encoder's marginals and posteriors are known: the theorem applies.

    Each term is a formula, and nan for an example that holds nan; `elbo` refuses such data.
    """

    @property
    def chain(self) -> Self:
        """The model itself."""
        return self

    def evidence(
        self,
        x_0: Float[Tensor, "batch ..."],
        condition: Condition | None = None,
        *,
        levels: int | Estimator | None = None,
        generator: torch.Generator | None = None,
    ) -> Bound:
        """The bound of each example, term by term: `elbo`."""
        return self.elbo(x_0, condition, levels=levels, generator=generator)

    @abstractmethod
    def q_marginal(self, x_0: Tensor, t: Level) -> Distribution:
        """The encoder's marginal q(x_t | x_0)."""

    @abstractmethod
    def q_posterior(self, x_t: Tensor, x_0: Tensor, t: Level) -> Distribution:
        """The encoder's posterior q(x_{t-1} | x_t, x_0), 2 ≤ t ≤ T."""

    def reconstruction(
        self, x_0: Tensor, x_1: Tensor, condition: Condition | None = None
    ) -> Float[Tensor, " batch"]:
        """The reconstruction term at one draw of x_1: log p(x_0|x_1), nats, (B,)."""
        check_examples(x_0=x_0, x_1=x_1)
        return per_example(self.reconstruction_map(x_0, x_1, condition))

    def prior_matching(self, x_0: Tensor) -> Float[Tensor, " batch"]:
        """The prior matching term KL(q(x_T|x_0) || p(x_T)), nats, (B,)."""
        check_examples(x_0=x_0)
        return per_example(self.prior_matching_map(x_0))

    def score_matching(
        self, x_0: Tensor, x_t: Tensor, t: Level, condition: Condition | None = None
    ) -> Float[Tensor, " batch"]:
        """The score matching term at level t ≥ 2 and one draw of x_t, nats, (B,)."""
        check_examples(x_0=x_0, x_t=x_t)
        check_level(t, self.num_levels, x_t, least=2)
        return per_example(self.score_matching_map(x_0, x_t, t, condition))

    # Each term is a sum over the values of an example, for every distribution here factorises.

    def reconstruction_map(
        self, x_0: Tensor, x_1: Tensor, condition: Condition | None = None
    ) -> Float[Tensor, "batch ..."]:
        """The reconstruction term of each value, (B, ...)."""
        return self.p_data(x_1, condition).log_prob(x_0)

    def prior_matching_map(self, x_0: Tensor) -> Float[Tensor, "batch ..."]:
        """The prior matching term of each value, (B, ...)."""
        q = self.q_marginal(x_0, self.num_levels)
        return kl_divergence(q, self.p_prior(tuple(x_0.shape)))

    def score_matching_map(
        self, x_0: Tensor, x_t: Tensor, t: Level, condition: Condition | None = None
    ) -> Float[Tensor, "batch ..."]:
        """The score matching term of each value at level t ≥ 2, (B, ...)."""
        q = self.q_posterior(x_t, x_0, t)
        return kl_divergence(q, self.p_step(x_t, t, condition))

    def elbo(
        self,
        x_0: Float[Tensor, "batch ..."],
        condition: Condition | None = None,
        *,
        levels: int | Estimator | None = None,
        generator: torch.Generator | None = None,
    ) -> Bound:
        """The bound of each example by the theorem, term by term.

        Args:
            x_0: data, (B, ...).
            condition: what the model is conditioned on for each example.
            levels: None evaluates every level 2..T once, which is exact but for one noise draw a
                level. An int K evaluates K levels an example, one drawn from each of K equal
                strata of 2..T, weighted so that the estimate is unbiased. Other ways to draw them
                are in `nelbo.chain.estimators`.
            generator: the source of all noise.

        Raises:
            NelboError: `levels` below one, or `x_0` that is not data of this model.
        """
        return self._evaluate(x_0, condition, Drawing(as_estimator(levels), generator))[0]

    def bound_map(
        self,
        x_0: Float[Tensor, "batch ..."],
        condition: Condition | None = None,
        *,
        levels: int | Estimator | None = None,
        generator: torch.Generator | None = None,
    ) -> BoundMap:
        """Where in each example the nats go, beside the bound of the same draws.

        Arguments and errors are those of `elbo`; memory is bounded by the batch.
        """
        drawing = Drawing(as_estimator(levels), generator, by_value=True)
        bound, nats = self._evaluate(x_0, condition, drawing)
        return BoundMap(nats, bound)

    def draw_reconstruction(
        self, x_0: Tensor, condition: Condition | None, drawing: Drawing
    ) -> Draws:
        """log p(x_0|x_1) of each example at draws of x_1, with equal weights."""
        count = drawing.estimator.reconstructions
        first = torch.ones(len(x_0), count, dtype=torch.int64)
        chosen = ChosenLevels(first, torch.full_like(first, 1 / max(1, count), dtype=torch.float64))

        def term(x_0: Tensor, x_1: Tensor, _: Tensor, condition: Condition | None) -> Tensor:
            return self.reconstruction_map(x_0, x_1, condition)

        return draw_term(term, self.q_marginal, x_0, chosen, condition, drawing)

    def draw_score_matching(
        self, x_0: Tensor | Distribution, condition: Condition | None, drawing: Drawing
    ) -> Draws:
        """The score matching term of each example at levels chosen by the estimator.

        Args:
            x_0: data, (B, ...), or a distribution of it, of which each level has a draw of its own.
            condition: what the model is conditioned on for each example.
            drawing: how to draw.
        """
        batch = len(x_0.mean if isinstance(x_0, Distribution) else x_0)
        chosen = drawing.estimator.choose(batch, self.num_levels, drawing.generator)
        return draw_term(self.score_matching_map, self.q_marginal, x_0, chosen, condition, drawing)

    def _evaluate(
        self, x_0: Float[Tensor, "batch ..."], condition: Condition | None, drawing: Drawing
    ) -> tuple[Bound, Float[Tensor, "batch ..."]]:
        """The bound of each example and, where that is drawn, what each of its values costs."""
        self.check_data(x_0)
        check_condition(condition, len(x_0))
        reconstruction = self.draw_reconstruction(x_0, condition, drawing)
        prior_matching = self.prior_matching_map(x_0)
        score_matching = self.draw_score_matching(x_0, condition, drawing)
        bound = Bound(
            reconstruction=reconstruction.mean,
            prior_matching=per_example(prior_matching),
            score_matching=score_matching.values,
            levels=score_matching.levels,
            weights=score_matching.weights,
            dims=x_0[0].numel(),
            reconstruction_variance=reconstruction.variance,
            reconstruction_calls=reconstruction.calls,
            level_calls=score_matching.calls,
        )
        return bound, score_matching.total + prior_matching - reconstruction.total


def _log_prob(distribution: Distribution, x: Tensor) -> Float[Tensor, " batch"]:
    return per_example(distribution.log_prob(x))
