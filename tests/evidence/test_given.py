"""What a figure is conditioned on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nelbo.data import load_data
from nelbo.evidence.given import Given, data_facts, given_of
from nelbo.training.kinds.pixel.build import build_model
from nelbo.training.kinds.pixel.options import ModelConfig

TINY = ModelConfig(widths=(8,), levels=4)


@pytest.fixture(scope="module")
def digits():
    return load_data("digits", "test").take(slice(0, 12))


def test_a_model_that_is_told_nothing(digits):
    given = given_of(build_model(TINY, digits), digits)
    assert (given.suffix, given.line, given.fact) == ("", "", "nothing")
    assert given.to_json() == {"conditioned_on": None}


def test_classes_of_all_of_some_and_of_no_images(digits):
    model = build_model(replace(TINY, class_conditional=True), digits)
    given = given_of(model, digits)
    assert given.suffix == " given the class"
    assert given.line == "a bound on log p(x | class), conditioned on the class of each image"
    assert given.to_json() == {"conditioned_on": "class", "conditioned_images": 12}
    labels = digits.labels.clone()
    labels[:5] = -1
    some = given_of(model, replace(digits, labels=labels))
    assert some.fact == "the class of 7 of 12 images, nothing for the others"
    assert some.to_json()["conditioned_images"] == 7
    assert given_of(model, replace(digits, labels=None)).what == ""
    assert given_of(model, replace(digits, labels=torch.full((12,), -1))).fact.startswith(
        "the class of no image"
    )


def test_a_guided_chain_is_another_model(digits):
    model = build_model(replace(TINY, class_conditional=True), digits)
    given = given_of(model.guided(2.5), digits)
    assert given.suffix == " given the class, guided by 2.5"
    assert given.fact == "the class of each image, in the chain guided by 2.5"
    assert given.to_json()["guidance"] == 2.5
    assert given_of(model.guided(1.0), digits).guidance is None
    assert Given("caption", 3, 3).fact == "the caption of each image"


def test_pages_count_images_of_other_splits_where_there_are_any(digits):
    model = build_model(TINY, digits)
    assert data_facts(model, digits) == {"figures conditioned on": "nothing"}
    for left_out, rest in ((0, "kept"), (1_234, "left out")):
        found = data_facts(model, replace(digits, duplicates=1_234, left_out=left_out))
        assert found["test images in other splits"] == f"1,234, {rest}"
