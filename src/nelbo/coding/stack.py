r"""A stack of bits, on which integers are pushed and popped under distributions.

Pushing a value of probability P grows the stack by −log₂ P bits, and popping takes as many and
gives a value of that probability: of random bits a draw. Pop undoes push and push undoes pop, which
is what bits-back coding needs. The entropy coder is the asymmetric numeral system of `constriction`
(Duda et al. 2015; Bamler 2022), whose models are of integers, with probabilities of 24 bits, and
exactly invertible.

The stack starts on bits of a generator that everybody knows, of which only those that are taken
off, for the draws of the first image, have to be stored; above them may lie what is stored anyway.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nelbo.base.errors import MissingExtraError
from nelbo.coding.arithmetic import Integers

Words = NDArray[np.uint32]
# The coder of an archive: its words and probabilities, in bits.
CODER = "ANS 32 24"


def coder() -> Any:
    """The package of the entropy coder.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import constriction
    except ImportError as error:
        raise MissingExtraError("coding", "coding") from error
    return constriction.stream


def ground(size: int) -> Words:
    """The words that every stack starts on; the last is not zero."""
    words = np.frombuffer(hashlib.shake_128(b"nelbo").digest(4 * size), "<u4").astype(np.uint32)
    words[-1] |= 1
    return words


class Stack:
    """Bits, growing and shrinking at one end.

    Args:
        size: of the ground below, in words: more than is ever taken off.
        words: what lies on the ground, from the bottom up.
        taken: how many words of the ground were taken off before.
    """

    def __init__(self, size: int, words: Words | None = None, taken: int = 0) -> None:
        self._ground = ground(size)
        self._stream = coder()
        below = self._ground[: size - taken]
        full = below if words is None else np.concatenate([below, words])
        self._ans = self._stream.stack.AnsCoder(full)

    def push(self, symbols: Integers, family: Any, *parameters: NDArray[Any]) -> None:
        """Push symbols, each under a member of a family of models."""
        if len(symbols):
            self._ans.encode_reverse(symbols.astype(np.int32), family, *parameters)

    def pop(self, count: int, family: Any, *parameters: NDArray[Any]) -> Integers:
        """Pop as many symbols, each under a member of a family of models."""
        if not count:
            return np.zeros(0, np.int64)
        return self._ans.decode(family, *parameters).astype(np.int64)

    def push_bits(self, value: int, count: int) -> None:
        """Push an integer of at most 16 bits, all of them alike."""
        self._ans.encode_reverse(value, self._stream.model.Uniform(2**count))

    def pop_bits(self, count: int) -> int:
        """Pop an integer of at most 16 bits."""
        return int(self._ans.decode(self._stream.model.Uniform(2**count)))

    @property
    def bits(self) -> int:
        """How many bits there are."""
        return self._ans.num_valid_bits()

    def contents(self) -> tuple[Words, int]:
        """What lies on the ground, from the bottom up, and how much of the ground is gone."""
        words: Words = self._ans.get_compressed()
        both = min(len(words), len(self._ground))
        differ = (words[:both] != self._ground[:both]).nonzero()[0]
        same = int(differ[0]) if len(differ) else both
        return words[same:], len(self._ground) - same
