"""Trains a family of the taxonomy in a time budget, and saves it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from nelbo.base.console import training_progress
from nelbo.base.digest import digest
from nelbo.base.errors import NelboError
from nelbo.chain.model import Model
from nelbo.commands.options.compare import Compare
from nelbo.commands.starting_point import parse_train
from nelbo.commands.taxonomy import TAXONOMY, Entry
from nelbo.data import ImageData
from nelbo.data.splits import TRAIN, VALIDATION
from nelbo.evidence.evaluation import evaluate
from nelbo.families import FAMILIES
from nelbo.formats import load, save
from nelbo.runs.run_directory import AUTOENCODER_RUN
from nelbo.training.images import TrainingImages
from nelbo.training.processes import Processes
from nelbo.training.stages import train_stages

_BATCH = 64


@dataclass(frozen=True)
class Contest:
    """What every family meets.

    Attributes:
        images: the images, of all splits.
        test: those that figures are reported on.
        budget: seconds of wall-clock time to train in.
        samples: how many samples are judged.
        device: where all of them compute.
        options: what else is asked for.
    """

    images: TrainingImages
    test: ImageData
    budget: float
    samples: int
    device: torch.device
    options: Compare

    def asked(self) -> dict[str, Any]:
        """All that decides the figures of a family beside its seed."""
        parts = [self.images.train.keys, self.images.validation.keys, self.test.keys]
        return {
            "data": self.images.source,
            "images": digest(parts),
            "budget": self.budget,
            "samples": self.samples,
            "levels": self.options.levels,
            "device": self.device.type,
        }


@dataclass(frozen=True)
class Trained:
    """A family that has been trained.

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


def train(name: str, contest: Contest, directory: Path, seed: int) -> Trained:
    """Train a family on the images for training, choose by those for validation, and save it.

    Args:
        name: of the family in the taxonomy.
        contest: what it meets.
        directory: where to.
        seed: of all that is drawn.

    Raises:
        NelboError: images that the family refuses, or a fit that diverged.
    """
    if directory.is_dir():  # left by one that was interrupted
        shutil.rmtree(directory)
    threads, entry = torch.get_num_threads(), TAXONOMY[name]
    try:
        with torch.random.fork_rng():
            fit = _run if entry.model is None else _family
            trained = fit(entry, contest, directory, seed)
    finally:
        torch.set_num_threads(threads)  # training a diffusion measures which number is faster
    return replace(trained, model=trained.model.to(contest.device))


def _run(entry: Entry, contest: Contest, directory: Path, seed: int) -> Trained:
    """What `nelbo train DATA --time-budget BUDGET` trains with the arguments of the entry."""
    images, device = contest.images, contest.device
    arguments = [images.source, "--out", str(directory), "--time-budget", f"{contest.budget:.3f}s"]
    arguments += ["--seed", str(seed), "--device", str(device), *entry.train]
    asked = contest.options
    for option, value in (("--size", asked.size), ("--threads", asked.threads)):
        arguments += [] if value is None else [option, str(value)]
    options = parse_train(arguments)
    run, _ = train_stages(options, images, Processes(device), report=False)
    autoencoder = run.stage(AUTOENCODER_RUN)
    stages = [stage.notes for stage in (autoencoder, run) if stage.has_model]
    steps = [stage["trained"]["steps"] for stage in stages]
    shown = [stage["settings"]["training"]["batch_size"] for stage in stages]
    passes = sum(n * size for n, size in zip(steps, shown, strict=True)) / len(images.train)
    seconds = sum(stage["trained"]["seconds"] for stage in stages)
    return Trained(load(run.path), sum(steps), passes, seconds)


def _family(entry: Entry, contest: Contest, directory: Path, seed: int) -> Trained:
    """The best of the candidates by held-out images, in the time of all of them together."""
    images, budget = contest.images, contest.budget
    data, begun = _for_fit(images), time.monotonic()
    best: tuple[float, Trained] | None = None
    problems: list[NelboError] = []
    refused: list[str] = []
    count = len(entry.candidates)
    late: list[str] = []
    for i, arguments in enumerate(entry.candidates):
        left = budget - (time.monotonic() - begun)
        if left <= 0 and i > 0:
            late.append(_named(arguments))
            continue
        try:
            found = _fit(entry, arguments, data, left / (count - i), seed, contest.device)
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
    trained = replace(best[1], seconds=time.monotonic() - begun, choice=choice)
    # What the first was refused for is what the others were, too, as a rule.
    left_out = [f"{', '.join(refused)} failed: {problems[0]}"] if refused else []
    left_out += [f"no time for {', '.join(late)}"] if late else []
    if left_out:
        trained = replace(trained, choice=f"{trained.choice} ({'; '.join(left_out)})")
    notes = {
        "source": images.source,
        "splits": images.counts,
        "training_images": len(images.train),
        "channels": images.train.shape[0],
    }
    save(trained.model, directory, notes=notes)
    return trained


def _fit(
    entry: Entry,
    arguments: Mapping[str, Any],
    data: ImageData,
    budget: float,
    seed: int,
    device: torch.device,
) -> Trained:
    """One candidate, behind a progress bar."""
    assert entry.model is not None
    model = FAMILIES[entry.model](**arguments)
    choice = _named(arguments)
    title, begun = f"{entry.title} {choice}".rstrip(), time.monotonic()
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
