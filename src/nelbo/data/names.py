"""File names: printed, written, and looked up as other files spell them."""

from __future__ import annotations

import os
import posixpath
import unicodedata
from collections import defaultdict
from collections.abc import Iterable

from nelbo.base.errors import NelboError


def printable(name: str) -> str:
    r"""A name that is safe in any text file and terminal.

    Bytes that are not UTF-8, which Python reads as lone surrogates, and control characters become
    escapes: the byte E9 is \\xe9.
    """
    known = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(
        character if character.isprintable() or character == " " else _escaped(character)
        for character in known
    )


def _escaped(character: str) -> str:
    if unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp"):
        return character
    return character.encode("unicode_escape").decode("ascii")


class Names:
    """Finds the picture that a line of text names.

    Names match where they are the same characters, composed or not: macOS writes é as e and an
    accent. A path may begin with ./, hold \\ for /, or be absolute.

    Args:
        folder: the root of the pictures.
        names: their paths below it.
    """

    def __init__(self, folder: str | os.PathLike[str], names: Iterable[str]) -> None:
        self._root = os.path.abspath(folder)
        self._names = set(names)
        self._composed: dict[str, list[str]] = defaultdict(list)
        for name in self._names:
            self._composed[unicodedata.normalize("NFC", name)].append(name)

    def find(self, written: str, where: str, prefix: str = "") -> str | None:
        """The name of a picture; None if it is unknown.

        Args:
            written: the name in the text.
            where: the place in the text, for messages.
            prefix: the folder that it is relative to, "" or ending in a slash.

        Raises:
            NelboError: the name is ambiguous.
        """
        for name in self._readings(written, prefix):
            if name in self._names:
                return name
            found = self._composed.get(unicodedata.normalize("NFC", name), [])
            if len(found) > 1:
                both = " and ".join(ascii(each) for each in sorted(found))
                raise NelboError(
                    f"{where} {written!r} may be {both}, which look the same: rename one of them"
                )
            if found:
                return found[0]
        return None

    def _readings(self, written: str, prefix: str) -> Iterable[str]:
        yield prefix + written
        for path in (written, written.replace("\\", "/")):
            if os.path.isabs(path):
                yield os.path.relpath(path, self._root).replace(os.sep, "/")
            else:
                yield posixpath.normpath(prefix + path)
