"""The evaluation at the end of a run: a first report early, then one that uses its time."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Console

from nelbo.base.console import Counting
from nelbo.chain.model import Model
from nelbo.data import ImageData
from nelbo.evidence.cost import cost_json, levels_of
from nelbo.evidence.file_sizes import FileSizes, file_sizes, sizes_json
from nelbo.evidence.given import given_of
from nelbo.evidence.timed_evaluation import TimedEvaluation
from nelbo.report.tables import bound_json

# Images of each split at most, where none were asked for; and where levels were asked for.
MOST_IMAGES = {"train": 300, "validation": 300, "test": 1000}
_IMAGES_OF_LEVELS = 300
# The bound of the training split is for comparison: a few levels an image are enough.
_TRAIN_LEVELS = 25
# The part of the time that each split takes.
SHARES = {"test": 0.75, "train": 0.25}
# The part of all time that files of the same images take, of that of the bounds.
OF_FILES = 0.15


@dataclass(frozen=True)
class Asked:
    """What of the evaluation was asked for by number.

    Attributes:
        levels: levels an image of the test split, or "all".
        images: images of each split.
    """

    levels: int | Literal["all"] | None = None
    images: int | None = None

    def of(self, model: Model, split: str, data: ImageData, seed: int) -> TimedEvaluation:
        """The evaluation of one split."""
        levels = self.levels
        if levels is not None and split != "test":
            levels = _TRAIN_LEVELS if levels == "all" else min(levels, _TRAIN_LEVELS)
        most = MOST_IMAGES[split] if levels is None else _IMAGES_OF_LEVELS
        return TimedEvaluation(
            model,
            data,
            most=self.images or most,
            levels=levels,
            complete=self.images is not None,
            seed=seed,
        )


def refine(evaluations: Mapping[str, TimedEvaluation], seconds: float) -> None:
    """Refine the bounds of all splits for about `seconds`, behind progress bars."""
    shares = _shares(evaluations)
    for (split, evaluation), share in zip(evaluations.items(), shares, strict=True):
        if evaluation.is_settled:
            continue
        with Counting(f"Evaluating {split}", evaluation.most) as progress:
            for state in evaluation.refine(seconds * share):
                bits = state.bound.mean().bits_per_dim
                progress(
                    completed=state.count,
                    status=f"images · {bits.mean:.3f} ± {bits.standard_error:.3f} bits/dim",
                )


def evaluation_json(
    evaluations: Mapping[str, TimedEvaluation],
    splits: Mapping[str, ImageData],
    files: Mapping[str, FileSizes | None],
) -> dict[str, Any]:
    """The bound of each split and what it took, and what files of its images take, as JSON."""
    return {
        split: {
            **given_of(evaluation.model, evaluation.data).to_json(),
            "duplicates_left_out": splits[split].left_out,
            **cost_json(evaluation.bound, evaluation.model, evaluation.calls),
            "images_of_split": len(splits[split]),
            **bound_json(evaluation.bound.mean()),
            "files": sizes_json(files.get(split)),
        }
        for split, evaluation in evaluations.items()
    }


def sizes_of(
    evaluations: Mapping[str, TimedEvaluation], seconds: float
) -> dict[str, FileSizes | None]:
    """What image files of the evaluated images of each split take, found in about `seconds`."""
    return {
        split: file_sizes(e.data.images, e.data.levels, seconds=seconds * share)
        for (split, e), share in zip(evaluations.items(), _shares(evaluations), strict=True)
    }


def _shares(splits: Collection[str]) -> list[float]:
    """The part of the time that each of these splits takes."""
    parts = [SHARES.get(split, 1.0) for split in splits]
    return [part / sum(parts) for part in parts]


def evaluated_text(
    evaluations: Mapping[str, TimedEvaluation], splits: Mapping[str, ImageData]
) -> str:
    """How many images of each split were evaluated, and how many levels of each, in a line."""
    parts = []
    for split, evaluation in evaluations.items():
        count, there = evaluation.count, len(splits[split])
        images = f"{count:,} of {there:,} images" if count < there else f"all {there:,} images"
        possible = levels_of(evaluation.model)
        levels = evaluation.bound.levels.shape[1]
        at = "" if not possible else ", every level each"
        if levels != possible:
            draws = "1 draw" if levels == 1 else f"{levels:,} draws"
            at = f", {draws} of {possible:,} levels each"
        parts.append(f"{split}: {images}{at}")
    return f"Evaluated {'; '.join(parts)}."


def print_files(files: Mapping[str, FileSizes | None], to: Console) -> None:
    """What image files of the same pictures take, a line for each split."""
    for split, sizes in files.items():
        if sizes is not None:
            to.print(f"{split}: {sizes.line}", soft_wrap=True, highlight=False, markup=False)
