"""The card of a checkpoint that ships with the package: README.md beside its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nelbo.base.errors import NelboError
from nelbo.data.credits import CREDITS, LICENCES
from nelbo.latent import LatentDiffusion
from nelbo.report.formatting import duration, number
from nelbo.report.model_card import credit, files_lines, measured_splits
from nelbo.report.tables import label


def checkpoint_card(
    name: str,
    model: LatentDiffusion,
    notes: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    *,
    command: str,
    prompt: str,
    figures: Mapping[str, str] | None = None,
) -> str:
    """Markdown with a checkpoint's description, the makers of its data, its command and quality.

    Args:
        name: what `nelbo.pretrained` calls it.
        model: the model.
        notes: what the nelbo.json of its run holds: source, training_images, trained.
        evaluation: what its evaluation.json holds, by split.
        command: what was typed to train it.
        prompt: an example.
        figures: what else was measured, by name, with how it was measured.

    Raises:
        NelboError: data of which no licence is known, no command, or nothing measured.
    """
    source = notes.get("source")
    if source not in LICENCES or source not in CREDITS:
        raise NelboError(
            f"the run was trained on {source!r}, of which no licence is known; expected "
            f"one of {', '.join(LICENCES)}"
        )
    if not command.strip():
        raise NelboError("a card needs the command that made the checkpoint")
    if not evaluation:
        raise NelboError("a card needs the evaluation of the run: train it to its end first")
    licence, _ = LICENCES[source]
    trained = notes["trained"]
    parts = [
        f"---\nlicense: {licence}\nlibrary_name: diffusers\ntags:\n- text-to-image\n- nelbo\n---",
        f"# {name}",
        f"{model.parts_description()} in float16. A `StableDiffusionPipeline` as diffusers reads "
        "it.",
        f'```sh\nnelbo sample {name} --prompt "{prompt}" --out picture.png\n'
        f"nelbo evaluate {name}\n```",
        "## How it was made",
        f"```sh\n{command.strip()}\n```",
        f"The prior and its text encoder took {trained['steps']:,} steps in "
        f"{duration(trained['seconds'])}, on {notes['training_images']:,} images.",
        "## How good it is",
        _figures(evaluation, figures or {}),
        "## Credit and licence",
        credit([source], licence),
    ]
    return "\n\n".join(parts) + "\n"


def _figures(evaluation: Mapping[str, Any], figures: Mapping[str, str]) -> str:
    """The bound term by term, and what else was measured."""
    rows = ["| | |", "|---|---|"]
    for split in measured_splits(evaluation):
        bound = evaluation[split]
        for term, estimate in bound["bits_per_dim"].items():
            mean, error = estimate["mean"], estimate["standard_error"]
            spread = "" if error is None else f" ± {number(error, 3)}"
            value = "not finite" if mean is None else f"{number(mean, 3)}{spread} bits/dim"
            rows.append(f"| {label(term)}, {split} ({bound['examples']:,} images) | {value} |")
    rows += [f"| {what} | {value} |" for what, value in figures.items()]
    return "\n".join([*rows, *(line for some in files_lines(evaluation) for line in ("", some))])
