r"""Real numbers as integers on which encoder and decoder agree.

The parameters of a model's distributions come out of a network in float64, and machines differ in
the last digits of these, as batches and numbers of threads do. So a parameter is rounded to a
coarse grid before anything is coded by it. What remains is the number that lies next to the middle
between two points of the grid, which two machines may round apart. The encoder knows which these
are: it lists each number within its margin of a middle, with the way that it went, and the decoder
goes the same way. Machines whose numbers differ by less than the margin therefore agree, always.

The margin is `TOLERANCE`, a relative error of the network's output 10⁴ times that of float64,
carried over to the parameter.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

import numpy as np

from nelbo.base.errors import NelboError
from nelbo.coding.arithmetic import Floats, Integers

# How far two machines' network outputs may be apart, relative to outputs of the usual size.
TOLERANCE = 4e-9
# Of the arithmetic around the network, relative to the number itself.
_ROUNDING = 2.0**-44


class Agreement:
    """Rounds, and lists what may be rounded apart; or rounds as such a list prescribes.

    Args:
        listed: of a decoder, which side each number of the list was rounded to, by its place.
    """

    def __init__(self, listed: dict[int, bool] | None = None) -> None:
        self._decodes = listed is not None
        self.listed = {} if listed is None else listed
        self._places = sorted(self.listed)

    def round(self, values: Floats, error: float, place: int) -> Integers:
        """The nearest integers.

        Args:
            values: in steps of the grid, (n,).
            error: how far another machine's may be from these; 0 for none but rounding.
            place: that of the first of them among all numbers of a block.

        Raises:
            NelboError: a value that is not finite.
        """
        if not np.isfinite(values).all():
            raise NelboError("the model gives a distribution whose numbers are not finite")
        below = np.floor(values)
        rest = values - below
        up = rest >= 0.5
        if self._decodes:
            first = bisect_left(self._places, place)
            for p in self._places[first : bisect_left(self._places, place + len(values))]:
                up[p - place] = self.listed[p]
        else:
            near = np.abs(rest - 0.5) <= error + _ROUNDING * np.abs(values)
            self.listed |= {place + int(i): bool(up[i]) for i in near.nonzero()[0]}
        return (below + up).astype(np.int64)

    def to_bytes(self) -> bytes:
        """The list: for each number the distance to the one before, and its side in the last bit.

        Numbers of seven bits a byte, the low ones first; the high bit marks that more follow.
        """
        before, found = -1, bytearray()
        for place in sorted(self.listed):
            number = 2 * (place - before - 1) + self.listed[place]
            before = place
            while number >= 0x80:
                found.append(number & 0x7F | 0x80)
                number >>= 7
            found.append(number)
        return bytes(found)

    @classmethod
    def from_bytes(cls, content: bytes) -> Agreement:
        """The decoder's, from what `to_bytes` wrote."""
        place, listed = -1, {}
        for number in _numbers(content):
            place += 1 + (number >> 1)
            listed[place] = bool(number & 1)
        return cls(listed)


def _numbers(content: bytes) -> Iterator[int]:
    number = shift = 0
    for byte in content:
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            yield number
            number = shift = 0
