r"""The bytes of an archive; docs/archives.md documents each.

An archive is a frame, a header, and blocks that are read without one another. Whatever is damaged
is found by a checksum before anything is decoded by it.
"""

from __future__ import annotations

import json
import struct
import zlib
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from nelbo.base.errors import NelboError
from nelbo.coding.stack import Words

MAGIC = b"\x89nelbo\r\n"
VERSION = 3
_FRAME = struct.Struct("<8sBI")  # magic, version, bytes of the header
_CHECKSUM = 4  # bytes
_BLOCK = struct.Struct("<III")  # words of the ground taken, bytes of the list, words
# What every header has.
_FIELDS = {
    "coder": str,
    "weights": str,
    "shape": list,
    "levels": int,
    "plan": dict,
    "block": int,
    "blocks": list,
    "count": int,
    "dtype": str,
}
# And what it may have beside them.
_MORE_FIELDS = ("nelbo", "machine", "condition", "sizes", "names", "labels", "captions", "stacked")
OWN_FIELDS = frozenset((*_FIELDS, *_MORE_FIELDS))
# What deflate may copy from: a header of the usual kind.
_USUAL = (
    b'"captions":["condition":"given apart""labels":["names":true,"sizes":[["machine":"torch ,'
    b'"levels":17,"levels":256,"shape":[3,16,16],"shape":[1,8,8],"stacked":false"stacked":true'
    b'{"nelbo":"0.1.0","coder":"ANS 32 24","weights":"","shape":[3,32,32],"levels":256,"plan":'
    b'{"levels":[1,,"scales":[-,"steps":[-11,1,0,"turns":[2,62,-60]},"block":512,"count":'
    b',"dtype":"uint8","stacked":true,"run":"runs/,"blocks":[]}'
)


class DamageError(NelboError):
    """Bytes that are not as they were written."""


@dataclass(frozen=True)
class Block:
    """Some images, coded on one stack.

    Attributes:
        words: what lies on the ground.
        taken: how many words of the ground are gone.
        listed: the numbers that may be rounded apart; see `nelbo.coding.agreement`.
    """

    words: Words
    taken: int
    listed: bytes

    def to_bytes(self) -> bytes:
        """Its checksum, numbers, list and words."""
        words = self.words.astype("<u4").tobytes()
        body = _BLOCK.pack(self.taken, len(self.listed), len(self.words)) + self.listed + words
        return _checksum(body) + body

    @classmethod
    def from_bytes(cls, content: bytes) -> Block:
        """The block that `to_bytes` wrote.

        Raises:
            DamageError: other bytes than were written.
        """
        body = content[_CHECKSUM:]
        if len(body) < _BLOCK.size or content[:_CHECKSUM] != _checksum(body):
            raise DamageError("its checksum is wrong")
        taken, listed, count = _BLOCK.unpack_from(body)
        end = _BLOCK.size + listed
        words = np.frombuffer(body[end:], "<u4").astype(np.uint32)
        if len(words) != count:
            raise DamageError("its length is wrong")
        return cls(words, taken, body[_BLOCK.size : end])


@dataclass(frozen=True)
class Container:
    """A header, and the bytes of each block.

    Attributes:
        header: what decoding needs, JSON.
        blocks: as `Block.to_bytes`, each whole or not.
    """

    header: dict[str, Any]
    blocks: list[bytes]

    def to_bytes(self) -> bytes:
        """The archive."""
        header = {**self.header, "blocks": [len(block) for block in self.blocks]}
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        deflate = zlib.compressobj(9, wbits=-15, zdict=_USUAL)
        packed = deflate.compress(text.encode()) + deflate.flush()
        start = _FRAME.pack(MAGIC, VERSION, len(packed)) + packed
        return b"".join([start, _checksum(start), *self.blocks])

    @classmethod
    def from_bytes(cls, content: bytes) -> Container:
        """The frame and header of an archive, checked, and its blocks, unchecked.

        Raises:
            NelboError: a file that is no archive, or of another version.
            DamageError: a header that is damaged, without which nothing can be decoded.
        """
        if not content.startswith(MAGIC):
            kind = "is damaged at its start" if content[1:6] == b"nelbo" else "is no nelbo archive"
            raise NelboError(f"this {kind}: an archive is what nelbo compress writes")
        if len(content) < _FRAME.size:
            raise DamageError(f"the archive is cut off after {len(content)} bytes, in its header")
        _, version, size = _FRAME.unpack_from(content)
        end = _FRAME.size + size
        start = end + _CHECKSUM
        if content[end:start] != _checksum(content[:end]):
            raise DamageError(
                "the header of the archive is damaged or cut off, and without it nothing can be "
                "decoded: get the file again from where it came"
            )
        if version != VERSION:
            do = "update nelbo" if version > VERSION else "take the nelbo that wrote it"
            raise NelboError(
                f"the archive is of version {version}, this nelbo reads {VERSION}: {do} to open it"
            )
        header = _header(content[_FRAME.size : end])
        return cls(header, _split(content[start:], header["blocks"]))


def _checksum(content: bytes) -> bytes:
    return struct.pack("<I", zlib.crc32(content))


def _header(packed: bytes) -> dict[str, Any]:
    """The header in its bytes, whose checksum is right.

    Raises:
        NelboError: another program wrote it.
    """
    found: Any = None
    with suppress(zlib.error, ValueError, RecursionError):
        found = json.loads(zlib.decompressobj(wbits=-15, zdict=_USUAL).decompress(packed))
    header = found if isinstance(found, dict) else {}
    wrong = [name for name, kind in _FIELDS.items() if type(header.get(name)) is not kind]
    if not wrong:
        counts = {name: [header[name]] for name in ("block", "count")}
        counts |= {name: header[name] for name in ("shape", "blocks")}
        wrong = [
            name
            for name, values in counts.items()
            if not all(type(value) is int and value > 0 for value in values)
        ]
    if wrong:
        raise NelboError(
            f"the archive's header has no {', '.join(wrong)} that can be read: it was not written "
            "by nelbo"
        )
    return header


def _split(content: bytes, sizes: list[int]) -> list[bytes]:
    """The bytes of each block, and what is beyond the last as one more."""
    blocks, at = [], 0
    for size in sizes:
        blocks.append(content[at : at + size])
        at += size
    return blocks if at >= len(content) else [*blocks, content[at:]]
