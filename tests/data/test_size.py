"""Sizes as they are given, and which of them networks can halve."""

from __future__ import annotations

import pytest

from nelbo import NelboError
from nelbo.data.size import as_option, divisible_near, named, parse_size
from nelbo.training.kinds.autoencoder.build import autoencoder_widths
from tests.data.pictures import write
from tests.faults.test_mistakes import mistake


@pytest.mark.parametrize(
    ("given", "size"),
    [
        (32, (32, 32)),
        ("32", (32, 32)),
        ("16x24", (16, 24)),
        ("16X24", (16, 24)),
        (" 16 × 24 ", (16, 24)),
        ((16, 24), (16, 24)),
        (1, (1, 1)),
        (8192, (8192, 8192)),
    ],
)
def test_sizes_are_height_by_width(given, size):
    assert parse_size(given) == size
    assert parse_size(as_option(size)) == size


@pytest.mark.parametrize(
    "given", [0, -3, "0x8", "8x0", 8193, "8x9000", "x8", "8x", "8x8x3", "big", 6.5, (8,), (8, 8.0)]
)
def test_what_is_no_size(given):
    with pytest.raises(NelboError, match="size must"):
        parse_size(given)


def test_sizes_in_words():
    assert named((16, 16)) == "16"
    assert named((16, 24)) == "16×24"
    assert divisible_near((33, 33), 4) == "--size 32 or --size 36"
    assert divisible_near((16, 30), 4) == "--size 16x28 or --size 16x32"
    assert divisible_near((3, 3), 4) == "--size 4"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "33", "--widths", "8", "16"], "give --size 32 or --size 34, or fewer widths"),
        (["--size", "17", "--model", "latent"], "give --size 16 or --size 20, whose latents are"),
    ],
)
def test_sizes_that_cannot_be_halved_name_those_that_can(tmp_path, capsys, options, message):
    for i in range(6):
        write(tmp_path / "pictures" / f"{i}.png", i)
    out = tmp_path / "run"
    arguments = ["train", tmp_path / "pictures", "--steps", "4", *options, "--out", out]
    assert message in mistake(capsys, *arguments)
    assert not out.exists()


@pytest.mark.parametrize("side", range(5, 130))
def test_sizes_proposed_for_latents_can_be_halved(side):
    """Twice what the autoencoder of that size halves: two resolutions of the prior."""

    def latents(side: int) -> int:
        return side // 2 ** (len(autoencoder_widths(side, side)) - 1)

    if latents(side) % 2:
        factor = 2 ** (len(autoencoder_widths(side, side)) - 1)
        proposed = divisible_near((side, side), 2 * max(factor, 2)).split(" or ")
        assert all(latents(int(option.split()[1])) % 2 == 0 for option in proposed)
