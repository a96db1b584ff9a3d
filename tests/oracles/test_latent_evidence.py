"""What the bound of a latent model is good for, against a linear autoencoder in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from nelbo import (
    Bound,
    Condition,
    Continuous,
    Diffusion,
    LatentBound,
    LatentBoundMap,
    NelboError,
    NoiseSchedule,
    Pixels,
)
from nelbo.chain.estimate import DOMINANT_SHARE
from nelbo.chain.estimators import EveryLevel, Importance, Stratified, Uniform, proposal_from
from nelbo.data import ImageData
from nelbo.evidence import classify
from nelbo.evidence.evaluation import evaluate_to_error
from nelbo.evidence.likelihood import log_likelihood
from tests.diffusion.test_flow import signal_at
from tests.oracles.linear_autoencoder import (
    DIRECTION,
    NOISE,
    SCALE,
    STD,
    LinearAutoencoder,
    draw_images,
    evidence,
    latent_model,
)

LEVELS = 8
SCHEDULE = NoiseSchedule.linear(20, 0.01, 0.5)


def exact_terms(q: Normal, schedule: NoiseSchedule) -> tuple[Tensor, Tensor, Tensor]:
    """Latent reconstruction, prior matching (B, 1, H, W) and KL of each level (T+1, B, 1, H, W).

    Of latents z ~ q on the chain of the exact denoiser of N(0, (SCALE STD)²) with `fixed_large`,
    whose prediction is c x_t: the error z − c (a z + s ε) has the second moment
    (1 − c a)² E z² + c² s².
    """
    square, variance = q.mean.square() + q.variance, (SCALE * STD) ** 2
    betas, signal = schedule.betas, schedule.alphas_cumprod

    def error(t: int) -> Tensor:
        a, s = signal[t].sqrt(), (1 - signal[t]).sqrt()
        c = a * variance / (signal[t] * variance + 1 - signal[t])
        return (1 - c * a) ** 2 * square + c**2 * s**2

    reconstruction = -0.5 * (torch.log(2 * math.pi * betas[1]) + error(1) / betas[1])
    last = signal[-1]
    prior = 0.5 * (last * square + (1 - last) - 1 - torch.log(1 - last))
    kl = torch.zeros(len(betas), *square.shape, dtype=torch.float64)
    for t in range(2, len(betas)):
        weight = signal[t - 1].sqrt() * betas[t] / (1 - signal[t])
        ratio = (1 - signal[t - 1]) / (1 - signal[t])
        kl[t] = 0.5 * (weight**2 * error(t) / betas[t] + ratio - 1 - torch.log(ratio))
    return reconstruction, prior, kl


def exact_pixels(x: Tensor, q: Normal, levels: int) -> Tensor:
    """E_q log P(x|z) of each value, by the trapezoid rule over ±9 standard deviations of q."""
    grid = torch.linspace(-9, 9, 2001, dtype=torch.float64)
    z = (q.mean[..., None] + q.stddev[..., None] * grid) / SCALE
    mean, half = DIRECTION.view(3, 1, 1, 1) * z, 1 / (levels - 1)
    infinity = torch.full_like(x, math.inf)
    upper = torch.where(x > 1 - half, infinity, x + half)[..., None]
    lower = torch.where(x < -1 + half, -infinity, x - half)[..., None]
    # Both edges on the side of the mean where the tail is small.
    sign = torch.where(x[..., None] > mean, -1.0, 1.0)
    first, second = sign * (upper - mean) / NOISE, sign * (lower - mean) / NOISE
    tails = [0.5 * torch.erfc(-edge / math.sqrt(2)) for edge in (first, second)]
    log_p = (tails[0] - tails[1]).abs().log()
    density = Normal(0.0, 1.0).log_prob(grid).exp()
    return torch.trapezoid(log_p * density, grid)


def exact_costs(x: Tensor, autoencoder: LinearAutoencoder, schedule: NoiseSchedule) -> Tensor:
    """The negative bound of each pixel with its latent, nats, (B, H, W)."""
    unscaled = autoencoder.encode(x)
    q = Normal(SCALE * unscaled.mean, SCALE * unscaled.stddev)
    reconstruction, prior, kl = exact_terms(q, schedule)
    latent = -q.entropy() - reconstruction + prior + kl.sum(0)
    return latent.sum(1) - exact_pixels(x, q, LEVELS).sum(1)


@pytest.fixture(scope="module")
def images() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    x = draw_images(6, generator)
    return torch.round((x.clamp(-1, 1) + 1) / 2 * (LEVELS - 1)) * 2 / (LEVELS - 1) - 1


def pixel_model(shift: float = 0.2, spread: float = 1.4):
    autoencoder = LinearAutoencoder(shift, spread)
    return latent_model(SCHEDULE, autoencoder, data=Pixels(LEVELS)), autoencoder


PROPOSAL = proposal_from(torch.linspace(2.0, 0.5, 21, dtype=torch.float64).square())


@pytest.mark.parametrize(
    "estimator",
    [
        EveryLevel(),
        Uniform(4),
        Stratified(3),
        Importance(5, PROPOSAL, reconstructions=3),
        Stratified(2, antithetic=True),
    ],
    ids=["all", "uniform", "stratified", "importance", "antithetic"],
)
def test_bound_and_its_error_are_exact_in_expectation(estimator, images, generator):
    """The claimed variance is that of the estimates, draws of the latent and pixels included."""
    model, autoencoder = pixel_model()
    draws = 3000
    exact = -exact_costs(images, autoencoder, SCHEDULE).flatten(1).sum(1)
    x = images.repeat(draws, 1, 1, 1)
    bound = model.elbo(x, levels=estimator, generator=generator)
    elbo = bound.elbo.view(draws, -1)
    error = elbo.std(0) / math.sqrt(draws)
    assert ((elbo.mean(0) - exact).abs() < 4 * error).all()
    claimed = bound.monte_carlo_variance.view(draws, -1).mean(0)
    ratio = claimed / elbo.var(0)
    assert (ratio > 0.9).all()  # never too small; too large where strata differ in their means
    if isinstance(estimator, Uniform):
        assert (ratio < 1.1).all()


def test_terms_and_their_standard_errors_sum_to_the_total(images, generator):
    model, autoencoder = pixel_model()
    summary = model.elbo(images.repeat(500, 1, 1, 1), levels=4, generator=generator).mean()
    costs = summary.costs
    total = costs.pop("total")
    assert sum(cost.mean for cost in costs.values()) == pytest.approx(total.mean)
    unscaled = autoencoder.encode(images)
    q = Normal(SCALE * unscaled.mean, SCALE * unscaled.stddev)
    reconstruction, prior, kl = exact_terms(q, SCHEDULE)
    expected = {
        "reconstruction": -exact_pixels(images, q, LEVELS),
        "entropy": -q.entropy(),
        "latent_reconstruction": -reconstruction,
        "prior_matching": prior,
        "score_matching": kl.sum(0),
    }
    assert costs.keys() == expected.keys()
    for name, cost in costs.items():
        exact = expected[name].flatten(1).sum(1).mean().item()
        assert abs(cost.mean - exact) < 4 * cost.monte_carlo_error + 1e-9, name
    assert costs["entropy"].monte_carlo_error == costs["prior_matching"].monte_carlo_error == 0
    assert total.monte_carlo_error > 0


def test_the_map_is_exact_at_every_pixel(images, generator):
    model, autoencoder = pixel_model()
    draws = 3000
    found = model.bound_map(images.repeat(draws, 1, 1, 1), levels=3, generator=generator)
    assert isinstance(found, LatentBoundMap)
    torch.testing.assert_close(found.by_pixel.flatten(1).sum(1), found.bound.nelbo)
    by_pixel = found.by_pixel.view(draws, *images.shape[:1], 2, 2)
    error = by_pixel.std(0) / math.sqrt(draws)
    exact = exact_costs(images, autoencoder, SCHEDULE)
    assert ((by_pixel.mean(0) - exact).abs() < 4.5 * error).all()


def test_the_map_is_of_all_draws_of_the_bound(images, monkeypatch):
    """Of several draws of z_0 and mirrored ones of the levels, however many share a call."""
    model, _ = pixel_model()
    mirrored = Importance(
        3, torch.arange(1.0, 20.0).double() / 190, reconstructions=3, antithetic=True
    )
    found = []
    for values in (2**16, 1):
        monkeypatch.setattr("nelbo.chain.terms.VALUES_PER_CALL", values)
        seeded = torch.Generator().manual_seed(1)
        found.append(model.bound_map(images, levels=mirrored, generator=seeded))
        nats = found[-1].by_pixel.flatten(1).sum(1)
        torch.testing.assert_close(nats, found[-1].bound.nelbo)
        assert found[-1].bound.calls.unique().tolist() == [2 * 3 + 2 * 3]
    torch.testing.assert_close(found[0].by_pixel, found[1].by_pixel)


def test_what_a_latent_costs_is_spread_over_its_pixels():
    nats, latent = torch.zeros(1, 3, 4, 9), torch.arange(12.0).view(1, 2, 2, 3)
    nats[0, 1, 3, 8] = 5.0
    nothing = torch.zeros(1)
    terms = dict.fromkeys(("reconstruction", "prior_matching", "entropy"), nothing)
    variances = dict.fromkeys(("latent_reconstruction_variance", "joint_variance"), nothing)
    columns = {name: torch.zeros(1, 0) for name in ("score_matching", "weights")}
    bound = LatentBound(
        **terms,
        **variances,
        **columns,
        latent_reconstruction=nothing,
        levels=torch.zeros(1, 0, dtype=torch.int64),
        dims=108,
    )
    by_pixel = LatentBoundMap(nats, latent, bound).by_pixel
    assert by_pixel.shape == (1, 4, 9)
    assert by_pixel.sum().item() == pytest.approx(latent.sum().item() + 5)
    assert (by_pixel[0, :2, :3] == (0 + 6) / 6).all()
    assert by_pixel[0, 3, 8].item() == pytest.approx((5 + 11) / 6 + 5)


@pytest.mark.parametrize("levels", [[1, 20], [1, 4, 9, 15, 20], [3, 11]])
def test_respaced_chains_have_bounds_of_their_own(levels, images, generator):
    model, autoencoder = pixel_model()
    shorter = model.respace(levels)
    assert shorter.num_levels == len(levels) + 1
    exact = -exact_costs(images, autoencoder, SCHEDULE.respace(levels)).flatten(1).sum(1)
    elbo = shorter.elbo(images.repeat(2000, 1, 1, 1), generator=generator).elbo.view(2000, -1)
    error = elbo.std(0) / math.sqrt(2000)
    assert ((elbo.mean(0) - exact).abs() < 4 * error).all()
    assert model.num_levels == 21


def test_rounds_merge_to_the_mean_of_their_draws(images, generator):
    model, _ = pixel_model()
    first = model.elbo(images, levels=Stratified(4, reconstructions=2), generator=generator)
    more = model.elbo(images, levels=Stratified(12, reconstructions=6), generator=generator)
    none = model.elbo(images, levels=Stratified(16, reconstructions=0), generator=generator)
    bound = Bound.merge([first, more, none])
    assert isinstance(bound, LatentBound)
    for name in ("reconstruction", "latent_reconstruction"):
        mean = (2 * getattr(first, name) + 6 * getattr(more, name)) / 8
        torch.testing.assert_close(getattr(bound, name), mean)
    variance = (4 * first.joint_variance + 36 * more.joint_variance) / 64
    torch.testing.assert_close(bound.joint_variance, variance)
    totals = [b.total_score_matching for b in (first, more, none)]
    mean = (4 * totals[0] + 12 * totals[1] + 16 * totals[2]) / 32
    torch.testing.assert_close(bound.total_score_matching, mean)
    torch.testing.assert_close(bound.entropy, first.entropy)


def test_evaluating_to_an_error_reaches_it_and_covers_the_truth(images):
    """A nominal 95% interval around the mean of these images, 40 times."""
    model, autoencoder = pixel_model()
    model.anchor = torch.nn.Parameter(torch.zeros(1))  # tells where the model is
    model.data = _Wide(LEVELS)
    pixels = ((images + 1) / 2 * (LEVELS - 1)).round().byte()
    data = ImageData("made", pixels, LEVELS, tuple("abcdef"))
    dims = images[0].numel() * math.log(2)
    exact = exact_costs(images, autoencoder, SCHEDULE).flatten(1).sum(1).mean().item() / dims
    square = torch.cat([torch.zeros(2), torch.linspace(2.0, 0.5, 19)]).double().square()
    inside, generator = 0, torch.Generator().manual_seed(1)
    for _ in range(40):
        *_, last = evaluate_to_error(
            model, data, 0.06, score_matching_square=square, generator=generator
        )
        bits = last.bound.mean().bits_per_dim
        # Where a single draw rules the error no more is added: docs/decisions/0008.
        assert bits.monte_carlo_error <= 0.06 or bits.largest_draw_share > DOMINANT_SHARE
        inside += abs(bits.mean - exact) < 1.96 * bits.monte_carlo_error
    assert 0.87 < inside / 40 < 1
    # Calls of the exploration, which the bound is not of, count too.
    assert last.calls == last.planned > int(last.bound.calls.sum())


class _Wide(Pixels):
    """Pixels in float64, for the closed forms."""

    def to_network(self, images):
        return super().to_network(images).double()


def test_several_paths_are_between_the_bound_and_the_evidence(generator):
    """The autoencoder's latent is the first importance variable: its divergence shrinks too."""
    schedule = NoiseSchedule.linear(60, 0.002, 0.3)
    model = latent_model(schedule, LinearAutoencoder(shift=0.3, spread=1.5))
    x = draw_images(400, generator)
    gaps = {}
    for paths in (1, 4, 32):
        bound = model.importance_weighted_elbo(x, paths=paths, generator=generator)
        gap = evidence(x) - bound
        gaps[paths] = (gap.mean().item(), (gap.std() / 20).item())
    terms = evidence(x) - model.elbo(x, generator=generator).elbo
    assert abs(gaps[1][0] - terms.mean().item()) < 4 * gaps[1][1] + 0.05
    assert gaps[1][0] > gaps[4][0] + gaps[4][1] > gaps[32][0] + gaps[32][1] > 0
    assert gaps[32][0] < 0.5 * gaps[1][0]


def flow_model(autoencoder: LinearAutoencoder):
    """A linear autoencoder with the exact flow of its scaled latents, at whole times or not."""
    schedule = NoiseSchedule.geometric(200, first_noise=1e-3)

    def network(z_t: Tensor, time: Tensor, condition=None) -> Tensor:
        signal = signal_at(schedule, time).to(z_t)
        return (1 - signal).sqrt() * z_t / (signal * (SCALE * STD) ** 2 + 1 - signal)

    model = latent_model(schedule, autoencoder)
    model.prior = Diffusion(network, schedule, data=Continuous(), shape=(1, 2, 2))
    return model


def test_with_the_true_posterior_the_flow_gives_the_evidence_of_every_image(generator):
    """log p(x|z) + log p(z) − log q(z|x) = log p(x) whatever z: no noise is left."""
    model, x = flow_model(LinearAutoencoder()), draw_images(50, generator)
    tight = {"trace": "exact", "rtol": 1e-6, "atol": 1e-6}
    found = log_likelihood(model, x, generator=generator, **tight)
    torch.testing.assert_close(found.log_likelihood, evidence(x), rtol=0, atol=2e-3)
    assert found.dims == 12
    torch.testing.assert_close(
        found.bits_per_dim, -evidence(x) / (12 * math.log(2)), rtol=0, atol=1e-3
    )


def test_the_flow_leaves_the_gap_of_the_autoencoder_and_draws_shrink_it(generator):
    autoencoder = LinearAutoencoder(shift=0.2, spread=1.3)
    model, x = flow_model(autoencoder), draw_images(200, generator)
    options = {"trace": "exact", "rtol": 1e-4, "atol": 1e-4, "generator": generator}
    gaps = []
    for draws in (1, 8):
        gap = evidence(x) - log_likelihood(model, x, draws=draws, **options).log_likelihood
        gaps.append(gap)
    expected = 4 * autoencoder.divergence()
    assert abs(gaps[0].mean().item() - expected) < 4 * (gaps[0].std() / 200**0.5).item()
    assert 0 < gaps[1].mean() < 0.6 * expected
    with pytest.raises(NelboError, match="is no lower bound"):
        log_likelihood(model, x, draws=2)
    model.decoder_scale = None
    with pytest.raises(NelboError, match=r"set model\.decoder_scale"):
        log_likelihood(model, x)


def test_classes_of_images_are_told_by_the_latents_they_make_likely(generator):
    """Class 0 has narrow latents and class 1 wide ones: argmax_c E_q log p(z|c) in closed form."""
    stds, schedule = torch.tensor([0.15, 0.6], dtype=torch.float64), NoiseSchedule.cosine(100)

    def network(z_t: Tensor, time: Tensor, condition: Condition) -> Tensor:
        signal = schedule.alphas_cumprod[time + 1].view(-1, 1, 1, 1)
        std = stds[condition.label].view(-1, 1, 1, 1)
        return (1 - signal).sqrt() * z_t / (signal * std**2 + 1 - signal)

    model = latent_model(schedule, LinearAutoencoder(), shape=(1, 4, 4))
    model.prior = Diffusion(
        network, schedule, variance="fixed_large", data=Continuous(), shape=(1, 4, 4)
    )
    model.shape = (3, 4, 4)
    x = draw_images(60, generator, shape=(4, 4))
    x[::2] = 0.4 * x[::2]
    q = model.encode(x)
    square = (q.mean.square() + q.variance).flatten(1).sum(1, keepdim=True)
    log_p = -16 * stds.log() - square / (2 * stds.square())
    clear = (log_p[:, 0] - log_p[:, 1]).abs() > 3
    expected = log_p.argmax(1)
    assert 15 < expected[clear].sum() < clear.sum() - 15
    classes = Condition(label=torch.tensor([0, 1]))
    (found,) = classify(model, x, classes, draws=64, generator=generator)
    assert (found.label == expected)[clear].double().mean() > 0.95


# ᾱ_T = 0.3: what is left of the latents in z_T counts, and with it how wide the encoder is.
SIGNAL_LEFT = NoiseSchedule.from_alphas_cumprod(torch.linspace(0.98, 0.3, 12, dtype=torch.float64))


@pytest.mark.parametrize("spread", [1.0, 6.0])
@pytest.mark.parametrize("levels", [None, 3])
def test_prior_matching_is_of_the_latents_and_not_of_their_means(spread, levels, images, generator):
    autoencoder = LinearAutoencoder(0.4, spread)
    model = latent_model(SIGNAL_LEFT, autoencoder, data=Pixels(LEVELS))
    q = model.encode(images)
    _, prior, _ = exact_terms(q, SIGNAL_LEFT)
    found = model.elbo(images, levels=levels, generator=generator)
    torch.testing.assert_close(found.prior_matching, prior.flatten(1).sum(1))
    of_the_mean = 0.5 * (0.3 * q.mean.square() - 0.3 - math.log(0.7)).flatten(1).sum(1)
    if spread > 1:
        assert ((prior.flatten(1).sum(1) - of_the_mean) > 0.2).all()


@pytest.mark.parametrize("reconstructions", [2, 5])
def test_the_joint_variance_has_the_covariance_of_both_reconstructions(reconstructions):
    """Much noise at level 1 and a shifted encoder: both reconstructions follow z_0."""
    generator = torch.Generator().manual_seed(0)
    schedule = NoiseSchedule.from_alphas_cumprod(torch.linspace(0.6, 0.05, 8, dtype=torch.float64))
    model = latent_model(schedule, LinearAutoencoder(0.2, 1.5))
    # An image of latents far out, whose density falls steeply with z_0.
    one = (4 * DIRECTION.view(1, 3, 1, 1)).expand(6_000, -1, 2, 2)
    found = model.elbo(
        one, levels=Stratified(2, reconstructions=reconstructions), generator=generator
    )
    pixels, latents = found.reconstruction, found.latent_reconstruction
    covariance = torch.cov(torch.stack([pixels, latents]))
    total = (pixels + latents).var().item()
    # Leaving the covariance out is an error of more than a tenth, which the test would see.
    assert abs(2 * covariance[0, 1].item()) > 0.15 * total
    for variance, expected in (
        (found.joint_variance, total),
        (found.reconstruction_variance, covariance[0, 0].item()),
        (found.latent_reconstruction_variance, covariance[1, 1].item()),
    ):
        deviation = variance.std().item() / math.sqrt(len(variance))
        assert abs(variance.mean().item() - expected) < 4 * (deviation + 0.02 * expected)
