"""How many levels of a chain a bound takes, and what it took."""

from __future__ import annotations

from typing import Any, Literal

from nelbo.chain.evidence import Evidence
from nelbo.chain.model import Model


def levels_of(model: Model) -> int:
    """How many levels of score matching the chain of a model has; 0 without a chain."""
    return 0 if model.chain is None else model.chain.num_levels - 1


def levels_to_evaluate(asked: int | Literal["all"], model: Model) -> int | None:
    """How many levels to draw; None, each once, where as many are asked for as there are."""
    return None if asked == "all" or asked >= levels_of(model) else asked


def cost_json(bound: Evidence, model: Model, calls: int | None = None) -> dict[str, Any]:
    """What a bound took: levels of the score matching term an image, and network evaluations.

    Args:
        bound: the bound.
        model: the model it is of.
        calls: network evaluations, including those of a pilot.
    """
    T = levels_of(model) + 1
    calls = int(bound.calls.sum()) if calls is None else calls
    return {
        "levels_per_image": bound.levels.shape[1],
        "levels_of_chain": T - 1,
        "calls": calls,
        "calls_per_image": calls / len(bound),
        "calls_for_all_levels": T * len(bound),
    }


def cost_line(images: int, T: int, calls: int) -> str:
    """How many network evaluations were made, beside what all levels take."""
    made = f"{calls:,} network evaluations, {calls / images:,.1f} an image"
    if calls >= T * images:
        return made
    return f"{made}; one for every level of the chain is {T:,} an image, {T * images:,} in all"
