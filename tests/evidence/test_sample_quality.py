"""Distances of samples from real pictures against closed forms, simulation and brute force."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import scipy.linalg
import torch

from nelbo.base.errors import NelboError
from nelbo.data import load_data
from nelbo.evidence.feature_spaces import (
    FeatureSpace,
    principal_components,
    random_convolutions,
)
from nelbo.evidence.nearest import Nearest, nearest_training
from nelbo.evidence.sample_quality import (
    density_coverage,
    frechet_distance,
    frechet_with_error,
    kernel_distance,
    precision_recall,
    sample_quality,
)

DIMS = 6


def normals(seed: int) -> tuple[np.ndarray, ...]:
    """The means and covariances of two normals that are not diagonal."""
    rng = np.random.default_rng(seed)
    roots = rng.normal(size=(2, DIMS, DIMS)) / 2
    means = rng.normal(size=(2, DIMS)) / 4
    return means[0], roots[0] @ roots[0].T, means[1], roots[1] @ roots[1].T


def closed_form(mean_a, cov_a, mean_b, cov_b) -> float:
    """The formula with a root of a matrix, as Heusel et al. write it."""
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    return float(np.square(mean_a - mean_b).sum() + np.trace(cov_a + cov_b - 2 * root))


def draws(rng, n: int, mean, cov) -> torch.Tensor:
    return torch.from_numpy(rng.multivariate_normal(mean, cov, size=n))


@pytest.mark.parametrize(("n", "m"), [(50, 80), (2, 40), (4, 3), (200, 7), (6, 6)])
def test_frechet_distance_is_that_of_the_moments(n, m):
    mean_a, cov_a, mean_b, cov_b = normals(0)
    rng = np.random.default_rng(1)
    a, b = draws(rng, n, mean_a, cov_a), draws(rng, m, mean_b, cov_b)
    expected = closed_form(
        a.mean(0).numpy(), np.cov(a.numpy().T), b.mean(0).numpy(), np.cov(b.numpy().T)
    )
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-5)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-5)
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-9)


def test_frechet_error_and_extrapolation_hold_in_simulation():
    moments = normals(2)
    truth = closed_form(*moments)
    rng = np.random.default_rng(3)
    generator = torch.Generator().manual_seed(4)
    found = torch.tensor(
        [
            frechet_with_error(
                draws(rng, 60, *moments[:2]), draws(rng, 120, *moments[2:]), generator
            )
            for _ in range(100)
        ],
        dtype=torch.float64,
    )
    value, error, extrapolated = found.unbind(1)
    spread = float(value.std())
    # The plain value is too large, and its extrapolation is not.
    assert float(value.mean()) - truth > 5 * spread / math.sqrt(100)
    bias = float(value.mean()) - truth
    assert abs(float(extrapolated.mean()) - truth) < 0.25 * bias
    assert float(error.mean()) == pytest.approx(spread, rel=0.2)


def test_halves_of_an_odd_number_have_no_bias_of_their_own():
    """Of 7 pictures halves of 3 alone took off one and a half times the bias."""
    rng = np.random.default_rng(0)
    generator = torch.Generator().manual_seed(0)

    def mean_of(n: int) -> float:
        pairs = [
            frechet_with_error(*torch.from_numpy(rng.normal(size=(2, n, 2))), generator)
            for _ in range(150)
        ]
        value, _, extrapolated = torch.tensor(pairs).mean(0).tolist()
        return extrapolated / value

    assert mean_of(7) == pytest.approx(mean_of(8), abs=0.25)


def test_frechet_of_halves_of_one_set_extrapolates_to_zero():
    rng = np.random.default_rng(0)
    generator = torch.Generator().manual_seed(0)
    pairs = [
        frechet_with_error(*torch.from_numpy(rng.normal(size=(2, 80, DIMS))), generator)
        for _ in range(60)
    ]
    value, _, extrapolated = torch.tensor(pairs).mean(0).tolist()
    # E|μ̂₁ − μ̂₂|² alone is 2·6/80.
    assert value > 0.15
    assert abs(extrapolated) < 0.1 * value


@pytest.mark.parametrize("chunk", [1024, 2])
def test_kernel_distance_is_the_sum_over_pairs(chunk, monkeypatch):
    monkeypatch.setattr("nelbo.evidence.sample_quality._CHUNK", chunk)
    a, b = torch.randn(5, 3, dtype=torch.float64), torch.randn(7, 3, dtype=torch.float64) + 1

    def kernel(x, y) -> float:
        return (float(x @ y) / 3 + 1) ** 3

    expected = (
        sum(kernel(a[i], a[j]) for i in range(5) for j in range(5) if i != j) / 20
        + sum(kernel(b[i], b[j]) for i in range(7) for j in range(7) if i != j) / 42
        - 2 * sum(kernel(x, y) for x in a for y in b) / 35
    )
    assert kernel_distance(a, b).mean == pytest.approx(expected)
    left_out = [kernel_distance(torch.cat([a[:i], a[i + 1 :]]), b).mean for i in range(5)]
    others = [kernel_distance(a, torch.cat([b[:i], b[i + 1 :]])).mean for i in range(7)]
    variance = np.var(left_out) * 4 + np.var(others) * 6
    assert kernel_distance(a, b).standard_error == pytest.approx(math.sqrt(variance))


@pytest.mark.parametrize(("n", "m", "shift"), [(10, 15, 0.0), (40, 25, 0.6)])
def test_kernel_distance_has_no_bias_and_an_honest_error(n, m, shift):
    rng = np.random.default_rng(0)
    found, errors = [], []
    for _ in range(200):
        a, b = rng.normal(size=(n, 2)), rng.normal(size=(m, 2)) + shift
        estimate = kernel_distance(torch.from_numpy(a), torch.from_numpy(b))
        found.append(estimate.mean)
        errors.append(estimate.standard_error**2)
    # E k(x, x') for normals, by Gauss–Hermite in the two dimensions of each.
    nodes, weights = np.polynomial.hermite_e.hermegauss(8)
    weights = weights / weights.sum()
    grid = np.array(np.meshgrid(nodes, nodes)).reshape(2, -1).T
    mass = np.outer(weights, weights).reshape(-1)

    def mean_kernel(x, y) -> float:
        return float(mass @ ((x @ y.T) / 2 + 1) ** 3 @ mass)

    moved = grid + shift
    truth = mean_kernel(grid, grid) + mean_kernel(moved, moved) - 2 * mean_kernel(grid, moved)
    spread = np.std(found)
    assert abs(np.mean(found) - truth) < 4 * spread / math.sqrt(200)
    ratio = math.sqrt(np.mean(errors)) / spread
    assert (0.85 < ratio < 1.2) if shift else (1.0 < ratio < 1.8)


def brute_force(real, fake, k) -> tuple[float, float, float, float]:
    """Precision, recall, density and coverage, ball by ball, as the prdc package defines them."""

    def radius(points, i) -> float:
        return sorted(np.linalg.norm(points - points[i], axis=1))[k]

    real_radii = [radius(real, i) for i in range(len(real))]
    fake_radii = [radius(fake, i) for i in range(len(fake))]

    def inside(x, centres, radii) -> list[bool]:
        return [np.linalg.norm(x - c) <= r for c, r in zip(centres, radii, strict=True)]

    in_real = np.array([inside(x, real, real_radii) for x in fake])
    in_fake = np.array([inside(x, fake, fake_radii) for x in real])
    return (
        in_real.any(1).mean(),
        in_fake.any(1).mean(),
        in_real.sum() / (k * len(fake)),
        in_real.any(0).mean(),
    )


@pytest.mark.parametrize(("k", "chunk"), [(1, 1024), (3, 7), (5, 1024)])
def test_neighbourhood_figures_equal_brute_force(k, chunk, monkeypatch):
    monkeypatch.setattr("nelbo.evidence.sample_quality._CHUNK", chunk)
    rng = np.random.default_rng(k)
    real, fake = rng.normal(size=(30, 4)), 0.7 * rng.normal(size=(40, 4)) + 0.5
    precision, recall, density, coverage = brute_force(real, fake, k)
    tensors = torch.from_numpy(real), torch.from_numpy(fake)
    assert precision_recall(*tensors, k) == pytest.approx((precision, recall))
    assert density_coverage(*tensors, k) == pytest.approx((density, coverage))
    assert precision != recall


def test_errors_need_parts_to_leave_out():
    """Halves of two pictures, or one of three left out."""
    a, b = torch.arange(8.0).view(4, 2).square(), torch.arange(20.0).view(10, 2)
    for few, many in ((a, b), (b, a)):
        assert all(map(math.isfinite, frechet_with_error(few, many)))
    assert list(map(math.isnan, frechet_with_error(a[:3], b))) == [False, True, True]
    assert math.isfinite(kernel_distance(a[:3], b).standard_error)
    assert math.isnan(kernel_distance(b, a[:2]).standard_error)
    with pytest.raises(NelboError, match="at least 2 pictures in each set, got 10 and 1"):
        kernel_distance(b, a[:1])


def test_neighbourhood_figures_need_neighbours():
    assert precision_recall(torch.zeros(4, 2), torch.ones(9, 2)) == (0.0, 0.0)
    assert density_coverage(torch.zeros(6, 2), torch.ones(1, 2)) == (0.0, 0.0)
    assert all(math.isnan(value) for value in precision_recall(torch.zeros(3, 2), torch.ones(9, 2)))
    assert all(math.isnan(value) for value in density_coverage(torch.zeros(5, 2), torch.ones(9, 2)))


def test_principal_components_are_those_of_the_covariance(generator):
    images = torch.randint(17, (60, 1, 3, 4), generator=generator).byte()
    space = principal_components(images, 17, 5)
    x = images.flatten(1).numpy() / 8 - 1.0
    values, vectors = np.linalg.eigh(np.cov(x.T))
    expected = (x - x.mean(0)) @ vectors[:, ::-1][:, :5]
    found = space(images).numpy()
    assert np.abs(np.abs(found) - np.abs(expected)).max() < 1e-4
    assert space.unit == pytest.approx(math.sqrt(values[::-1][:5].mean()), rel=1e-4)
    # With fewer pictures than values the other product of the data is decomposed.
    few = principal_components(images[:9], 17, 5)
    y = x[:9] - x[:9].mean(0)
    _, _, right = np.linalg.svd(y, full_matrices=False)
    assert np.abs(np.abs(few(images[:9]).numpy()) - np.abs(y @ right[:5].T)).max() < 1e-4
    assert few.name == "5 principal components"
    assert principal_components(images[:3], 17).name == "2 principal components"


@pytest.mark.parametrize("size", [1, 2, 5, 16])
def test_spaces_take_pictures_of_any_size(generator, size):
    images = torch.randint(256, (12, 3, size, size + 1), generator=generator).byte()
    for space in (principal_components(images, 256), random_convolutions(images, 256)):
        features = space(images)
        assert features.shape[0] == 12
        assert torch.isfinite(features).all()
        assert torch.equal(features, space(images))


@pytest.fixture(scope="module")
def digits() -> torch.Tensor:
    return load_data("digits", "train").images


def test_worse_pictures_are_farther_in_every_space(digits, generator):
    """Of 200 digits, some with noise, some all alike; the reference are the other digits."""
    order = torch.randperm(len(digits), generator=generator)
    some, others = digits[order[:200]], digits[order[200:]]
    noisy = (some + torch.randint(-8, 9, some.shape, generator=generator)).clamp(0, 16).byte()
    alike = some[:5].repeat(40, 1, 1, 1)
    kinds = {"real": some, "noisy": noisy, "alike": alike}
    found = {kind: sample_quality(images, others, 17) for kind, images in kinds.items()}
    for k, space in enumerate(("32 principal components", "random convolutions")):
        real, noisy_, alike_ = (found[kind][k] for kind in kinds)
        assert real.space == space
        assert real.samples.images == real.real.images == 200
        assert real.samples.frechet == pytest.approx(real.real.frechet, rel=0.25)
        assert abs(real.samples.kernel) < 4 * real.samples.kernel_error
        assert real.samples.precision == pytest.approx(real.real.precision, abs=0.1)
        for worse in (noisy_.samples, alike_.samples):
            assert worse.frechet > 2 * real.samples.frechet
            assert worse.kernel > 4 * worse.kernel_error
        assert noisy_.samples.precision < real.samples.precision - 0.1
        assert alike_.samples.recall < 0.3
        assert alike_.samples.coverage < 0.2
    assert json.loads(json.dumps(found["real"][0].to_json(), allow_nan=False))


def test_half_of_few_real_pictures_is_what_stands_beside(digits):
    found = sample_quality(digits[:30], digits[:40], 17)[0]
    assert (found.samples.images, found.samples.reference) == (30, 40)
    assert (found.real.images, found.real.reference) == (20, 20)
    again = sample_quality(digits[:30], digits[:40], 17)[0]
    assert again == found


@pytest.mark.parametrize("size", [(1, 3, 4), (3, 9, 9)])
def test_copies_are_among_their_originals(size, generator):
    """Of a picture that is there many times the ball has no radius: a copy is in it, whichever
    batch its features are computed in."""
    originals = torch.randint(256, (2, *size), generator=generator).byte()
    real = originals.repeat(100, 1, 1, 1)
    for found in sample_quality(originals.repeat(65, 1, 1, 1), real, 256):
        assert (found.samples.precision, found.samples.recall) == (1, 1)
        assert found.samples.coverage == 1
    # A sample that differs by one pixel level is not.
    near = originals.clone()
    near[:, 0, 0, 0] ^= 1
    assert sample_quality(near.repeat(65, 1, 1, 1), real, 256)[0].samples.precision == 0


def test_too_few_pictures_and_other_sizes_are_errors(digits, without_shape_checks):
    with pytest.raises(NelboError, match="at least 2 samples and 4 real pictures, got 1 and 40"):
        sample_quality(digits[:1], digits[:40], 17)
    with pytest.raises(NelboError, match=r"shape \(1, 4, 4\).*shape \(1, 8, 8\)"):
        sample_quality(digits[:5, :, :4, :4], digits[:40], 17)


@pytest.mark.parametrize("chunk", [256, 16])
def test_nearest_training_pictures_are_those_of_brute_force(chunk, generator, monkeypatch):
    monkeypatch.setattr("nelbo.evidence.nearest._CHUNK", chunk)
    train = torch.randint(256, (70, 3, 4, 5), generator=generator).byte()
    samples = torch.randint(256, (9, 3, 4, 5), generator=generator).byte()
    samples[3] = train[41]
    samples[5] = train[17].flip(-1)
    held_out = torch.cat([torch.randint(256, (6, 3, 4, 5), generator=generator).byte(), train[:2]])
    found = nearest_training(samples, train, held_out)

    def distances(x) -> np.ndarray:
        pairs = np.stack([train.numpy(), train.flip(-1).numpy()]) / 255.0
        return np.sqrt(np.square(pairs - x.numpy() / 255.0).mean((2, 3, 4)))

    for i, sample in enumerate(samples):
        away = distances(sample)
        mirrored, index = np.unravel_index(away.argmin(), away.shape)
        assert (int(found.index[i]), bool(found.mirrored[i])) == (index, bool(mirrored))
        assert float(found.distance[i]) == pytest.approx(away.min(), abs=1e-12)
    assert float(found.distance[3]) == float(found.distance[5]) == 0.0
    # The two that were trained on are no measure of what is new.
    expected = sorted(distances(x).min() for x in held_out[:6])
    assert sorted(found.held_out.tolist()) == pytest.approx(expected)
    copies = nearest_training(train[:20], train, held_out)
    assert copies.ratio == 0.0
    assert copies.near_share == 1.0
    assert math.isnan(nearest_training(samples, train).ratio)
    assert nearest_training(samples, train).to_json()["ratio"] is None


def test_pictures_of_two_levels_are_near_by_how_many_pixels_differ(generator):
    train, samples = torch.randint(2, (2, 20, 1, 4, 5), generator=generator).byte()
    found = nearest_training(samples, train, levels=2)
    differ = torch.stack([samples[:, None] != some[None] for some in (train, train.flip(-1))])
    least = differ.flatten(3).double().mean(3).sqrt().amin((0, 2))
    torch.testing.assert_close(found.distance, least)


def test_nearness_is_of_medians_and_of_the_nearest_twentieth():
    """0.34 is the 5% quantile of these: a fifth of the way from the least to the second."""
    held_out = torch.tensor([0.7, 0.3, 1.1, 0.9, 0.5], dtype=torch.float64)
    distance = torch.tensor([0.31, 0.35, 0.1, 0.33, 0.345, 0.9, 0.36], dtype=torch.float64)
    index = torch.arange(7)
    found = Nearest(index, index > 9, distance, held_out, 12)
    assert found.ratio == pytest.approx(0.345 / 0.7)
    assert found.near_share == pytest.approx(3 / 7)
    known = {"ratio": found.ratio, "near_share": found.near_share, "held_out_distance": 0.7}
    assert found.to_json() == {"searched": 12, "held_out": 5, "distance": 0.345} | known
    alone = Nearest(index, index > 9, distance, held_out[:0], 12)
    assert math.isnan(alone.near_share)
    assert alone.to_json() == {"searched": 12, "held_out": 0, "distance": 0.345} | dict.fromkeys(
        known
    )


def test_as_many_pictures_are_searched_as_there_is_time_for(generator, monkeypatch):
    monkeypatch.setattr("nelbo.evidence.nearest.MOST_SEARCHED", 10)
    monkeypatch.setattr("nelbo.evidence.nearest.MOST_HELD_OUT", 3)
    train, held_out = torch.randint(256, (2, 30, 1, 4, 4), generator=generator).byte()
    found = nearest_training(train, train, held_out)
    assert found.searched == 10
    assert int((found.distance == 0).sum()) == 10
    assert len(found.index.unique()) <= 10
    assert len(found.held_out) == 3


def test_a_space_of_ones_own(digits):
    space = FeatureSpace("brightness", lambda x: x.mean((1, 2, 3))[:, None], 17)
    (found,) = sample_quality(digits[:50], digits[50:], 17, spaces=[space])
    assert found.space == "brightness"
    brightness = digits.double().mean((1, 2, 3)) / 8 - 1
    a, b = brightness[:50], brightness[50:]
    expected = (a.mean() - b.mean()) ** 2 + (a.std() - b.std()) ** 2
    assert found.samples.frechet == pytest.approx(float(expected), rel=1e-4)
