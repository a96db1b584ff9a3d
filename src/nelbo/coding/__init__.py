"""Coding: the bound as bytes. Lossless compression by any model of pixels.

`compress` turns pictures into an archive of about as many bits as the bound says, and `decompress`
turns it into the same pictures, bit for bit. `compress_progressive` codes one picture coarse to
fine, so that any prefix decodes.
"""

from nelbo.coding.archive import compress, contents, decompress
from nelbo.coding.estimate import Estimated, estimate
from nelbo.coding.progressive import compress_progressive, decompress_progressive, is_progressive
from nelbo.coding.reading import Decoded, read

__all__ = [
    "Decoded",
    "Estimated",
    "compress",
    "compress_progressive",
    "contents",
    "decompress",
    "decompress_progressive",
    "estimate",
    "is_progressive",
    "read",
]
