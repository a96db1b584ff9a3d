"""Imports only point down the list of CONTRIBUTING.md, those within functions too."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import nelbo

PACKAGE = Path(nelbo.__file__).parent
CONTRIBUTING = Path(__file__).parent.parent / "CONTRIBUTING.md"
# The front door, which may open onto everything, and a number that everything may state.
OUTSIDE = {"__init__", "__main__", "version"}


def floors() -> dict[str, int]:
    """The height of each module and package at the top of the tree, the highest first."""
    text = CONTRIBUTING.read_text(encoding="utf-8")
    tree = text.partition("src/nelbo/\n")[2].partition("\n\n")[0]
    found: dict[str, int] = {}
    for height, line in enumerate(tree.splitlines()):
        if line.startswith(" " * 7):  # more on the line above, or a room within a room
            continue
        names = re.split(r"\s{2,}", line.strip())[0]
        for name in re.findall(r"(\w+)(?:/|\.py)", names):
            found[name] = -height
    return found


def imported(file: Path) -> set[str]:
    """The modules and packages at the top of the tree that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "nelbo":
            names |= {f"nelbo.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name.split(".")[1] for name in names if name.startswith("nelbo.")}


def test_imports_only_point_down():
    heights = floors()
    upward = []
    for file in sorted(PACKAGE.rglob("*.py")):
        where = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if where in OUTSIDE:
            continue
        for name in sorted(imported(file) & heights.keys()):
            if heights[name] > heights[where]:
                upward.append(f"{file.relative_to(PACKAGE)} imports {name}")
    assert upward == []


def test_the_list_names_everything():
    there = {p.name for p in PACKAGE.iterdir() if (p / "__init__.py").is_file()}
    there |= {p.stem for p in PACKAGE.glob("*.py")}
    assert floors().keys() == there - OUTSIDE
