"""Small mistakes that are planted in a module, one at a time, by the operators of cosmic-ray."""

from __future__ import annotations

import ast as python_ast
import random
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

# They plant no mistake of arithmetic, or need to be told names.
_LEFT_OUT = ("RemoveDecorator", "ExceptionReplacer", "VariableReplacer", "VariableInserter")
# Bitwise operators, of which the mathematics has none but for masks.
_BITWISE = ("RShift", "LShift", "BitOr", "BitAnd", "BitXor", "Invert")

Place = tuple[int, int]


@dataclass(frozen=True, order=True)
class Mutant:
    """One mistake: the place in the source, and the operator and its occurrence that make it."""

    start: Place
    end: Place
    operator: str
    occurrence: int

    @property
    def name(self) -> str:
        """What identifies it within one version of a module."""
        return f"{self.start[0]}:{self.start[1]} {self.operator} {self.occurrence}"

    def source(self, code: str) -> str:
        """The module with the mistake."""
        mutated = mutate_code(code, get_operator(self.operator)(), self.occurrence)
        assert mutated is not None
        return str(mutated)


def mutants_of(code: str, seed: int = 0) -> Iterator[Mutant]:
    """One mistake for each place of a module where one can be made, in a random order.

    Annotations, decorators, messages of errors and warnings, and loops that the operators only
    delay are left out: what is wrong there is no mistake of the mathematics. So is what Python
    does not compile, such as another operator in place of the `*` before keywords.
    """
    tree = get_ast(code)
    nodes = list(ast_nodes(tree))
    skipped = _not_mathematics(code)
    at: dict[tuple[Place, Place], list[Mutant]] = {}
    for name in operator_names():
        short = name.partition("/")[2]
        if short in _LEFT_OUT or any(bits in short for bits in _BITWISE):
            continue
        operator = get_operator(name)
        if operator.arguments():
            continue
        occurrence = 0
        for node in nodes:
            for start, end in operator().mutation_positions(node):
                if not any(first <= start < last for first, last in skipped):
                    mutant = Mutant(start, end, name, occurrence)
                    at.setdefault((start, end), []).append(mutant)
                occurrence += 1
    draw = random.Random(seed)
    chosen = [draw.choice(sorted(mutants)) for _, mutants in sorted(at.items())]
    draw.shuffle(chosen)
    return (mutant for mutant in chosen if _compiles(mutant.source(code)))


def _compiles(code: str) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # of `is` beside a constant
        try:
            compile(code, "", "exec")
        except SyntaxError:
            return False
    return True


def _not_mathematics(code: str) -> list[tuple[Place, Place]]:
    """From where to where a module says nothing that is computed with."""
    found: list[tuple[Place, Place]] = []

    def skip(node: python_ast.AST | None) -> None:
        if node is not None:
            first, last = node.lineno, node.end_lineno  # type: ignore[attr-defined]
            found.append(((first, node.col_offset), (last, node.end_col_offset)))  # type: ignore[attr-defined]

    for node in python_ast.walk(python_ast.parse(code)):
        for decorator in getattr(node, "decorator_list", ()):  # tests/test_house.py has frozen=True
            skip(decorator)
        match node:
            case python_ast.FunctionDef():
                skip(node.returns)
                for argument in (*node.args.args, *node.args.kwonlyargs, *node.args.posonlyargs):
                    skip(argument.annotation)
            case python_ast.AnnAssign():
                skip(node.annotation)
            case python_ast.Raise() | python_ast.Assert():
                skip(node)
            case python_ast.Call(func=python_ast.Attribute(attr="warn")):
                skip(node)
            case python_ast.JoinedStr():
                skip(node)
    return found
