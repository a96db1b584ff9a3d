"""Distributions of one value against sums, integrals and frequencies."""

from __future__ import annotations

import pytest
import torch

from nelbo import Continuous, Pixels
from nelbo.families.heads import LogisticMixture, Softmax, head_for


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("kind", [Softmax, LogisticMixture])
def test_probabilities_sum_to_one(kind, levels, generator):
    space = Pixels(levels)
    head = kind(3, space).double()
    features = 3 * torch.randn(4, 3, generator=generator, dtype=torch.float64)
    grid = torch.linspace(-1, 1, levels, dtype=torch.float64)
    log_p = head.log_prob(features[:, None].expand(4, levels, 3), grid.expand(4, levels))
    torch.testing.assert_close(log_p.exp().sum(1), torch.ones(4).double(), atol=1e-12, rtol=0)


def test_bins_are_integrals_of_the_density(generator):
    """The mixture over 9 pixel levels against its own density, by the trapezoidal rule."""
    rounded, density = LogisticMixture(2, Pixels(9)).double(), LogisticMixture(2, Continuous())
    density = density.double()
    density.load_state_dict(rounded.state_dict())
    features = torch.randn(1, 2, generator=generator, dtype=torch.float64)
    for k in range(9):
        centre = 2 * k / 8 - 1
        low = -40.0 if k == 0 else centre - 1 / 8
        high = 40.0 if k == 8 else centre + 1 / 8
        x = torch.linspace(low, high, 200_001, dtype=torch.float64)
        p = density.log_prob(features.expand(len(x), 2), x).exp()
        bin_of = rounded.log_prob(features, torch.tensor([centre]).double()).exp()
        assert torch.trapezoid(p, x).item() == pytest.approx(bin_of.item(), abs=1e-6)


@pytest.mark.parametrize("space", [Pixels(17), Continuous()])
def test_a_mixture_of_a_sequence_is_that_of_each_value(space, generator):
    head = LogisticMixture(2, space).double()
    features = torch.randn(4, 5, 2, generator=generator, dtype=torch.float64)
    x = Pixels(17).to_network(torch.randint(17, (4, 5), generator=generator)).double()
    each = [head.log_prob(f[None], v[None]) for f, v in zip(features[1], x[1], strict=True)]
    torch.testing.assert_close(head.log_prob(features, x)[1], torch.cat(each))


def test_a_mixture_starts_spread_over_the_values():
    """Centres even from −1 to 1, each of scale 0.2."""
    head = LogisticMixture(2, Pixels(256))
    with torch.no_grad():
        head.mixture.weight.zero_()
        log_weight, mean, log_scale = head.components(torch.ones(1, 2))
    torch.testing.assert_close(log_scale.exp(), torch.full_like(mean, 0.2))
    torch.testing.assert_close(mean, torch.linspace(-1, 1, mean.shape[1])[None])
    assert log_weight.exp().sum().item() == pytest.approx(1, abs=1e-6)


def test_far_values_are_finite_and_have_gradients():
    head = LogisticMixture(2, Pixels(256))
    with torch.no_grad():
        head.mixture.bias.fill_(-7.0)
    features = torch.zeros(3, 2, requires_grad=True)
    log_p = head.log_prob(features, torch.tensor([-1.0, 0.0, 1.0]))
    log_p.sum().backward()
    assert log_p.isfinite().all()
    assert all(p.grad.isfinite().all() for p in head.parameters())


@pytest.mark.parametrize("kind", [Softmax, LogisticMixture])
def test_draws_have_the_probabilities(kind, generator):
    space = Pixels(4)
    head = kind(2, space)
    features = torch.randn(1, 2, generator=generator).expand(20_000, 2)
    with torch.no_grad():
        drawn = space.to_levels(head.draw(features, generator))
        grid = space.to_network(torch.arange(4))
        p = head.log_prob(features[:4], grid).exp()
    share = torch.bincount(drawn, minlength=4) / len(drawn)
    assert ((share - p).abs() < 4.5 * (p * (1 - p) / len(drawn)).sqrt()).all()


def test_the_head_suits_the_data():
    assert isinstance(head_for(2, Pixels(17)), Softmax)
    assert isinstance(head_for(2, Pixels(256)), LogisticMixture)
    assert isinstance(head_for(2, Continuous()), LogisticMixture)
