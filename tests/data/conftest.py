"""Data sets that take seconds to read, in part."""

from __future__ import annotations

import pytest

from nelbo.data import emoji


@pytest.fixture
def few_emoji(monkeypatch, tmp_path_factory) -> None:
    """One in ten of the emoji, in a cache of their own."""
    some = dict(sorted(emoji._pictures().items())[::10])
    monkeypatch.setattr(emoji, "_pictures", lambda: some)
    monkeypatch.setenv("NELBO_CACHE", str(tmp_path_factory.mktemp("few")))
