"""Intervals against scipy, and verdicts on figures that were planted."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy import stats

from benchmarks import claims as module
from benchmarks.claims import (
    COLLAPSE,
    DIFFUSION,
    IMAGES,
    QUALITY,
    UNSTABLE,
    Claim,
    as_folder,
    claims,
    difference,
    ratio,
    ratio_of_spreads,
    share,
)
from nelbo.data import ImageData, load_data
from nelbo.evidence.standings import Figures


def test_a_difference_has_the_interval_of_welch():
    a, b = [3.0, 3.4, 2.9, 3.3, 3.1], [2.0, 2.9, 1.4, 2.2, 2.6]
    value, low, high = difference(a, b)
    va, vb = np.var(a, ddof=1) / 5, np.var(b, ddof=1) / 5
    degrees = (va + vb) ** 2 / (va**2 / 4 + vb**2 / 4)
    half = stats.t.ppf(0.975, degrees) * math.sqrt(va + vb)
    assert value == pytest.approx(np.mean(a) - np.mean(b))
    assert (low, high) == pytest.approx((value - half, value + half))
    assert difference([25.0] * 5, [25.0] * 5) == (0.0, 0.0, 0.0)
    assert ratio(a, b)[0] == pytest.approx(math.exp(np.mean(np.log(a)) - np.mean(np.log(b))))


def test_intervals_hold_as_often_as_they_claim():
    rng = np.random.default_rng(0)
    held = np.zeros(2)
    for _ in range(400):
        a, b = rng.normal(1.0, 2.0, 5), rng.normal(0.0, 1.0, 5)
        _, low, high = difference(a, b)
        held[0] += low < 1.0 < high
        _, low, high = ratio_of_spreads(a, b)
        held[1] += low < 2.0 < high
    assert (held > 400 * 0.95 - 4 * math.sqrt(400 * 0.95 * 0.05)).all()
    assert share(0, 5)[:2] == (0.0, 0.0)
    assert share(0, 5)[2] == pytest.approx(1 - 0.025 ** (1 / 5))


def run(family: str, seed: int, frechet: float, recall: float, reached: int) -> Figures:
    samples = {"frechet": frechet, "precision": 0.5, "recall": recall}
    return Figures(
        family=family,
        seed=seed,
        kind="none",
        bits=(),
        monte_carlo_error=math.nan,
        quality={IMAGES: {"samples": samples}},
        modes={"count": 25, "reached": reached, "real_reached": 25.0},
        sample_seconds=0.1,
        parameters=1,
        steps=1,
        passes=1.0,
        seconds=1.0,
        choice="",
        shape=(0,),
        pixels="",
    )


def runs(family: str, frechet: Sequence[float], recall: float, reached: int) -> list[Figures]:
    return [
        run(family, seed, value, recall + 0.01 * seed, reached - seed % 2)
        for seed, value in enumerate(frechet)
    ]


def test_planted_effects_get_their_verdict():
    steady = [1.0, 1.02, 0.98, 1.01, 0.99]
    figures = {
        "vae": runs("vae", [3 * value for value in steady], 0.6, 25),
        "gan": runs("gan", [0.5, 4.0, 1.0, 9.0], 0.1, 9),  # one seed failed
        DIFFUSION: runs(DIFFUSION, steady, 0.6, 25),
    }
    found = {claim.measure: claim for claim in claims(figures, 5, IMAGES)}
    verdicts = {measure: (claim.claim, claim.verdict) for measure, claim in found.items()}
    stable = "diffusion is more stable"
    assert verdicts == {
        "Fréchet distance, vae over diffusion": (QUALITY, "holds"),
        "precision, vae less diffusion": (QUALITY, "open"),
        "recall, vae less diffusion": ("diffusion is more diverse", "open"),
        "spread of log Fréchet over seeds, vae over diffusion": (stable, "open"),
        "recall, gan less diffusion": (COLLAPSE, "holds"),
        "spread of log Fréchet over seeds, gan over diffusion": (UNSTABLE, "holds"),
        "modes of 25 reached, gan less real images": (COLLAPSE, "holds"),
        "modes of 25 reached, gan less diffusion": (COLLAPSE, "holds"),
        "share of seeds that fail or lose half of the modes, gan": (UNSTABLE, "holds"),
    }
    assert found["Fréchet distance, vae over diffusion"].value == pytest.approx(3.0)
    assert found["share of seeds that fail or lose half of the modes, gan"].value == 1.0


@pytest.mark.parametrize(
    ("low", "high", "sign", "verdict"),
    [(0.1, 0.2, 1, "holds"), (-0.2, 0.1, 1, "open"), (-0.2, -0.1, 1, "fails"),
     (-0.2, -0.1, -1, "holds"), (0.1, 0.2, -1, "fails"), (0.0, 0.0, -1, "open")],
)  # fmt: skip
def test_a_verdict_is_the_side_of_the_interval(low, high, sign, verdict):
    assert Claim("", "", 0.0, low, high, 0.0, sign).verdict == verdict


def test_images_of_one_size_are_read_as_pictures(tmp_path, monkeypatch):
    splits = ("train", "validation", "test")
    pixels = torch.randint(256, (3, 4, 1, 6, 6), generator=torch.Generator().manual_seed(0))
    data = {
        split: ImageData("data", some.byte(), 256, tuple("abcd"))
        for split, some in zip(splits, pixels, strict=True)
    }
    monkeypatch.setattr(module, "load_data", lambda name, split: data[split])
    for split in splits:
        found = load_data(as_folder("data", tmp_path), split, size=6)
        assert torch.equal(found.images, data[split].images)
