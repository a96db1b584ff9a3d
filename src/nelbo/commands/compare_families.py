"""nelbo compare --budget: the families of the taxonomy, trained alike and set side by side."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nelbo.base.console import notice
from nelbo.base.errors import NelboError
from nelbo.base.files import read_json, write_csv
from nelbo.chain.evidence import Evidence
from nelbo.chain.model import Model
from nelbo.commands.common import answer, use_threads
from nelbo.commands.contestants import Contest, train
from nelbo.commands.options.compare import SAMPLES, SEEDS, Compare
from nelbo.commands.taxonomy import TAXONOMY, chosen
from nelbo.data.mentions import mention
from nelbo.evidence.modes import count_modes
from nelbo.evidence.progress import evaluate_at_levels
from nelbo.evidence.sample_quality import sample_quality
from nelbo.evidence.sample_reading import LEAST_REAL
from nelbo.evidence.standings import FIGURES, SPACES, Figures, Standing, packed
from nelbo.families.noise import device_for
from nelbo.formats import write_json
from nelbo.report.families_page import (
    FamiliesReport,
    csv_rows,
    families_json,
    families_page,
    families_tables,
)
from nelbo.report.families_pictures import PLANE, SHOWN
from nelbo.report.formatting import duration
from nelbo.report.page import write_html
from nelbo.samplers.default import suited_sampler
from nelbo.training.config import parse_duration
from nelbo.training.family_choice import Trained
from nelbo.training.images import TrainingImages

TABLE_FILE, PAGE_FILE = "comparison.csv", "comparison.html"
MODELS = "models"
# Network calls of a sample of a model with a chain.
_STEPS = 50


def compare_families(options: Compare) -> None:
    """Train what is not there yet, and write the table and the page."""
    assert options.budget is not None
    assert options.out is not None
    use_threads(options.computing.threads)
    out, names = options.out, chosen(options.families)
    images = _images(options)
    test = images.reported
    if options.images is not None:
        test = test.subset(options.images, options.computing.seed)
    budget, count = parse_duration(options.budget), options.seeds or SEEDS
    device = device_for(None if options.computing.device == "auto" else options.computing.device)
    contest = Contest(images, test, budget, options.samples or SAMPLES, device, options)
    asked = contest.asked()
    seeds = range(options.computing.seed, options.computing.seed + count)
    _check_same(out, asked)
    (out / FIGURES).mkdir(parents=True, exist_ok=True)
    left = sum(not _file(out, name, seed).is_file() for name in names for seed in seeds)
    if left:
        notice(
            f"{left} of {len(names) * count} fits are left, {duration(budget)} each and what they "
            f"are judged in: about {duration(left * budget)} of training"
        )
    standings = []
    for name in names:
        runs, failures = [], {}
        for seed in seeds:
            try:
                runs.append(_figures(contest, asked, out, name, seed))
            except OSError:  # the disk, which is of no family
                raise
            except Exception as error:  # one that fails does not lose the others
                failures[seed] = _reason(error)
                notice(f"{TAXONOMY[name].title}, seed {seed}, failed: {failures[seed]}")
        entry = TAXONOMY[name]
        standings.append(Standing(name, entry.title, entry.group, tuple(runs), failures))
    report = FamiliesReport(tuple(standings), test, len(images.train), budget, tuple(seeds))
    write_csv(out / TABLE_FILE, csv_rows(report))
    write_html(families_page(report), out / PAGE_FILE)
    answer(
        options.computing.json,
        {**families_json(report), "out": str(out), "page": str(out / PAGE_FILE)},
        *families_tables(report),
        f"Page: {(out / PAGE_FILE).resolve().as_uri()}",
    )
    if report.judged is None:
        raise NelboError(f"every fit {'; '.join(standings[0].notes(budget))}")


def _images(options: Compare) -> TrainingImages:
    images = TrainingImages.load(options.data, options.size, options.channels)
    mention(images.train, images.validation, images.reported)
    if images.train.stream is not None:
        raise NelboError(
            f"{options.data} is streamed, and families are fitted to images in memory: name it "
            "without stream"
        )
    if len(images.train) < LEAST_REAL or len(images.reported) < 2:
        raise NelboError(
            f"a comparison needs at least {LEAST_REAL} images for training and 2 for test, "
            f"{options.data} has {len(images.train)} and {len(images.reported)}: add some, a "
            "hundred are enough, or sort them into folders train, validation and test"
        )
    return images


def _check_same(out: Path, asked: dict[str, Any]) -> None:
    """Raise `NelboError` where the figures that are there are of another comparison."""
    for file in sorted((out / FIGURES).glob("*.json")):
        before = read_json(file).get("asked")
        if before == asked:
            continue
        known = before if isinstance(before, dict) else {}
        differ = [key for key, value in asked.items() if known.get(key) != value]
        raise NelboError(
            f"{out} holds a comparison with other {', '.join(differ)}: "
            "give another --out, or what was asked for then"
        )


def _figures(contest: Contest, asked: dict[str, Any], out: Path, name: str, seed: int) -> Figures:
    """The figures of a family with a seed: those that are there, or new ones."""
    file = _file(out, name, seed)
    if file.is_file():
        return Figures.read(file)
    title, budget = TAXONOMY[name].title, contest.budget
    notice(f"{title}, seed {seed}: {duration(budget)} of training")
    directory = out / MODELS / f"{name}-{seed}"
    trained = train(name, contest, directory, seed)
    figures = _judge(contest, name, seed, title, trained)
    write_json(file, {"asked": asked, **figures.to_json()})
    return figures


def _judge(contest: Contest, name: str, seed: int, title: str, trained: Trained) -> Figures:
    """Evaluate the test images, draw samples and compare them with the training images."""
    model, test, options = trained.model, contest.test, contest.options
    evidence, _ = evaluate_at_levels(
        model,
        test,
        f"Evaluating {title}",
        options.levels,
        batch_size=options.batch_size,
        seed=seed,
    )
    samples, seconds = _draw(model, contest.samples, options.batch_size, seed)
    train = contest.images.train
    spaces = sample_quality(samples, train.images, train.levels, seed=seed)
    return Figures(
        family=name,
        seed=seed,
        kind=evidence.mean().kind,
        bits=_bits(evidence),
        monte_carlo_error=evidence.mean().bits_per_dim.monte_carlo_error,
        quality=dict(zip(SPACES, (space.to_json() for space in spaces), strict=True)),
        modes=count_modes(samples, train.images, train.levels, seed=seed).to_json(),
        sample_seconds=seconds,
        parameters=_numbers(model),
        steps=trained.steps,
        passes=trained.passes,
        seconds=trained.seconds,
        choice=trained.choice,
        **packed(samples if samples[0].numel() == PLANE else samples[:SHOWN]),
    )


def _bits(evidence: Evidence) -> tuple[float, ...]:
    """Bits/dim of each image; none where the model gives no probability.

    Raises:
        NelboError: some are not finite.
    """
    if evidence.mean().kind == "none":
        return ()
    bits = tuple(evidence.bits_per_dim.tolist())
    if lost := sum(not math.isfinite(bit) for bit in bits):
        raise NelboError(f"bits/dim of {lost} of {len(bits)} test images are not finite")
    return bits


def _draw(model: Model, count: int, batch_size: int, seed: int) -> tuple[Tensor, float]:
    """Samples, pixel levels, and the wall-clock time of one."""
    noise = torch.Generator().manual_seed(seed)
    sampler = suited_sampler(model, _STEPS)
    begun, drawn = time.perf_counter(), []
    with torch.no_grad():
        for start in range(0, count, batch_size):
            n = min(batch_size, count - start)
            drawn.append(model.sample(n, sampler, generator=noise))
    seconds = (time.perf_counter() - begun) / count
    samples = torch.cat(drawn)
    if not bool(samples.isfinite().all()):
        raise NelboError("its samples are not finite")
    return model.data.shown(samples), seconds


def _numbers(model: Model) -> int:
    """How many numbers were fitted; those of a model without a gradient are its buffers."""
    state = list(model.parameters()) or list(model.state_dict().values())
    return sum(value.numel() for value in state)


def _reason(error: Exception) -> str:
    """Why a family failed, in a line."""
    text = " ".join(str(error).split()) or "no reason given"
    return text if isinstance(error, NelboError) else f"{type(error).__name__}: {text}"


def _file(out: Path, name: str, seed: int) -> Path:
    return out / FIGURES / f"{name}-{seed}.json"
