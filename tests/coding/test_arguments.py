"""Arguments of another type are refused by name."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from nelbo import Condition, Diffusion, NelboError, NoiseSchedule, coding
from tests.coding.models import random_images, tiny

MODEL = tiny()
IMAGES = random_images(2, MODEL)
CONDITION = Condition(control=torch.zeros(2, 1, 4, 4))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model": "runs/digits"}, r"model is str 'runs/digits', expected a model, such as nelbo"),
        ({"model": Diffusion(MODEL.network, NoiseSchedule.cosine(3))}, r"pass shape=\(C, H, W\)"),
        ({"images": None}, "images is None, expected a tensor"),
        ({"images": "a.png"}, "images is str 'a.png'"),
        ({"images": np.zeros((2, 1, 4, 4))}, r"images is a ndarray of shape \(2, 1, 4, 4\)"),
        ({"images": IMAGES[0]}, r"shape \(1, 4, 4\), expected \(N, C, H, W\); .*images\[None\]"),
        ({"images": [np.zeros((1, 4, 4))]}, "pictures are of type ndarray, expected tensors"),
        ({"steps": 2.5}, "steps must be a whole number, got float 2.5"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"block": "2"}, "block must be a whole number"),
        ({"block": 0}, "block must be at least 1, got 0"),
        ({"names": "ab"}, "names is str 'ab', expected a sequence of strings"),
        ({"names": [1, 2]}, "names holds int 1"),
        ({"names": [None, "a"]}, "names holds None, expected a sequence of strings, one"),
        ({"captions": [None, 1]}, "captions holds int 1, expected a sequence of strings or None"),
        ({"names": ["a"]}, "1 names were given for 2 pictures"),
        ({"captions": "a cat"}, "captions is str 'a cat', .* strings or None"),
        ({"condition": "a cat"}, "condition is str 'a cat', expected a Condition"),
        ({"notes": ["run"]}, "notes is a? ?list.*, expected a dict of fields"),
        ({"notes": {"run": math.nan}}, "notes cannot be written as JSON"),
        ({"notes": {"run": [1, {"a": -math.inf}]}}, "notes cannot be written as JSON"),
        ({"notes": {"run": Path("runs")}}, "notes cannot be written as JSON"),
        ({"notes": {1: "runs"}}, "notes has the field 1, expected names that are strings"),
        ({"notes": {"plan": {}}}, "notes has the field 'plan', .*: give it another name"),
    ],
)
def test_what_compress_does_not_take(changed, message):
    given = {"model": MODEL, "images": IMAGES} | changed
    with pytest.raises(NelboError, match=message):
        coding.compress(**given)


@pytest.mark.parametrize("read", [coding.decompress, coding.decompress_progressive])
def test_what_cannot_be_read(read):
    with pytest.raises(NelboError, match=r"data is (Posix|Windows)Path"):
        read(MODEL, Path("some.nelbo"))
    with pytest.raises(NelboError, match="model is None"):
        read(None, b"")


def test_notes_stand_beside_all_that_a_header_has():
    """Of an own name they would take the place of what is read, as of the weights' hash."""
    notes = {"run": "runs/a", "more": [1, 0.5, None, {"ä": True}]}
    labels = Condition(label=torch.tensor([0, 1]))
    others = [IMAGES[0, :, :3], IMAGES[1]]
    for given in (
        {"names": ["a", "b"], "condition": labels, "fast": True},
        {"images": others, "condition": CONDITION},
    ):
        archive = coding.compress(**{"model": MODEL, "images": IMAGES, "notes": notes, **given})
        header = coding.contents(archive)
        assert {name: header.pop(name) for name in notes} == notes
        for name in header:
            with pytest.raises(NelboError, match=f"notes has the field '{name}'"):
                coding.compress(MODEL, IMAGES, notes={name: header[name]})


def test_bytes_of_every_kind_are_read():
    archive = coding.compress(MODEL, IMAGES, verify=False)
    coarse = coding.compress_progressive(MODEL, IMAGES[0], 20)
    picture = coding.decompress_progressive(MODEL, coarse)
    for kind in (bytes, bytearray, memoryview):
        assert torch.equal(coding.decompress(MODEL, kind(archive)), IMAGES)
        assert torch.equal(coding.decompress_progressive(MODEL, kind(coarse)), picture)


def test_nothing_is_drawn_from_the_generator_of_all():
    """What a program draws next does not hang on what was coded."""
    before = torch.get_rng_state()
    coding.decompress(MODEL, coding.compress(MODEL, IMAGES))
    coding.decompress_progressive(MODEL, coding.compress_progressive(MODEL, IMAGES[0], 20))
    coding.estimate(MODEL, IMAGES)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_condition_that_the_archive_does_not_need_or_of_other_pictures():
    archive = coding.compress(MODEL, IMAGES, verify=False)
    with pytest.raises(NelboError, match="holds all that its pictures were conditioned on"):
        coding.decompress(MODEL, archive, condition=CONDITION)
    given = coding.compress(MODEL, IMAGES, condition=CONDITION)
    with pytest.raises(NelboError, match="condition"):
        coding.decompress(MODEL, given)
    with pytest.raises(NelboError, match="1"):
        coding.decompress(MODEL, given, condition=CONDITION[torch.tensor([0])])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"image": "a.png"}, "image is str 'a.png', expected a tensor of pixel levels"),
        ({"image": IMAGES}, r"images have shape \(2, 1, 4, 4\) .*, the model takes \(1, 4, 4\)"),
        ({"bits": "80"}, "bits must be a number, got str '80'"),
        ({"quality": "high"}, "quality must be a number"),
        ({"steps": 2.5}, "steps must be a whole number"),
        ({"condition": CONDITION}, "condition"),
    ],
)
def test_what_cannot_be_coded_coarse_to_fine(changed, message):
    given = {"model": MODEL, "image": IMAGES[0]} | changed
    with pytest.raises(NelboError, match=message):
        coding.compress_progressive(**given)
