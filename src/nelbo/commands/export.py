"""nelbo export: a run or checkpoint as a clean diffusers pipeline with a model card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nelbo.base.errors import NelboError
from nelbo.base.files import atomic_file, writing
from nelbo.chain.model import Model
from nelbo.commands.common import answer
from nelbo.commands.options.export import Export
from nelbo.data.credits import licence_asked
from nelbo.formats import Pipeline, save
from nelbo.formats.files import read_index
from nelbo.formats.model_directory import CARD_FILE, holds_autoencoder_alone
from nelbo.formats.notes import exported, shareable
from nelbo.report.model_card import licence_of, measured_sections, model_card
from nelbo.runs.run_directory import EVALUATION_FILE, RunDirectory
from nelbo.training.run_model import kept_checkpoint, with_weights
from nelbo.training.snapshots import reconstruct_average, snapshot_files

# What to ask a model of these data for, in the example of its card.
_PROMPTS = {"emoji": "woman firefighter: medium skin tone"}


def run(options: Export) -> None:
    """Write the pipeline and its card."""
    if holds_autoencoder_alone(options.run_path):
        raise NelboError(
            f"{options.run_path} is the run of an autoencoder alone, which is no pipeline; its "
            "folder vae/ is an AutoencoderKL that diffusers reads as it is"
        )
    source, run = Pipeline.open(options.run_path), RunDirectory(options.run_path)
    model, other = _model(options, source, run)
    notes = shareable(source.notes) | other
    # What was measured is of the last weights.
    measured = {} if other else _measured(model, run)
    with writing(options.out):
        save(model, options.out, sampler=source.sampler(), notes=exported(notes))
        pipeline = read_index(options.out).class_name
        with atomic_file(options.out / CARD_FILE) as temporary:
            card = _card(options, model, run, notes, measured, pipeline)
            temporary.write_text(card, encoding="utf-8", errors="backslashreplace")
    answer(
        options.json,
        {"run": options.run_path, "out": str(options.out), "pipeline": pipeline},
        f"Exported to {options.out}, a {pipeline} with its card {options.out / CARD_FILE}",
    )


def _model(options: Export, source: Pipeline, run: RunDirectory) -> tuple[Model, dict[str, Any]]:
    """What to export, and what to note of its training where that is not what the run notes."""
    if options.checkpoint is not None:
        step = None if options.checkpoint == "best" else options.checkpoint
        kept = kept_checkpoint(options.run_path, step)
        trained = {"steps": kept.step, "seconds": round(kept.progress["seconds"], 1)}
        model = with_weights(options.run_path, kept.tensors["average"])
        return model, {"trained": trained}
    if options.sigma_rel is not None:
        model = reconstruct_average(options.run_path, options.sigma_rel)
        step = max(snapshot_files(run.training))
        return model, {"trained": {"steps": step, "sigma_rel": options.sigma_rel}}
    return source.model(), {}


def _measured(model: Model, run: RunDirectory) -> dict[str, str]:
    """What the card has of evaluation.json, before anything is written."""
    evaluation = run.evaluation()
    try:
        return measured_sections(model, evaluation)
    except NelboError as error:
        raise NelboError(
            f"{run.path / EVALUATION_FILE}: {error}; nelbo report {run.path} writes it again"
        ) from error


def _card(
    options: Export,
    model: Model,
    run: RunDirectory,
    notes: Mapping[str, Any],
    measured: Mapping[str, str],
    pipeline: str,
) -> str:
    file = run.path / CARD_FILE
    former = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    source = str(notes.get("source"))
    return model_card(
        options.name or Path(options.run_path).resolve().name,
        model,
        notes,
        measured,
        options.license or licence_of(former) or licence_asked(notes),
        pipeline=pipeline,
        prompt=options.prompt or _drawn(run) or _PROMPTS.get(source, "a picture"),
        former=former,
    )


def _drawn(run: RunDirectory) -> str | None:
    """The first prompt that a run drew its own samples of, if it is one of text."""
    from nelbo.training.kinds.latent.report import PROMPTS_FILE

    file = run.samples / PROMPTS_FILE
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    return text.partition("\n")[0] or None
