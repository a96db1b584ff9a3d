"""Any prefix decodes to a coarser picture, at about the rate of the KLs that it codes."""

from __future__ import annotations

import math

import pytest
import torch

from nelbo import Diffusion, NelboError, NoiseSchedule, Pixels, coding
from nelbo.coding.progressive import BITS, Bits, Exhausted
from tests.oracles.gaussian import exact_epsilon, expected_terms

STD, SIDE, LEVELS = 0.4, 10, 8


@pytest.fixture(scope="module")
def model():
    schedule = NoiseSchedule.cosine(LEVELS)
    return Diffusion(
        exact_epsilon(schedule, STD),
        schedule,
        variance="fixed_large",
        data=Pixels(256),
        shape=(1, SIDE, SIDE),
    )


@pytest.fixture(scope="module")
def image(model):
    noise = torch.randn(1, SIDE, SIDE, generator=torch.Generator().manual_seed(5))
    return model.data.to_levels(STD * noise).to(torch.uint8)


def error(model, image, content) -> float:
    back = coding.decompress_progressive(model, content)
    assert back.shape == image.shape
    return float((back.double() - image).square().mean())


def test_a_prefix_is_a_coarser_picture_at_the_rate_of_its_kls(model, image):
    content = coding.compress_progressive(model, image)
    # Closed form, of the whole chain; this picture's own differ by its share of the variance.
    terms = expected_terms(STD, model.schedule.betas[1:], "fixed_large")[2]
    expected = float(terms.sum()) * SIDE**2 / math.log(2)
    bits, groups = 8 * (len(content) - 9), 8 * (len(content) - 9) / BITS
    assert 0.8 * expected < bits < 1.15 * expected + 0.1 * groups + 5 * LEVELS
    errors = [error(model, image, content[:n]) for n in (9, 9 + len(content) // 2, len(content))]
    assert errors[0] > 1.3 * errors[1] > 1.6 * errors[2]
    # The flow from x_1 gives a draw of p(x_0|x_1), twice its variance from the picture.
    variance = 1 / (1 / STD**2 + float(model.schedule.snr[1]))
    assert errors[2] < 3 * variance * 127.5**2 + 1


def test_a_number_of_bits(model, image):
    content = coding.compress_progressive(model, image, bits=80)
    assert len(content) <= 9 + 10
    assert content[:-1] == coding.compress_progressive(model, image, bits=400)[: len(content) - 1]


def test_numbers_of_bits_come_back():
    written = Bits(most=40)
    for value in (0, 5, 1, 30):
        written.natural(value)
    written.number(7, 99)
    with pytest.raises(Exhausted):
        written.number(16, 1)
    read = Bits(written.to_bytes())
    assert [read.natural() for _ in range(4)] == [0, 5, 1, 30]
    assert read.number(7) == 99
    with pytest.raises(Exhausted):
        read.natural()


def test_other_bytes_and_other_weights(model, image):
    with pytest.raises(NelboError, match="no progressive picture"):
        coding.decompress_progressive(model, b"\x89nb")
    content = coding.compress_progressive(model, image, bits=0)
    other = Diffusion(
        torch.nn.Conv2d(1, 1, 1), model.schedule, data=Pixels(256), shape=(1, SIDE, SIDE)
    )
    with pytest.raises(NelboError, match="other weights"):
        coding.decompress_progressive(other, content)
