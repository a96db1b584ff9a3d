"""`evaluate_to_error`: no optimism, honest errors, and no more calls than that takes."""

from __future__ import annotations

import math

import pytest
import torch

from nelbo.evidence.evaluation import evaluate_to_error
from nelbo.evidence.pilot import PILOT_IMAGES, PILOT_LEVELS, pilot
from tests.costs import CostModel


def repeat(kind: str, n: int, target: float, repetitions: int) -> dict[str, float]:
    """Many whole evaluations, in units of the target.

    `over` is how often it is not reached, `silent` how often that is without a warning.
    """
    model, errors, claims, warned, silent, calls = CostModel(kind), [], [], 0, 0, 0
    data = model.images(n)
    for seed in range(repetitions):
        *_, last = evaluate_to_error(
            model, data, target, generator=torch.Generator().manual_seed(seed)
        )
        bits = last.bound.mean().bits_per_dim
        errors.append(bits.mean - model.exact)
        claims.append(bits.monte_carlo_error)
        is_warned = any("a single draw" in line for line in bits.warnings())
        warned += is_warned
        silent += bits.monte_carlo_error > target and not is_warned
        calls += last.calls
    assert calls == model.calls
    error, claim = torch.tensor(errors).double(), torch.tensor(claims).double()
    return {
        "bias": error.mean().item() / target,
        "deviation": error.std().item() / target / math.sqrt(repetitions),
        "rms": error.square().mean().sqrt().item() / target,
        "coverage": (error.abs() <= 1.96 * claim).double().mean().item(),
        "over": (claim > target).double().mean().item(),
        "silent": silent,
        "warned": warned / repetitions,
        "calls": calls / repetitions / n,
    }


@pytest.mark.parametrize(
    ("kind", "n", "target"),
    [("exponential", 20, 0.2), ("squared", 100, 0.1), ("normal", 5, 0.2)],
)
def test_the_result_is_not_optimistic_and_its_interval_holds(kind, n, target):
    """Stopping at a small estimated error would cost 0.14 to 0.23 of the target here."""
    found = repeat(kind, n, target, 120)
    assert abs(found["bias"]) < 0.1 + 2.5 * found["deviation"]
    assert 0.89 < found["coverage"] < 0.99
    assert found["rms"] < 1.1
    assert found["over"] < 0.1
    assert found["silent"] == 0


def test_where_no_interval_holds_the_mean_is_unbiased_and_a_draw_is_named():
    """Nearly constant pixels: one draw in 250 costs a thousand times as much as the others."""
    found = repeat("nearly constant", 100, 0.1, 120)
    assert abs(found["bias"]) < 0.1 + 2.5 * found["deviation"]
    assert found["warned"] > 0.6
    assert found["silent"] == 0


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_images_are_explored_by_more_draws(n):
    found = repeat("normal", n, 0.3, 40)
    assert abs(found["bias"]) < 4 * found["deviation"]
    assert found["over"] < 0.1
    assert found["silent"] == 0


def test_exploring_takes_a_small_share_of_a_long_evaluation():
    model = CostModel("squared")
    data = model.images(50)
    generator = torch.Generator().manual_seed(0)
    *_, last = evaluate_to_error(
        model, data, 0.02, score_matching_square=torch.ones(12), generator=generator
    )
    reported = int(last.bound.calls.sum())
    assert last.calls == model.calls
    assert 1.05 * reported < last.calls < 1.25 * reported
    assert last.bound.mean().bits_per_dim.monte_carlo_error <= 0.02


def test_the_pilot_measures_second_moments():
    """E KL² of exponential costs is twice (E KL)²: the mean over images is of the squares."""
    model = CostModel("exponential")
    found = torch.stack(
        [
            pilot(model, model.images(40), torch.Generator().manual_seed(seed))[0][2:]
            for seed in range(150)
        ]
    )
    expected = model.second_moment / (model.num_levels - 1) ** 2
    assert found.mean().item() == pytest.approx(expected, rel=0.1)
    assert found.shape[1] == model.num_levels - 1


def test_the_pilot_counts_its_calls():
    model = CostModel("normal", T=200)
    square, calls = pilot(model, model.images(40), torch.Generator().manual_seed(0))
    assert calls == model.calls == PILOT_IMAGES * PILOT_LEVELS
    assert square[:2].tolist() == [0.0, 0.0]
