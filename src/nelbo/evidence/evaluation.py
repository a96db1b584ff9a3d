"""Read the bound of a whole dataset, a batch at a time, or until its error is small enough."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.base.arguments import check_count, check_number
from nelbo.base.errors import NelboError
from nelbo.chain.bound import Bound
from nelbo.chain.distributions import drawn_on, generator_for
from nelbo.chain.estimate import DOMINANT_SHARE
from nelbo.chain.estimators import (
    Estimator,
    Importance,
    as_estimator,
    proposal_from,
)
from nelbo.chain.evidence import Evidence, joined
from nelbo.chain.model import Model
from nelbo.data import ImageData
from nelbo.evidence.allocation import ADDED_SHARE, MARGIN, Draws, DrawSpread
from nelbo.evidence.bound_store import BoundStore
from nelbo.evidence.inputs import check_fits, inputs
from nelbo.evidence.pilot import pilot, some_images

# The exploration begins with this many images, and goes on until it has taken this share of the
# network evaluations that it plans.
EXPLORED_IMAGES = 64
_EXPLORED_SHARE = 0.15


def evaluate(
    model: Model,
    data: ImageData,
    *,
    levels: int | Estimator | None = None,
    batch_size: int = 64,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    store: BoundStore | None = None,
    stage: int = 0,
) -> Iterator[Evidence]:
    """The evidence of every image in order, one `Evidence` a batch, on the CPU.

    A class-conditional model is conditioned on the labels, one of text on the captions. Join the
    batches with `Bound.cat`, or that of their class.

    Args:
        model: the model, evaluated where its weights are.
        data: the images.
        levels: levels an image, None for all of them, or an estimator; see `TractableMHVAE.elbo`.
            A model without a chain is evaluated in one call an image.
        batch_size: images at a time.
        generator: the source of all noise.
        dtype: torch.bfloat16 evaluates the network in mixed precision, by default it computes in
            its own; `nelbo.evidence.precision.try_bfloat16` measures whether that pays and what
            it changes.
        store: keeps the bounds of batches on disk, so that an evaluation that was cut short goes
            on and several processes share one; needs a seeded generator.
        stage: of the evaluation, where the store is used for more than one.

    Raises:
        NelboError: images of another size or number of levels than the model's.
    """
    check_fits(model, data)
    check_count("batch_size", batch_size)
    device = model.device
    mixed = dtype not in (None, torch.float32)
    noise = batch_generators(generator)

    def evidence_of(index: int) -> Evidence:
        batch = data.take(slice(index * batch_size, (index + 1) * batch_size))
        x_0, condition = inputs(model, batch)
        # Not inference mode: its tensors could not be used in a later training step.
        with torch.no_grad(), torch.autocast(device.type, dtype, enabled=mixed):
            found = model.evidence(x_0, condition, levels=levels, generator=noise(index))
            return found.to("cpu")

    count = -(-len(data) // batch_size)
    if store is None:
        yield from map(evidence_of, range(count))
    else:
        yield from store.collect(stage, count, evidence_of)


def batch_generators(
    generator: torch.Generator | None,
) -> Callable[[int], torch.Generator | None]:
    """The source of noise of each batch of an evaluation, by its index.

    Each batch has noise of its own, whoever evaluates it and whatever came before.
    """
    if generator is None:
        return lambda index: None
    device = drawn_on(generator, torch.get_default_device())
    seed = int(torch.randint(2**62, (), generator=generator, device=device))
    return lambda index: generator_for(seed, index, device=device)


def calls_per_image(model: Model, levels: int | Estimator | None) -> int:
    """How many evaluations of the network `evaluate` makes for each image."""
    if model.chain is None:
        return 1
    estimator = as_estimator(levels)
    chosen, _ = estimator.choose(1, model.chain.num_levels)
    return (estimator.reconstructions + chosen.shape[1]) * (2 if estimator.antithetic else 1)


@dataclass(frozen=True)
class Reading:
    """How far `evaluate_to_error` is.

    Attributes:
        bound: of all images, from the reported stage; None before it is complete.
        calls: network evaluations so far, those of the pilot and of the exploration included.
        planned: how many there will be by the end of this stage.
    """

    bound: Evidence | None
    calls: int
    planned: int


def evaluate_to_error(
    model: Model,
    data: ImageData,
    error: float,
    *,
    score_matching_square: Float[Tensor, " levels"] | None = None,
    batch_size: int = 64,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    store: BoundStore | None = None,
) -> Iterator[Reading]:
    """Evaluate every image to a Monte Carlo error of their mean of at most `error`.

    Levels are drawn where a pilot, or a profile, finds them to matter (`Importance`). An
    exploration of a few images measures how noisy each term is; from that the number of draws is
    planned, and all images are evaluated with draws that the plan has not seen. Only these are
    reported: an estimate that is stopped when its own error looks small is biased, since where
    costs are skewed a low mean and a small error come together (docs/decisions/0008).

    The last reading holds the result. Its error exceeds `error` only where single draws rule it and
    the plan was wrong by much; `Estimate.warnings` then reports them. The error of a latent model
    holds that of its draws of z_0 and of the reconstruction of pixels.

    Args:
        model: the model, evaluated where its weights are.
        data: the images.
        error: Monte Carlo standard error of the mean over the images, bits per dimension.
        score_matching_square: E KL² at each level, (T+1,), from a `LevelProfile`; by default a
            pilot measures it on at most 16 images at 24 levels, and its calls are counted.
        batch_size: images at a time.
        generator: the source of all noise.
        dtype: see `evaluate`.
        store: see `evaluate`.

    Raises:
        NelboError: an error that is not positive, images that do not fit the model, or a bound
            that is not finite, so that no error is ever reached.
    """
    check_fits(model, data)
    check_count("batch_size", batch_size)
    check_number("error", error)
    if not (error > 0 and math.isfinite(error)):
        raise NelboError(f"the target error must be positive, in bits per dimension, got {error}")
    how: dict[str, Any] = {"batch_size": batch_size, "generator": generator, "dtype": dtype}
    found_of: Callable[..., Iterator[Evidence]] = partial(evaluate, model, store=store, **how)
    if model.chain is None:
        yield from _in_one_call(found_of(data), len(data))
        return
    T, n, calls, stages = model.chain.num_levels, len(data), 0, itertools.count()
    if score_matching_square is None and T > 1:
        score_matching_square, calls = pilot(model, data, generator)
    proposal = proposal_from(
        torch.zeros(T + 1) if score_matching_square is None else score_matching_square
    )
    nats = data.images[0].numel() * math.log(2.0)
    least = Draws.least(n, T)

    def read(images: ImageData, draws: Draws, found: list[Bound]) -> Iterator[int]:
        """Evaluate images; yield the calls after each batch, and leave the bound in `found`."""
        batches: list[Any] = []
        levels = Importance(max(1, draws.levels), proposal, reconstructions=draws.first)
        for batch in found_of(images, levels=levels, stage=next(stages)):
            batches.append(batch)
            yield int(batch.calls.sum())
        found.append(Bound.cat(batches))
        if not math.isfinite(found[-1].mean().nelbo.monte_carlo_error):
            raise NelboError(
                f"the bound of {data.source} is not finite, so its error cannot be brought down to "
                f"{error:g} bits/dim; evaluate all levels to see which term is not"
            )

    explored: list[Bound] = []
    plan, missing = least, 0
    while not explored or missing > 0:
        count = min(n, max(EXPLORED_IMAGES, missing // least.calls))
        images = data.take(some_images(n, count, generator))
        draws = Draws.least(count, T).grown_to(missing / count)
        expected = calls + count * draws.calls + n * plan.calls
        for made in read(images, draws, explored):
            calls += made
            yield Reading(None, calls, expected)
        plan = DrawSpread.of(explored).draws(n * (MARGIN * error * nats) ** 2, least)
        spent = sum(int(bound.calls.sum()) for bound in explored)
        missing = math.ceil(_EXPLORED_SHARE * n * plan.calls - spent)

    draws, allowance, reported = plan, math.floor(ADDED_SHARE * plan.calls), list[Bound]()
    while True:
        planned = calls + n * draws.calls
        for made in read(data, draws, reported):
            calls += made
            yield Reading(None, calls, planned)
        bound = Bound.merge(reported)
        bits = bound.mean().bits_per_dim
        excess = bits.monte_carlo_error / error
        draws = plan.more(excess)
        # Where single draws rule the error, only a little is added: see docs/decisions/0008.
        allowance -= draws.calls
        if excess <= 1 or (allowance < 0 and bits.largest_draw_share > DOMINANT_SHARE):
            break
    yield Reading(bound, calls, calls)


def _in_one_call(found: Iterator[Evidence], images: int) -> Iterator[Reading]:
    """The evidence of a model without levels to draw: that of each image once."""
    batches: list[Evidence] = []
    calls = 0
    for batch in found:
        batches.append(batch)
        calls += int(batch.calls.sum())
        yield Reading(None, calls, images)
    yield Reading(joined(batches), calls, calls)
