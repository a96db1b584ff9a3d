"""The order of surprise and its table, by hand."""

from __future__ import annotations

import csv
import math

import pytest
import torch

from nelbo import NelboError
from nelbo.chain.evidence import Costs
from nelbo.data import ImageData
from nelbo.evidence.file_sizes import PNG, WEBP, file_size, picture
from nelbo.evidence.ranking import excess_bits, rank, write_ranking

DIMS = 6


def costs(bits: list[float], errors: list[float]) -> Costs:
    """Bits/dim and Monte Carlo errors of images of six values."""
    unit = DIMS * math.log(2)
    return Costs(
        "bound",
        {"cost": torch.tensor(bits, dtype=torch.float64) * unit},
        DIMS,
        torch.ones(len(bits), dtype=torch.int64),
        (torch.tensor(errors, dtype=torch.float64) * unit).square(),
    )


BOUND = costs([1.5, 3.25, 2.0, 3.25], [0.1, 0.2, 0.3, 0.4])


def pictures(**more) -> ImageData:
    images = torch.arange(4 * DIMS, dtype=torch.uint8).view(4, 1, 2, 3)
    return ImageData("made", images, 256, ("a", "b", "c", "d"), **more)


def rows_of(path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_what_is_no_number_comes_first_and_equals_stay_in_order():
    bound = costs([1.0, math.nan, 3.0, 3.0, 2.0], [0.0] * 5)
    assert rank(bound).tolist() == [1, 2, 3, 4, 0]
    assert rank(bound, torch.tensor([5.0, 1.0, 2.0, 3.0, 4.0])).tolist() == [0, 4, 3, 2, 1]


def test_a_row_has_the_rank_bits_and_error_of_its_image(tmp_path):
    labels = torch.tensor([1, -1, 0, 1])
    data = pictures(
        labels=labels, label_names=("cat", "dog"), captions=("x", None, "", "w"), splits=("s",) * 4
    )
    write_ranking(tmp_path / "a.csv", data, BOUND)
    assert rows_of(tmp_path / "a.csv") == [
        ["rank", "name", "bits_per_dim", "monte_carlo_error", "label", "caption", "split"],
        ["1", "b", "3.25", "0.2", "", "", "s"],
        ["2", "d", "3.25", "0.4", "dog", "w", "s"],
        ["3", "c", "2", "0.3", "cat", "", "s"],
        ["4", "a", "1.5", "0.1", "dog", "x", "s"],
    ]


def test_in_the_order_of_the_data_and_by_another_score(tmp_path):
    excess = torch.tensor([0.5, -1.0, 4.0, 2.0], dtype=torch.float64)
    data = pictures(labels=torch.tensor([7, 8, 9, 0]))
    write_ranking(tmp_path / "a.csv", data, BOUND, ranked=False, excess=excess)
    header, *rows = rows_of(tmp_path / "a.csv")
    assert header[-1] == "excess_bits_per_dim"
    assert rows == [
        ["3", "a", "1.5", "0.1", "7", "", "0.5"],
        ["4", "b", "3.25", "0.2", "8", "", "-1"],
        ["1", "c", "2", "0.3", "9", "", "4"],
        ["2", "d", "3.25", "0.4", "0", "", "2"],
    ]
    write_ranking(tmp_path / "b.csv", pictures(), BOUND)
    assert rows_of(tmp_path / "b.csv")[1] == ["1", "b", "3.25", "0.2", "", ""]
    with pytest.raises(NelboError, match="3 bounds were given for 4 images"):
        write_ranking(tmp_path / "c.csv", data, BOUND.take(slice(3)))


def test_the_excess_is_over_the_smaller_of_two_files(generator):
    """A ramp, which WebP predicts, and noise, which PNG writes as it is."""
    ramp = 4 * torch.arange(64).view(1, 8, 8).byte()
    noise = torch.randint(256, (1, 8, 8), generator=generator).byte()
    data = ImageData("made", torch.stack([ramp, noise]), 256, ("ramp", "noise"))
    sizes = [
        {kind: file_size(picture(i), kind).pixels for kind in (PNG, WEBP)} for i in (ramp, noise)
    ]
    assert len({size[PNG] < size[WEBP] for size in sizes}) == 2
    nats = torch.tensor([500.0, 900.0], dtype=torch.float64)
    bound = Costs("exact", {"cost": nats}, 64, torch.ones(2, dtype=torch.int64))
    expected = [
        (cost / math.log(2) - 8 * min(size.values())) / 64
        for cost, size in zip(nats.tolist(), sizes, strict=True)
    ]
    assert excess_bits(bound, data).tolist() == pytest.approx(expected)
