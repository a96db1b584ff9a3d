r"""Rounds of draws of one image's bound, whose levels are drawn where earlier rounds found costs.

A round draws level 1 on copies of the image, and the levels 2..T on the image once, one from each
of K strata. Each round is unbiased given those before it, whatever they have shown, since its
weights are those of the levels that it draws (adaptive importance sampling, Owen 2013, section
10.5), and so is any mean of rounds whose shares do not depend on their draws.

Two models that draw the same rounds from the same seed meet the same places between the strata and
the same noise, as far as their states have one shape: their costs then rise and fall together.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.chain.bound import Bound
from nelbo.chain.conditioning import Condition
from nelbo.chain.distributions import generator_for
from nelbo.chain.estimators import UNIFORM_SHARE, Estimator, FirstLevel, Importance
from nelbo.chain.model import Model

# Draws of level 1 on a copy of the image, which then has a variance.
A_COPY = 2
# Values of all copies that are evaluated together.
_VALUES = 2**19
# Draws that share a factor of the guess, and the most factors.
_A_GROUP, _GROUPS = 4, 24


def at_once(copies: int, x_0: Float[Tensor, "one channels height width"]) -> list[int]:
    """How many copies of an image are evaluated together, a number for each call."""
    most = max(1, _VALUES // x_0.numel())
    return [min(most, copies - i) for i in range(0, copies, most)]


class Round(NamedTuple):
    """Independent parts of one round.

    Attributes:
        copies: level 1 on copies of the image, (R,); None where it was not drawn.
        above: the other levels, of one image.
    """

    copies: Bound | None
    above: Bound

    @property
    def parts(self) -> list[Bound]:
        """Bounds of the one image, for `Bound.merge`."""
        copies = self.copies
        if copies is None:
            return [self.above]
        return [*(copies.take(slice(i, i + 1)) for i in range(len(copies))), self.above]


class LevelChoice:
    """Where levels are drawn: by a first guess, corrected by what draws of them have cost.

    Args:
        guess: probability of each of the levels 2..T, (T−1,), all positive; empty without such
            levels.

    Attributes:
        proposal: the probabilities as far as is known, (T−1,).
    """

    def __init__(self, guess: Float[Tensor, " candidates"]) -> None:
        self.proposal = self._guess = guess.double()
        self._place = self._guess.cumsum(0)
        self._drawn = torch.empty(0, dtype=torch.int64)
        self._squares = torch.empty(0, dtype=torch.float64)

    def learn(self, drawn: Bound) -> None:
        """Take in what levels have cost: by how much the root of E KL² differs from the guess."""
        index = drawn.levels.flatten() - 2
        ratio = drawn.score_matching.flatten().double() / self._guess[index]
        self._drawn = torch.cat([self._drawn, index])
        self._squares = torch.cat([self._squares, ratio.square()])
        count = min(_GROUPS, len(self._drawn) // _A_GROUP)
        if count == 0 or not bool(self._squares.isfinite().all() and self._squares.any()):
            return
        order = self._drawn.argsort()
        where = [self._place[some].mean() for some in self._drawn[order].tensor_split(count)]
        factors = torch.stack([s.mean() for s in self._squares[order].tensor_split(count)]).sqrt()
        factors = factors.clamp(min=1e-3 * float(factors.max())).log()
        between = np.interp(self._place.numpy(), torch.stack(where).numpy(), factors.numpy())
        root = self._guess * torch.from_numpy(between - between.max()).exp()
        uniform = UNIFORM_SHARE / len(root)
        self.proposal = uniform + (1 - UNIFORM_SHARE) * root / root.sum()


class ImageRounds:
    """Draws the rounds of one image by a model with a chain.

    Args:
        model: the model, evaluated where its weights are.
        x_0: the image in network space, (1, C, H, W).
        condition: what the model is conditioned on, of one example.
        choice: where its levels are drawn.
        seed: of all noise.
    """

    def __init__(
        self,
        model: Model,
        x_0: Float[Tensor, "one channels height width"],
        condition: Condition | None,
        choice: LevelChoice,
        seed: int,
    ) -> None:
        self._model, self._x_0, self._condition = model, x_0, condition
        self._choice, self._seed, self._drawn = choice, seed, 0

    def draw(self, first: int, levels: int) -> Round:
        """The next round: about `first` draws of level 1, and `levels` of the others."""
        noise = generator_for(self._seed, 5, self._drawn)
        self._drawn += 1
        drawn = [
            self._evidence(size, FirstLevel(reconstructions=A_COPY), noise)
            for size in at_once(-(-first // A_COPY), self._x_0)
        ]
        others = Importance(levels, self._choice.proposal, reconstructions=0)
        above = self._evidence(1, others, noise)
        return Round(Bound.cat(drawn) if drawn else None, above)

    def _evidence(self, copies: int, estimator: Estimator, noise: torch.Generator) -> Bound:
        x_0 = self._x_0.expand(copies, *self._x_0.shape[1:])
        condition = None if self._condition is None else self._condition.repeat(copies)
        found: Any = self._model.evidence(x_0, condition, levels=estimator, generator=noise)
        return found.to("cpu")
