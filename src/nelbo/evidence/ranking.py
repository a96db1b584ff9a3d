"""Which images surprise a model: a table of their bounds, the most surprising first.

Images that are busy or colourful cost any model more than plain ones, odd or not. What a
general-purpose lossless coder takes for the same picture estimates this part of the cost;
the excess over it is the score that is left (Serrà et al. 2020, "Input complexity and
out-of-distribution detection with likelihood-based generative models", eq. 3).
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.base.files import write_csv
from nelbo.chain.evidence import Evidence, check_bits
from nelbo.data import ImageData
from nelbo.evidence.file_sizes import PNG, WEBP, sizes_of_each
from nelbo.evidence.inputs import check_image_data

COLUMNS = ("rank", "name", "bits_per_dim", "monte_carlo_error", "label", "caption")
# Which of the images' splits they are of, where that is known; and the score where it is another.
_SPLIT, _EXCESS = "split", "excess_bits_per_dim"


def excess_bits(bound: Evidence, data: ImageData) -> Float[Tensor, " images"]:
    """Bits/dim of each image above what the smaller of PNG and lossless WebP takes, headers aside.

    Raises:
        NelboError: images that are neither grey nor RGB, or not those of the bound.
    """
    check_bits(bound=bound)
    check_image_data(data)
    if len(bound) != len(data):
        raise NelboError(f"the bound is of {len(bound)} images, and data holds {len(data)}")
    files = torch.stack(
        [sizes_of_each(data.images, data.levels, kind)[1] for kind in (PNG, WEBP)]
    ).amin(0)
    return bound.bits_per_dim.detach().cpu().double() - 8 * files / bound.dims


def rank(bound: Evidence, scores: Float[Tensor, " images"] | None = None) -> Int[Tensor, " images"]:
    """The indices of the images from the most surprising to the least.

    By bits/dim or, where given, by other scores of each, such as `excess_bits`.

    An image whose bound is not a number comes first: it is what a user should look at.
    """
    check_bits(bound=bound)
    bits = (bound.bits_per_dim if scores is None else scores).detach().cpu().double()
    return bits.nan_to_num(nan=torch.inf).argsort(descending=True, stable=True)


def write_ranking(
    path: Path,
    data: ImageData,
    bound: Evidence,
    *,
    ranked: bool = True,
    excess: Float[Tensor, " images"] | None = None,
) -> None:
    """Write a CSV file with a row an image: its rank, name, bits/dim and Monte Carlo error.

    Args:
        path: the file, which appears whole or not at all.
        data: the images.
        bound: their bounds, in the same order.
        ranked: the most surprising first, or in the order of the data.
        excess: `excess_bits` of each, to rank by instead, in a column of its own.

    Raises:
        NelboError: bounds of another number than images, or a file that cannot be written.
    """
    if len(data) != len(bound):
        raise NelboError(f"{len(bound)} bounds were given for {len(data)} images")
    order = rank(bound, excess)
    place = torch.empty_like(order)
    place[order] = torch.arange(1, len(order) + 1)
    bits = bound.bits_per_dim.detach().cpu().tolist()
    error = (bound.monte_carlo_variance.sqrt() / bound.nats_per_bit_per_dim).cpu().tolist()
    more = ([_SPLIT] if data.splits else []) + ([] if excess is None else [_EXCESS])
    rows = (
        (
            int(place[i]),
            data.names[i],
            f"{bits[i]:.6g}",
            f"{error[i]:.3g}",
            _label(data, i),
            data.captions[i] or "" if data.captions is not None else "",
            *([data.splits[i]] if data.splits else []),
            *([] if excess is None else [f"{float(excess[i]):.6g}"]),
        )
        for i in (order.tolist() if ranked else range(len(data)))
    )
    write_csv(path, [(*COLUMNS, *more), *rows])


def _label(data: ImageData, i: int) -> str:
    if data.labels is None or int(data.labels[i]) < 0:
        return ""
    label = int(data.labels[i])
    return data.label_names[label] if data.label_names else str(label)
