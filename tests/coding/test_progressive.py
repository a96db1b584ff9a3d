"""Any prefix decodes to a coarser picture, at about the rate of the KLs that it codes."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

import nelbo
from nelbo import Diffusion, NelboError, NoiseSchedule, Pixels, coding
from nelbo.coding.bits import Bits, Exhausted
from nelbo.coding.progressive import chain_of, expected_groups, level_of
from nelbo.coding.rate_distortion import rate_distortion
from nelbo.coding.reverse_channel import BITS
from tests.oracles.gaussian import exact_epsilon, expected_terms

STD, SIDE, LEVELS = 0.4, 10, 8


def gaussian(side: int) -> Diffusion:
    schedule = NoiseSchedule.cosine(LEVELS)
    return Diffusion(
        exact_epsilon(schedule, STD),
        schedule,
        variance="fixed_large",
        data=Pixels(256),
        shape=(1, side, side),
    )


@pytest.fixture(scope="module")
def model():
    return gaussian(SIDE)


@pytest.fixture(scope="module")
def image(model):
    noise = torch.randn(1, SIDE, SIDE, generator=torch.Generator().manual_seed(5))
    return model.data.to_levels(STD * noise).to(torch.uint8)


def error(model, image, content) -> float:
    back = coding.decompress_progressive(model, content)
    assert back.shape == image.shape
    return float((back.double() - image).square().mean())


def test_one_step_leads_from_noise_to_what_is_expected_of_it(model, image):
    content = coding.compress_progressive(model, image, steps=1)
    assert error(model, image, content) < 2 * (127.5 * STD) ** 2  # of noise as it is, 7 times that


def test_a_prefix_is_a_coarser_picture_at_the_rate_of_its_kls(model, image):
    content = coding.compress_progressive(model, image)
    # Closed form, of the whole chain; this picture's own differ by its share of the variance.
    terms = expected_terms(STD, model.schedule.betas[1:], "fixed_large")[2]
    expected = float(terms.sum()) * SIDE**2 / math.log(2)
    bits, groups = 8 * (len(content) - 9), 8 * (len(content) - 9) / BITS
    assert 0.8 * expected < bits < 1.15 * expected + 0.1 * groups + BITS
    errors = [error(model, image, content[:n]) for n in (9, 9 + len(content) // 2, len(content))]
    assert errors[0] > 1.3 * errors[1] > 1.6 * errors[2]
    # The flow from x_1 gives a draw of p(x_0|x_1), twice its variance from the picture.
    variance = 1 / (1 / STD**2 + float(model.schedule.snr[1]))
    assert errors[2] < 3 * variance * 127.5**2 + 1


def test_the_rate_is_that_of_the_kls():
    """Within 15% and 0.1 bits a group, where levels have a few groups; as exact draws are."""
    model = gaussian(16)
    noise = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(6))
    images = model.data.to_levels(STD * noise).to(torch.uint8)
    found = rate_distortion(model, images, generator=torch.Generator().manual_seed(0))
    terms = expected_terms(STD, model.schedule.betas[1:], "fixed_large")[2]
    theory = [8 * rate.mean for rate in found.theory.bytes]
    assert theory[-1] == pytest.approx(float(terms.sum()) * 16**2 / math.log(2), rel=0.15)
    measured = 8 * found.measured.bytes[-1].mean
    assert 0.9 * theory[-1] < measured < 1.15 * theory[-1] + 0.1 * measured / BITS
    for written, coded in zip(found.measured.bytes, found.coded, strict=True):
        bits = 8 * written.mean
        if bits > 5 * BITS:  # how many groups there are is sent, too, which counts where few are
            assert bits < 1.15 * 8 * coded.mean + 0.1 * bits / BITS
    assert found.measured.psnr[-1].mean > found.measured.psnr[0].mean + 5
    for ours, exact in zip(found.measured.psnr[2:], found.theory.psnr[2:], strict=True):
        assert ours.mean > exact.mean - 2


def test_a_quality_is_a_level_to_end_at(model, image):
    least, part, whole = (
        coding.compress_progressive(model, image, quality=q) for q in (50, 80, 100)
    )
    assert len(least) < len(part) < len(whole)
    assert part[:-1] == whole[: len(part) - 1]
    with pytest.raises(NelboError, match=r"quality must lie in 0\.\.100, got 101"):
        coding.compress_progressive(model, image, quality=101)


def test_a_quality_does_not_hang_on_the_levels_that_are_kept(model):
    """It is a signal-to-noise ratio: log SNR at its share of the way from x_T to x_1."""
    log_snr = model.schedule.snr[1:].clamp(1e-4, 1e6).log()
    share = 100 * (log_snr - log_snr[-1]) / (log_snr[0] - log_snr[-1])
    for kept in ([1, 2, 3, 4, 5, 6, 7, 8], [2, 4, 6]):
        chain = model.respace(kept)
        for quality in range(101):
            enough = [i for i, t in enumerate(kept, 1) if share[t - 1] >= quality - 1e-6]
            assert level_of(quality, chain, model) == max(enough, default=1)


@pytest.mark.parametrize("side", [3, 16, 18])
def test_levels_that_take_less_than_a_group_are_left_out_unless_they_are_asked_for(side):
    """The first and the last stay, and between the others lies a group or more, hardly more."""
    whole = gaussian(side)
    source = torch.Generator().manual_seed(7)
    x_0 = STD * torch.randn(16, 1, side, side, generator=source)
    x = whole.data.to_network(whole.data.to_levels(x_0))
    profile = nelbo.level_profile(whole, x, generator=source)
    fitted = whole.with_profile(profile)

    def levels(chain) -> list[int]:
        apart = whole.schedule.snr[1:, None] - chain.schedule.snr[1:]
        return (apart.abs().argmin(0) + 1).tolist()

    every = chain_of(fitted, LEVELS)
    assert levels(every) == list(range(1, LEVELS + 1))
    kept, groups = levels(chain_of(fitted, None)), expected_groups(every)
    assert (kept[0], kept[-1]) == (1, LEVELS)
    for low, high in pairwise(kept):
        taken = groups[low:high]  # those from x_high down to x_low
        assert sum(taken) >= 1 or low == 1
        assert sum(taken[1:]) < 1
    for K in range(1, LEVELS + 1):
        assert chain_of(fitted, K).num_levels == K


def test_a_number_of_bits(model, image):
    content = coding.compress_progressive(model, image, bits=80)
    assert len(content) <= 9 + 10
    assert content[:-1] == coding.compress_progressive(model, image, bits=400)[: len(content) - 1]


@pytest.mark.parametrize("bits", [-1, math.nan])
def test_no_number_of_bits(model, image, bits):
    with pytest.raises(NelboError, match=f"bits must be at least 0, got {bits}"):
        coding.compress_progressive(model, image, bits=bits)


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


def test_numbers_of_either_sign_come_back():
    written, values = Bits(), [0, 3, -2, 1, -40, 0]
    for value in values:
        written.integer(value)
    read = Bits(written.to_bytes())
    assert [read.integer() for _ in values] == values


def test_other_bytes_and_other_weights(model, image):
    with pytest.raises(NelboError, match="no progressive picture"):
        coding.decompress_progressive(model, b"\x89nb")
    other = Diffusion(
        torch.nn.Conv2d(1, 1, 1), model.schedule, data=Pixels(256), shape=(1, SIDE, SIDE)
    )
    for steps in (None, LEVELS):
        content = coding.compress_progressive(model, image, bits=0, steps=steps)
        for each in (other, gaussian(SIDE).respace([1, 3, 8])):
            with pytest.raises(NelboError, match="other weights"):
                coding.decompress_progressive(each, content)


def test_a_model_that_was_fitted_meanwhile_walks_other_levels(model, image):
    """Its weights are the same, and what it would decode is not."""
    x_0 = STD * torch.randn(8, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(7))
    fitted = model.with_profile(
        nelbo.level_profile(model, model.data.to_network(model.data.to_levels(x_0)))
    )
    contents = [coding.compress_progressive(each, image, bits=80) for each in (model, fitted)]
    for content, each in zip(contents, (fitted, model), strict=True):
        with pytest.raises(NelboError, match="another level profile"):
            coding.decompress_progressive(each, content)
