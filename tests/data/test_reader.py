"""One reader for whatever a file of a picture holds."""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nelbo import NelboError
from nelbo.cli import main
from nelbo.data.decode import COLOURS_LOST, read_picture
from nelbo.data.image_file import read_drawing, read_image, read_levels, read_mask
from nelbo.data.reader import FIRST_FRAME, MALFORMED_EXIF, is_grey

RAMP = np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8)
SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}">{content}</svg>'
# Left half red, right half blue.
HALVES = (
    '<rect width="{x}" height="{h}" fill="#f00"/>'
    '<rect x="{x}" width="{x}" height="{h}" fill="#00f"/>'
)


def svg(width: int, height: int) -> str:
    content = HALVES.format(x=width / 2, h=height)
    return SVG.format(w=width, h=height, content=content)


def saved(path: Path, array: np.ndarray, **options) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


def tiff(path: Path, array: np.ndarray, *, big: bool, kind: int) -> Path:
    """A grey TIFF by hand: Pillow writes none of the other byte order."""
    order = ">" if big else "<"
    data = array.astype(array.dtype.newbyteorder(order)).tobytes()
    height, width = array.shape
    bits = array.dtype.itemsize * 8
    tags = [(256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 1), (262, 3, 1)]
    tags += [(273, 4, 8), (277, 3, 1), (278, 4, height), (279, 4, len(data)), (339, 3, kind)]
    end = "big" if big else "little"
    out = (b"MM\0*" if big else b"II*\0") + (8 + len(data)).to_bytes(4, end) + data
    out += len(tags).to_bytes(2, end)
    for tag, form, value in tags:
        size = 2 if form == 3 else 4
        field = value.to_bytes(size, end) + bytes(4 - size)
        out += tag.to_bytes(2, end) + form.to_bytes(2, end) + (1).to_bytes(4, end) + field
    path.write_bytes(out + bytes(4))
    return path


def grey(file, side: int = 8) -> np.ndarray:
    decoded = read_picture(file, side, 1)
    assert not isinstance(decoded, str), decoded
    return decoded.pixels[0]


def both_ways(path: Path) -> list[np.ndarray]:
    """As a folder and as a picture to edit read it; and from the bytes of a table."""
    edited = read_image(path, (1, 8, 8))[0].numpy()
    return [grey(path), grey(io.BytesIO(path.read_bytes())), edited]


@pytest.mark.parametrize("big", [True, False])
@pytest.mark.parametrize(
    ("array", "kind"),
    [
        ((RAMP.astype(np.uint16) * 257), 1),
        ((RAMP / 255).astype(np.float32), 3),
        (RAMP.astype(np.float32), 3),
        ((RAMP.astype(np.float32) * 257), 3),
        (RAMP.astype(np.int32), 2),
        ((RAMP.astype(np.int32) * 257), 2),
    ],
    ids=["16 bits", "0..1", "0..255", "0..65535", "whole", "whole to 65535"],
)
def test_grey_of_any_depth_and_byte_order(tmp_path, array, kind, big):
    for read in both_ways(tiff(tmp_path / "a.tif", array, big=big, kind=kind)):
        assert np.abs(read.astype(int) - RAMP).max() <= 1


def test_sixteen_bits_of_png_are_the_upper_eight_even_where_dark(tmp_path):
    dark = np.full((8, 8), 200, np.uint16)  # of 65,535
    for read in both_ways(saved(tmp_path / "a.png", dark)):
        assert (read == 0).all()
    Image.fromarray(np.full((8, 8), 3000, np.uint16)).save(tmp_path / "mask.png")
    with pytest.raises(NelboError, match="nowhere white"):
        read_mask(tmp_path / "mask.png", (8, 8))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0, 1e6])
def test_numbers_that_are_no_levels_are_refused(tmp_path, bad):
    array = RAMP.astype(np.float32)
    array[3, 3] = bad
    path = tiff(tmp_path / "a.tif", array, big=False, kind=3)
    assert "its values run from" in read_picture(path, 8, 1)
    with pytest.raises(NelboError, match="its values run from"):
        read_image(path, (1, 8, 8))


def test_colours_of_any_mode(tmp_path):
    colours = np.zeros((8, 8, 3), np.uint8)
    colours[..., 0], colours[..., 1] = 200, 60
    image = Image.fromarray(colours)
    image.save(tmp_path / "rgb.png")
    image.quantize(4).save(tmp_path / "palette.png")
    image.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    image.convert("CMYK").save(tmp_path / "cmyk.tif")
    image.convert("RGBA").save(tmp_path / "rgba.webp", lossless=True)
    image.save(tmp_path / "new.avif", quality=100)
    image.save(tmp_path / "old.jp2")
    image.save(tmp_path / "bare.jfif", "JPEG", quality=100, subsampling=0)
    for path in sorted(tmp_path.iterdir()):
        decoded = read_picture(path, 8, 3)
        assert not isinstance(decoded, str), path
        assert np.abs(decoded.pixels.astype(int).transpose(1, 2, 0) - colours).max() <= 6, path


def test_lab_is_read(tmp_path):
    lab = np.zeros((8, 8, 3), np.uint8)
    lab[..., 0] = 255  # white
    Image.fromarray(lab, "LAB").save(tmp_path / "lab.tif")
    decoded = read_picture(tmp_path / "lab.tif", 8, 3)
    assert not isinstance(decoded, str)
    assert decoded.pixels.min() >= 250


def test_heic_is_read():
    heif = pytest.importorskip("pillow_heif")
    array = np.full((32, 32, 3), (200, 60, 10), np.uint8)
    buffer = io.BytesIO()
    heif.from_pillow(Image.fromarray(array)).save(buffer, quality=95)
    buffer.seek(0)
    decoded = read_picture(buffer, 8, 3)
    assert not isinstance(decoded, str)
    assert np.abs(decoded.pixels.mean((1, 2)) - (200, 60, 10)).max() <= 6


@pytest.mark.parametrize("packed", [True, False])
def test_a_drawing_is_drawn_at_the_size_and_cut_in_the_middle(tmp_path, packed):
    pytest.importorskip("resvg_py")
    text = svg(40, 20).encode()
    path = tmp_path / ("a.svgz" if packed else "a.svg")
    path.write_bytes(gzip.compress(text) if packed else text)
    for source in (path, *([] if packed else [io.BytesIO(text)])):
        decoded = read_picture(source, (8, 8), 3)
        assert not isinstance(decoded, str)
        assert decoded.size is None
        assert (decoded.pixels[0, :, :3] == 255).all()
        assert (decoded.pixels[2, :, :3] == 0).all()
        assert (decoded.pixels[2, :, 5:] == 255).all()
    assert is_grey(path) is False


@pytest.mark.parametrize(
    "text",
    [
        "<svg",
        "no drawing",
        SVG.format(w=100000, h=1, content="<path d='M0 0h9v9z'/>"),
        SVG.format(w=9, h=9, content="<g>" * 5000 + "</g>" * 5000),
    ],
)
def test_drawings_that_cannot_be_drawn_cost_themselves_alone(tmp_path, text):
    (tmp_path / "a.svg").write_text(text)
    assert isinstance(read_picture(tmp_path / "a.svg", 8, 3), str)


def test_a_drawing_of_a_gigantic_size_is_drawn_small(tmp_path):
    text = svg(40, 40).replace("viewBox", 'width="100000" height="100000" viewBox')
    (tmp_path / "a.svg").write_text(text)
    decoded = read_picture(tmp_path / "a.svg", 8, 3)
    assert not isinstance(decoded, str)
    assert decoded.pixels.shape == (3, 8, 8)


# Where the first row and the first column of the file are in the picture, from the EXIF standard.
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.T,
    6: lambda upright: upright.T[::-1],
    7: lambda upright: upright.T[::-1, ::-1],
    8: lambda upright: upright.T[:, ::-1],
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("form", ["png", "tif", "deflate.tif"])
def test_pictures_are_turned_as_their_exif_says(tmp_path, orientation, form):
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = np.arange(0, 240, 5, dtype=np.uint8).reshape(8, 6)
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    path = tmp_path / f"a.{form}"
    # Pillow maps an uncompressed TIFF into memory, and decodes others.
    stored.save(path, exif=exif, **({"compression": "tiff_deflate"} if "deflate" in form else {}))
    for file in (path, io.BytesIO(path.read_bytes())):
        decoded = read_picture(file, (8, 6), 1)
        assert not isinstance(decoded, str)
        assert decoded.size == (8, 6)
        assert np.array_equal(decoded.pixels[0], upright)


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("exif", [b"Exif\0\0no TIFF header", b"II*\0", b"MM\0*\0\0\0\x08\xff"])
def test_malformed_exif_is_noted_and_the_picture_read(tmp_path, form, exif):
    path = tmp_path / f"a.{form.lower()}"
    Image.fromarray(RAMP).save(path, form, exif=exif, lossless=True)
    decoded = read_picture(path, 8, 1)
    assert not isinstance(decoded, str)
    assert np.array_equal(decoded.pixels[0], RAMP)
    assert decoded.notes in ((MALFORMED_EXIF,), ())
    if exif[:4] != b"MM\0*":
        assert decoded.notes == (MALFORMED_EXIF,)


@pytest.mark.parametrize("form", ["gif", "webp", "png", "tif"])
def test_the_first_of_several_frames_is_taken_and_noted(tmp_path, form):
    frames = [Image.fromarray(np.full((8, 8), value, np.uint8)) for value in (40, 200)]
    options = {"lossless": True} if form == "webp" else {}
    frames[0].save(tmp_path / f"a.{form}", save_all=True, append_images=frames[1:], **options)
    decoded = read_picture(tmp_path / f"a.{form}", 8, 1)
    assert not isinstance(decoded, str)
    assert decoded.notes == (FIRST_FRAME,)
    assert (decoded.pixels == 40).all()


def test_colours_that_a_grey_model_does_not_see_are_noted(tmp_path):
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 255
    same = np.repeat(RAMP[..., None], 3, -1)
    assert read_picture(saved(tmp_path / "red.png", red), 8, 1).notes == (COLOURS_LOST,)
    assert read_picture(tmp_path / "red.png", 8, 3).notes == ()
    assert read_picture(saved(tmp_path / "same.png", same), 8, 1).notes == ()
    assert read_picture(saved(tmp_path / "same.jpg", same), 8, 1).notes == ()


def test_what_is_transparent_is_white_and_paints_nothing(tmp_path):
    layer = np.zeros((8, 8, 2), np.uint8)
    layer[..., 0] = 255
    layer[:4, :, 1] = 255
    Image.fromarray(layer, "LA").save(tmp_path / "la.png")
    assert (grey(tmp_path / "la.png") == 255).all()
    mask = read_mask(tmp_path / "la.png", (8, 8))
    assert mask[:4].all()
    assert not mask[4:].any()
    drawing = read_drawing(tmp_path / "la.png", (1, 8, 8))[0]  # light lines: on black
    assert (drawing[:4] == 255).all()
    assert (drawing[4:] == 0).all()
    layer[..., 0] = 100
    Image.fromarray(layer, "LA").save(tmp_path / "ink.png")
    drawing = read_drawing(tmp_path / "ink.png", (1, 8, 8))[0]  # dark ones: on white
    assert (drawing[:4] == 100).all()
    assert (drawing[4:] == 255).all()
    deep = np.full((8, 8), 1000, np.uint16)
    deep[0] = 77
    Image.fromarray(deep).save(tmp_path / "deep.png", transparency=77)
    assert (grey(tmp_path / "deep.png")[0] == 255).all()
    assert (grey(tmp_path / "deep.png")[1:] == 3).all()


def test_a_bomb_costs_itself_alone(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.png", np.zeros((100, 100), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)
    assert read_picture(path, 8, 1) == "too large: more than 8,000 pixels"


def test_a_large_picture_that_is_read_has_no_note_of_pillow(tmp_path, monkeypatch, capsys):
    path = saved(tmp_path / "a.png", np.zeros((80, 80), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)
    main(["data", str(tmp_path), "--size", "8"])
    shown = capsys.readouterr()
    assert "unreadable  0 files" in shown.out
    assert "exceeds limit" not in shown.err
    assert not isinstance(read_picture(path, 8, 1), str)


def test_what_starts_other_programs_is_no_picture(tmp_path):
    """A page of PostScript called .png, which Pillow would hand to Ghostscript."""
    image = Image.fromarray(RAMP)
    image.save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png", 8, 1) == "no picture of a known format"
    with pytest.raises(NelboError, match="no picture of a known format"):
        read_levels(tmp_path / "a.png", 1, 256)


def png(path: Path, rows: Sequence[bytes], header: tuple[int, ...], clear: bytes = b"") -> Path:
    """A PNG by hand: its rows; width, height, bits and kind of pixels; what is transparent."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        content = kind + content
        size, check = struct.pack(">I", len(content) - 4), struct.pack(">I", zlib.crc32(content))
        return size + content + check

    parts = [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", struct.pack(">IIBB", *header) + bytes(3))]
    parts += [chunk(b"tRNS", clear)] if clear else []
    parts += [chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))]
    path.write_bytes(b"".join(parts) + chunk(b"IEND", b""))
    return path


def deep_colours(path: Path) -> Path:
    """A PNG of 16 bits a colour: Pillow neither writes them nor has a mode for them."""
    rows = np.random.default_rng(0).integers(0, 65536, (8, 8, 3)).astype(">u2")
    return png(path, [row.tobytes() for row in rows], (8, 8, 16, 2))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_level_that_a_png_declares_transparent_is_of_its_bits(tmp_path, bits):
    highest = 2**bits - 1
    levels = [round(i * highest / 7) for i in range(8)]
    row = int("".join(f"{level:0{bits}b}" for level in levels), 2).to_bytes(bits)
    clear = levels[4]
    path = png(tmp_path / "a.png", [row] * 8, (8, 8, bits, 0), clear.to_bytes(2))
    for background, level_of_it in (("white", 255), ("black", 0)):
        decoded = read_picture(path, 8, 1, background=background)
        assert not isinstance(decoded, str)
        right = [level_of_it if at == clear else at * 255 // highest for at in levels]
        assert decoded.pixels[0].tolist() == [right] * 8


def test_the_colour_that_a_png_declares_transparent_may_have_16_bits(tmp_path):
    row = struct.pack(">24H", *[0x1234, 0x5678, 0x9ABC] * 4, *[0xFFFF, 0, 0x8000] * 4)
    clear = struct.pack(">3H", 0x1234, 0x5678, 0x9ABC)
    decoded = read_picture(png(tmp_path / "a.png", [row] * 8, (8, 8, 16, 2), clear), 8, 3)
    assert not isinstance(decoded, str)
    assert (decoded.pixels[:, :, :4] == 255).all()
    assert (decoded.pixels[:, 0, 4] == [255, 0, 128]).all()


def test_levels_are_those_of_the_file_or_an_error(tmp_path):
    """Without loss: what would be turned, flattened, cut to 8 bits or left out is refused."""
    with pytest.raises(NelboError, match=r"deep.png has 16 bits a channel"):
        read_levels(deep_colours(tmp_path / "deep.png"), 3, 256)
    colours = Image.fromarray(np.stack([RAMP] * 3, 2))
    colours.convert("RGBA").save(tmp_path / "a.png")
    with pytest.raises(NelboError, match="mode RGBA"):
        read_levels(tmp_path / "a.png", 3, 256)
    colours.save(tmp_path / "an.webp", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    with pytest.raises(NelboError, match="2 frames"):
        read_levels(tmp_path / "an.webp", 3, 256)
    palette = colours.quantize(16)
    palette.save(tmp_path / "clear.png", transparency=3)
    with pytest.raises(NelboError, match="transparency"):
        read_levels(tmp_path / "clear.png", 3, 256)
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("turned.png", "turned.webp", "turned.tif"):
        colours.save(tmp_path / name, exif=exif, lossless=True)
        with pytest.raises(NelboError, match=f"{name} has an EXIF orientation to be turned by"):
            read_levels(tmp_path / name, 3, 256)
    palette.save(tmp_path / "palette.png")
    found = read_levels(tmp_path / "palette.png", 3, 256).permute(1, 2, 0).numpy()
    assert (found == np.asarray(palette.convert("RGB"))).all()


@pytest.mark.parametrize(("height", "width"), [(8, 4), (3, 9), (1, 8), (5, 5)])
def test_the_middle_is_cut_in_the_proportions_of_the_size(tmp_path, height, width):
    array = np.zeros((24, 24), np.uint8)
    scale = 24 / max(height, width)
    tall, wide = round(scale * height), round(scale * width)
    top, left = (24 - tall) // 2, (24 - wide) // 2
    array[top : top + tall, left : left + wide] = 180
    decoded = read_picture(saved(tmp_path / "a.png", array), (height, width), 1)
    assert not isinstance(decoded, str)
    assert decoded.pixels.shape == (1, height, width)
    assert (decoded.pixels == 180).all()
    assert decoded.size == (24, 24)
