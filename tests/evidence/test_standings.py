"""The errors of a family's figures, by hand."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace

import pytest
import torch

from nelbo.base.errors import NelboError
from nelbo.base.files import to_json
from nelbo.evidence.sample_quality import Likeness
from nelbo.evidence.standings import SPACES, Figures, Standing, packed

SAMPLES = torch.arange(8, dtype=torch.uint8).reshape(2, 1, 2, 2)


def figures(seed: int, bits: tuple[float, ...], frechet: float, error: float | None) -> Figures:
    of_real = dict.fromkeys((each.name for each in fields(Likeness)), 0.5)
    of_samples = {"frechet": frechet, "frechet_error": error, "precision": 0.25 * (seed + 1)}
    quality = {space: {"samples": of_real | of_samples, "real": of_real} for space in SPACES}
    kind = "bound" if bits else "none"
    modes = {"count": 25, "reached": 20 + seed, "off": 3, "real_reached": 24, "real_off": 2}
    rest = (0.5, 10, 3, 1.5, 2.0, "")
    return Figures("ppca", seed, kind, bits, math.nan, quality, modes, *rest, **packed(SAMPLES))


FIRST, SECOND = figures(0, (1.0, 2.0, 3.0), 6.0, 3.0), figures(1, (3.0, 4.0, 5.0), 8.0, 4.0)


def standing(*runs: Figures, failures: dict[int, str] | None = None) -> Standing:
    return Standing("ppca", "PPCA", "latent variables", runs, failures or {})


def test_errors_over_images_and_over_seeds():
    bits = standing(FIRST, SECOND).bits
    assert bits.mean == 3.0
    assert bits.error == pytest.approx(1 / math.sqrt(3))  # of 2, 3, 4
    assert bits.over_seeds == pytest.approx(1.0)  # of 2, 4
    assert math.isnan(standing(FIRST).bits.over_seeds)
    distance = standing(FIRST, SECOND).frechet(SPACES[0])
    assert (distance.mean, distance.error, distance.over_seeds) == pytest.approx((7.0, 2.5, 1.0))
    assert standing(FIRST, SECOND).quality(SPACES[1], "precision") == 0.375
    assert standing(FIRST, SECOND).modes("reached") == 20.5


def test_what_has_no_likelihood_or_nothing():
    gan, lost = standing(figures(0, (), 1.0, None)), standing(failures={0: "a", 1: "a", 2: "b"})
    assert math.isnan(gan.bits.mean)
    assert math.isnan(gan.frechet(SPACES[0]).error)
    assert math.isnan(lost.frechet(SPACES[0]).mean)
    assert lost.kind == ""
    assert lost.notes(1.0) == ["failed: a", "failed: b"]


def test_notes():
    short, late = replace(FIRST, passes=0.25), replace(SECOND, seconds=30.0, choice="order 2")
    notes = standing(short, late, failures={2: "diverged", 5: "diverged"}).notes(10.0)
    assert notes == [
        "order 2",
        "the budget was too small for one pass over the images (0.25)",
        "a step is longer than the budget: the fit took 30 s",
        "seeds 2, 5 failed: diverged",
    ]
    assert standing(FIRST, SECOND).notes(10.0) == []


def test_figures_through_a_file(tmp_path):
    file = tmp_path / "ppca-0.json"
    file.write_text(to_json(FIRST.to_json()))
    again = Figures.read(file)
    assert replace(again, monte_carlo_error=0.0) == replace(FIRST, monte_carlo_error=0.0)
    assert math.isnan(again.monte_carlo_error)
    assert torch.equal(again.samples, SAMPLES)


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("bits", None, "NoneType"),
        ("bits", ["a"], "'a'"),
        ("kind", "sure", "kind is 'sure'"),
        ("seconds", "long", "'long'"),
        ("modes", {"count": 25}, "'reached'"),
        (f"quality.{SPACES[0]}", {"samples": {}}, "'images'"),
        (f"quality.{SPACES[1]}.real.frechet", [], "list"),
        ("pixels", "@", "base64"),
        ("pixels", "", "of 0 pixels"),
        ("shape", [3, 1, 2, 2], r"shape is \(3, 1, 2, 2\), of 8 pixels"),
        ("shape", [-4, 1, 1, -2], "shape is"),
        ("shape", [10**40], "shape is"),
    ],
)
def test_figures_that_were_edited_are_named(tmp_path, path, value, reason):
    content = json.loads(to_json(FIRST.to_json()))
    *above, last = path.split(".")
    group = content
    for name in above:
        group = group[name]
    group[last] = value
    file = tmp_path / "ppca-0.json"
    file.write_text(json.dumps(content))
    message = rf"ppca-0.json holds no figures of a family \(.*{reason}.*\): remove it"
    with pytest.raises(NelboError, match=message):
        Figures.read(file)


def test_the_mean_of_the_test_images():
    assert FIRST.bits_per_dim == 2.0
    assert math.isnan(figures(0, (), 1.0, None).bits_per_dim)
