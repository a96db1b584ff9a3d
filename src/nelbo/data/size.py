"""The size of pictures: height and width, and the sizes that a network can halve."""

from __future__ import annotations

import re

from nelbo.base.errors import NelboError

LARGEST = 8192
# (height, width)
Size = tuple[int, int]


def parse_size(given: int | str | Size) -> Size:
    """Parse a size: 32, "32", (16, 24), "16x24" or "16×24", height × width.

    Raises:
        NelboError: anything else, or sides outside of 1..8192 pixels.
    """
    if isinstance(given, str):
        match = re.fullmatch(r"\s*(-?\d+)(?:\s*[x×*]\s*(-?\d+))?\s*", given.lower())
        if match is None:
            raise NelboError(
                f"size must be a number of pixels, such as 32, or height×width, such as 16x24, got "
                f"{given!r}"
            )
        sides = int(match[1]), int(match[2] or match[1])
    else:
        sides = (given, given) if isinstance(given, int) else _pair(given)
    if not all(1 <= side <= LARGEST for side in sides):
        raise NelboError(f"size must lie in 1..{LARGEST} pixels, got {named(sides)}")
    return sides


def _pair(given: object) -> Size:
    if isinstance(given, tuple | list) and [type(side) for side in given] == [int, int]:
        return given[0], given[1]
    raise NelboError(f"size must be whole numbers of pixels, (height, width), got {given!r}")


def named(size: Size) -> str:
    """The size in words: 32 of a square, otherwise height×width."""
    return str(size[0]) if size[0] == size[1] else sides(size)


def sides(size: Size) -> str:
    """Height×width."""
    return f"{size[0]}×{size[1]}"


def as_option(size: Size) -> int | str:
    """The size as --size takes it."""
    return size[0] if size[0] == size[1] else f"{size[0]}x{size[1]}"


def check_halvings(source: str, size: Size, resolutions: int) -> None:
    """Raise `NelboError` unless images can be halved once for each resolution after the first."""
    divisor = 2 ** (resolutions - 1)
    if any(side % divisor for side in size):
        raise NelboError(
            f"{source} has images of {size[0]}×{size[1]}, which {resolutions} resolutions "
            f"(--widths) need to be divisible by {divisor}: give {divisible_near(size, divisor)}, "
            "or fewer widths"
        )


def divisible_near(size: Size, divisor: int) -> str:
    """The nearest sizes whose sides are multiples of a number, as options, the smaller first."""
    below = tuple(max(divisor, side // divisor * divisor) for side in size)
    above = tuple(-(-side // divisor) * divisor for side in size)
    both = dict.fromkeys((below, above))
    return " or ".join(f"--size {as_option((sides[0], sides[1]))}" for sides in both)
