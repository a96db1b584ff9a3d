"""PPCA against scikit-learn, direct normals, and brute force over bins."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal
from sklearn.decomposition import PCA
from torch.distributions import MultivariateNormal, kl_divergence

from nelbo import Continuous, NelboError, Pixels
from nelbo.data import load_data
from nelbo.families import PPCA
from nelbo.families.linear_gaussian import LinearGaussian, em_step, log_density
from tests.families.contract import check_contract


def correlated(n: int, dims: int, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(dims, dims, generator=g, dtype=torch.float64) / dims
    return torch.randn(n, dims, generator=g, dtype=torch.float64) @ mix.T


def as_images(x: torch.Tensor) -> torch.Tensor:
    return x[:, None, None]


@pytest.mark.parametrize(("n", "dims", "latents"), [(200, 12, 3), (30, 40, 5), (500, 8, 7)])
def test_equals_scikit_learn(n, dims, latents):
    x = correlated(n, dims)
    ours = PPCA(latents).fit(as_images(x))
    peer = PCA(latents, svd_solver="full").fit(x.numpy())
    # scikit-learn divides by n − 1, maximum likelihood by n; with fewer images than values it
    # leaves out the eigenvalues of zero from the mean that σ² is.
    peer.explained_variance_ *= (n - 1) / n
    peer.noise_variance_ *= (n - 1) / n * (min(n, dims) - latents) / (dims - latents)
    evidence = ours.evidence(as_images(x))
    assert evidence.kind == "exact"
    np.testing.assert_allclose(-evidence.total.numpy(), peer.score_samples(x.numpy()), atol=1e-6)


def test_em_reaches_the_closed_form():
    x = as_images(correlated(300, 6))
    model = PPCA(2).fit(x)
    closed = model.evidence(x).total
    assert model.last_step is not None
    assert model.last_step.number == model.last_step.passes == 1
    em = PPCA(2, method="em", tolerance=1e-9).fit(x).evidence(x).total
    torch.testing.assert_close(em.mean(), closed.mean(), atol=1e-6, rtol=0)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 0.6))
def test_em_never_lowers_the_likelihood(seed, missing):
    g = torch.Generator().manual_seed(seed)
    x = correlated(40, 5, seed)
    known = torch.rand(40, 5, generator=g) >= missing
    known[0] = True
    p = LinearGaussian(
        torch.randn(5, 2, generator=g, dtype=torch.float64),
        torch.randn(5, generator=g, dtype=torch.float64),
        torch.tensor(0.5, dtype=torch.float64),
    )
    before = log_density(p, x, known).sum()
    for _ in range(5):
        p = em_step(p, x, known, 1e-8)
        after = log_density(p, x, known).sum()
        assert after >= before - 1e-9
        before = after


def test_density_of_known_values_is_the_marginal_normal():
    x = correlated(20, 5)
    g = torch.Generator().manual_seed(1)
    known = torch.rand(20, 5, generator=g) > 0.4
    p = LinearGaussian(
        torch.randn(5, 2, generator=g, dtype=torch.float64),
        torch.randn(5, generator=g, dtype=torch.float64),
        torch.tensor(0.3, dtype=torch.float64),
    )
    covariance = p.weight @ p.weight.T + 0.3 * torch.eye(5, dtype=torch.float64)
    found = log_density(p, x.where(known, torch.nan), known)
    for row, mask, value in zip(x, known, found, strict=True):
        some = MultivariateNormal(p.mean[mask], covariance[mask][:, mask]) if mask.any() else None
        expected = 0.0 if some is None else some.log_prob(row[mask]).item()
        assert value.item() == pytest.approx(expected, abs=1e-10)


def test_density_where_there_is_hardly_any_noise():
    """Of orthogonal columns it is that of independent normals along them and across."""
    directions = torch.linalg.qr(correlated(30, 30)).Q
    scales = torch.tensor([10.0, 3.0, 0.5], dtype=torch.float64)
    noise = 1e-5
    g = torch.Generator().manual_seed(0)
    along = torch.cat([scales, torch.zeros(27, dtype=torch.float64)]).square() + noise**2
    white = torch.randn(20, 30, generator=g, dtype=torch.float64)
    x = white * along.sqrt() @ directions.T
    p = LinearGaussian(
        directions[:, :3] * scales,
        torch.zeros(30, dtype=torch.float64),
        torch.tensor(noise**2, dtype=torch.float64),
    )
    expected = torch.distributions.Normal(0.0, along.sqrt()).log_prob(white * along.sqrt()).sum(1)
    torch.testing.assert_close(log_density(p, x), expected, atol=1e-7, rtol=0)


def test_missing_values_are_found_again_by_em():
    """A quarter of the values away, the model is nearly that of all of them."""
    x = correlated(2000, 5)
    holes = x.clone()
    holes[torch.rand(x.shape, generator=torch.Generator().manual_seed(2)) < 0.25] = torch.nan
    with_holes = PPCA(2, method="em").fit(as_images(holes)).evidence(as_images(x)).total.mean()
    whole = PPCA(2).fit(as_images(x)).evidence(as_images(x)).total.mean()
    assert 0 <= with_holes - whole < 0.05


def test_the_bound_of_its_vae_is_tight():
    x = as_images(correlated(100, 6))
    model = PPCA(2).fit(x)
    bound = model.bound(x)
    torch.testing.assert_close(bound.nelbo, model.evidence(x).total, atol=1e-10, rtol=0)
    # its KL is that of torch, its reconstruction a mean over draws of the encoder
    q = model.encoder(x)
    prior = MultivariateNormal(torch.zeros(2, dtype=torch.float64), torch.eye(2).double())
    torch.testing.assert_close(bound.prior_matching, kl_divergence(q, prior))
    torch.manual_seed(0)
    z = q.sample((4000,))
    drawn = model.decoder(z.flatten(0, 1)).log_prob(x.repeat(4000, 1, 1, 1)).sum((1, 2, 3))
    drawn = drawn.view(4000, -1)
    error = drawn.std(0) / math.sqrt(4000)
    assert ((drawn.mean(0) - bound.reconstruction).abs() < 4.5 * error).all()


def test_the_bound_of_pixels_against_the_probability_of_boxes():
    """Two pixels of 4 levels: every image's probability by the bivariate normal's own integral."""
    levels = torch.randint(0, 4, (60, 2), generator=torch.Generator().manual_seed(0))
    levels[:, 1] = (levels[:, 0] + levels[:, 1] // 3).clamp(max=3)
    space = Pixels(4)
    model = PPCA(1).fit(as_images(space.to_network(levels)), data=space)
    p = model.linear_gaussian
    covariance = (p.weight @ p.weight.T + p.variance * torch.eye(2)).numpy()
    every = torch.tensor(list(itertools.product(range(4), repeat=2)))
    evidence = model.evidence(as_images(space.to_network(every)))
    assert evidence.kind == "bound"
    edges = np.array([-50, -2 / 3, 0, 2 / 3, 50])
    normal = multivariate_normal(p.mean.numpy(), covariance)
    exact = torch.tensor(
        [
            -np.log(normal.cdf(edges[[i + 1, j + 1]], lower_limit=edges[[i, j]]))
            for i, j in every.tolist()
        ]
    )
    gap = evidence.total - exact
    assert gap.min() > -1e-6
    seen = torch.tensor([(levels == image).all(1).any().item() for image in every])
    assert gap[seen].mean() < 0.2
    total = torch.stack(list(evidence.terms.values())).sum(0)
    torch.testing.assert_close(total, evidence.total)


def test_digits_cost_what_is_known():
    """The bound of held-out digits, below the 3.2 bits/dim of PPCA by uniform dequantisation."""
    model = PPCA(16).fit(load_data("digits", "train"))
    test = load_data("digits", "test")
    bits = model.evidence(test_x := Pixels(17).to_network(test.images)).mean().bits_per_dim
    assert 2.4 < bits.mean < 3.2
    assert bits.monte_carlo_error == 0
    assert torch.equal(model.evidence(test_x).total, model.evidence(test_x).total)


def test_constant_pixels():
    """Eleven pixels of the digits are always white or always black in one class."""
    levels = torch.zeros(50, 1, 3, 3, dtype=torch.long)
    levels[:, 0, 1] = torch.randint(0, 17, (50, 3), generator=torch.Generator().manual_seed(0))
    space = Pixels(17)
    x = space.to_network(levels)
    bits = PPCA(4).fit(x, data=space).evidence(x).bits_per_dim.mean()
    assert 1.0 < bits < math.log2(17) / 3 + 0.5
    one = PPCA(2).fit(x[:1], data=space)
    assert one.evidence(x[:1]).bits_per_dim < 0.1
    assert PPCA(4).fit(x).evidence(x).total.isfinite().all()


def test_samples_have_the_covariance_of_the_model(generator):
    x = as_images(correlated(100, 4))
    model = PPCA(2).fit(x)
    p = model.linear_gaussian
    drawn = model.sample(40_000, generator=generator).flatten(1).double()
    expected = p.weight @ p.weight.T + p.variance * torch.eye(4)
    torch.testing.assert_close(drawn.mean(0), p.mean, atol=0.01, rtol=0)
    torch.testing.assert_close(torch.cov(drawn.T), expected, atol=0.01, rtol=0)


def test_contract(tmp_path):
    space = Pixels(5)
    x = space.to_network(torch.randint(0, 5, (20, 3, 2, 2)))
    check_contract(PPCA(2, method="em").fit(x, data=space), x, tmp_path)


@pytest.mark.parametrize(
    ("options", "x", "message"),
    [
        ({"latents": 0}, torch.zeros(4, 1, 2, 2), "at least 1"),
        ({"latents": 4}, torch.zeros(4, 1, 2, 2), "fewer latents"),
        ({"latents": 1, "method": "svd"}, torch.zeros(4, 1, 2, 2), "unknown method"),
        ({"latents": 1}, torch.zeros(4, 2, 2), r"\(N, C, H, W\)"),
        ({"latents": 1}, torch.zeros(4, 1, 2, 2).long(), r"\(N, C, H, W\)"),
        ({"latents": 1}, torch.zeros(0, 1, 2, 2), "no images"),
        ({"latents": 1}, torch.full((4, 1, 2, 2), torch.nan), "16 values are missing"),
        (
            {"latents": 1, "method": "em"},
            torch.full((4, 1, 2, 2), torch.nan),
            "every value is missing",
        ),
        ({"latents": 1}, torch.zeros(4097, 1, 64, 65), "method='em'"),
    ],
)
def test_refusals(options, x, message):
    with pytest.raises(NelboError, match=message):
        PPCA(**options).fit(x)


def test_a_value_that_is_missing_everywhere():
    x = torch.randn(5, 1, 2, 2)
    x[:, :, 0, 0] = torch.nan
    with pytest.raises(NelboError, match="1 values are missing in every image"):
        PPCA(1, method="em").fit(x)


def test_a_data_space_that_contradicts_the_data():
    with pytest.raises(NelboError, match="17 pixel levels"):
        PPCA(1, data=Continuous()).fit(load_data("digits", "train"))
