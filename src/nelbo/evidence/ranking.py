"""Which images surprise a model: a table of their bounds, the most surprising first."""

from __future__ import annotations

import csv
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from nelbo.bound import Bound
from nelbo.data import ImageData
from nelbo.errors import NelboError
from nelbo.networks.files import atomic_file

COLUMNS = ("rank", "name", "bits_per_dim", "monte_carlo_error", "label", "caption")


def rank(bound: Bound) -> Int[Tensor, " images"]:
    """The indices of the images from the most surprising, by bits/dim, to the least.

    An image whose bound is not a number comes first: it is what a user should look at.
    """
    bits = bound.bits_per_dim.detach().cpu().double()
    return bits.nan_to_num(nan=torch.inf).argsort(descending=True, stable=True)


def write_ranking(path: Path, data: ImageData, bound: Bound, *, ranked: bool = True) -> None:
    """Write a CSV file with a row an image: its rank, name, bits/dim and Monte Carlo error.

    Args:
        path: the file, which appears whole or not at all.
        data: the images.
        bound: their bounds, in the same order.
        ranked: the most surprising first, or in the order of the data.

    Raises:
        NelboError: bounds of another number than images, or a file that cannot be written.
    """
    if len(data) != len(bound):
        raise NelboError(f"{len(bound)} bounds were given for {len(data)} images")
    order = rank(bound)
    place = torch.empty_like(order)
    place[order] = torch.arange(1, len(order) + 1)
    bits = bound.bits_per_dim.detach().cpu().tolist()
    error = (bound.monte_carlo_variance.sqrt() / bound.nats_per_bit_per_dim).cpu().tolist()
    rows = order.tolist() if ranked else range(len(data))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            atomic_file(path) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for i in rows:
                writer.writerow(
                    (
                        int(place[i]),
                        data.names[i],
                        f"{bits[i]:.6g}",
                        f"{error[i]:.3g}",
                        _label(data, i),
                        data.captions[i] or "" if data.captions is not None else "",
                    )
                )
    except OSError as error_:
        raise NelboError(f"cannot write {path}: {error_}") from error_


def _label(data: ImageData, i: int) -> str:
    if data.labels is None or int(data.labels[i]) < 0:
        return ""
    label = int(data.labels[i])
    return data.label_names[label] if data.label_names else str(label)
