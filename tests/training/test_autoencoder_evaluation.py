"""The figures of an autoencoder have errors over images."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import torch

from nelbo.data import ImageData
from nelbo.evidence.autoencoder import evaluate_autoencoder
from nelbo.networks import AutoencoderKL


def pictures(n: int) -> ImageData:
    generator = torch.Generator().manual_seed(0)
    shade = torch.randint(0, 256, (n, 1, 1, 1), generator=generator)
    noise = torch.randint(-40, 40, (n, 3, 8, 8), generator=generator)
    images = (shade + noise).clamp(0, 255).to(torch.uint8)
    return ImageData("made", images, 256, tuple(f"{i}.png" for i in range(n)))


@pytest.fixture(scope="module")
def autoencoder() -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    ).eval()


def test_every_figure_has_the_error_that_many_samples_of_images_show(autoencoder):
    """Its errors are those by which the figures of parts of the data differ."""
    data, size = pictures(400), 25
    whole = evaluate_autoencoder(autoencoder, data, 0.3)
    parts = [
        evaluate_autoencoder(autoencoder, data.take(slice(i, i + size)), 0.3)
        for i in range(0, len(data), size)
    ]
    for name, error in whole.standard_errors.items():
        found = torch.tensor([getattr(part, name) for part in parts]).double()
        expected = found.std().item() * (size / len(data)) ** 0.5
        # 16 parts tell a deviation to about a fifth.
        assert error == pytest.approx(expected, rel=0.6), name
    assert whole.warnings == ()


def test_few_images_are_warned_of_and_one_has_no_error(autoencoder):
    few = evaluate_autoencoder(autoencoder, pictures(5), 0.3)
    assert any("5 images are few" in line for line in few.warnings)
    one = evaluate_autoencoder(autoencoder, pictures(1), 0.3)
    assert set(one.standard_errors.values()) == {None}
    json.dumps(asdict(one), allow_nan=False)
