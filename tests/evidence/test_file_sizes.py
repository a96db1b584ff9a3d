"""Sizes of files: what is in them is decoded again, and headers are those of the formats."""

from __future__ import annotations

import io
import json
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

import nelbo.evidence.file_sizes as module
from nelbo.base.errors import NelboError
from nelbo.data import load_data
from nelbo.evidence.file_sizes import (
    JXL,
    PNG,
    WEBP,
    bits_per_dim,
    file_size,
    file_sizes,
    formats_here,
    packed,
    picture,
    png_pixels,
    raw_size,
    sizes_of_each,
    total_sizes,
    webp_pixels,
)

HERE = formats_here()


@pytest.fixture
def images(generator) -> torch.Tensor:
    return torch.randint(256, (7, 3, 8, 8), generator=generator, dtype=torch.uint8)


def test_png_has_57_bytes_of_container(images):
    size = file_size(picture(images[0]), PNG)
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


@pytest.mark.parametrize("count", [1, 16])
def test_webp_is_the_smaller_of_its_two_searches(count):
    """Of a drawing the slow one wins; of others, and of pages, it need not."""
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    ring = ((x - 15).square() + (y - 13).square()).sqrt()
    grey = (255 * torch.sigmoid(8 - ring) - 60 * torch.sigmoid(4 - ring)).clamp(0, 255)
    drawing = torch.stack([grey, 0.7 * grey, 255 - grey]).to(torch.uint8)
    images = torch.stack([drawing.roll((k, 2 * k), (1, 2)) for k in range(count)])
    sizes = file_sizes(images, 256).formats[WEBP]
    found = 8 * sizes_of_each(images, 256)[0].sum() / images.numel()

    def least(some: Image.Image) -> int:
        files = [io.BytesIO() for _ in range(2)]
        for file, method in zip(files, (4, 6), strict=True):
            some.save(file, "WEBP", lossless=True, quality=100, method=method)
        return min(len(file.getvalue()) for file in files)

    assert float(found) == pytest.approx(
        8 * sum(least(picture(image)) for image in images) / images.numel()
    )
    if count > 1:
        assert sizes.together == pytest.approx(8 * least(packed(images, 256)) / images.numel())


def test_webp_has_25_bytes_of_headers(images):
    size = file_size(picture(images[0]), WEBP)
    # RIFF 12, chunk 8, VP8L 5; a chunk of odd length is followed by a byte.
    assert size.whole - size.pixels in (25, 26)
    buffer = io.BytesIO()
    picture(images[0]).save(buffer, "WEBP", quality=50)
    with pytest.raises(ValueError, match="not a lossless"):
        webp_pixels(buffer.getvalue())


def test_a_palette_counts_where_it_is_smaller(generator):
    """Few colours in no order: a palette of four and two bits a pixel."""
    colours = torch.tensor([[0, 9, 200], [255, 3, 7], [40, 40, 41], [90, 180, 13]]).byte()
    index = torch.randint(4, (16, 16), generator=generator)
    size = file_size(picture(colours[index].permute(2, 0, 1)), PNG)
    rows = index.numpy().astype(np.uint8)
    bits = np.unpackbits(rows[..., None], axis=2)[..., -2:].reshape(16, -1)
    raw = b"".join(b"\0" + np.packbits(row).tobytes() for row in bits)
    # IDAT, and 4 colours of 3 bytes; another chunk has 12 bytes around it.
    assert size.pixels == pytest.approx(len(zlib.compress(raw, 9)) + 12, abs=4)
    assert size.whole - size.pixels == 57 + 12
    # Noise of 256 values gains nothing by one.
    noise = picture(torch.randint(256, (1, 32, 32), generator=generator).byte())
    assert file_size(noise, PNG).whole - file_size(noise, PNG).pixels == 57


@pytest.mark.parametrize("kind", HERE)
@pytest.mark.parametrize("levels", [256, 17, 2])
@pytest.mark.parametrize("channels", [1, 3])
def test_files_lose_nothing(monkeypatch, generator, kind, levels, channels):
    image = torch.randint(levels, (channels, 9, 7), generator=generator).byte()
    written = []

    def keep(self, buffer, **options):
        save(self, buffer, **options)
        written.append(buffer)

    save = Image.Image.save
    monkeypatch.setattr(Image.Image, "save", keep)
    size = file_size(picture(image, levels), kind)
    assert size.whole in {len(buffer.getvalue()) for buffer in written}
    for buffer in written:
        read = np.asarray(Image.open(buffer).convert("RGB"))
        assert np.array_equal(read, image.expand(3, -1, -1).permute(1, 2, 0).numpy())


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


def test_noise_costs_what_it_holds(generator):
    noise = torch.randint(256, (3, 3, 64, 64), generator=generator).byte()
    found = file_sizes(noise, 256)
    assert found.raw == 8
    for kind, bits in found.formats.items():
        assert 8.0 <= bits.whole.mean < (9.0 if kind == JXL else 8.2)
    # Of two values a bit each, which a file may not take as a byte.
    coins = torch.randint(2, (3, 1, 64, 64), generator=generator).byte()
    found = file_sizes(coins, 2)
    assert found.raw == 1
    for kind, bits in found.formats.items():
        bits_ = bits.whole if bits.pixels is None else bits.pixels
        assert 1.0 <= bits_.mean < (1.5 if kind == JXL else 1.2)


def test_few_levels_are_not_stretched():
    """Of digits with 17 levels, files of the levels are smaller than those of 0..255."""
    images = load_data("digits", "test").images[:40]
    found = file_sizes(images, 17)
    assert found.raw == pytest.approx(4.0875, abs=1e-4)
    stretched = (images.double() * 255 / 16).round().byte()
    for kind, bits in file_sizes(stretched, 256).formats.items():
        ours = found.formats[kind]
        assert (ours.pixels or ours.whole).mean <= (bits.pixels or bits.whole).mean


def test_means_are_over_pictures_and_headers_are_stated(images):
    found = file_sizes(images, 256)
    whole, pixels = sizes_of_each(images, 256, WEBP)
    assert found.formats[WEBP].whole.mean == pytest.approx(float(whole.mean()) / 24)
    assert found.formats[WEBP].pixels.mean == pytest.approx(float(pixels.mean()) / 24)
    error = np.std(whole.numpy(), ddof=1) / np.sqrt(7) / 24
    assert found.formats[WEBP].whole.standard_error == pytest.approx(error)
    assert float(whole[3]) == file_size(picture(images[3]), WEBP).whole
    assert found.shown[WEBP].mean < found.formats[WEBP].whole.mean
    assert "without headers" in found.line
    assert (found.images, found.of) == (7, 7)
    large = file_sizes(images.repeat(1, 1, 10, 10), 256)
    assert large.shown[WEBP] == large.formats[WEBP].whole
    assert "without headers" not in large.line


def test_many_pictures_are_drawn_from(generator):
    many = torch.randint(256, (50, 3, 4, 4), generator=generator).byte()
    found = file_sizes(many, 256, most=20)
    assert (found.images, found.of) == (20, 50)
    assert "of 20 of them" in found.line
    assert file_sizes(many, 256, most=20) is found
    assert file_sizes(many.flip(0), 256, most=20) is not found


def test_other_pictures_have_no_files(generator, without_shape_checks):
    assert file_sizes(torch.zeros(3, 2, 4, 4, dtype=torch.uint8), 256) is None
    with pytest.raises(NelboError, match="channels, got 2"):
        picture(torch.zeros(2, 4, 4, dtype=torch.uint8))
    with pytest.raises(NelboError, match=r"level 9, expected 0..3"):
        picture(torch.full((1, 4, 4), 9).byte(), 4)


def test_json_names_every_format(images):
    content = file_sizes(images, 256).to_json()
    assert json.loads(json.dumps(content, allow_nan=False))["raw"] == 8
    assert list(content["formats"]) == HERE
    assert content["formats"][PNG]["without_headers"] < content["formats"][PNG]["bits_per_dim"]
    if JXL in HERE:
        assert content["formats"][JXL]["without_headers"] is None


def test_bits_per_dim():
    assert bits_per_dim(192, 192) == 8


@pytest.mark.parametrize(
    ("dims", "levels", "size"), [(8, 2, 1), (9, 2, 2), (3, 256, 3), (2, 17, 2)]
)
def test_raw_size_is_in_whole_bytes(dims, levels, size):
    assert raw_size(dims, levels) == size


def test_chunks_before_the_pixels_of_webp_are_passed():
    """RFC 9649, 2.3: a chunk of odd length is followed by a byte."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)

    file = io.BytesIO()
    Image.new("RGB", (5, 5), (1, 2, 3)).save(file, "WEBP", lossless=True)
    pixels = file.getvalue()[12:]
    for before in (chunk(b"ICCP", b"odd"), chunk(b"ICCP", b"even"), chunk(b"EXIF", b"")):
        assert webp_pixels(b"RIFF....WEBP" + before + pixels) == webp_pixels(file.getvalue())


def test_total_sizes_are_the_smaller_of_each_and_all_in_one(images):
    """Noise takes headers but once in one file; pictures of two sizes cannot be one."""
    each = {kind: sum(file_size(picture(x), kind).whole for x in images) for kind in HERE}
    found = total_sizes(list(images), 256)
    for kind in HERE:
        together = file_size(packed(images), kind, searched=2**17).whole
        assert found[kind] == min(each[kind], together) < each[kind]
    two = [images[0], images[1, :, :, :5]]
    apart = total_sizes(two, 256)
    assert apart[PNG] == sum(file_size(picture(x), PNG).whole for x in two)
    assert total_sizes([images[0]], 256)[PNG] == file_size(picture(images[0]), PNG).whole
    assert not set(total_sizes([torch.zeros(2, 4, 4).byte()], 256)) & set(HERE)


def test_large_pictures_are_fewer(monkeypatch, generator):
    """About 1,000,000 values, but 32 pictures at least."""
    monkeypatch.setattr("nelbo.evidence.file_sizes.MOST_VALUES", 12 * 40)
    many = torch.randint(256, (50, 3, 2, 2), generator=generator).byte()
    assert file_sizes(many, 256).images == 40
    assert file_sizes(many.repeat(1, 1, 2, 1), 256).images == 32
    assert file_sizes(many[:20], 256).images == 20


@pytest.mark.parametrize(("height", "width", "side"), [(4, 16, (16, 16)), (16, 4, (16, 16))])
def test_a_page_is_as_square_as_can_be(height, width, side, generator):
    images = torch.randint(256, (4, 1, height, width), generator=generator).byte()
    assert packed(images).size == side


def test_a_time_limits_how_many_pictures_are_written(generator):
    many = torch.randint(256, (80, 3, 16, 16), generator=generator, dtype=torch.uint8)
    assert file_sizes(many, 256, seconds=0.0).images == 32
    assert file_sizes(many, 256, seconds=1e4).images == 80
    assert file_sizes(many[:20], 256, seconds=0.0).images == 20


@pytest.mark.parametrize("pays", [True, False])
def test_the_slow_search_is_given_up_where_it_saves_nothing(monkeypatch, pays):
    """Tried on pictures from all over the set, and the files are as small but for a 500th."""
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    if pays:
        ring = (((x - 15).square() + (y - 13).square()).sqrt() - 8).sigmoid()
        one = torch.stack([255 * ring, 180 * ring, 255 - 255 * ring]).to(torch.uint8)
        images = torch.stack([one.roll((k, 2 * k), (1, 2)) for k in range(40)])
    else:
        noise = torch.rand(40, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        images = (noise * 255).to(torch.uint8)
    methods = []

    def counted(image, method):
        methods.append(method)
        return webp_size(image, method)

    webp_size = module._webp_size
    best = sum(
        min(webp_size(picture(image), method).pixels for method in (4, 6)) for image in images
    )
    monkeypatch.setattr(module, "_webp_size", counted)
    found = sizes_of_each(images, 256)[1].sum()
    assert best <= float(found) <= 1.002 * best
    assert (methods.count(6) >= 40) == pays
