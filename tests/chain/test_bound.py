"""The bound's arithmetic: totals, units, means with standard errors, and joining."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from nelbo import Bound, LatentBound, NelboError
from nelbo.chain.bound import BoundMap
from nelbo.chain.evidence import Costs


def make(batch: int, evaluated: int, seed: int = 0, dims: int = 6) -> Bound:
    g = torch.Generator().manual_seed(seed)
    return Bound(
        reconstruction=-torch.rand(batch, generator=g),
        prior_matching=torch.rand(batch, generator=g),
        score_matching=torch.rand(batch, evaluated, generator=g),
        levels=torch.randint(2, 9, (batch, evaluated), generator=g),
        weights=torch.full((batch, evaluated), 2.5),
        dims=dims,
        reconstruction_variance=torch.rand(batch, generator=g),
    )


def test_elbo_is_the_signed_sum_of_its_terms():
    bound = make(4, 3)
    for i in range(4):
        expected = bound.reconstruction[i] - bound.prior_matching[i]
        expected = expected - 2.5 * sum(bound.score_matching[i, k] for k in range(3))
        torch.testing.assert_close(bound.elbo[i], expected)
    torch.testing.assert_close(bound.nelbo, -bound.elbo)
    torch.testing.assert_close(bound.bits_per_dim, -bound.elbo / (6 * math.log(2)))


def test_summary_gives_mean_and_standard_error_of_every_term():
    bound = make(50, 3)
    summary = bound.mean()
    for name, values in {
        "reconstruction": bound.reconstruction,
        "prior_matching": bound.prior_matching,
        "score_matching": 2.5 * bound.score_matching.sum(1),
        "elbo": bound.elbo,
        "nelbo": -bound.elbo,
        "bits_per_dim": bound.bits_per_dim,
    }.items():
        estimate = getattr(summary, name)
        assert estimate.mean == pytest.approx(values.mean().item(), rel=1e-5)
        assert estimate.standard_error == pytest.approx(
            values.std().item() / math.sqrt(50), rel=1e-5
        )
    costs = summary.in_bits
    parts = sum(costs[name].mean for name in ("reconstruction", "prior_matching", "score_matching"))
    assert parts == pytest.approx(costs["total"].mean)
    assert costs["total"] == summary.bits_per_dim


def test_standard_error_of_one_example_is_unknown():
    assert math.isnan(make(1, 3).mean().elbo.standard_error)


@pytest.mark.parametrize("n", [2, 3])
def test_errors_of_a_few_images_by_hand(n):
    """What all images share is no noise; centring costs a degree of freedom, as of few images."""
    terms = [[1.0, 3.0, 2.0, 2.0], [2.0, 2.0, 5.0, 1.0], [0.0, 1.0, 1.0, 4.0]]
    bound = replace(
        make(n, 4),
        score_matching=torch.tensor(terms[:n]),
        levels=torch.tensor([[2, 3, 4, 5]] * n),
        reconstruction_variance=torch.tensor([0.5, 301.0, 1.0][:n]),
        reconstruction_calls=torch.tensor([2, 5, 8][:n]),
    )
    centred = [
        [2.5 * (value - sum(row[k] for row in terms[:n]) / n) for k, value in enumerate(each)]
        for each in terms[:n]
    ]
    pairs = [n / (n - 1) * (c[i] - c[i + 1]) ** 2 for c in centred for i in (0, 2)]
    summary = bound.mean()
    assert summary.score_matching.monte_carlo_error == pytest.approx(math.sqrt(sum(pairs)) / n)
    assert summary.score_matching.largest_draw_share == pytest.approx(max(pairs) / sum(pairs))
    first = [0.5, 301.0, 1.0][:n]
    total = sum(pairs) + sum(first)
    assert summary.elbo.monte_carlo_error == pytest.approx(math.sqrt(total) / n)
    # Five calls are two pairs of draws of x_1, two calls are one.
    single = max(*pairs, first[0] / 1, first[1] / 2)
    assert summary.elbo.largest_draw_share == pytest.approx(single / total)


@pytest.mark.parametrize(("calls", "pairs"), [(1, 1), (2, 1), (3, 1), (4, 2)])
def test_the_share_of_a_draw_where_the_first_level_decides(calls, pairs):
    bound = replace(
        make(1, 2),
        score_matching=torch.ones(1, 2),
        reconstruction_variance=torch.tensor([2.0]),
        reconstruction_calls=torch.tensor([calls]),
    )
    assert bound.mean().elbo.largest_draw_share == pytest.approx(1 / pairs)


def test_a_map_sums_over_channels_and_over_pixels():
    nats = torch.arange(24.0).view(1, 2, 3, 4)
    found = BoundMap(nats, make(1, 2))
    assert found.by_channel.tolist() == [[sum(range(12)), sum(range(12, 24))]]
    assert found.by_pixel.tolist() == [[[2 * (4 * i + j) + 12 for j in range(4)] for i in range(3)]]


def test_cat_joins_and_refuses_what_differs():
    a, b = make(4, 3), make(2, 3, seed=1)
    both = Bound.cat([a, b])
    assert len(both) == 6
    torch.testing.assert_close(both.elbo, torch.cat([a.elbo, b.elbo]))
    with pytest.raises(NelboError, match="same data"):
        Bound.cat([a, make(2, 4)])
    with pytest.raises(NelboError, match="at least one"):
        Bound.cat([])


def test_by_level_averages_what_was_evaluated_there():
    bound = make(40, 5)
    levels, means = bound.by_level()
    for level, mean in zip(levels, means, strict=True):
        here = bound.score_matching[bound.levels == level]
        assert mean.item() == pytest.approx(here.mean().item(), rel=1e-5)


def test_level_means_of_one_example_a_level_and_pooled():
    """Two examples at levels 2 and 3, 3 and 5: by hand, and with the last two levels pooled."""
    bound = replace(
        make(2, 2),
        levels=torch.tensor([[2, 3], [3, 5]]),
        score_matching=torch.tensor([[1.0, 2.0], [4.0, 8.0]]),
    )
    apart = bound.level_means()
    assert apart.levels.tolist() == [2, 3, 5]
    assert apart.mean.tolist() == [1.0, 3.0, 8.0]
    # Of 2 and 4: a standard deviation of √2, over √2.
    assert apart.standard_error[1] == pytest.approx(1.0)
    assert apart.standard_error[[0, 2]].isnan().all()
    pooled = bound.level_means(torch.tensor([0, 1, 1]))
    assert pooled.mean.tolist() == pytest.approx([1.0, 14 / 3])
    # One draw of 2 and two whose sum is 12: residuals ∓(2 − 14/3), over 3 draws.
    assert pooled.standard_error[1] == pytest.approx(2 * (14 / 3 - 2) / 3)


@pytest.mark.parametrize("join", [Bound.cat, Bound.merge, Costs.cat])
def test_only_evidence_of_one_class_joins(join):
    bound = make(2, 3)
    of_latents = LatentBound(
        **vars(bound),
        entropy=torch.zeros(2),
        latent_reconstruction=torch.zeros(2),
        latent_reconstruction_variance=torch.zeros(2),
        joint_variance=torch.zeros(2),
    )
    for given in (None, [bound, "a"], "ab", [bound, of_latents], [of_latents, bound]):
        with pytest.raises(NelboError, match=r"to be joined is|do not join"):
            join(given)


def test_a_bound_is_restored_from_its_tensors_and_notes():
    bound = replace(make(3, 2), reconstruction_calls=torch.tensor([1, 2, 3]))
    again = Bound.restored(dict(bound.tensors()), bound.notes())
    assert again.dims == 6
    for name, value in vars(bound).items():
        assert name == "dims" or torch.equal(getattr(again, name), value)
    with pytest.raises(KeyError):
        Bound.restored({}, bound.notes())


def test_terms_of_images_and_of_their_latents_add_up():
    """By hand: each term as a cost, in nats and in its mean, and their errors."""
    bound = LatentBound(
        **vars(make(2, 2)),
        entropy=torch.tensor([3.0, 5.0]),
        latent_reconstruction=torch.tensor([-1.0, 2.0]),
        latent_reconstruction_variance=torch.tensor([0.5, 1.5]),
        joint_variance=torch.tensor([1.0, 2.0]),
    )
    chain = make(2, 2)
    expected = {
        "reconstruction": -chain.reconstruction,
        "entropy": torch.tensor([-3.0, -5.0]),
        "latent_reconstruction": torch.tensor([1.0, -2.0]),
        "prior_matching": chain.prior_matching,
        "score_matching": 2.5 * chain.score_matching.sum(1),
    }
    assert list(bound.terms) == list(bound.mean().costs)[:-1] == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(bound.terms[name], value)
        assert bound.mean().costs[name].mean == pytest.approx(value.mean().item())
    total = sum(expected.values())
    torch.testing.assert_close(bound.total, total)
    torch.testing.assert_close(bound.elbo, -total)
    summary = bound.mean()
    assert summary.nelbo.mean == pytest.approx(total.mean().item())
    unit = 6 * math.log(2)
    assert summary.floor_in_bits.mean == pytest.approx(-chain.reconstruction.mean().item() / unit)
    # (0.5 + 1.5) / 2² of the mean of two.
    assert summary.costs["latent_reconstruction"].monte_carlo_error == pytest.approx(math.sqrt(0.5))
    assert summary.costs["entropy"].monte_carlo_error == 0
    assert bound.first_variance.tolist() == [1.0, 2.0]
