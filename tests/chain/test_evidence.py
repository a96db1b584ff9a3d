"""Costs without a chain: totals, units, errors and joining, by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from nelbo import NelboError
from nelbo.chain.evidence import Costs, joined

TERMS = {
    "kl": torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64),
    "reconstruction": torch.tensor([3.0, 3.0, 0.0], dtype=torch.float64),
}
X = torch.zeros(3, 2, 1, 5)
UNIT = 10 * math.log(2)


def test_totals_units_and_calls():
    found = Costs.of("bound", TERMS, X)
    assert (len(found), found.dims) == (3, 10)
    assert found.total.tolist() == [4.0, 5.0, 6.0]
    assert found.bits_per_dim.tolist() == pytest.approx([4 / UNIT, 5 / UNIT, 6 / UNIT])
    assert found.calls.tolist() == [1, 1, 1]
    assert found.levels.shape == (3, 0)
    assert Costs.of("none", {}, X).total.isnan().tolist() == [True] * 3
    single = Costs.of("exact", {"cost": torch.ones(1)}, X[:1])
    assert (len(single), single.dims) == (1, 10)


@pytest.mark.parametrize(
    ("kind", "variance", "error"),
    [
        ("exact", None, 0.0),
        ("bound", None, math.nan),
        # Of the mean of three: √(1 + 4 + 11) / 3.
        ("bound", torch.tensor([1.0, 4.0, 11.0]), 4 / 3),
    ],
)
def test_errors_of_the_mean(kind, variance, error):
    found = Costs.of(kind, TERMS, X)
    found = found if variance is None else replace(found, variance=variance)
    summary = found.mean()
    assert (summary.kind, summary.examples, summary.dims) == (kind, 3, 10)
    assert summary.nelbo.mean == pytest.approx(5.0)
    assert summary.nelbo.monte_carlo_error == pytest.approx(error, nan_ok=True)
    assert summary.nelbo.standard_error == pytest.approx(1 / math.sqrt(3))
    assert summary.bits_per_dim.mean == pytest.approx(5 / UNIT)
    assert list(summary.costs) == ["kl", "reconstruction", "total"]
    assert summary.costs["kl"].mean == pytest.approx(3.0)
    certain = 0.0 if kind == "exact" else math.nan
    assert summary.costs["kl"].monte_carlo_error == pytest.approx(certain, nan_ok=True)
    in_bits = summary.in_bits
    assert in_bits["reconstruction"].mean == pytest.approx(2 / UNIT)
    assert in_bits["total"].mean == summary.bits_per_dim.mean
    assert summary.floor_in_bits is None


def test_a_kind_has_terms_or_none():
    for kind, terms in (("exact", {}), ("bound", {}), ("none", TERMS), ("sure", TERMS)):
        with pytest.raises(NelboError, match=r"terms: a model|is of a kind of"):
            Costs.of(kind, terms, X)


def test_batches_join_and_examples_are_taken():
    given = torch.tensor([1.0, 4.0, 11.0])
    found = replace(Costs.of("bound", TERMS, X), variance=given, calls=torch.tensor([1, 2, 3]))
    again = joined([found.take(slice(0, 1)), found.take(torch.tensor([1, 2]))])
    for name, value in found.tensors():
        assert torch.equal(dict(again.tensors())[name], value)
    assert (again.kind, again.dims) == ("bound", 10)
    assert found.take(torch.tensor([2, 0])).total.tolist() == [6.0, 4.0]
    assert found.to(torch.float32).total.dtype == torch.float32
    others = [
        replace(found, dims=11),
        replace(found, kind="exact"),
        replace(found, terms={"kl": TERMS["kl"]}),
    ]
    for other in others:
        with pytest.raises(NelboError, match="same kind, terms and dims"):
            Costs.cat([found, other])
    for nothing in (joined, Costs.cat):
        with pytest.raises(NelboError, match=r"no evidence to join|at least one batch"):
            nothing([])


def test_costs_are_restored_from_their_tensors_and_notes():
    given = torch.tensor([1.0, 4.0, 11.0])
    found = replace(Costs.of("bound", TERMS, X), variance=given)
    again = Costs.restored(dict(found.tensors()), found.notes())
    assert (again.kind, again.dims, list(again.terms)) == ("bound", 10, list(TERMS))
    for name, value in found.tensors():
        assert torch.equal(dict(again.tensors())[name], value)


def test_a_summary_is_shown_as_a_table():
    summary = Costs.of("exact", TERMS, X).mean()
    first, *rows, last = repr(summary).splitlines()
    assert first.split() == ["nats", "bits/dim"]
    assert [row.split()[0] for row in rows] == list(summary.costs)
    for row, (name, cost) in zip(rows, summary.costs.items(), strict=True):
        assert row.split(maxsplit=1)[1].startswith(f"{cost}"), name
        assert row.endswith(f" {summary.in_bits[name]}")
    assert last == "exact, 3 examples of 10 values"
