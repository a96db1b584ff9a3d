"""What an image is for depends on names alone."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nelbo import NelboError
from nelbo.data import SPLITS, load_data
from nelbo.data.splits import (
    EmptySplitError,
    share,
    split_by_name,
    split_for_validation,
)
from tests.data.pictures import write

NAMES = st.lists(st.text(min_size=1), min_size=2, max_size=60, unique=True)


@given(NAMES)
def test_no_split_is_empty(names):
    """Two images are for train and test; from three on there is one for validation."""
    counts = Counter(split_by_name(names))
    assert counts["train"] >= 1
    assert counts["test"] >= 1
    if sum(share(name) < 0.1 for name in names) < len(names) - 1:
        assert (counts["validation"] >= 1) == (len(names) > 2)


@given(NAMES)
def test_what_is_for_test_does_not_depend_on_validation(names):
    with_validation, without = split_by_name(names), split_by_name(names, validation=False)
    assert set(without) == {"train", "test"}
    assert [split == "test" for split in with_validation] == [split == "test" for split in without]


@given(NAMES, NAMES)
def test_a_growing_set_keeps_its_splits(names, more):
    """Where the rule leaves no split empty, every image stays in its own, whatever is added."""
    grown = names + [name for name in more if name not in names]
    before = split_by_name(names)
    after = dict(zip(grown, split_by_name(grown), strict=True))
    ruled = [("test", "validation", "train")[min(int(share(name) * 10), 2)] for name in names]
    if set(ruled) == {"train", "validation", "test"}:
        assert before == ruled
        assert [after[name] for name in names] == before


def test_a_tenth_is_for_test_and_a_tenth_for_validation():
    counts = Counter(split_by_name([f"picture {i}.png" for i in range(20_000)]))
    spread = 4 * (20_000 * 0.09) ** 0.5
    assert counts["test"] == pytest.approx(2000, abs=spread)
    assert counts["validation"] == pytest.approx(2000, abs=spread)


def test_shares_are_fixed_for_ever():
    # BLAKE2b("a.png") by coreutils: printf a.png | b2sum -l 64
    assert share("a.png") == 0xE203797DE73BF656 / 2**64


def test_one_image_cannot_be_split():
    with pytest.raises(NelboError, match="at least two"):
        split_by_name(["a"])
    assert split_for_validation(["a", "b"], ["train", "test"]) == ["train", "test"]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_tiny_folders(tmp_path, count):
    for i in range(count):
        write(tmp_path / f"{i}.png", i)
    found = {}
    for split in SPLITS:
        try:
            found[split] = load_data(str(tmp_path), split, size=6)
        except EmptySplitError as error:
            assert "split needs at least" in str(error)  # noqa: PT017
    expected = {1: ["train"], 2: ["train", "test"]}.get(count, ["train", "validation", "test"])
    assert list(found) == [*expected, "all"]
    assert sorted(n for split in expected for n in found[split].names) == sorted(found["all"].names)
    assert found["all"].splits == tuple(s for s in expected for _ in found[s].names)


def folders(root, **counts):
    for name, count in counts.items():
        for i in range(count):
            write(root / name / f"{name}{i}.png", i)
    return str(root)


def names(source, split, **options):
    return {name.split("/")[0] for name in load_data(source, split, size=6, **options).names}


@pytest.mark.parametrize("called", ["validation", "valid", "val"])
def test_three_declared_folders(tmp_path, called):
    source = folders(tmp_path, **{"train": 4, called: 3, "test": 2})
    for split, folder in (("train", "train"), ("validation", called), ("test", "test")):
        assert names(source, split) == {folder}
    assert load_data(source, "train", size=6).split_note is None
    # As before there was a validation split.
    assert len(load_data(source, "test", size=6, validation=False)) == 5
    assert len(load_data(source, "train", size=6, validation=False)) == 4


def test_validation_is_taken_from_a_declared_train_folder(tmp_path):
    source = folders(tmp_path, train=20, test=2)
    train, validation = (load_data(source, split, size=6) for split in ("train", "validation"))
    assert len(train) + len(validation) == 20
    assert names(source, "validation") == {"train"}
    assert names(source, "test") == {"test"}
    assert all(0.1 <= share(name) < 0.2 for name in validation.names)
    assert train.split_note is None


def test_without_a_test_folder_that_for_validation_is_for_test(tmp_path):
    """Its images have been held out as such, by runs and by papers."""
    source = folders(tmp_path, train=20, val=2)
    assert names(source, "test") == {"val"}
    assert names(source, "validation") == {"train"}
    note = load_data(source, "test", size=6).split_note
    assert note.startswith("there is no test/: the pictures of val/ are the test split")
    assert load_data(source, "train", size=6, validation=False).split_note is None


@pytest.mark.parametrize("source", ["digits", "mnist5k", "emoji"])
def test_the_splits_of_the_data_sets(source):
    parts = {split: load_data(source, split) for split in SPLITS}
    sizes = {split: len(data) for split, data in parts.items()}
    whole = sizes.pop("all")
    assert sum(sizes.values()) == whole
    assert sizes["validation"] == pytest.approx(0.1 * (whole - sizes["test"]), rel=0.15)
    assert sizes["test"] == {"digits": 299, "mnist5k": 500, "emoji": 482}[source]
    taken = [set(parts[split].names) for split in sizes]
    assert set.union(*taken) == set(parts["all"].names)
    for split in sizes:
        assert parts[split].splits == (split,) * sizes[split]
    assert Counter(parts["all"].splits) == sizes


@pytest.mark.parametrize("source", ["digits", "mnist5k", "emoji"])
def test_runs_from_before_have_the_images_that_they_had(source, request):
    """Train and validation images together, in the order of the source, and the same for test."""
    if source == "emoji":
        request.getfixturevalue("few_emoji")
    train, test = (load_data(source, split, validation=False) for split in ("train", "test"))
    now = {split: load_data(source, split) for split in ("train", "validation", "test")}
    assert torch.equal(test.keys, now["test"].keys)
    assert set(train.names) == {*now["train"].names, *now["validation"].names}
    assert len(train) == len(now["train"]) + len(now["validation"])
    if source == "digits":  # the rule of index i mod 6 = 5
        assert train.names == tuple(f"digits #{i}" for i in range(1797) if i % 6 != 5)
        assert test.names == tuple(f"digits #{i}" for i in range(1797) if i % 6 == 5)
    if source == "emoji":
        assert train.names == tuple(sorted(train.names))
