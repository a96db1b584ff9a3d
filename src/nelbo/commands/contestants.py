"""Trains a family of the taxonomy in a time budget, and saves it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from nelbo.base.digest import digest
from nelbo.commands.options.compare import Compare
from nelbo.commands.starting_point import parse_train
from nelbo.commands.taxonomy import TAXONOMY, Entry
from nelbo.data import ImageData
from nelbo.families import FAMILIES
from nelbo.formats import load, save
from nelbo.runs.run_directory import AUTOENCODER_RUN
from nelbo.training.family_choice import Trained, fit_best
from nelbo.training.images import TrainingImages
from nelbo.training.processes import Processes
from nelbo.training.stages import train_stages


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
    for option, value in (("--size", asked.size), ("--threads", asked.computing.threads)):
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
    """The best of the candidates of the entry, saved."""
    assert entry.model is not None
    images = contest.images
    trained = fit_best(
        FAMILIES[entry.model],
        entry.candidates,
        images,
        contest.budget,
        title=entry.title,
        seed=seed,
        device=contest.device,
    )
    notes = {
        "source": images.source,
        "splits": images.counts,
        "training_images": len(images.train),
        "channels": images.train.shape[0],
    }
    save(trained.model, directory, notes=notes)
    return trained
