r"""The names of a block's pictures, which lie at the bottom of its stack.

Names have to be stored anyway. As the first thing on a stack their bits pay for the draws of the
first pictures, and the decoder finds them again once it has put all draws back.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence

import numpy as np

from nelbo.coding.container import DamageError
from nelbo.coding.stack import Words

_WORD = 4


def packed(names: Sequence[str]) -> Words:
    """Names as words, the last of which is not zero."""
    content = zlib.compress("\n".join(map(json.dumps, names)).encode(), 9)
    content += b"\0" * (-(len(content) + 1) % _WORD) + b"\1"
    return np.frombuffer(content, "<u4").astype(np.uint32)


def unpacked(words: Words, count: int) -> list[str]:
    """The names that `packed` took.

    Raises:
        DamageError: other words.
    """
    try:
        content = zlib.decompressobj().decompress(words.astype("<u4").tobytes())
        names = [json.loads(line) for line in content.decode().split("\n")]
    except (zlib.error, ValueError, RecursionError):
        names = []
    if len(names) != count or not np.array_equal(packed(names), words):
        raise DamageError("its networks' outputs here are not those that it was coded with")
    return names
