"""What a bound took, by hand."""

from __future__ import annotations

import pytest
import torch

from nelbo.chain.estimators import Uniform
from nelbo.evidence.cost import cost_json, cost_line, levels_of, levels_to_evaluate
from nelbo.families import MarkovModel
from tests.costs import CostModel


def test_levels_that_are_drawn():
    model = CostModel("normal", T=11)
    assert levels_of(model) == 10
    assert levels_to_evaluate(3, model) == 3
    assert levels_to_evaluate(9, model) == 9
    for all_of_them in ("all", 10, 11, int("100")):
        assert levels_to_evaluate(all_of_them, model) is None
    assert levels_to_evaluate("".join(["a", "ll"]), model) is None
    without_a_chain = MarkovModel(1)
    assert levels_of(without_a_chain) == 0
    assert levels_to_evaluate(1, without_a_chain) is None


def test_what_it_took():
    """Six images, of level 1 once and of three others; all eleven levels are 66 calls."""
    model = CostModel("normal", T=11)
    bound = model.elbo(torch.zeros(6, 1, 1, 1), levels=Uniform(3, reconstructions=1))
    expected = {
        "levels_per_image": 3,
        "levels_of_chain": 10,
        "calls": 24,
        "calls_per_image": 4.0,
        "calls_for_all_levels": 66,
    }
    assert cost_json(bound, model) == expected
    assert cost_json(bound, model, 30) == expected | {"calls": 30, "calls_per_image": 5.0}


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        (24, "24 network evaluations, 4.0 an image; one for every level of the chain is 11 an "
             "image, 66 in all"),
        (65, "65 network evaluations, 10.8 an image; one for every level of the chain is 11 an "
             "image, 66 in all"),
        (66, "66 network evaluations, 11.0 an image"),
        (6600, "6,600 network evaluations, 1,100.0 an image"),
    ],
)  # fmt: skip
def test_the_line_has_what_all_levels_take_where_that_is_more(calls, expected):
    assert cost_line(6, 11, calls) == expected
