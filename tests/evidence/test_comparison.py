"""The paired comparison against SciPy's permutation test."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from nelbo import Bound, NelboError
from nelbo.evidence import compare

DIMS = 10


def bound(bits: torch.Tensor, dims: int = DIMS) -> Bound:
    """A bound of so many bits/dim for each image."""
    n = len(bits)
    return Bound(
        reconstruction=-bits * dims * math.log(2.0),
        prior_matching=torch.zeros(n, dtype=bits.dtype),
        score_matching=torch.zeros(n, 0, dtype=bits.dtype),
        levels=torch.zeros(n, 0, dtype=torch.int64),
        weights=torch.zeros(n, 0, dtype=bits.dtype),
        dims=dims,
    )


def pair(n: int, shift: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    shared = 2 + torch.randn(n, generator=g, dtype=torch.float64)
    own = 0.1 * torch.randn(n, generator=g, dtype=torch.float64)
    return shared, shared + shift + own


@pytest.mark.parametrize(("n", "shift"), [(8, 0.05), (30, 0.03), (200, 0.01), (200, 0.0)])
def test_p_value_is_that_of_a_sign_flip_test(n, shift):
    first, second = pair(n, shift)
    found = compare(bound(first), bound(second), generator=torch.Generator().manual_seed(1))
    expected = stats.permutation_test(
        ((first - second).numpy(),),
        np.mean,
        permutation_type="samples",
        n_resamples=20_000,
        rng=np.random.default_rng(0),
    ).pvalue
    # Both are estimates from 20,000 signs.
    assert found.p_value == pytest.approx(expected, abs=5 * math.sqrt(0.25 / 20_000))


def test_pairs_tell_apart_what_the_means_do_not():
    first, second = pair(300, 0.03)
    found = compare(bound(first), bound(second))
    assert found.mean.mean == pytest.approx(float((first - second).mean()))
    assert found.mean.standard_error == pytest.approx(
        float((first - second).std()) / math.sqrt(300)
    )
    assert found.p_value < 1e-3
    assert 0.5 < found.first_wins < 0.75
    assert abs(float(first.mean() - second.mean())) < float(first.std()) / math.sqrt(300)


def test_a_model_equals_itself():
    same = bound(pair(50, 0.0)[0])
    found = compare(same, same)
    assert found.p_value == 1.0
    assert found.first_wins == 0.5


def test_other_images_cannot_be_compared():
    first, second = pair(5, 0.0)
    with pytest.raises(NelboError, match="5 images of 10 dimensions and 4 of 10"):
        compare(bound(first), bound(second[:4]))
    with pytest.raises(NelboError, match="and 5 of 20"):
        compare(bound(first), bound(second, dims=20))
    with pytest.raises(NelboError, match="at least 2 images"):
        compare(bound(first[:1]), bound(second[:1]))
