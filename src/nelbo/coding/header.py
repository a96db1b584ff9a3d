"""The header of an archive, checked before anything is laid out by it.

Its checksum shows that it is as it was written, not that nelbo wrote it.
"""

from __future__ import annotations

import math
from itertools import accumulate
from typing import Any

import torch

from nelbo.base.errors import NelboError
from nelbo.base.memory import available_memory
from nelbo.coding.pictures import VALUE_BYTES

# The fields of a plan, with what the numbers of each may be after their differences are summed:
# levels, 64 log of a standard deviation, log₂ of a step, and `Turns`.
_PLAN = {
    "levels": (1, 2**31),
    "scales": (-(2**14), 2**14),
    "steps": (-64, 64),
    "turns": (0, 2**31),
}
# Those of which there are both or neither.
_TOGETHER = (("levels", "scales"), ("steps", "turns"))
# Beside its pixels, a tile is an entry of several lists.
_LISTED_BYTES = 64


def check_header(header: dict[str, Any], shape: tuple[int, ...] | None, blocks: int) -> None:
    """Raise `NelboError` for a header that nelbo did not write, or pictures that no memory holds.

    Args:
        header: whose fields are of the right kind, see `nelbo.coding.container`.
        shape: (C, H, W) of the model.
        blocks: how many there are.
    """
    wrong = [name for name, fits in _fitting(header).items() if not fits]
    if wrong:
        raise NelboError(
            f"the archive's header has no {', '.join(wrong)} that can be read: it was not written "
            "by nelbo"
        )
    tiles = _tiles(header)
    counted = -(-tiles // header["block"])
    if tuple(header["shape"]) != shape or blocks < counted:
        raise NelboError(
            f"the archive's header counts {counted} blocks of tiles {tuple(header['shape'])}, "
            f"where there are {blocks} of {shape}: it was not written by nelbo"
        )
    needed = tiles * (VALUE_BYTES * math.prod(header["shape"]) + _LISTED_BYTES)
    free = available_memory(torch.device("cpu"))
    if needed > free:
        raise NelboError(
            f"the archive's header counts {header['count']:,} pictures of {tiles:,} tiles, which "
            f"take {needed / 2**30:,.1f} GiB, and {free / 2**30:,.1f} GiB are free: open it where "
            "there is more memory, if nelbo wrote it"
        )


def _fitting(header: dict[str, Any]) -> dict[str, bool]:
    """Whether each field holds what it should."""
    count = header["count"]
    sizes = header.get("sizes", [[1, 1]])
    return {
        "shape": len(header["shape"]) == 3,
        "sizes": isinstance(sizes, list) and len(sizes) in (1, count) and all(map(_is_size, sizes)),
        "plan": _is_plan(header["plan"]),
        "names": header.get("names", True) is True,
        "labels": _is_list(header.get("labels", []), int),
        "captions": _is_list(header.get("captions", []), str | None),
        "stacked": isinstance(header.get("stacked"), bool),
    }


def _is_size(size: Any) -> bool:
    return _is_list(size, int) and len(size) == 2 and min(size) > 0


def _is_plan(plan: dict[str, Any]) -> bool:
    """Whether `Plan` can be made of this."""
    if not plan.keys() <= _PLAN.keys() or any((a in plan) != (b in plan) for a, b in _TOGETHER):
        return False
    if not all(_is_list(steps, int) for steps in plan.values()):
        return False
    numbers = {name: list(accumulate(steps)) for name, steps in plan.items()}
    ends = {name: (min(each, default=0), max(each, default=0)) for name, each in numbers.items()}
    within = all(
        _PLAN[name][0] <= low and high <= _PLAN[name][1] for name, (low, high) in ends.items()
    )
    alike = len(numbers.get("levels", ())) == len(numbers.get("scales", ()))
    turns = numbers.get("turns", [0, 1, 0])
    return within and alike and len(turns) == 3 and turns[1] > 0 and turns[2] <= _PLAN["steps"][1]


def _is_list(values: Any, kind: Any) -> bool:
    if not isinstance(values, list):
        return False
    return all(isinstance(each, kind) and not isinstance(each, bool) for each in values)


def _tiles(header: dict[str, Any]) -> int:
    """How many tiles all pictures have, without a list of them."""
    _, height, width = header["shape"]
    sizes = header.get("sizes", [[height, width]])
    tiles = sum(-(-h // height) * -(-w // width) for h, w in sizes)
    return tiles * header["count"] if len(sizes) == 1 else tiles
