"""Sizes of files: what is in them is decoded again, and headers are those of the formats."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks._file_sizes import FORMATS, bits_per_dim, file_size, packed, png_pixels, webp_pixels
from nelbo.report.grids import to_pil


@pytest.fixture
def images(generator) -> torch.Tensor:
    return torch.randint(256, (7, 3, 8, 8), generator=generator, dtype=torch.uint8)


def test_png_has_57_bytes_of_container(images):
    size = file_size(to_pil(images[0]), "PNG")
    # Signature 8, IHDR 25, IEND 12 and 12 around the one IDAT.
    assert size.whole - size.pixels == 57
    raw = b"".join(b"\0" + row.tobytes() for row in images[0].permute(1, 2, 0).numpy())
    assert size.pixels == pytest.approx(len(zlib.compress(raw, 9)), abs=8)


def test_all_idat_chunks_count():
    noise = np.random.default_rng(0).integers(256, size=(300, 300, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    content = buffer.getvalue()
    chunks = content.count(b"IDAT")
    assert chunks > 1
    assert len(content) - png_pixels(content) == 45 + 12 * chunks


def test_webp_has_25_bytes_of_headers(images):
    size = file_size(to_pil(images[0]), "WebP")
    # RIFF 12, chunk 8, VP8L 5; a chunk of odd length is followed by a byte.
    assert size.whole - size.pixels in (25, 26)
    buffer = io.BytesIO()
    to_pil(images[0]).save(buffer, "WEBP", quality=50)
    with pytest.raises(ValueError, match="not a lossless"):
        webp_pixels(buffer.getvalue())


@pytest.mark.parametrize("kind", list(FORMATS))
def test_files_lose_nothing(images, kind):
    buffer = io.BytesIO()
    to_pil(images[0]).save(buffer, **FORMATS[kind])
    assert file_size(to_pil(images[0]), kind).whole == len(buffer.getvalue())
    read = np.asarray(Image.open(buffer).convert("RGB"))
    assert np.array_equal(read, images[0].permute(1, 2, 0).numpy())


@pytest.mark.parametrize("n", [1, 6, 7])
def test_packed_images_are_all_there(images, n):
    whole = np.asarray(packed(images[:n]))
    side = {1: 1, 6: 3, 7: 3}[n]
    for i, image in enumerate(images[:n]):
        row, column = divmod(i, side)
        cell = whole[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        assert np.array_equal(cell, image.permute(1, 2, 0).numpy())
    if n == 7:
        assert whole.shape == (24, 24, 3)
        assert (whole[16:, 8:] == 255).all()


def test_noise_costs_eight_bits():
    noise = torch.from_numpy(np.random.default_rng(0).integers(256, size=(3, 64, 64))).byte()
    for kind in FORMATS:
        bits = bits_per_dim(file_size(to_pil(noise), kind).pixels, noise.numel())
        assert 8.0 <= bits < 8.2
