"""The model card of an exported pipeline: README.md as the Hugging Face Hub reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from nelbo.data.credits import CREDITS
from nelbo.diffusion import Diffusion, Pixels
from nelbo.report.formatting import number
from nelbo.report.tables import bits_unit

_TERMS = {
    "reconstruction": "reconstruction",
    "prior_matching": "prior matching",
    "score_matching": "score matching",
    "total": "**total (−ELBO)**",
}


def model_card(
    name: str,
    model: Diffusion,
    notes: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    licence: str | None,
) -> str:
    """Markdown that says what the model is, its bound, its licence, and how to load it.

    Args:
        name: title of the card.
        model: the exported model.
        notes: what the run's nelbo.json holds.
        evaluation: what its evaluation.json holds, by split; may be empty.
        licence: identifier of the licence of the weights, such as "cc-by-4.0"; None says nothing.
    """
    front = ["---", "library_name: diffusers", "tags:", "- diffusion", "- nelbo"]
    if licence is not None:
        front.insert(2, f"license: {json.dumps(licence)}")
    parts = [
        "\n".join([*front, "---"]),
        f"# {name}",
        _description(model, notes),
        _bound_section(model, evaluation),
        _usage(model),
        _licence(notes, licence),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _description(model: Diffusion, notes: Mapping[str, Any]) -> str:
    assert model.shape is not None
    channels, height, width = model.shape
    pixels = f" with {model.data.levels} levels" if isinstance(model.data, Pixels) else ""
    kind = f"A diffusion model of {model.num_classes} classes" if model.num_classes else ""
    lines = [
        f"{kind or 'An unconditional diffusion model'} of {height}×{width} images, {channels} "
        f"channel{'s' * (channels > 1)}{pixels}: a chain of {model.num_levels:,} levels, "
        f"{model.prediction} network, {model.variance} variance.",
    ]
    trained = notes.get("trained")
    if trained:
        images = notes.get("training_images")
        lines.append(
            f" Trained for {trained['steps']:,} steps"
            + (f" on {images:,} images" if images else "")
            + (f" of {notes['source']}." if notes.get("source") else ".")
        )
    return "".join(lines)


def _bound_section(model: Diffusion, evaluation: Mapping[str, Any]) -> str:
    if not evaluation:
        return ""
    unit = bits_unit(not isinstance(model.data, Pixels))
    splits = list(evaluation)
    rows = [
        "| term | " + " | ".join(f"{split}, {unit}" for split in splits) + " |",
        "|---|" + "---:|" * len(splits),
    ]
    for term, label in _TERMS.items():
        cells = [_cell(evaluation[split]["bits_per_dim"][term]) for split in splits]
        rows.append(f"| {label} | " + " | ".join(cells) + " |")
    counts = ", ".join(f"{evaluation[split]['examples']:,} of {split}" for split in splits)
    return "\n".join(
        [
            "## Evidence",
            "",
            "The negative evidence lower bound by its terms, mean over images "
            f"({counts}) ± standard error.",
            "",
            *rows,
        ]
    )


def _cell(estimate: Mapping[str, float | None]) -> str:
    mean, error = estimate["mean"], estimate["standard_error"]
    if mean is None:
        return "—"
    return number(mean, 3) + (f" ± {number(error, 3)}" if error is not None else "")


def _usage(model: Diffusion) -> str:
    return """## How to use

```python
from diffusers import DDPMPipeline

images = DDPMPipeline.from_pretrained("PATH")(batch_size=4).images
```

```python
import nelbo

model = nelbo.load("PATH")
samples = model.sample(4)  # (4, C, H, W) in [-1, 1]
bound = model.elbo(model.data.to_network(images))  # images: (B, C, H, W) integer levels
print(bound.mean().bits_per_dim)
```

```sh
nelbo evaluate PATH --data FOLDER_OF_PICTURES --split all
```"""


def _licence(notes: Mapping[str, Any], licence: str | None) -> str:
    credit = CREDITS.get(str(notes.get("source")), "")
    said = f"Weights: {licence}." if licence is not None else ""
    data = f"Data: {credit}." if credit else ""
    text = " ".join(part for part in (said, data) if part)
    return f"## Licence\n\n{text}" if text else ""
