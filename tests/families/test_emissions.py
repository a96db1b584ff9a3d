"""The M-step of the emissions of an HMM, against numpy's weighted averages."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nelbo import Continuous, Pixels
from nelbo.families.emissions import Categorical, Gaussian

STATES, VALUES, LEVELS = 3, 2, 4
PSEUDOCOUNTS = pytest.mark.parametrize("pseudocount", [0.0, 0.5, 3.0])


def few_weighted() -> tuple[torch.Tensor, torch.Tensor]:
    """Levels of five images of three values' length, and weights that sum to less than one."""
    generator = torch.Generator().manual_seed(4)
    k = torch.randint(LEVELS, (5, 3, VALUES), generator=generator)
    weight = torch.rand(5, 3, STATES, generator=generator, dtype=torch.float64)
    return k, 0.1 * weight


@PSEUDOCOUNTS
def test_normal_emissions_are_weighted_moments(pseudocount):
    """Of little weight, so that the smallest count that is added to it shows."""
    k, weight = few_weighted()
    x = 0.3 * k.double() - torch.linspace(0, 1, 5, dtype=torch.float64)[:, None, None]
    emission = Gaussian(Continuous())
    mean, variance = emission.maximise(emission.moments(x, weight), pseudocount)

    flat, each = x.reshape(-1, VALUES).numpy(), weight.reshape(-1, STATES).numpy()
    overall = each.sum(1)
    m = np.average(flat, axis=0, weights=overall)
    square = np.average(flat**2, axis=0, weights=overall)
    for s in range(STATES):
        total = each[:, s].sum() + pseudocount
        first = (each[:, s] @ flat + pseudocount * m) / total
        second = (each[:, s] @ flat**2 + pseudocount * square) / total
        np.testing.assert_allclose(mean[s], first, rtol=1e-9)
        np.testing.assert_allclose(variance[s], second - first**2, rtol=1e-8)


@PSEUDOCOUNTS
def test_tables_are_weighted_frequencies_with_some_of_the_overall_ones(pseudocount):
    """The overall ones count one more image, whose levels are all alike likely."""
    k, weight = few_weighted()
    emission = Categorical(Pixels(LEVELS))
    x = Pixels(LEVELS).to_network(k)
    table = emission.maximise(emission.moments(x, weight), pseudocount)

    flat, each = k.reshape(-1, VALUES).numpy(), weight.reshape(-1, STATES).numpy()
    for m in range(VALUES):
        seen = np.eye(LEVELS)[flat[:, m]]
        overall = each.sum(1) @ seen + 1 / LEVELS
        overall /= overall.sum()
        for s in range(STATES):
            counts = each[:, s] @ seen + pseudocount * overall
            np.testing.assert_allclose(table[s, m], counts / counts.sum(), atol=1e-9)


def test_a_state_without_weight_has_the_overall_moments():
    """Such as EM leaves behind; it is to be a state that may still be of use."""
    k, weight = few_weighted()
    weight[:, :, 1] = 0.0
    emission = Gaussian(Continuous())
    mean, variance = emission.maximise(emission.moments(k.double(), weight))
    flat, each = k.reshape(-1, VALUES).numpy(), weight.sum(2).flatten().numpy()
    m = np.average(flat, axis=0, weights=each)
    np.testing.assert_allclose(mean[1], m, rtol=1e-9)
    np.testing.assert_allclose(variance[1], np.average((flat - m) ** 2, axis=0, weights=each))
