"""RNN and SSM: exact, causal, and the same in both modes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.signal import cont2discrete

from nelbo import NelboError, Pixels
from nelbo.families import RNN, SSM
from nelbo.families.state_space import DiagonalLayer, SelectiveLayer
from tests.families.brute_force import total_probability
from tests.families.contract import check_contract

SMALL = [
    RNN(width=8, layers=1),
    RNN("lstm", width=8),
    SSM(width=8, layers=2, states=4),
    SSM(width=8, layers=2, states=4, selective=True),
]
IDS = ["gru", "lstm", "s4d", "selective"]


def fresh(family, shape, space):
    """An untrained copy, with weights larger than those at first."""
    model = type(family)(**family.options)
    torch.manual_seed(0)
    model.allocate(shape, space)
    with torch.no_grad():
        for p in model.head.parameters():
            p.mul_(3)
    return model.eval()


@pytest.mark.parametrize("family", SMALL, ids=IDS)
def test_probabilities_of_all_images_sum_to_one(family):
    model = fresh(family, (3, 1, 2), Pixels(2)).double()
    assert total_probability(model, 2) == pytest.approx(1, abs=1e-10)


@pytest.mark.parametrize("family", SMALL, ids=IDS)
def test_steps_equal_whole_sequences(family, generator):
    model = fresh(family, (2, 3, 3), Pixels(4)).double()
    x = Pixels(4).to_network(torch.randint(0, 4, (3, 18), generator=generator)).double()
    with torch.no_grad():
        whole = model.sequence(model.neighbours.of_sequence(x))
        state = None
        for i in range(18):
            known = x.clone()
            known[:, i:] = math.nan  # what is not yet known has no part in it
            features, state = model.sequence.step(model.neighbours.at(known, i), state)
            torch.testing.assert_close(features, whole[:, i], atol=1e-10, rtol=0)


def test_a_channel_is_held_between_steps_as_scipy_holds_it():
    """In float32, whose rounding a short step must not magnify."""
    layer = DiagonalLayer(4, 3)
    held = layer.step(torch.ones(1, 4), None)[1][0].detach()
    decay, frequency = layer.log_decay.exp().tolist(), layer.frequency.tolist()
    for i, step in enumerate(layer.log_step.exp().tolist()):
        for n in range(3):
            a = np.array([[-decay[i][n], -frequency[i][n]], [frequency[i][n], -decay[i][n]]])
            system = (a, np.eye(2)[:, :1], np.eye(2), np.zeros((2, 1)))
            real, imaginary = cont2discrete(system, step, "zoh")[1][:, 0]
            assert abs(held[i, n].item() / complex(real, imaginary) - 1) < 1e-6


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("layer", [DiagonalLayer, SelectiveLayer])
def test_both_modes_of_a_state_space_agree(layer, dtype, error, generator):
    torch.manual_seed(0)
    ssm = layer(6, 8).to(dtype)
    u = torch.randn(2, 100, 6, generator=generator).to(dtype)
    with torch.no_grad():
        whole, h = ssm(u), None
        for i in range(100):
            y, h = ssm.step(u[:, i], h)
            assert (whole[:, i] - y).abs().max() <= error * whole.abs().max()


def test_a_selective_state_space_is_that_of_mamba(generator):
    """Equation 2 of Gu & Dao (2023) as they write it, one channel and one state after the other:
    h_t = exp(Δ_t A) h_{t−1} + Δ_t B_t u_t and y_t = C_t h_t + D u_t, Δ = softplus(bias + W u)."""
    torch.manual_seed(0)
    width, states = 3, 2
    ssm = SelectiveLayer(width, states).double().requires_grad_(False)
    u = torch.randn(1, 7, width, generator=generator, dtype=torch.float64)
    chosen, rank = ssm.select.weight.numpy(), ssm.to_step.weight.shape[1]
    a = -np.exp(ssm.log_decay.numpy())
    np.testing.assert_allclose(a, [[-1, -2]] * width)  # at first
    h, expected = np.zeros((width, states)), np.zeros((7, width))
    for t, now in enumerate(u[0].numpy()):
        made = chosen @ now
        b, c = made[rank : rank + states], made[rank + states :]
        before = ssm.to_step.weight.numpy() @ made[:rank] + ssm.to_step.bias.numpy()
        step = np.log1p(np.exp(before))
        for d in range(width):
            for n in range(states):
                h[d, n] = np.exp(step[d] * a[d, n]) * h[d, n] + step[d] * b[n] * now[d]
                expected[t, d] += c[n] * h[d, n]
            expected[t, d] += ssm.d[d].item() * now[d]
    np.testing.assert_allclose(ssm(u)[0].numpy(), expected, atol=1e-12)


def test_a_state_space_is_the_solution_of_its_differential_equation():
    """A constant input held over 50 steps, against 2,000 by the midpoint rule."""
    torch.manual_seed(0)
    ssm = DiagonalLayer(1, 3).double()
    y, h = None, None
    for _ in range(50):
        y, h = ssm.step(torch.ones(1, 1, dtype=torch.float64), h)
    a = torch.complex(-ssm.log_decay.exp(), ssm.frequency)[0]
    c = torch.view_as_complex(ssm.c)[0]
    fine, state = 2_000, torch.zeros_like(a)
    dt = 50 * ssm.log_step.exp().item() / fine
    for _ in range(fine):
        middle = state + dt / 2 * (a * state + 1)
        state = state + dt * (a * middle + 1)
    expected = 2 * (c * state).sum().real + ssm.d
    torch.testing.assert_close(y.flatten(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("family", SMALL, ids=IDS)
def test_learns_a_rule_that_needs_the_pixel_above(family, generator):
    """Rows that repeat the first: one bit for each of its values, none for the others."""
    first = torch.randint(0, 2, (600, 1, 1, 4), generator=generator)
    x = Pixels(2).to_network(first.expand(-1, 1, 3, 4))
    model = type(family)(**family.options | {"width": 16, "dropout": 0.0})
    steps = model.fit_steps(x, data=Pixels(2))
    for _ in itertools.islice(steps, 120):
        pass
    steps.close()
    bits = model.evidence(x).bits_per_dim.mean().item()
    assert 1 / 3 - 0.02 < bits < 1 / 3 + 0.12
    drawn = model.sample(50, generator=generator)
    assert (drawn == drawn[:, :, :1]).all(3).float().mean() > 0.8


def test_the_best_weights_on_held_out_images_are_kept(generator):
    """Noise can only be learnt by heart: what is kept is near the uniform distribution."""
    x = Pixels(4).to_network(torch.randint(0, 4, (40, 1, 2, 2), generator=generator))
    model = RNN(width=32, layers=1, dropout=0.0)
    steps = list(model.fit_steps(x, data=Pixels(4)))
    read = [step.held_out for step in steps if not math.isnan(step.held_out)]
    assert read[-1] > min(read)
    held_out = x[torch.randperm(40, generator=torch.Generator().manual_seed(0))[:4].sort().values]
    kept = model.evidence(held_out).total.mean().item()
    assert kept == pytest.approx(min(read), abs=1e-4)
    assert steps[-1] == model.last_step


def test_a_fit_is_seeded_and_may_be_left_early():
    x = Pixels(3).to_network(torch.randint(0, 3, (30, 1, 2, 2)))

    def two_steps():
        model = RNN(width=8, layers=1)
        steps = model.fit_steps(x, data=Pixels(3), seed=4)
        found = [next(steps).nats, next(steps).nats]
        steps.close()
        return found, model

    (first, model), (second, _) = two_steps(), two_steps()
    assert first == second
    assert not model.training
    assert model.evidence(x).total.isfinite().all()


@pytest.mark.parametrize("family", SMALL, ids=IDS)
@pytest.mark.parametrize("space", [Pixels(3), Pixels(256)], ids=["softmax", "mixture"])
def test_contract(family, space, tmp_path):
    x = space.to_network(torch.randint(0, 3, (8, 3, 2, 2)))
    check_contract(type(family)(**family.options).fit(x, data=space, time_budget=0.1), x, tmp_path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RNN("elman"), "unknown cell"),
        (lambda: RNN(layers=0), "layers must be at least 1"),
        (lambda: SSM(width=0), "width must be at least 1"),
        (lambda: RNN(dropout=1.0), "dropout"),
        (lambda: RNN().fit(torch.zeros(2, 3, 64, 64)), "smaller images"),
        (lambda: RNN().fit(torch.zeros(2, 1, 2, 2), time_budget=0), "time_budget"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(NelboError, match=message):
        make()
