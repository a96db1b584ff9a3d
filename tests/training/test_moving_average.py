"""Averages of any length, made afterwards, against those tracked directly and their definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from nelbo import NelboError
from nelbo.training.moving_average import PowerAverages, combination, combine, exponent
from nelbo.training.snapshots import load_snapshots, reconstruct_average, save_snapshot

STEPS, EVERY = 2000, 125
LENGTHS = (0.05, 0.06, 0.08, 0.10, 0.13, 0.15)
TRACKED: dict[int, dict[str, torch.Tensor]] = {}


def profile_mean(values: np.ndarray, gamma: float) -> float:
    """∫ τ^γ θ(τ) dτ / ∫ τ^γ dτ with θ constant between steps: the definition, by brute force."""
    edges = (np.arange(len(values) + 1) / len(values)) ** (gamma + 1)
    return float((np.diff(edges) * values).sum())


@pytest.fixture(scope="module")
def history() -> np.ndarray:
    """Weights of a made-up training: a decay with drift and noise."""
    noise = np.random.default_rng(0).normal(size=(STEPS, 3)) * 0.05
    t = np.linspace(0, 1, STEPS)[:, None]
    return np.exp(-5 * t) * [1.0, -2.0, 0.5] + np.sin(9 * t) * [0.0, 0.3, 0.1] + noise


@pytest.fixture(scope="module")
def snapshots(history) -> dict[int, dict[str, torch.Tensor]]:
    model = torch.nn.Linear(3, 1, bias=False, dtype=torch.float64)
    stored = {}
    for step, weights in enumerate(history, start=1):
        model.weight.data[:] = torch.from_numpy(weights)
        if step == 1:
            averages = PowerAverages(model)
            chosen = PowerAverages(model, LENGTHS)
        averages.update(model)
        chosen.update(model)
        if step % EVERY == 0:
            stored[step] = {k: v.clone() for k, v in averages.named().items()}
            # Directly tracked, as if the length had been chosen before training.
            TRACKED[step] = {k: v.clone() for k, v in chosen.named().items()}
    return stored


@pytest.mark.parametrize("length", [0.02, 0.05, 0.10, 0.2, 0.28])
def test_the_profile_of_an_exponent_has_that_relative_length(length):
    gamma = exponent(length)
    moments = [quad(lambda u, k=k: (gamma + 1) * u**gamma * u**k, 0, 1)[0] for k in (1, 2)]
    assert np.sqrt(moments[1] - moments[0] ** 2) == pytest.approx(length, rel=1e-6)


def test_tracked_averages_are_those_of_their_profiles(history, snapshots):
    for key, value in snapshots[STEPS].items():
        gamma = exponent(float(key.partition(":")[0]))
        for i in range(3):
            expected = profile_mean(history[:, i], gamma)
            assert value[0, i].item() == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("step", [STEPS // 2, STEPS])
def test_any_length_is_reconstructed(snapshots, length, step):
    found = combine(snapshots, length, step)["weight"][0]
    tracked = TRACKED[step][f"{length}:weight"][0]
    torch.testing.assert_close(found, tracked, atol=5e-3, rtol=0)
    # The stored lengths themselves come back almost exactly.
    if length in (0.05, 0.10):
        stored = snapshots[step][f"{length}:weight"][0]
        torch.testing.assert_close(found, stored, atol=1e-6, rtol=0)


def test_the_combination_makes_the_profiles_squared_difference_smallest():
    stored = [(t, exponent(s)) for t in (1.0, 2.0, 3.0) for s in (0.05, 0.1)]
    wanted = (3.0, exponent(0.13))
    grid = (np.arange(200_000) + 0.5) / 200_000 * 3.0

    def density(t, gamma):
        return np.where(grid < t, (gamma + 1) * grid**gamma / t ** (gamma + 1), 0.0)

    design = np.stack([density(*s) for s in stored], axis=1)
    # The last weight is what the others leave of one.
    last = design[:, -1]
    rest = np.linalg.lstsq(design[:, :-1] - last[:, None], density(*wanted) - last, rcond=None)[0]
    expected = np.append(rest, 1 - rest.sum())
    np.testing.assert_allclose(combination(stored, wanted), expected, atol=1e-3)


@pytest.mark.parametrize("length", LENGTHS)
def test_weights_that_stay_the_same_are_their_own_average(length):
    still = {f"{s}:weight": torch.full((3,), 2.0) for s in (0.05, 0.1)}
    for count in (1, 2, 5):
        found = combine({100 * (i + 1): still for i in range(count)}, length)["weight"]
        torch.testing.assert_close(found, still["0.1:weight"])


def test_what_cannot_be_reconstructed(snapshots, tmp_path):
    with pytest.raises(NelboError, match=r"between 0 and 0.2887, got 0.3"):
        combine(snapshots, 0.3)
    with pytest.raises(NelboError, match="first is of step 125"):
        combine(snapshots, 0.1, step=100)
    with pytest.raises(NelboError, match=f"the last is of step {STEPS}"):
        combine(snapshots, 0.1, step=STEPS + 1)
    with pytest.raises(NelboError, match="train with --snapshot-every"):
        combine({}, 0.1)
    with pytest.raises(NelboError, match="holds no run"):
        reconstruct_average(tmp_path, 0.1)


def test_snapshots_read_back(snapshots, tmp_path):
    for step, averages in snapshots.items():
        save_snapshot(tmp_path, step, averages)
    read = load_snapshots(tmp_path)
    assert read.keys() == snapshots.keys()
    assert torch.equal(read[STEPS]["0.1:weight"], snapshots[STEPS]["0.1:weight"])
