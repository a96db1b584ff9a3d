"""Names of files as they are printed, and as other files write them."""

from __future__ import annotations

import unicodedata

import pytest

from nelbo import NelboError
from nelbo.data.names import Names, printable


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"caf\xe9.png", r"caf\xe9.png"),
        (b"\xff\xfe/a\xc3.png", r"\xff\xfe/a\xc3.png"),
        ("café.png".encode(), "café.png"),
        (b"two\nlines.png", r"two\nlines.png"),
        (b"\x1b[31mred.png", r"\x1b[31mred.png"),
        ("👩\u200d🚒 [bold].png".encode(), "👩\u200d🚒 [bold].png"),
    ],
)
def test_any_name_can_be_written(name, expected):
    shown = printable(name.decode("utf-8", "surrogateescape"))
    assert shown == expected
    shown.encode()


@pytest.mark.parametrize(
    ("written", "prefix", "found"),
    [
        ("a.png", "", "a.png"),
        ("./a.png", "", "a.png"),
        ("sub/b.png", "", "sub/b.png"),
        ("sub\\b.png", "", "sub/b.png"),
        ("b.png", "sub/", "sub/b.png"),
        ("../a.png", "sub/", "a.png"),
        ("b.png", "", None),
        ("A.png", "", None),
    ],
)
def test_paths_as_other_tools_write_them(tmp_path, written, prefix, found):
    assert Names(tmp_path, ["a.png", "sub/b.png"]).find(written, "here", prefix) == found
    if found:
        assert Names(tmp_path, [found]).find(str(tmp_path / found), "here") == found


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_composed_and_decomposed_names_match(tmp_path, forms):
    there, written = (unicodedata.normalize(form, "é/ü.png") for form in forms)
    assert there != written
    assert Names(tmp_path, [there]).find(written, "here") == there


def test_two_names_that_look_the_same(tmp_path):
    both = [unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD")]
    names = Names(tmp_path, both)
    assert [names.find(name, "here") for name in both] == both
    mixed = "e\u0301\u0327.png", "e\u0327\u0301.png", "\u0229\u0301.png"
    with pytest.raises(NelboError, match=r"list, line 3, .* may be .* and .* rename one"):
        Names(tmp_path, mixed[:2]).find(mixed[2], "list, line 3,")
