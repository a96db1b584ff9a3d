"""Linear dynamical systems against the joint normal of all rows, and statsmodels."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import MultivariateNormal

from nelbo import Continuous, NelboError, Pixels
from nelbo.families import LDS, PPCA
from nelbo.families.kalman import System, em_step, kalman_filter, kalman_smoother
from tests.families.contract import check_contract


def random_system(latents: int, values: int, length: int, seed: int = 0) -> System:
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64)

    def covariance() -> Tensor:
        root = draw(latents, latents)
        return root @ root.T + 0.1 * torch.eye(latents)

    return System(
        initial=covariance(),
        transition=0.5 * draw(latents, latents),
        process=covariance(),
        observation=draw(values, latents),
        offset=draw(length, values),
        noise=draw(values).square() + 0.1,
    )


def joint(p: System) -> tuple[Tensor, Tensor, Tensor]:
    """Cov(z), Cov(z, x) and Cov(x) of all steps at once, by the definition."""
    length, latents = len(p.offset), len(p.initial)
    # z = G w with w the independent noises: G_ts = A^(t−s).
    g = torch.zeros(length * latents, length * latents, dtype=torch.float64)
    blocks = g.view(length, latents, length, latents)
    for t in range(length):
        for s in range(t + 1):
            blocks[t, :, s] = torch.linalg.matrix_power(p.transition, t - s)
    w = torch.block_diag(p.initial, *[p.process] * (length - 1))
    c = torch.block_diag(*[p.observation] * length)
    z = g @ w @ g.T
    return z, z @ c.T, c @ z @ c.T + torch.diag(p.noise.repeat(length))


def test_likelihood_is_that_of_the_joint_normal():
    p = random_system(3, 4, 5)
    x = torch.randn(6, 5, 4, dtype=torch.float64)
    expected = MultivariateNormal(p.offset.flatten(), joint(p)[2]).log_prob(x.flatten(1))
    torch.testing.assert_close(kalman_filter(p, x).log_likelihood, expected, atol=1e-8, rtol=0)


def test_smoother_is_the_conditional_normal():
    p = random_system(2, 3, 4)
    x = torch.randn(5, 4, 3, dtype=torch.float64)
    z, cross, spread = joint(p)
    gain = torch.linalg.solve(spread, cross.T).T
    means = (x - p.offset).flatten(1) @ gain.T
    covariance = (z - gain @ cross.T).view(4, 2, 4, 2)
    found = kalman_smoother(p, x)
    torch.testing.assert_close(found.states.means.flatten(1), means, atol=1e-10, rtol=0)
    for t in range(4):
        at = found.states.covariances[t]
        torch.testing.assert_close(at, covariance[t, :, t], atol=1e-10, rtol=0)
    for t in range(3):
        torch.testing.assert_close(found.pairs[t], covariance[t + 1, :, t], atol=1e-10, rtol=0)


def test_equals_statsmodels():
    kalman = pytest.importorskip("statsmodels.tsa.statespace.kalman_filter")
    p = random_system(3, 2, 6)
    x = torch.randn(4, 6, 2, dtype=torch.float64)
    found = kalman_filter(p, x).log_likelihood
    for sequence, value in zip(x, found, strict=True):
        peer = kalman.KalmanFilter(k_endog=2, k_states=3, k_posdef=3)
        peer.bind((sequence - p.offset).numpy().copy())
        peer["design"], peer["obs_cov"] = p.observation.numpy(), torch.diag(p.noise).numpy()
        peer["transition"], peer["selection"] = p.transition.numpy(), torch.eye(3).double().numpy()
        peer["state_cov"] = p.process.numpy()
        peer.initialize_known(torch.zeros(3).double().numpy(), p.initial.numpy())
        assert value.item() == pytest.approx(peer.loglike(), abs=1e-8)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_em_never_lowers_the_likelihood(seed, length):
    p = random_system(2, 3, length, seed)
    g = torch.Generator().manual_seed(seed + 1)
    x = torch.randn(12, length, 3, generator=g, dtype=torch.float64)
    p = p._replace(offset=x.mean(0))
    before = -math.inf
    for _ in range(5):
        p, likelihood = em_step(p, x, 1e-8)
        assert likelihood.sum().item() >= before - 1e-8
        before = likelihood.sum().item()


def test_one_row_is_factor_analysis_above_ppca():
    """With one step there are no dynamics; noise a value is freer than PPCA's."""
    g = torch.Generator().manual_seed(0)
    mix = torch.randn(5, 2, generator=g)
    x = torch.randn(400, 2, generator=g) @ mix.T + torch.randn(400, 5, generator=g) * 0.3
    x = x[:, None, None]
    lds = LDS(2, tolerance=1e-7).fit(x).evidence(x)
    assert lds.kind == "exact"
    assert lds.total.mean() <= PPCA(2).fit(x).evidence(x).total.mean() + 0.02


def test_em_starts_from_states_of_the_same_variance_at_every_row():
    """P = A P Aᵀ + Q, the stationary covariance."""
    start = LDS(3)
    start.allocate((1, 4, 5), Continuous())
    p = start.system
    after = p.transition @ p.initial @ p.transition.T + p.process
    torch.testing.assert_close(after, p.initial)


def test_finds_the_system_that_made_the_data(generator):
    truth = LDS(2)
    p = random_system(2, 4, 6, seed=3)
    truth.fit(torch.randn(5, 1, 6, 4))
    for name, value in p._asdict().items():
        getattr(truth, name).copy_(value)
    x = truth.sample(1500, generator=generator)
    fitted = LDS(2).fit(x[:1200])
    test = x[1200:]
    gap = (fitted.evidence(test).total - truth.evidence(test).total) / truth.dims
    assert -0.01 < gap.mean() < 0.03


def test_pixels_have_a_bound_near_the_probability(generator):
    """A system with one step and two pixels, whose boxes a bivariate normal integrates."""
    from scipy.stats import multivariate_normal

    levels = torch.randint(0, 4, (200, 1, 1, 2), generator=generator)
    levels[..., 1] = (levels[..., 0] + levels[..., 1] // 2).clamp(max=3)
    space = Pixels(4)
    x = space.to_network(levels)
    model = LDS(1).fit(x, data=space)
    p = model.system
    normal = multivariate_normal(p.offset[0].numpy(), joint(p)[2].numpy())
    edges = torch.tensor([-50, -2 / 3, 0, 2 / 3, 50]).double().numpy()
    some, cells = x[:20], levels[:20].flatten(1).tolist()
    exact = torch.tensor(
        [-math.log(normal.cdf(edges[[i + 1, j + 1]], lower_limit=edges[[i, j]])) for i, j in cells]
    )
    evidence = model.evidence(some)
    assert evidence.kind == "bound"
    gap = evidence.total - exact
    assert gap.min() > -1e-6
    assert gap.mean() < 0.3


def test_constant_pixels():
    space = Pixels(17)
    x = torch.full((20, 1, 4, 3), -1.0)
    assert LDS(2).fit(x, data=space).evidence(x).bits_per_dim.max() < 0.1
    x[:, :, 1] = space.to_network(torch.randint(0, 17, (20, 1, 3)))
    assert LDS(2).fit(x, data=space).evidence(x).total.isfinite().all()
    assert LDS(5).fit(x).evidence(x).total.isfinite().all()


def test_contract(tmp_path):
    space = Pixels(4)
    x = space.to_network(torch.randint(0, 4, (12, 3, 2, 2)))
    check_contract(LDS(3).fit(x, data=space), x, tmp_path)


def test_refusals():
    with pytest.raises(NelboError, match="at least 1"):
        LDS(0)
    with pytest.raises(NelboError, match="1024"):
        LDS(2).fit(torch.zeros(2, 3, 2, 400))
