"""What chains of some levels cost, from a profile alone: the oracle of the best levels."""

from __future__ import annotations

import itertools
import math

import torch

from nelbo import LevelProfile, NoiseSchedule


def rising_profile(T: int, seed: int = 0, *, examples: int = 1) -> LevelProfile:
    """Errors and reconstructions that rise with the level, as no formula would make them."""
    generator = torch.Generator().manual_seed(seed)
    steps = torch.rand(3, T + 1, generator=generator, dtype=torch.float64)
    zeros = torch.zeros(T + 1, dtype=torch.float64)
    return LevelProfile(
        schedule=NoiseSchedule.linear(T, 0.02, 0.7),
        levels=torch.arange(1, T + 1),
        squared_error=steps[0].cumsum(0) / 2,
        standard_error=zeros,
        score_matching=steps[2],
        score_matching_square=zeros,
        data_variance=zeros + 0.1,
        reconstruction=3 * steps[1].cumsum(0),
        squared_norm=2.5,
        dims=5,
        examples=examples,
        draws=1,
    )


def cost(profile: LevelProfile, levels: tuple[int, ...], variance: str = "analytic") -> float:
    """The negative bound of a chain from ᾱ and the profile alone, nats, in Python floats."""
    signal, dims = profile.schedule.alphas_cumprod.tolist(), profile.dims
    error = profile.squared_error.tolist()
    total = profile.reconstruction[levels[0]].item() if variance == "analytic" else 0.0
    for s, t in itertools.pairwise(levels):
        gain = signal[s] / (1 - signal[s]) - signal[t] / (1 - signal[t])
        if variance == "analytic":
            total += dims / 2 * math.log(1 + gain * error[t] / dims)
        else:
            total += gain * error[t] / 2
    a = signal[levels[-1]]
    return total + 0.5 * (a * profile.squared_norm + dims * (1 - a - 1 - math.log(1 - a)))
