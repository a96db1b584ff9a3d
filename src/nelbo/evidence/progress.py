"""The bound of images behind a progress bar, and what it took."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch

from nelbo.base.console import MESSAGES, Counting
from nelbo.chain.estimators import Estimator, Importance, proposal_from
from nelbo.chain.evidence import Evidence, joined
from nelbo.chain.model import Model
from nelbo.data import ImageData
from nelbo.evidence.bound_store import BoundStore
from nelbo.evidence.cost import levels_to_evaluate
from nelbo.evidence.evaluation import calls_per_image, evaluate, evaluate_to_error
from nelbo.evidence.pilot import pilot
from nelbo.evidence.reading_levels import profiled_square


def find_levels(
    count: int,
    model: Model,
    data: ImageData,
    seed: int,
    *,
    quiet: bool = False,
    drawn: bool = True,
) -> tuple[Estimator | None, int]:
    """`count` levels an image, drawn where a pilot or the model's profile finds the bound to vary.

    And the network evaluations of the pilot. Evenly spread levels would be unbiased as well, but
    where few of them cost most of the bound their error is seen only once one of these is drawn.

    None is every level, where as many are asked for as there are. The first level is drawn twice,
    to estimate its noise.

    Args:
        count: how many.
        model: the model.
        data: the images.
        seed: of the pilot.
        quiet: show nothing.
        drawn: whether any level is still to be drawn; where not, there is no pilot.
    """
    if levels_to_evaluate(count, model) is None:
        return None, 0
    calls = 0
    if drawn:
        square, calls = _square(model, data, seed, quiet=quiet)
    else:
        square = torch.ones(model.chain.num_levels + 1, dtype=torch.float64)
    return Importance(count, proposal_from(square), reconstructions=2), calls


def evaluate_at_levels(
    model: Model,
    data: ImageData,
    description: str,
    count: int | None,
    *,
    batch_size: int,
    seed: int,
    store: BoundStore | None = None,
    **options: Any,
) -> tuple[Evidence, int]:
    """The evidence at `count` levels an image, as `find_levels`, or at each once, behind a progress
    bar; and the network evaluations that it took, those of a pilot included."""
    levels, pilot_calls = None, 0
    if count is not None:
        drawn = store is None or not store.is_complete(0, -(-len(data) // batch_size))
        quiet = _is_silent(store)
        levels, pilot_calls = find_levels(count, model, data, seed, quiet=quiet, drawn=drawn)
    options |= {"batch_size": batch_size, "seed": seed, "store": store}
    found = evaluate_with_progress(model, data, description, levels=levels, **options)
    return found, int(found.calls.sum()) + pilot_calls


def levels_to_compare(
    count: int, loaded: Sequence[tuple[Model, ImageData]], seed: int
) -> list[int | Estimator | None]:
    """`count` levels an image for each model; models of one kind meet the same.

    Those of pixels are spread evenly. The bound of latents varies at few levels: there they are
    drawn where that of the models, together where their chains are of one length, varies.
    """
    squares: dict[int, list[torch.Tensor]] = {}
    for model, data in loaded:
        if model.few_levels_matter and levels_to_evaluate(count, model) is not None:
            square, _ = _square(model, data, seed)
            squares.setdefault(model.chain.num_levels, []).append(square)
    found: list[int | Estimator | None] = []
    for model, _ in loaded:
        levels: int | Estimator | None = levels_to_evaluate(count, model)
        if model.few_levels_matter and levels is not None:
            together = torch.stack(squares[model.chain.num_levels]).mean(0)
            levels = Importance(count, proposal_from(together), reconstructions=2)
        found.append(levels)
    return found


def _square(
    model: Model, data: ImageData, seed: int, *, quiet: bool = False
) -> tuple[torch.Tensor, int]:
    """E KL² at each level, from the model's profile or else a pilot, and the pilot's calls."""
    square = profiled_square(model.chain)
    if square is not None:
        return square, 0
    with nullcontext() if quiet else MESSAGES.status("Finding the levels that matter"):
        return pilot(model, data, _generator(seed))


def evaluate_with_progress(
    model: Model,
    data: ImageData,
    description: str,
    *,
    levels: int | Estimator | None = None,
    seed: int = 0,
    store: BoundStore | None = None,
    **options: Any,
) -> Evidence:
    """`evaluate` of every image, behind a progress bar that shows the mean so far."""
    bounds: list[Evidence] = []
    bits, images = 0.0, 0
    total = len(data) * calls_per_image(model, levels)
    with Counting(description, total, quiet=_is_silent(store)) as progress:
        noise = _generator(seed)
        for bound in evaluate(model, data, levels=levels, generator=noise, store=store, **options):
            bounds.append(bound)
            bits, images = bits + float(bound.bits_per_dim.sum()), images + len(bound)
            calls = int(bound.calls.sum())
            progress(calls, status=f"calls · {bits / images:.3f} bits/dim")
    return joined(bounds)


def evaluate_to_error_with_progress(
    model: Model,
    data: ImageData,
    description: str,
    error: float,
    *,
    seed: int = 0,
    store: BoundStore | None = None,
    **options: Any,
) -> tuple[Evidence, int]:
    """`evaluate_to_error` behind a progress bar, and the network evaluations that it took."""
    bound, calls, status = None, 0, ""
    with Counting(description, quiet=_is_silent(store)) as progress:
        progress(status="calls")
        noise = _generator(seed)
        for reading in evaluate_to_error(
            model, data, error, generator=noise, store=store, **options
        ):
            if reading.bound is not None and reading.bound is not bound:
                bits = reading.bound.mean().bits_per_dim
                status = f" · {bits.mean:.3f} ± {bits.monte_carlo_error:.3f} bits/dim"
            bound, calls = reading.bound, reading.calls
            progress(completed=calls, total=reading.planned, status=f"calls{status}")
    assert bound is not None
    return bound, calls


def _is_silent(store: BoundStore | None) -> bool:
    """Whether another of the processes that share an evaluation shows how far it is."""
    return store is not None and store.rank > 0


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
