"""The GAN: its losses by hand, what it learns, and that it has no likelihood."""

from __future__ import annotations

import math

import pytest
import torch

from nelbo import NelboError, Pixels
from nelbo.families import GAN
from tests.families.contract import check_contract


def fresh(**options) -> GAN:
    model = GAN(4, width=8, **options)
    torch.manual_seed(0)
    model.allocate((1, 4, 4), Pixels(17))
    return model


def test_the_losses_are_those_of_probabilities(generator):
    """With σ(D) as the probability of a real image: logarithms of it, as Goodfellow writes them."""
    model, classical = fresh(), fresh(loss="classical")
    real, made = (torch.randn(6, 1, 4, 4, generator=generator) for _ in range(2))
    p_real, p_made = (torch.sigmoid(model.discriminator(x)) for x in (real, made))
    expected = -(p_real.log().mean() + (1 - p_made).log().mean())
    torch.testing.assert_close(model.discriminator_loss(real, made, 0.0), expected)
    torch.testing.assert_close(model.generator_loss(made), -p_made.log().mean())
    torch.testing.assert_close(classical.generator_loss(made), (1 - p_made).log().mean())


def test_the_penalty_is_the_squared_gradient_of_real_images(generator):
    """By differences in float64."""
    model = fresh().double()
    real, made = (torch.randn(2, 1, 4, 4, generator=generator).double() for _ in range(2))
    found = model.discriminator_loss(real, made, 3.0) - model.discriminator_loss(real, made, 0.0)
    expected, h = 0.0, 1e-5
    with torch.no_grad():
        for i in range(2):
            for j in range(16):
                off = torch.zeros(16, dtype=torch.float64)
                off[j] = h
                off = off.view(1, 1, 4, 4)
                up, down = (model.discriminator(real[i : i + 1] + s * off) for s in (1, -1))
                expected += ((up - down) / (2 * h)).item() ** 2
    assert found.item() == pytest.approx(3.0 / 2 * expected / 2, rel=1e-5)


def test_learns_the_brightness_of_images(generator):
    """Bright images with a little noise; the first samples are grey."""
    space = Pixels(17)
    x = space.to_network(torch.randint(11, 14, (128, 1, 2, 2), generator=generator))
    mean = GAN(4, width=8, passes=30).fit(x, data=space).sample(300, generator=generator).mean()
    assert abs(mean - x.mean()) < 0.15


def test_has_no_evidence():
    model = fresh().eval()
    evidence = model.evidence(torch.full((3, 1, 4, 4), -1.0))
    assert evidence.kind == "none"
    assert evidence.terms == {}
    assert evidence.total.isnan().all()


def test_passes_end_a_training_without_a_budget():
    x = torch.full((130, 1, 4, 4), -1.0)
    steps = list(GAN(2, width=8, passes=2).fit_steps(x, data=Pixels(17)))
    assert len(steps) == 6  # three batches a pass
    assert steps[-1].passes == 2
    assert all(math.isfinite(step.nats) for step in steps)


@pytest.mark.parametrize("loss", ["non_saturating", "classical"])
def test_contract(loss, tmp_path):
    space = Pixels(4)
    x = space.to_network(torch.randint(0, 4, (8, 3, 4, 4)))
    check_contract(GAN(3, width=8, loss=loss, passes=2).fit(x, data=space), x, tmp_path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GAN(0), "latents"),
        (lambda: GAN(width=10), "multiple of 8"),
        (lambda: GAN(loss="hinge"), "unknown loss"),
        (lambda: GAN(passes=0), "passes"),
        (lambda: GAN(width=8).fit(torch.zeros(2, 1, 4, 512)), "smaller images"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(NelboError, match=message):
        make()
