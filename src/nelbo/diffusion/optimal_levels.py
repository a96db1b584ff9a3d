r"""Which levels a short chain should keep: the best bound by dynamic programming.

The bound of a respaced chain is a sum over its steps, and the cost of the step from level t down to
level s depends on these two alone. With the error :math:`e_t = E\|x_0 - \hat x_0(x_t)\|^2` over D
dimensions and :math:`\Delta = \mathrm{SNR}_s - \mathrm{SNR}_t`, the expected KL is

.. math::
    \tfrac12 \Delta\, e_t \quad\text{with } \Sigma_t = \tilde\beta_t, \qquad
    \tfrac{D}{2} \log(1 + \Delta\, e_t / D) \quad\text{with the optimal } \Sigma_t

(see `nelbo.diffusion.variance`). The reconstruction is paid at the first level and the prior
matching at the last, so that the best of all chains of K levels is a shortest path
(Watson et al. 2021, "Learning to Efficiently Sample from Diffusion Probabilistic Models").
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.base.arguments import check_kind, is_whole
from nelbo.base.errors import NelboError
from nelbo.diffusion.profile import LevelProfile

COSTS = ("analytic", "fixed_small")


def step_costs(
    profile: LevelProfile, *, variance: str = "analytic"
) -> Float[Tensor, "levels levels"]:
    """The expected KL of a step from level t down to s, nats, at [s, t]; infinite where s ≥ t.

    Raises:
        NelboError: a variance other than "analytic" and "fixed_small".
    """
    check_kind("profile", profile, LevelProfile, "what nelbo.level_profile measures")
    if not isinstance(variance, str) or variance not in COSTS:
        raise NelboError(
            f"unknown variance {variance!r} for the cost of a step: expected one of "
            f"{', '.join(COSTS)}"
        )
    snr = profile.schedule.snr
    gap = snr[:, None] - snr[None, :]
    if variance == "analytic":
        cost = (
            0.5
            * profile.dims
            * torch.log1p(gap.clamp(min=0) * profile.squared_error / profile.dims)
        )
    else:
        cost = 0.5 * gap * profile.squared_error
    forbidden = torch.ones_like(cost).tril().bool()
    forbidden[0] = True  # the step to the data is the reconstruction
    return cost.masked_fill(forbidden, torch.inf)


def expected_nelbo(profile: LevelProfile, levels: Sequence[int]) -> float:
    """The negative bound of the chain through `levels` with the optimal variance, nats.

    It is the mean over the data of the profile; levels are increasing.
    """
    steps = step_costs(profile)
    between = sum(steps[s, t].item() for s, t in pairwise(levels))
    ends = profile.reconstruction[levels[0]] + profile.prior_matching[levels[-1]]
    return between + ends.item()


def optimal_levels(profile: LevelProfile, K: int, *, variance: str = "analytic") -> list[int]:
    """The K levels whose chain has the best bound, increasing, for `model.respace`; O(K T²).

    Args:
        profile: of the whole chain.
        K: how many levels.
        variance: "analytic" chooses among all chains; the reconstruction counts with the variance
            that is best for their first level. "fixed_small" chooses among those that start at
            level 1, by score matching and prior matching: there the variance of p(x_0|x_1) hangs
            on the second level, and a profile holds the reconstruction at its best only.

    Raises:
        NelboError: K outside 1..T, or an unknown variance.
    """
    steps = step_costs(profile, variance=variance)
    T = profile.num_levels
    if not is_whole(K) or not 1 <= K <= T:
        raise NelboError(f"K must lie in 1..{T}, the levels of the profile, got {K!r}")
    if variance == "analytic":
        best = profile.reconstruction.clone()
        best[0] = torch.inf
    else:
        best = torch.full_like(profile.reconstruction, torch.inf)
        best[1] = 0.0
    # best[t]: the least cost of a chain of k levels that ends at t, the prior not yet paid.
    came_from = []
    for _ in range(K - 1):
        best, previous = (best[:, None] + steps).min(0)
        came_from.append(previous)
    last = int((best + profile.prior_matching).argmin())
    levels = [last]
    for previous in reversed(came_from):
        levels.append(int(previous[levels[-1]]))
    return levels[::-1]
