"""Printing to a terminal or file that does not have all the characters of a result."""

from __future__ import annotations

import codecs
from typing import TextIO

# What stands for a character where only ASCII, or the letters of one language, can be printed.
_NEAR = {
    "×": "x",
    "±": "+-",
    "−": "-",
    "–": "-",
    "—": "-",
    "→": "->",
    "…": "...",
    "·": ".",
    "²": "^2",
    "≤": "<=",
    "≥": ">=",
    "√": "sqrt",
    "σ": "sigma",
    "β": "beta",
    "ᾱ": "alphas_cumprod",
    "γ": "gamma",
    "“": '"',
    "”": '"',
    "’": "'",
    **dict(zip("⁰¹³⁴⁵⁶⁷⁸⁹⁻", "013456789-", strict=True)),
    **dict.fromkeys("─━│┃┄┈╌╸╺", "-"),
}
_HANDLER = "nelbo.near"


def make_printable(*streams: TextIO | None) -> None:
    """Have streams print what stands for the characters that their encoding lacks."""
    codecs.register_error(_HANDLER, _nearest)
    for stream in streams:
        # What a test or a notebook puts in their place may take everything as it is.
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors=_HANDLER)


def _nearest(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(_NEAR.get(character, "?") for character in missing), error.end
