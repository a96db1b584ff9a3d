"""The order of the house: no circle, no reaching inside, one reverse process."""

from __future__ import annotations

import ast
import functools
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import nelbo

PACKAGE = Path(nelbo.__file__).parent
# What a wrapper around a network calls is the network, too.
CALLERS = {"diffusion/decoder.py", "networks/guidance.py", "training/precision.py"}
# Underscored members of other libraries.
FOREIGN = {
    "_replace",
    "_asdict",
    "_fields",
    "_modules",
    "_buffers",
    "_base",
    *("_foreach_add", "_foreach_add_", "_foreach_div", "_foreach_lerp", "_foreach_lerp_"),
    *("_foreach_mul_", "_foreach_norm"),
    "_exit",
}


@functools.cache
def sources() -> dict[str, ast.Module]:
    """Every module by its path below the package."""
    return {
        file.relative_to(PACKAGE).as_posix(): ast.parse(file.read_text(encoding="utf-8"))
        for file in sorted(PACKAGE.rglob("*.py"))
    }


def module_name(path: str) -> str:
    return f"nelbo.{path.removesuffix('.py').replace('/', '.')}".removesuffix(".__init__")


def imports(trees: dict[str, ast.Module], *, at_once: bool = False) -> dict[str, set[str]]:
    """What each module imports; `at_once`, what importing it imports."""
    found: dict[str, set[str]] = {}
    for name, tree in trees.items():
        seen = found.setdefault(name, set())
        for node in tree.body if at_once else ast.walk(tree):
            if isinstance(node, ast.Import):
                seen |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                each = (f"{node.module}.{alias.name}" for alias in node.names)
                seen |= {name if name in trees else node.module for name in each}
    return found


def test_no_module_imports_itself_by_way_of_others():
    """Within functions and for type checks alone counts as well."""
    trees = {module_name(path): tree for path, tree in sources().items()}
    # The front door may open onto everything, and is opened by no room.
    within = {name: (found & trees.keys()) - {"nelbo"} for name, found in imports(trees).items()}
    del within["nelbo"]
    circle: list[str] = []
    try:
        TopologicalSorter(within).prepare()
    except CycleError as error:
        circle = error.args[1]
    assert circle == []


@pytest.mark.parametrize("command", ["classify", "edit", "evaluate", "fit", "likelihood", "sample"])
def test_a_command_without_plots_does_not_wait_for_matplotlib(command):
    """It takes a third as long to import as PyTorch does."""
    trees = {module_name(path): tree for path, tree in sources().items()}
    at_once, reached, left = imports(trees, at_once=True), set(), [f"nelbo.commands.{command}"]
    while left:
        name = left.pop()
        if name in reached:
            continue
        reached.add(name)
        parents = (name.rsplit(".", n)[0] for n in range(1, name.count(".") + 1))
        left += [*at_once.get(name, ()), *parents]
    assert "torch" in reached
    assert not [name for name in reached if name.startswith("matplotlib")]


def test_nothing_outside_a_module_uses_its_underscored_members():
    reaching = []
    for path, tree in sources().items():
        own = FOREIGN | {
            node.name if not isinstance(node, ast.Attribute) else node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.ClassDef)
            or (isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store))
        }
        own |= {
            node.target.id
            for node in ast.walk(tree)
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        }
        reaching += [
            f"{path}:{node.lineno} uses {ast.unparse(node)}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and node.attr.startswith("_")
            and not node.attr.startswith("__")
            and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
            and node.attr not in own
        ]
    assert reaching == []


def test_the_network_of_a_chain_is_called_in_one_place():
    callers = {
        path
        for path, tree in sources().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "network"
    }
    assert callers == CALLERS


MATHEMATICS = ("chain/", "diffusion/", "evidence/", "families/", "latent/", "samplers/")


def test_what_was_computed_cannot_be_changed():
    """A schedule, a bound or a condition is read by many; only a walk under way moves on."""
    changing = {
        node.name
        for path, tree in sources().items()
        if path.startswith(MATHEMATICS)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for decorator in map(ast.unparse, node.decorator_list)
        if decorator.startswith("dataclass") and "frozen=True" not in decorator
    }
    assert changing == {"Walk"}


def test_every_folder_of_tests_is_a_package():
    """Else two files of one name in two folders are one module, and one of them is not run."""
    folders = {path.parent for path in Path(__file__).parent.rglob("test_*.py")}
    assert [folder.name for folder in folders if not (folder / "__init__.py").is_file()] == []
