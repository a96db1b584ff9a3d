"""Variances of estimates from the spread of their draws."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


def share_out(shares: Tensor, values: Tensor) -> Float[Tensor, " batch"]:
    """The sum of rounds' values times their shares; a round without a share has no value."""
    return torch.where(shares > 0, shares.to(values) * values, 0.0).sum(0)


def variance_of_sum(columns: Float[Tensor, "batch draws"]) -> Float[Tensor, " batch"]:
    """The variance of the sum of independent columns, from neighbours, the last three if odd."""
    return variances_of_pairs(columns).sum(1)


def variances_of_pairs(columns: Float[Tensor, "batch draws"]) -> Float[Tensor, "batch pairs"]:
    """The variance of the sum of each two neighbouring columns, of the last three if odd.

    Unbiased where neighbours are draws of one distribution. Where they come from neighbouring
    strata it is too high by the squared difference of their means, never too low. It is nan of a
    single column.
    """
    n = columns.shape[1]
    if n == 1:
        return columns.new_full((len(columns), 1), math.nan)
    paired = n if n % 2 == 0 else n - 3
    variance = (columns[:, 0:paired:2] - columns[:, 1:paired:2]).square()
    if paired == n:
        return variance
    return torch.cat([variance, 3.0 * columns[:, paired:].var(1, keepdim=True)], 1)


def largest_share(variances: Float[Tensor, " terms"], single: Float[Tensor, " terms"]) -> float:
    """The share of the largest variance of a single draw in the sum of all; nan without any."""
    total = variances.sum().item()
    return single.max().item() / total if total > 0 and math.isfinite(total) else math.nan


def variance_over_images(variance: Float[Tensor, " batch"]) -> float:
    """The variance of the mean over images that are drawn apart, from that of each."""
    return variance.double().sum().item() / len(variance) ** 2


def variance_of_mean(draws: Float[Tensor, "batch draws"]) -> Float[Tensor, " batch"]:
    """The variance of the mean of independent draws of one distribution; nan for one draw."""
    n = draws.shape[1]
    return draws.var(1) / n if n > 1 else draws.new_full((len(draws),), math.nan)
