import dataclasses
import io
import json
import math

import pytest
import torch
from rich.console import Console

from nelbo.base.console import Counting, notice, plain_console, training_progress
from nelbo.chain.estimate import Estimate
from nelbo.commands.common import answer
from nelbo.report.formatting import compact, duration, flatten, number, setting, with_error
from nelbo.report.tables import bound_json, bound_table, estimate_text, new_table
from tests.report.examples import make_bound


def text_of(table, width=80):
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return console.file.getvalue()


def test_the_table_holds_the_numbers_of_the_summaries():
    bounds = {"train": make_bound(5).mean(), "test": make_bound(7).mean()}
    text = text_of(bound_table(bounds))
    names = ("reconstruction", "prior_matching", "score_matching")
    terms = {name: name.replace("_", " ") for name in names} | {"total": "total (−ELBO)"}
    rows = {label: line for label in terms.values() for line in text.splitlines() if label in line}
    for name, label in terms.items():
        for summary in bounds.values():
            bits = summary.in_bits[name]
            nats = bits.mean * summary.dims * math.log(2)
            assert f"{nats:.2f} ±" in rows[label]
            assert f"{bits.mean:.3f} ± {bits.standard_error:.3f}" in rows[label]


def test_two_splits_fit_a_terminal():
    text = text_of(bound_table({"train": make_bound(5).mean(), "test": make_bound(7).mean()}))
    assert "…" not in text
    assert "train" in text


def test_markup_in_a_name_is_text():
    assert "[bold]" in text_of(bound_table({"[bold]": make_bound().mean()}))


def test_names_are_printed_as_they_are(capsys):
    name = "/pictures/[/old] :cat: [red]"
    table = new_table(["image"], title=name, caption=name)
    table.add_row(name)
    answer(False, {}, table, name)
    notice(name)
    printed = capsys.readouterr()
    assert printed.out.count(name) == 4
    assert printed.err.count(name) == 1


@pytest.mark.parametrize("counts", [True, False])
def test_names_in_a_progress_bar_are_no_markup(counts, capsys):
    title = "Classifying [/old] [red]"
    if counts:
        bar = Counting(title).bar
    else:
        bar = training_progress()
        bar.add_task(title, step=0, figures="", pace="")
    console = plain_console()
    console.width = 200
    console.print(bar.get_renderable())
    assert title in capsys.readouterr().out


def test_a_density_is_labelled():
    assert "(density)" in text_of(bound_table({"test": make_bound().mean()}, density=True))
    assert "(density)" not in text_of(bound_table({"test": make_bound().mean()}))


def test_json_equals_the_summary_and_adds_up():
    summary = make_bound().mean()
    plain = json.loads(json.dumps(bound_json(summary), allow_nan=False))
    assert plain["examples"] == 5
    assert plain["dims"] == 64
    assert plain["density"] is False
    for name, estimate in summary.in_bits.items():
        assert plain["bits_per_dim"][name] == {
            "mean": estimate.mean,
            "standard_error": estimate.standard_error,
            "image_error": estimate.image_error,
            "monte_carlo_error": estimate.monte_carlo_error,
            "interval": list(estimate.interval()),
        }
    assert plain["warnings"] == summary.nelbo.warnings()
    assert any("5 images are few" in line for line in plain["warnings"])
    for unit in ("nats", "bits_per_dim"):
        means = {name: value["mean"] for name, value in plain[unit].items()}
        assert means.pop("total") == pytest.approx(sum(means.values()))
    assert plain["nats"]["total"]["mean"] == summary.nelbo.mean


def test_what_json_cannot_say_is_null():
    bound = dataclasses.replace(make_bound(1), prior_matching=torch.tensor([math.inf]))
    plain = json.loads(json.dumps(bound_json(bound.mean()), allow_nan=False))
    assert plain["nats"]["reconstruction"]["standard_error"] is None
    assert plain["nats"]["prior_matching"]["mean"] is None
    assert "—" not in text_of(bound_table({"test": make_bound(1).mean()}))
    assert "∞" in text_of(bound_table({"test": bound.mean()}))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2.0714, "2.071"),
        (-1234.5678, "−1,234.568"),
        (0.0, "0.000"),
        (-1e-17, "0.000"),
        (2.13e-5, "2.1×10⁻⁵"),
        (-2e-5, "−2×10⁻⁵"),
        (math.nan, "—"),
        (math.inf, "∞"),
    ],
)
def test_numbers(value, text):
    assert number(value, 3) == text


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("learning_rate", 2e-4, "0.0002"),
        ("epsilon", 1e-8, "10⁻⁸"),
        ("steps", 12000, "12,000"),
        ("seed", 12000, "12000"),
        ("clip", True, "yes"),
        ("widths", (32, 64), "32, 64"),
        ("nothing", None, "—"),
        ("nothing", [], "—"),
        ("elapsed_seconds", 125, "2 min 5 s"),
    ],
)
def test_settings(name, value, text):
    assert setting(name, value) == text


@pytest.mark.parametrize(
    ("value", "error", "decimals", "text"),
    [
        (25.43, 1.204, 1, "25.4 ± 1.2"),
        (1.234, 0.0004, 3, "1.234 ± 4×10⁻⁴"),
        (-0.0003, 0.02, 3, "−3×10⁻⁴ ± 0.020"),
        (1.5, 0.0, 3, "1.500 ± 0.000"),
        (1.5, math.nan, 1, "1.5"),
        (1.5, None, 1, "1.5"),
        (1.5, math.inf, 1, "1.5 ± ∞"),
    ],
)
def test_a_value_and_its_error_have_the_same_decimals(value, error, decimals, text):
    assert with_error(value, error, decimals) == text
    if error is not None:
        assert estimate_text(Estimate(value, error), decimals) == text


def test_both_near_zero_have_no_room_in_a_table():
    assert estimate_text(Estimate(2.1e-5, 1.2e-6), 3) == "2.1×10⁻⁵"


def test_durations_and_compact_numbers():
    assert [duration(s) for s in (0.25, 59.0, 120.0, 3605.0, 11100.0)] == [
        "0.2 s",
        "59 s",
        "2 min",
        "1 h 5 s",
        "3 h 5 min",
    ]
    assert compact(0.05) == "0.05"
    assert compact(1.5e-6) == "1.5×10⁻⁶"


def test_settings_flatten():
    nested = {"training": {"steps": 3}, "data": {"source": "digits", "more": {"x": 1}}}
    assert list(flatten(nested)) == [
        (("training", "steps"), 3),
        (("data", "source"), "digits"),
        (("data", "more", "x"), 1),
    ]
