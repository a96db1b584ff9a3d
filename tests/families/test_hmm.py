"""Hidden Markov models against enumeration of all paths, and hmmlearn."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nelbo import Continuous, NelboError, Pixels
from nelbo.families import HMM
from nelbo.families.emissions import Categorical, Emission, Gaussian
from nelbo.families.hmm_em import Chain, expect, log_likelihood, maximise
from nelbo.families.hmm_inference import hmm_filter, hmm_smoother
from tests.families.brute_force import total_probability
from tests.families.contract import check_contract


def random_chain(states: int, emission: Emission, values: int, seed: int = 0) -> Chain:
    g = torch.Generator().manual_seed(seed)

    def simplex(*shape: int) -> Tensor:
        p = torch.rand(shape, generator=g, dtype=torch.float64) ** 3 + 1e-3
        return p / p.sum(-1, keepdim=True)

    if isinstance(emission, Categorical):
        parameters = simplex(states, values, emission.space.shown_levels)
    else:
        mean = torch.randn(states, values, generator=g, dtype=torch.float64)
        spread = torch.rand(states, values, generator=g, dtype=torch.float64) + 0.1
        parameters = torch.stack([mean, spread])
    return Chain(simplex(states), simplex(states, states), parameters)


def levels_of(n: int, length: int, values: int, levels: int, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return Pixels(levels).to_network(torch.randint(0, levels, (n, length, values), generator=g))


def test_a_sequence_that_cannot_be_has_probability_zero():
    """States that never change, of which neither emits both values: no path has the sequence."""
    initial, stay = torch.tensor([0.5, 0.5]).double(), torch.eye(2).double()
    of = torch.eye(2).double().log()  # state s emits s
    x = torch.tensor([[0, 0, 0], [0, 1, 0], [1, 0, 1]])
    found = hmm_filter(initial, stay, of.T[x]).log_likelihood
    assert found.tolist() == [math.log(0.5), -math.inf, -math.inf]


@pytest.mark.parametrize("emission", [Categorical(Pixels(3)), Gaussian(Continuous())])
def test_against_the_sum_over_all_paths(emission):
    states, length = 3, 4
    p = random_chain(states, emission, values=2)
    x = levels_of(5, length, 2, 3).double()
    log_b = emission.log_likelihood(p.emission, x)
    paths = list(itertools.product(range(states), repeat=length))
    joint = torch.zeros(len(x), len(paths), dtype=torch.float64)
    for i, path in enumerate(paths):
        joint[:, i] = p.initial[path[0]].log() + sum(log_b[:, t, s] for t, s in enumerate(path))
        joint[:, i] += sum(p.transition[r, s].log() for r, s in itertools.pairwise(path))
    found = hmm_smoother(p.initial, p.transition, log_b)
    torch.testing.assert_close(found.log_likelihood, joint.logsumexp(1), atol=1e-10, rtol=0)
    weight = joint.softmax(1)
    index = torch.tensor(paths)
    for t, s in itertools.product(range(length), range(states)):
        expected = weight[:, index[:, t] == s].sum(1)
        torch.testing.assert_close(found.states[:, t, s], expected, atol=1e-10, rtol=0)
    for r, s in itertools.product(range(states), repeat=2):
        times = ((index[:, :-1] == r) & (index[:, 1:] == s)).sum(1)
        expected = (weight * times).sum()
        torch.testing.assert_close(found.transitions[r, s], expected, atol=1e-10, rtol=0)


def test_equals_hmmlearn():
    hmm = pytest.importorskip("hmmlearn.hmm")
    n, length = 6, 9
    emission = Categorical(Pixels(5))
    p = random_chain(4, emission, values=1)
    x = levels_of(n, length, 1, 5)
    peer = hmm.CategoricalHMM(4, n_features=5)
    peer.startprob_, peer.transmat_ = p.initial.numpy(), p.transition.numpy()
    peer.emissionprob_ = p.emission[:, 0].numpy()
    k = Pixels(5).to_levels(x).numpy()
    expected = [peer.score(sequence) for sequence in k]
    np.testing.assert_allclose(log_likelihood(p, emission, x.double()), expected, atol=1e-8)

    normal = Gaussian(Continuous())
    p = random_chain(4, normal, values=3)
    x = torch.randn(n, length, 3, dtype=torch.float64)
    peer = hmm.GaussianHMM(4, covariance_type="diag")
    peer.startprob_, peer.transmat_ = p.initial.numpy(), p.transition.numpy()
    peer.means_, peer.covars_ = (part.numpy() for part in p.emission)
    peer.n_features = 3
    expected = [peer.score(sequence) for sequence in x.numpy()]
    np.testing.assert_allclose(log_likelihood(p, normal, x), expected, atol=1e-8)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_em_never_lowers_the_likelihood(seed, categorical):
    emission = Categorical(Pixels(4)) if categorical else Gaussian(Continuous())
    x = levels_of(12, 5, 2, 4, seed).double() + (0 if categorical else 0.1 * torch.randn(12, 5, 2))
    p = random_chain(3, emission, 2, seed)
    before = -math.inf
    for _ in range(5):
        expected = expect(p, emission, x)
        assert expected.log_likelihood.item() >= before - 1e-8
        before = expected.log_likelihood.item()
        p = maximise(expected, emission)


@pytest.mark.parametrize("pseudocount", [0.0, 0.6, 3.0])
def test_the_m_step_normalises_expected_counts(pseudocount):
    """A pseudocount is shared by the states, as a symmetric Dirichlet prior has it."""
    emission = Categorical(Pixels(4))
    p = random_chain(3, emission, 2)
    expected = expect(p, emission, levels_of(4, 5, 2, 4).double())
    found = maximise(expected, emission, pseudocount)
    for counts, p_found in (
        (expected.initial[None], found.initial[None]),
        (expected.transitions, found.transition),
    ):
        raised = counts.numpy() + pseudocount / 3
        np.testing.assert_allclose(p_found, raised / raised.sum(1, keepdims=True), atol=1e-9)


@pytest.mark.parametrize("by", ["row", "pixel"])
@pytest.mark.parametrize("emission", ["categorical", "gaussian"])
def test_probabilities_of_all_images_sum_to_one(by, emission):
    x = levels_of(30, 2, 2, 3)[:, None]
    model = HMM(2, by=by, emission=emission).fit(x, data=Pixels(3))
    assert total_probability(model, 3) == pytest.approx(1, abs=1e-10)


def test_finds_the_chain_that_made_the_data(generator):
    """The best of some starts costs nearly what the chain that drew the images costs."""
    truth = HMM(3, by="row")
    truth.allocate((1, 6, 4), Pixels(5))
    p = random_chain(3, Categorical(Pixels(5)), 4, seed=5)
    for name, value in zip(("initial", "transition", "emission_parameters"), p, strict=True):
        getattr(truth, name).copy_(value)
    x = truth.sample(1500, generator=generator)
    train, test = x[:1200], x[1200:]
    fits = [HMM(3, by="row").fit(train, data=Pixels(5), seed=seed) for seed in range(5)]
    best = min(fit.evidence(test).bits_per_dim.mean() for fit in fits)
    assert -0.005 < best - truth.evidence(test).bits_per_dim.mean() < 0.03
    few = HMM(1).fit(train, data=Pixels(5))
    assert few.evidence(test).bits_per_dim.mean() > best + 0.05


@pytest.mark.parametrize("by", ["row", "pixel"])
def test_a_step_reports_the_cost_of_the_images_it_is_fitted_to(by):
    """One image is fitted to and held out: its cost by EM's sums and by the forward pass."""
    model = HMM(2, by=by).fit(levels_of(1, 3, 4, 4)[:, None], data=Pixels(4))
    assert model.last_step is not None
    assert model.last_step.nats > 0
    assert model.last_step.nats == pytest.approx(model.last_step.held_out, rel=1e-9)


def test_constant_pixels_and_one_image():
    x = torch.full((6, 1, 3, 2), -1.0)
    for emission in ("categorical", "gaussian"):
        model = HMM(2, emission=emission).fit(x, data=Pixels(9))
        assert model.evidence(x).bits_per_dim.max() < 0.2
        assert (
            HMM(2, emission=emission).fit(x[:1], data=Pixels(9)).evidence(x).total.isfinite().all()
        )
    assert HMM(2).fit(x).evidence(x).total.isfinite().all()


@pytest.mark.parametrize("options", [{"by": "pixel"}, {"emission": "gaussian"}, {}])
def test_contract(options, tmp_path):
    space = Pixels(4)
    x = space.to_network(torch.randint(0, 4, (12, 3, 2, 2)))
    check_contract(HMM(3, **options).fit(x, data=space), x, tmp_path)


@pytest.mark.parametrize(
    ("options", "data", "message"),
    [
        ({"states": 0}, Pixels(3), "at least 1"),
        ({"states": 2, "emission": "poisson"}, Pixels(3), "unknown emission"),
        ({"states": 2, "by": "column"}, Pixels(3), "expected one of row, pixel"),
        ({"states": 2, "emission": "categorical"}, Continuous(), "emission='gaussian'"),
        ({"states": 2000}, Pixels(2**14 + 1), "use fewer states"),
    ],
)
def test_refusals(options, data, message):
    with pytest.raises(NelboError, match=message):
        HMM(**options).fit(torch.zeros(3, 1, 2, 2), data=data)
