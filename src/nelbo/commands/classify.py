"""nelbo classify: the class or prompt of each image by the bound of a conditional model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from nelbo.base.console import Counting
from nelbo.base.errors import NelboError
from nelbo.base.files import write_csv
from nelbo.chain.conditioning import Condition
from nelbo.chain.estimate import share_interval
from nelbo.chain.model import Model
from nelbo.commands.asked import heading, load_asked
from nelbo.commands.common import answer, compute_on
from nelbo.commands.groups import ConditionOptions
from nelbo.commands.options.classify import Classify
from nelbo.data import ImageData
from nelbo.evidence import Classification, Classifier
from nelbo.evidence.classification import images_at_once
from nelbo.evidence.inputs import check_fits
from nelbo.report.tables import new_table
from nelbo.text import shorten

# Images whose class is printed; --out and --json have those of all.
_PRINTED = 10


def run(options: Classify) -> None:
    """Classify, print the accuracy where labels are known, and the cost."""
    prompts = _prompts(options)
    model, data = load_asked(options, compute_on(options.computing), scaled=False)
    classes = _classes(options, model, data, prompts)
    result = _classify(options, model, data, classes)
    found = _found(data, result, classes.names)
    if options.out is not None:
        write_csv(options.out, [list(found[0]), *(row.values() for row in found)])
    calls = float(result.calls.double().mean())
    count, T = classes.condition.batch_size, model.chain.num_levels
    known = classes.of_images >= 0
    right = (result.label == classes.of_images)[known].double()
    accuracy = float(right.mean()) if len(right) else None
    interval = share_interval(int(right.sum()), len(right)) if len(right) else None
    largest = _largest_share(classes.of_images[known])
    more = None
    if len(found) > _PRINTED:
        where = "--out FILE writes all" if options.out is None else f"all are in {options.out}"
        more = f"... and {len(found) - _PRINTED:,} more; {where}"
    verdict = None
    if interval is not None:
        low, high = interval
        verdict = (
            f"{accuracy:.1%} of {len(right):,} images are classified as they are "
            f"{classes.known_by}; chance is {1 / count:.1%}, and always the largest class "
            f"{largest:.1%}; 95% interval {low:.1%} to {high:.1%}"
        )
    at = model.embedded_guidance
    given = {"conditioned_on": "prompt" if model.reads_text else "class", "embedded_guidance": at}
    answer(
        options.computing.json,
        {
            **heading(options, data, given),
            "images": len(data),
            "classes": count,
            "images_of_known_class": len(right),
            "accuracy": accuracy,
            "interval": interval,
            "chance": 1 / count,
            "largest_class": largest,
            "calls_per_image": calls,
            "calls_for_all_classes_and_levels": count * T,
            "certain": float((result.remaining.sum(1) == 1).double().mean()),
            "classified": found,
        },
        _table(found[:_PRINTED]),
        more,
        verdict,
        None if at is None else f"by the model at the embedded guidance {at:g}",
        _cost_line(calls, count, T),
        None if options.out is None else f"Each image: {options.out}",
    )


def _cost_line(calls: float, classes: int, T: int) -> str:
    """What an image took, beside each class once at each level."""
    each, once = f"each of {classes} classes once at each of {T:,} levels", classes * T
    made = f"{calls:,.1f} network evaluations an image"
    if calls > once:
        return f"{made}, more than the {once:,} of {each}: fewer --draws take fewer"
    return f"{made}; {each} would be {once:,}"


def _prompts(options: Classify) -> tuple[str, ...]:
    """The prompts of --prompt-file, none without it.

    Raises:
        NelboError: fewer than two of them, or one twice.
    """
    if options.prompt_file is None:
        return ()
    prompts = ConditionOptions(prompt_file=options.prompt_file).prompts()
    for i, prompt in enumerate(prompts):
        if prompt in prompts[:i]:
            raise NelboError(f"--prompt-file {options.prompt_file} holds {prompt!r} twice")
    if len(prompts) < 2:
        raise NelboError(
            f"classification needs at least 2 prompts, found {len(prompts)} in --prompt-file "
            f"{options.prompt_file}"
        )
    return prompts


def _classes(
    options: Classify, model: Model, data: ImageData, prompts: tuple[str, ...]
) -> _Classes:
    """The classes of a class-conditional model, or prompts for one of text.

    Raises:
        NelboError: an unconditional model, prompts for one without text, or images
            without classes.
    """
    unknown = torch.full((len(data),), -1)
    of_images = unknown if data.labels is None else data.labels
    if not model.reads_text:
        if prompts:
            raise NelboError(f"--prompt-file: {options.run_path} has no text encoder")
        condition = model.classes_in_turn(model.num_classes)
        if condition is None or model.num_classes < 2:
            raise NelboError(f"{options.run_path} is not class-conditional: it has no classes")
        return _Classes(condition, data.label_names, of_images, "labelled")
    known_by = "labelled"
    if prompts:
        place = {prompt: i for i, prompt in enumerate(prompts)}
        captions = data.captions or [None] * len(data)
        of_images = torch.tensor([place.get(caption or "", -1) for caption in captions])
        known_by = "captioned"
    elif data.num_classes > 1:
        prompts = tuple(options.template.replace("{}", name) for name in data.label_names)
    else:
        raise NelboError(f"{data.source} has no classes to choose from: give --prompt-file")
    condition = model.condition_for(len(prompts), captions=prompts)
    assert condition is not None
    return _Classes(condition, prompts, of_images, known_by)


def _classify(
    options: Classify, model: Model, data: ImageData, classes: _Classes
) -> Classification:
    check_fits(model, data)
    device = model.device
    classifier = Classifier(
        model,
        classes.condition.to(device),
        margin=options.margin,
        draws=options.draws,
        generator=torch.Generator().manual_seed(options.computing.seed),
    )
    done = []
    size = min(options.batch_size, images_at_once(classes.condition.batch_size))
    with Counting(f"Classifying {data.source}", len(data)) as progress:
        for batch in data.batches(size):
            done.append(classifier(model.data.to_network(batch.images).to(device)))
            progress(len(batch))
    return Classification.cat(done)


def _largest_share(labels: Tensor) -> float | None:
    """The accuracy of always choosing the most frequent class; None without labels."""
    return float(labels.bincount().max()) / len(labels) if len(labels) else None


@dataclass(frozen=True)
class _Classes:
    """What an image may be.

    Attributes:
        condition: of each class.
        names: of the classes, if they have any.
        of_images: the class of each image, −1 where it is not known, (N,).
        known_by: how the class of an image is known, as a participle.
    """

    condition: Condition
    names: tuple[str, ...]
    of_images: Tensor
    known_by: str


def _found(data: ImageData, result: Classification, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """The best class of each image, as columns and JSON name it."""
    labels = result.label.tolist()
    return [
        {
            "name": name,
            "caption": data.captions[i] if data.captions is not None else None,
            "class": names[labels[i]] if labels[i] < len(names) else str(labels[i]),
            "certain": int(result.remaining[i].sum()) == 1,
            "calls": int(result.calls[i]),
        }
        for i, name in enumerate(data.names)
    ]


def _table(rows: list[dict[str, Any]]) -> Table:
    """Each image and its best class, with a question mark where others are near."""
    captioned = any(row["caption"] for row in rows)
    unsure = not all(row["certain"] for row in rows)
    table = new_table(
        ("image", *(["caption"] if captioned else []), "class"),
        caption="?: other classes are not ruled out; more --draws decide" if unsure else None,
        wraps=True,
    )
    for row in rows:
        caption = [shorten(row["caption"] or "")] if captioned else []
        best = shorten(row["class"]) + ("" if row["certain"] else " ?")
        table.add_row(row["name"], *caption, best)
    return table
