"""The most likely scale of a decoder, against a search of scipy's on its own probabilities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from nelbo import NelboError, Pixels
from nelbo.chain.distributions import draw
from nelbo.data import ImageData
from nelbo.evidence.autoencoder import fit_scale
from nelbo.evidence.calibration import fit_decoder_scale, most_likely_scale, reconstruction_scale
from tests.latent.test_model import make

LEVELS = 16


def peer_scale(x: np.ndarray, mean: np.ndarray) -> float:
    half = 1 / (LEVELS - 1)
    upper = np.where(x > 1 - half, np.inf, x + half)
    lower = np.where(x < -1 + half, -np.inf, x - half)

    def cost(log_scale: float) -> float:
        scale = np.exp(log_scale)
        probability = norm.cdf((upper - mean) / scale) - norm.cdf((lower - mean) / scale)
        return -np.log(probability.clip(1e-300)).sum()

    return float(np.exp(minimize_scalar(cost, bounds=(-4, 1), method="bounded").x))


@pytest.mark.parametrize("sigma", [0.03, 0.1, 0.5])
def test_it_is_the_most_likely_one(sigma):
    random = np.random.default_rng(0)
    mean = random.uniform(-0.9, 0.9, (40, 3, 4, 4))
    levels = np.rint((np.clip(mean + sigma * random.standard_normal(mean.shape), -1, 1) + 1) * 7.5)
    x = 2 * levels / (LEVELS - 1) - 1
    pairs = [
        (torch.from_numpy(x[i : i + 15]), torch.from_numpy(mean[i : i + 15]))
        for i in range(0, 40, 15)
    ]
    found = most_likely_scale(pairs, Pixels(LEVELS))
    assert found == pytest.approx(peer_scale(x, mean), rel=1e-3)
    assert found == pytest.approx(sigma, rel=0.05)


def test_the_search_ends_at_a_twentieth_of_a_bin_and_at_the_range_of_x():
    """Exact means want no scale at all, and black and white around grey one without end."""
    x = Pixels(LEVELS).to_network(torch.arange(LEVELS).view(1, 1, 4, 4)).double()
    exact = most_likely_scale([(x, x)], Pixels(LEVELS))
    assert exact == pytest.approx(0.05 * 2 / (LEVELS - 1), rel=1e-3)
    black_and_white = torch.tensor([-1.0, 1.0]).double().view(1, 1, 1, 2)
    widest = most_likely_scale(
        [(black_and_white, torch.zeros(1, 1, 1, 2).double())], Pixels(LEVELS)
    )
    assert widest == pytest.approx(2.0, rel=1e-3)


def test_no_other_scale_gives_the_model_a_better_bound(generator):
    model = make()
    images = torch.randint(0, 256, (20, 3, 16, 16), dtype=torch.uint8, generator=generator)
    data = ImageData("made", images, 256, tuple(map(str, range(20))))
    scale = fit_decoder_scale(model, data, generator=torch.Generator().manual_seed(4))
    assert model.decoder_scale is None
    x = model.data.to_network(images)
    with torch.no_grad():
        z = draw(model.encode(x), torch.Generator().manual_seed(4))
    costs = []
    for factor in (0.98, 1.0, 1.02):
        model.decoder_scale = factor * scale
        with torch.no_grad():
            costs.append(-model.p_data(z).log_prob(x).sum().item())
    assert costs[1] < costs[0]
    assert costs[1] < costs[2]


def test_of_many_images_that_are_sorted_all_kinds_count(generator):
    """As of a folder of classes, of which the first alone has a scale of its own."""
    grey = torch.full((200, 3, 8, 8), 127, dtype=torch.uint8)
    noise = torch.randint(0, 256, grey.shape, dtype=torch.uint8, generator=generator)
    data = ImageData("made", torch.cat([grey, noise]), 256, tuple(map(str, range(400))))
    autoencoder = make().autoencoder
    of_all = reconstruction_scale(autoencoder, data)
    of_the_first = reconstruction_scale(autoencoder, data.take(slice(200)))
    assert fit_scale(autoencoder, data, 200) == pytest.approx(of_all, rel=0.05)
    assert of_the_first != pytest.approx(of_all, rel=0.2)


def test_other_images_are_refused(generator):
    images = torch.randint(0, 4, (2, 3, 16, 16), dtype=torch.uint8, generator=generator)
    with pytest.raises(NelboError, match="4 pixel levels, the model has 256"):
        fit_decoder_scale(make(), ImageData("made", images, 4, ("a", "b")))
