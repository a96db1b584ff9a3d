"""What a fit of the levels of a chain promises of shorter ones, on the images of the fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.chain.distributions import draw
from nelbo.chain.model import Model
from nelbo.chain.terms import per_example
from nelbo.data import ImageData
from nelbo.diffusion import LevelProfile
from nelbo.diffusion.measurement import LevelCost
from nelbo.diffusion.optimal_levels import expected_nelbo, optimal_levels
from nelbo.samplers.grid import spaced_levels

SomeModel = TypeVar("SomeModel", bound=Model)
# Images encoded at a time.
_ENCODED = 64
# The share of levels nearest to noise, and bits/dim that make no difference.
_NOISIEST, _NO_GAIN = 0.1, 0.0005
_SHOWN = (5, 10, 25, 50, 100)


def costs_of_images(costs: Sequence[LevelCost], profile: LevelProfile) -> Tensor:
    """What each image costs the whole chain, nats, (N,), for how much images differ.

    At a level that was not measured an image costs as much more or less than the mean as at the
    measured level next to it.
    """
    total = costs[0].reconstruction.double().cpu()
    measured = [cost for cost in costs if cost.t >= 2]
    if not measured:
        return total.view(-1, profile.examples).mean(0)
    levels = torch.arange(2, profile.num_levels + 1)
    nearest = (levels[:, None] - torch.tensor([cost.t for cost in measured])).abs().argmin(1)
    expected = profile.score_matching[2:]
    stands_for = expected.new_zeros(len(measured)).index_add(0, nearest, expected).tolist()
    for cost, nats in zip(measured, stands_for, strict=True):
        found = cost.score_matching.double().cpu()
        total = total + nats * found / found.mean().clamp(min=1e-300)
    return total.view(-1, profile.examples).mean(0)


def states_of(model: Model, data: ImageData, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """What the chain is of: pixels, or latents beside what each image costs in the autoencoder."""
    states, costs = [], []
    with torch.no_grad():
        for batch in data.batches(_ENCODED):
            x = model.data.to_network(batch.images).to(model.device)
            q = model.encode(x)
            states.append(draw(q, generator))
            costs.append(-model.decoder_log_prob(x, states[-1]) - per_example(q.entropy()))
    return torch.cat(states), torch.cat(costs).double().cpu()


def expected_bounds(
    profile: LevelProfile, dims: int, autoencoder: float
) -> dict[str, dict[str, float]]:
    """The bounds of chains with the analytic variance on the data of the profile, bits/dim.

    Args:
        profile: of the chain.
        dims: number of dimensions of an image.
        autoencoder: what an image costs beside the chain, nats.
    """
    T, unit = profile.num_levels, dims * math.log(2)
    lengths = [K for K in _SHOWN if K < T]
    even = {str(K): expected_nelbo(profile, spaced_levels(T, K, "linspace")) for K in [*lengths, T]}
    optimal = {str(K): expected_nelbo(profile, optimal_levels(profile, K)) for K in lengths}
    optimal[str(T)] = even[str(T)]  # one chain only
    return {
        name: {K: (nats + autoencoder) / unit for K, nats in row.items()}
        for name, row in (("even", even), ("optimal", optimal))
    }


def doubts(profile: LevelProfile, bounds: dict[str, dict[str, float]]) -> list[str]:
    """Why optimal levels may be of no use, as they are for a model that is barely trained."""
    T = profile.num_levels
    lengths = [int(K) for K in bounds["optimal"] if int(K) < T]
    if not lengths:
        return []
    doubts = []
    K = lengths[-1]
    noisy = sum(t > (1 - _NOISIEST) * T for t in optimal_levels(profile, K))
    if noisy > K / 2:
        doubts.append(
            f"{noisy} of the {K} optimal levels are among the noisiest tenth, where a trained "
            "model spends next to nothing: train longer, then fit again"
        )
    gain = max(bounds["even"][str(K)] - bounds["optimal"][str(K)] for K in lengths)
    if gain < _NO_GAIN:
        doubts.append(
            f"optimal levels gain at most {gain:.4f} bits/dim over even ones, too little to detect "
            f"from {profile.examples:,} images"
        )
    return doubts


def optimal_chain(model: SomeModel, steps: int) -> SomeModel:
    """The model with the chain of `steps` levels of the best bound, and its optimal variance.

    Raises:
        NelboError: a model without a level profile, or as many steps as its chain does not have.
    """
    profile = None if model.chain is None else model.chain.profile
    if profile is None:
        raise NelboError("the best levels of a chain are known once nelbo fit has measured it")
    return model.with_profile(profile, variance="analytic").respace(optimal_levels(profile, steps))
