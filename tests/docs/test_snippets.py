"""Every snippet of the documentation that is marked as one to run: ```python run.

The blocks of a page run in order in one namespace, as a reader would type them, in an empty
directory.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
_STEPS = re.compile(r"(\btrain\(.*steps=)\d+\)$", re.MULTILINE)
_BLOCK = re.compile(r"^```python run\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def snippets(page: Path) -> list[tuple[int, str]]:
    """The marked blocks of a page, each with the number of its first line."""
    text = page.read_text()
    return [(text[: m.start(1)].count("\n") + 1, m[1]) for m in _BLOCK.finditer(text)]


PAGES = [page for page in sorted(DOCS.rglob("*.md")) if snippets(page)]


@pytest.mark.parametrize("most", [3, pytest.param(None, marks=pytest.mark.slow)])
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_runs(page, most, tmp_path, monkeypatch):
    """With a few steps of training; as it stands in the slow tests."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": page.stem}
    for line, source in snippets(page):
        # Blank lines before it give a traceback the line numbers of the page.
        if most is not None:
            source = _STEPS.sub(rf"\g<1>{most})", source)
        code = compile("\n" * (line - 1) + source, str(page), "exec")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            exec(code, namespace)


def test_blocks_are_found_with_their_lines(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A\n\n```python run\nx = 1\n```\n\n```python\nnot run\n```\n\n```python run\ny\n```\n"
    )
    assert snippets(page) == [(4, "x = 1\n"), (12, "y\n")]
    assert PAGES
