"""English Unicode names of emoji, from the package `emoji`.

The package writes "kiss_woman_man_dark_skin_tone" where Unicode has "kiss: woman, man, dark skin
tone": qualifiers follow a colon, separated by commas.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_TONE = r"(?:(?:medium-)?(?:light|dark)|medium) skin tone"
_HAIR = r"(?:red|curly|white|blond) hair|bald|beard"
_MEMBERS = r"(?:man|woman|person|adult|girl|boy|child)"


def caption(code: str, known: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The name of an emoji, or None without one.

    Args:
        code: its code points, as "1F469-1F692".
        known: `emoji.EMOJI_DATA`.
    """
    data = known.get("".join(chr(int(point, 16)) for point in code.split("-")))
    if data is None:
        return None
    text = data["en"].strip(":").replace("_", " ")
    if re.fullmatch(r"1F1[EF].-1F1[EF].|1F3F4-E00.*", code):  # a country; a part of one
        return f"flag: {text}"
    text = re.sub(r"^keycap ", "keycap: ", text)
    parts = re.fullmatch(
        rf"(family|kiss|couple with heart)((?: {_MEMBERS})*)((?: {_TONE})*)", text
    ) or re.fullmatch(rf"(.+?)((?: {_TONE})*)((?: (?:{_HAIR}))?)", text)
    assert parts is not None
    name, *rest = parts.groups()
    qualities = re.findall(rf"{_TONE}|{_HAIR}|{_MEMBERS}", " ".join(rest))
    return f"{name}: {', '.join(qualities)}" if qualities else name
