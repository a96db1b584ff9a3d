r"""A stack of bits, on which integers are pushed and popped under distributions.

Pushing a value of probability P grows the stack by −log₂ P bits, and popping takes as many and
gives a value of that probability: of random bits a draw. Pop undoes push and push undoes pop, which
is what bits-back coding needs. The entropy coder is the asymmetric numeral system of `constriction`
(Duda et al. 2015; Bamler 2022), whose models are of integers, with probabilities of 24 bits, and
exactly invertible.

What was pushed last is not random: its bits are the quantiles of its values under the models, so
that a draw from them repeats how far these were off, value by value (the "dirty bits" of Townsend
et al. 2019). So for a draw the stack is masked by random bits that everybody knows.

It stands on such bits, too, the ground, of which only those that are taken off, for the draws of
the first image, have to be stored; above them may lie what is stored anyway.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nelbo.base.errors import MissingExtraError
from nelbo.coding.arithmetic import Integers

Words = NDArray[np.uint32]
# The coder of an archive: its words and probabilities, in bits.
CODER = "ANS 32 24"
# The coder's state, and how much ground is laid at a time, in words.
_STATE, _LAID = 2, 1024


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


def noise(key: int, start: int, stop: int) -> Words:
    """Random words at places start..stop−1, which may be negative (Steele et al. 2014)."""
    z = np.arange(start, stop).astype(np.uint64) + np.uint64(key << 32)
    z *= np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return (z >> np.uint64(32)).astype(np.uint32)


class Stack:
    """Bits, growing and shrinking at one end.

    The ground has the places below 0, and words of `noise` with key 0.

    Args:
        words: what lies on the ground, from the bottom up.
        taken: how many words of the ground were taken off before.
    """

    _ans: Any

    def __init__(self, words: Words | None = None, taken: int = 0) -> None:
        self._stream = coder()
        self._low = -taken
        self._lay(np.zeros(0, np.uint32) if words is None else words, 0)

    def push(self, symbols: Integers, family: Any, *parameters: NDArray[Any]) -> None:
        """Push symbols, each under a member of a family of models."""
        if len(symbols):
            self._ans.encode_reverse(symbols.astype(np.int32), family, *parameters)

    def pop(self, count: int, family: Any, *parameters: NDArray[Any]) -> Integers:
        """Pop as many symbols, each under a member of a family of models."""
        if not count:
            return np.zeros(0, np.int64)
        self._reserve(count)
        return self._ans.decode(family, *parameters).astype(np.int64)

    def push_bits(self, value: int, count: int) -> None:
        """Push an integer of at most 16 bits, all of them alike."""
        self._ans.encode_reverse(value, self._stream.model.Uniform(2**count))

    def pop_bits(self, count: int) -> int:
        """Pop an integer of at most 16 bits."""
        self._reserve(1)
        return int(self._ans.decode(self._stream.model.Uniform(2**count)))

    @contextmanager
    def masked(self, key: int, count: int) -> Iterator[None]:
        """While it lasts, what is below the last word is random.

        What was not popped or pushed meanwhile is afterwards as it was.

        Args:
            key: other random bits for each.
            count: the most symbols to pop.
        """
        self._reserve(count)
        self._mask(key)
        yield
        self._mask(key)

    @property
    def bits(self) -> int:
        """How many bits there are."""
        return self._ans.num_valid_bits() + 32 * self._low

    def contents(self) -> tuple[Words, int]:
        """What lies on the ground, from the bottom up, and how much of the ground is gone."""
        words: Words = self._ans.get_compressed()
        both = words[: -self._low]
        differ = (both != noise(0, self._low, self._low + len(both))).nonzero()[0]
        same = int(differ[0]) if len(differ) else len(both)
        return words[same:], -self._low - same

    def _mask(self, key: int) -> None:
        words = self._ans.get_compressed()
        words[:-1] ^= noise(key, self._low, self._low + len(words) - 1)
        self._ans = self._stream.stack.AnsCoder(words)

    def _reserve(self, count: int) -> None:
        """Have the words that popping as many symbols may take, each less than one."""
        if self._ans.num_words() < count + _STATE:
            self._lay(self._ans.get_compressed(), count)

    def _lay(self, above: Words, count: int) -> None:
        """Lay more ground below what there is."""
        low = self._low - count - _LAID
        words = np.concatenate([noise(0, low, self._low), above])
        self._low, self._ans = low, self._stream.stack.AnsCoder(words)
