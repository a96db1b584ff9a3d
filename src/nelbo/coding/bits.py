"""Single bits, written up to a number of them or read until they end."""

from __future__ import annotations

import math


class Exhausted(Exception):
    """There are no more bits to write or to read."""


class Bits:
    """Bits to write, up to a number, or to read.

    Args:
        content: to read; None to write.
        most: how many to write at most.
    """

    def __init__(self, content: bytes | None = None, most: float = math.inf) -> None:
        self.bits = [byte >> i & 1 for byte in content or b"" for i in range(7, -1, -1)]
        self.reads, self.most, self.at, self.over = content is not None, most, 0, False

    def number(self, count: int, value: int = 0) -> int:
        """The next `count` bits as a number, which is written or read."""
        end = (self.at if self.reads else len(self.bits)) + count
        self.over = self.over or end > (len(self.bits) if self.reads else self.most)
        if self.over:  # once there is no room, a shorter number has none either
            raise Exhausted
        if self.reads:
            bits = self.bits[self.at : end]
            self.at = end
            return int("".join(map(str, bits)) or "0", 2)
        self.bits += [value >> i & 1 for i in range(count - 1, -1, -1)]
        return value

    def natural(self, value: int = 0) -> int:
        """A number from 0 by Elias' gamma code, written or read."""
        if not self.reads:
            length = (value + 1).bit_length()
            self.number(length - 1)
            return self.number(length, value + 1) - 1
        zeros = 0
        while not self.number(1):
            zeros += 1
        return (1 << zeros | self.number(zeros)) - 1

    def integer(self, value: int = 0) -> int:
        """A number of either sign, short where it is near 0, written or read."""
        folded = self.natural(2 * value - 1 if value > 0 else -2 * value)
        return (folded + 1) // 2 if folded % 2 else -folded // 2

    def to_bytes(self) -> bytes:
        """The bits, the last byte filled with zeros, which end no number."""
        bits = self.bits + [0] * (-len(self.bits) % 8)
        return int("".join(map(str, bits)) or "0", 2).to_bytes(len(bits) // 8)
