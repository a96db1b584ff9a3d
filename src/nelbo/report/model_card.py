"""The model card of an exported pipeline: README.md as the Hugging Face Hub reads it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nelbo.base.errors import explained
from nelbo.chain.estimate import Estimate
from nelbo.chain.model import Model
from nelbo.data.credits import CREDITS, LICENCES, ORIGIN, sources_of
from nelbo.evidence.explained import NOTHING as UNCONDITIONAL
from nelbo.evidence.file_sizes import TITLES
from nelbo.formats.files import usual_guidance
from nelbo.report.explained import bits_text
from nelbo.report.formatting import NOTHING, number, with_error
from nelbo.report.tables import bits_unit, label

# Of all pipelines but DDPMPipeline, which walks the whole chain.
_STEPS = 50
# Figures of samples in each feature space, with their names in the card.
QUALITY = {
    "frechet": "Fréchet distance",
    "frechet_extrapolated": "Fréchet distance, extrapolated",
    "kernel": "kernel distance",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
}
_LICENCE = re.compile(r"""^license: *["']?(.+?)["']? *$""", re.MULTILINE)


def model_card(
    name: str,
    model: Model,
    notes: Mapping[str, Any],
    measured: Mapping[str, str],
    licence: str | None,
    *,
    pipeline: str,
    prompt: str = "",
    former: str = "",
) -> str:
    """Markdown with the description of the model, its bound, its licence, and how to load it.

    Args:
        name: title of the card.
        model: the exported model.
        notes: what the run's nelbo.json holds.
        measured: sections of what was measured of it; see `measured_sections`.
        licence: identifier of the licence of the weights, such as "cc-by-4.0"; None leaves it out.
        pipeline: the class that diffusers reads it as.
        prompt: an example, for a model of text.
        former: the card that the model had before; sections that this one has nothing for are kept.
    """
    front = ["---", "library_name: diffusers", "tags:", "- diffusion", "- nelbo"]
    if model.reads_text:
        front.append("- text-to-image")
    if licence is not None:
        front.insert(2, f"license: {json.dumps(licence)}")
    guidance = usual_guidance(notes)
    sections = {
        **measured,
        "How to use": "\n\n".join(
            part
            for part in (
                _in_diffusers(model, pipeline, prompt, guidance),
                _in_nelbo(model, prompt, guidance),
                _by_command(model, prompt),
            )
            if part
        ),
        "Credit and licence": credit(sources_of(notes), licence),
    }
    for title, text in sections_of(former).items():
        sections[title] = sections.get(title) or text
    sections["Credit and licence"] = sections.pop("Credit and licence")  # at the end
    parts = ["\n".join([*front, "---"]), f"# {name}", _description(model, notes)]
    parts += [f"## {title}\n\n{text}" for title, text in sections.items() if text]
    return "\n\n".join(parts) + "\n"


def measured_sections(model: Model, evaluation: Mapping[str, Any]) -> dict[str, str]:
    """The sections of a card on what was measured of a model.

    Args:
        model: the model.
        evaluation: what the evaluation.json of its run holds, by split; may be empty.

    Raises:
        NelboError: it is not what nelbo wrote.
    """
    broken = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
    with explained("these are no figures of a run", *broken):
        return {"Evidence": _evidence(model, evaluation), "Samples": _samples(evaluation)}


def credit(sources: Sequence[str], licence: str | None) -> str:
    """Whose images a model was made of, and the licence of its weights; "" where none is known."""
    data = [CREDITS[source] for source in sources if source in CREDITS]
    for source in sources:
        if source in LICENCES and licence == LICENCES[source][0]:
            return (
                f"Trained on {' and on '.join(data)}. The weights are derived from these pictures "
                f"and are shared under the same licence, {LICENCES[source][1]}; nelbo itself is "
                "under Apache 2.0."
            )
    weights = f"Weights: {licence}." if licence is not None else ""
    return " ".join(part for part in (weights, *(f"Data: {some}." for some in data)) if part)


def licence_of(card: str) -> str | None:
    """The licence that the head of a card names, if it does."""
    if not card.startswith("---\n"):
        return None
    found = _LICENCE.search(card.partition("\n---")[0])
    return found[1] if found else None


def sections_of(card: str) -> dict[str, str]:
    """What stands beneath each heading of the second level, by its title."""
    sections: dict[str, list[str]] = {}
    lines, in_code = None, False
    for line in card.splitlines():
        in_code ^= line.startswith("```")
        if line.startswith("## ") and not in_code:
            lines = sections.setdefault(line.removeprefix("## ").strip(), [])
        elif lines is not None:
            lines.append(line)
    return {title: "\n".join(lines).strip() for title, lines in sections.items()}


def _control_line(model: Model) -> str | None:
    """Python that makes a control of the right shape for a ControlNet to read, of several a list of
    one each; None without any."""
    if model.control_shape is None:
        return None
    _, height, width = model.control_shape
    each = [f"torch.zeros(1, {count}, {height}, {width})" for count in model.control_channels]
    made = each[0] if len(each) == 1 else f"[{', '.join(each)}]"
    return f"control = {made}  # yours instead: edges, depth, a pose, in [0, 1]"


def _description(model: Model, notes: Mapping[str, Any]) -> str:
    line = f"{model.description()}."
    trained = notes.get("trained")
    if not trained:
        return line
    origin, control = notes.get(ORIGIN), notes.get("control")
    if control and "base" in notes:
        line += (
            f" Its ControlNet follows the control {Path(control).name}; its base, "
            f"{Path(notes['base']).name}, stays as it was."
        )
    elif origin:
        line += f" It began with the weights of {Path(origin['model']).name}."
    images, source = notes.get("training_images"), notes.get("source")
    on = f" on {images:,} images" if images else ""
    return f"{line} Trained for {trained['steps']:,} steps{on}{f' of {source}' if source else ''}."


def _evidence(model: Model, evaluation: Mapping[str, Any]) -> str:
    unit = bits_unit(model.data.is_density)
    splits = measured_splits(evaluation)
    if not splits:
        return ""
    given = evaluation[splits[0]].get("conditioned_on")
    unit += f" given the {given}" if given else ""
    rows = [["term", *(f"{split}, {unit}" for split in splits)]]
    for term in evaluation[splits[0]]["bits_per_dim"]:
        kind = evaluation[splits[0]].get("kind", "bound")
        name = f"**{label(term, kind)}**" if term == "total" else label(term)
        found = [evaluation[split]["bits_per_dim"][term] for split in splits]
        rows.append([name, *(_shown(each["mean"], each["standard_error"]) for each in found)])
    counts = ", ".join(f"{evaluation[split]['examples']:,} of {split}" for split in splits)
    note = f" It bounds p(x | {given}): the {given} of each image is given." if given else ""
    left_out = sum(evaluation[split].get("duplicates_left_out", 0) for split in splits)
    if left_out:
        note += f" {left_out:,} test images that are training or validation images are left out."
    return "\n".join(
        [
            "The negative evidence lower bound by its terms, mean over images "
            f"({counts}) ± standard error.{note}",
            "",
            *_table(rows),
            *(
                line
                for some in (*_explained_lines(evaluation), *files_lines(evaluation))
                for line in ("", some)
            ),
        ]
    )


def _explained_lines(evaluation: Mapping[str, Any]) -> list[str]:
    """What the control explains beside all else that the model is conditioned on, in a sentence."""
    found = evaluation.get("control")
    if not found:
        return []
    *rows, other = found["explained"]
    own = next(row for row in rows if row["without"] == other["without"])
    bits, shuffled = (
        bits_text(Estimate(row["bits"], row["standard_error"])) for row in (own, other)
    )
    beside = "" if own["without"] == UNCONDITIONAL else f" beside the {own['without']}"
    return [
        f"The control explains {bits} bits an image{beside}, that of another image {shuffled} "
        f"({found['images']:,} images, paired on the same noise)."
    ]


def measured_splits(evaluation: Mapping[str, Any]) -> list[str]:
    """The splits with a bound in evaluation.json; its entry of samples is none."""
    return [
        name
        for name, content in evaluation.items()
        if isinstance(content, Mapping) and "bits_per_dim" in content
    ]


def files_lines(evaluation: Mapping[str, Any]) -> list[str]:
    """What image files of the same pictures take, a sentence for each split."""
    lines = []
    for split in measured_splits(evaluation):
        files = evaluation[split].get("files")
        if not files:
            continue
        small = files["without_headers_shown"]
        sizes = []
        for name, bits in files["formats"].items():
            bare = bits["without_headers"]
            shown = bare if small and bare is not None else bits["bits_per_dim"]
            headers = " with its headers" if small and bare is None else ""
            sizes.append(f"{TITLES[name]} {number(shown, 3)}{headers}")
        of = "" if files["images"] == files["of"] else f" ({files['images']:,} of them)"
        bare_note = ", without headers" if small else ""
        together = [
            f"{TITLES[name]} {number(bits['in_one_file'], 3)}"
            for name, bits in files["formats"].items()
            if bits.get("in_one_file") is not None
        ]
        if together:
            sizes[-1] += f"; all in one file: {', '.join(together)}"
        lines.append(
            f"The same {split} pictures{of} as image files, a file each{bare_note}: "
            f"{', '.join(sizes)}; {number(files['raw'], 3)} as they are (bits/dim)."
        )
    return lines


def _samples(evaluation: Mapping[str, Any]) -> str:
    """The quality of samples as a table, and whether they are copies."""
    found = evaluation.get("samples")
    if not found:
        return ""
    first = found["spaces"][0]
    counts = [first[which]["images"] for which in ("samples", "real")]
    rows = [["", f"{counts[0]:,} samples", f"{counts[1]:,} real pictures"]]
    for space in found["spaces"]:
        rows.append([f"**{space['space']}**", "", ""])
        for name, title in QUALITY.items():
            both = (space["samples"], space["real"])
            rows.append([title, *(_shown(each[name], each.get(f"{name}_error")) for each in both)])
    nearest = found["nearest_training"]
    near = (
        "The median distance of a sample to the nearest training picture is "
        f"{number(nearest['distance'], 3)} of the range of pixels"
    )
    if nearest["held_out_distance"] is not None:
        near += (
            f", that of a held-out picture {number(nearest['held_out_distance'], 3)}; "
            f"{nearest['near_share']:.0%} of the samples are nearer than 95% of held-out pictures"
        )
    return "\n".join(
        [
            "Samples against training pictures, beside real pictures against the others.",
            "",
            *_table(rows),
            "",
            f"{near}.",
        ]
    )


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines of Markdown, the first as the head, with numbers to the right."""
    padded = ([f" {cell} " if cell else " " for cell in row] for row in rows)
    head, *body = (f"|{'|'.join(row)}|" for row in padded)
    return [head, "|---|" + "---:|" * (len(rows[0]) - 1), *body]


def _shown(mean: float | None, error: float | None) -> str:
    return NOTHING if mean is None else with_error(mean, error, 3)


def _in_diffusers(model: Model, pipeline: str, prompt: str, guidance: float) -> str:
    """How to sample with diffusers, if it has a pipeline with this condition."""
    if model.num_classes:
        return (
            f"diffusers reads it as a `{pipeline}`, but has no pipeline that conditions a "
            "network on a class; nelbo has."
        )
    control = _control_line(model)
    if control is not None and not model.reads_text:
        return (
            f"diffusers reads it as a `{pipeline}` of its base, and has no pipeline with a "
            "ControlNet for such a model; nelbo has."
        )
    lines = [f"from diffusers import {pipeline}", ""]
    options = ["batch_size=4"]
    if model.reads_text:
        options = [json.dumps(prompt, ensure_ascii=False), f"guidance_scale={guidance:g}"]
    if control is not None:
        options.insert(1, "image=control")
        lines = ["import torch", *lines, control]
    T = model.chain.num_levels
    steps = T if pipeline == "DDPMPipeline" else min(_STEPS, T)
    options.append(f"num_inference_steps={steps}")
    lines += [
        f'pipeline = {pipeline}.from_pretrained("PATH")',
        f"images = pipeline({', '.join(options)}).images",
    ]
    return "\n".join(["```python", *lines, "```"])


def _in_nelbo(model: Model, prompt: str, guidance: float) -> str:
    """How nelbo draws, and reads the bound where the model is complete for it."""
    n, walk, given, condition, some = 4, "", "", "", ""
    lines = ["import nelbo", "", 'model = nelbo.load("PATH")']
    if model.few_levels_matter:
        walk, some = ', nelbo.load_sampler("PATH")', ", levels=50"
        if model.reads_text:
            lines.append(f"prompt = {json.dumps(prompt, ensure_ascii=False)}")
            given = f", prompt=prompt, guidance={guidance:g}"
            condition = ", model.condition_on(captions)"
    control = _control_line(model)
    if control is not None:
        lines = ["from dataclasses import replace", "", "import torch", *lines, control]
        given += ", control=control"
        one = "control" if len(model.control_channels) == 1 else "torch.cat(control, 1)"
        controls = f"{one}.expand(len(images), -1, -1, -1)"
        own = "model.condition_on(captions)" if model.reads_text else "nelbo.Condition()"
        condition = f", replace({own}, control={controls})"
    elif model.num_classes:
        n = min(n, model.num_classes)
        lines = ["import torch", *lines, f"classes = nelbo.Condition(label=torch.arange({n}))"]
        given, condition = ", condition=classes", ", nelbo.Condition(label=labels)"
    lines.append(f"samples = model.sample({n}{walk}{given})  # (N, C, H, W) in [-1, 1]")
    if not model.lacks_scale:
        lines += [
            "x_0 = model.data.to_network(images)  # (N, C, H, W) integer pixel levels",
            f"print(model.evidence(x_0{condition}{some}).mean().bits_per_dim)",
        ]
    return "\n".join(["```python", *lines, "```"])


def _by_command(model: Model, prompt: str) -> str:
    """How the command line draws and evaluates."""
    asked = ""
    if model.reads_text:
        joined = "=" if prompt.startswith("-") else " "  # else it would be an option itself
        asked = f" --prompt{joined}{shlex.quote(prompt)}"
    if channels := model.control_channels:
        others = [f"sketch-{i}.png" for i in range(2, len(channels) + 1)]
        controls = " ".join(f"--control {name}" for name in ["sketch.png", *others])
        return f"```sh\nnelbo sample PATH {controls}{asked} --out pictures.png\n```"
    return f"""```sh
nelbo sample PATH{asked} --out pictures.png
nelbo evaluate PATH --data FOLDER_OF_PICTURES --split all --resize
```"""
