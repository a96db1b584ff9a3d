"""A family of models fitted in a time budget, of the sizes that held-out images choose."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from nelbo.base.console import training_progress
from nelbo.base.errors import NelboError
from nelbo.chain.model import Model
from nelbo.data import ImageData
from nelbo.data.splits import TRAIN, VALIDATION
from nelbo.evidence.evaluation import evaluate
from nelbo.families import Family
from nelbo.training.images import TrainingImages

_BATCH = 64


@dataclass(frozen=True)
class Trained:
    """A model that has been trained.

    Attributes:
        model: the model.
        steps: updates or iterations.
        passes: how often each training image was seen.
        seconds: what it took.
        choice: what was chosen by held-out images; "" for nothing.
    """

    model: Model
    steps: int
    passes: float
    seconds: float
    choice: str = ""


def fit_best(
    family: type[Family],
    candidates: Sequence[Mapping[str, Any]],
    images: TrainingImages,
    budget: float,
    *,
    title: str,
    seed: int,
    device: torch.device,
) -> Trained:
    """The best of the candidates by held-out images, in the time of all of them together.

    Args:
        family: its class.
        candidates: arguments of the class, in the order in which they are fitted.
        images: what to fit it to, and to choose by.
        budget: seconds of wall-clock time.
        title: what the progress bar calls it.
        seed: of all that is drawn.
        device: where to compute.

    Raises:
        NelboError: images that every candidate refuses, or fits that diverged.
    """
    data, begun, count = _for_fit(images), time.monotonic(), len(candidates)
    best: tuple[float, Trained] | None = None
    problems: list[NelboError] = []
    refused: list[str] = []
    late: list[str] = []
    for i, arguments in enumerate(candidates):
        left = budget - (time.monotonic() - begun)
        if left <= 0 and i > 0:
            late.append(_named(arguments))
            continue
        try:
            found = _fit(family, arguments, title, data, left / (count - i), seed, device)
        except NelboError as error:
            problems.append(error)
            refused.append(_named(arguments))
            continue
        cost = _held_out(found.model, images.validation, seed) if count > 1 else 0.0
        if best is None or cost < best[0]:
            best = cost, found
    if best is None:
        raise problems[0]
    choice = best[1].choice if count > 1 else ""
    # What the first was refused for is what the others were, too, as a rule.
    left_out = [f"{', '.join(refused)} failed: {problems[0]}"] if refused else []
    left_out += [f"no time for {', '.join(late)}"] if late else []
    if left_out:
        choice = f"{choice} ({'; '.join(left_out)})"
    return replace(best[1], seconds=time.monotonic() - begun, choice=choice)


def _fit(
    family: type[Family],
    arguments: Mapping[str, Any],
    title: str,
    data: ImageData,
    budget: float,
    seed: int,
    device: torch.device,
) -> Trained:
    """One candidate, behind a progress bar."""
    model, choice = family(**arguments), _named(arguments)
    title, begun = f"{title} {choice}".rstrip(), time.monotonic()
    with training_progress() as progress:
        task = progress.add_task(title, total=budget, figures="", step=0, pace="")
        for step in model.fit_steps(data, time_budget=budget, seed=seed, device=device):
            progress.update(
                task,
                completed=min(budget, time.monotonic() - begun),
                step=step.number,
                figures=f"{step.nats:,.1f} nats",
            )
    assert model.last_step is not None
    last = model.last_step
    return Trained(model, last.number, last.passes, time.monotonic() - begun, choice)


def _named(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in arguments.items())


def _for_fit(images: TrainingImages) -> ImageData:
    """The images for training and for validation, each marked with its split."""
    train, validation = images.train, images.validation
    if images.watched != VALIDATION:
        return replace(train, splits=None)
    return ImageData(
        train.source,
        torch.cat([train.images, validation.images]),
        train.levels,
        (*train.names, *validation.names),
        splits=(TRAIN,) * len(train) + (VALIDATION,) * len(validation),
    )


def _held_out(model: Model, data: ImageData, seed: int) -> float:
    """Bits/dim of the images that choices are made by."""
    noise = torch.Generator().manual_seed(seed)
    batches = list(evaluate(model, data, batch_size=_BATCH, generator=noise))
    return float(torch.cat([batch.bits_per_dim for batch in batches]).mean())
