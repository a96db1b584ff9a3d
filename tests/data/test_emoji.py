"""OpenMoji: pictures, names, groups, and what is held out."""

from __future__ import annotations

import itertools

import pytest
from emoji import EMOJI_DATA

from nelbo import NelboError
from nelbo.base.errors import MissingExtraError
from nelbo.data import emoji, load_data

COMBINATIONS = emoji.combinations()


@pytest.fixture(scope="module")
def splits():
    # At the usual size, at which other tests read them too: to draw all takes seconds.
    return tuple(load_data("emoji", split) for split in ("train", "validation", "test"))


def test_every_picture_is_in_one_split(splits):
    train, validation, test = splits
    everything = load_data("emoji", "all")
    assert len({name for data in splits for name in data.names}) == len(everything)
    assert train.names + validation.names + test.names == everything.names
    assert len(everything) == len(emoji._pictures())
    assert everything.shape == (3, 32, 32)
    assert everything.levels == 256
    assert not everything.skipped
    assert 0.1 < len(test) / len(everything) < 0.12


def test_held_out_combinations_are_new_but_all_their_pairs_are_trained_on(splits):
    train, validation, test = splits
    trained = [COMBINATIONS[name] for name in train.names if name in COMBINATIONS]
    held_out = [COMBINATIONS[name] for name in test.names if name in COMBINATIONS]
    assert len(held_out) == 60
    chosen_by = [COMBINATIONS[name] for name in validation.names if name in COMBINATIONS]
    assert (len(chosen_by), len(trained)) == (30, 210)
    assert len({*trained, *held_out, *chosen_by}) == 300
    for combination in held_out + chosen_by:
        for pair in itertools.combinations(range(3), 2):
            seen = {tuple(other[i] for i in pair) for other in trained}
            assert tuple(combination[i] for i in pair) in seen


def test_combinations_are_what_unicode_calls_them(splits):
    """The names of the package `emoji` say the same person, profession and tone."""
    for data in splits:
        for name, caption in zip(data.names, data.captions, strict=True):
            if name in COMBINATIONS:
                person, profession, tone = COMBINATIONS[name]
                said = f"{profession}: {tone} skin tone"
                assert caption in (said, f"{person} {said}")
                assert caption.startswith(person) == (person != "person")


def test_captions_and_groups(splits):
    train, _, test = splits
    known = {}
    for data in splits:
        groups = [data.label_names[label] for label in data.labels.tolist()]
        known |= dict(zip(data.captions, groups, strict=True))
        assert all(
            (c is None) == (g == emoji.ADDED) for c, g in zip(data.captions, groups, strict=True)
        )
    assert known["flag: France"] == "Flags"
    assert known["grinning face"] == "Smileys & Emotion"
    assert known["woman firefighter: medium skin tone"] == "People & Body"
    assert known["cat"] == "Animals & Nature"
    assert known["harp"] == "Objects"  # of Emoji 16
    captions = [c for data in splits for c in data.captions if c is not None]
    assert len(captions) == len(set(captions)) > 3900
    assert train.label_names == test.label_names


@pytest.mark.parametrize(
    ("code", "name"),
    [  # as emoji-test.txt of Unicode 15 has them
        ("1F469-1F3FD-200D-1F692", "woman firefighter: medium skin tone"),
        ("1F469-1F3FB-200D-2764-FE0F-200D-1F48B-200D-1F468-1F3FF",
         "kiss: woman, man, light skin tone, dark skin tone"),
        ("1F468-200D-1F469-200D-1F467-200D-1F466", "family: man, woman, girl, boy"),
        ("1F491-1F3FE", "couple with heart: medium-dark skin tone"),
        ("1F468-1F3FF-200D-1F9B0", "man: dark skin tone, red hair"),
        ("1F469-200D-1F9B2", "woman: bald"),
        ("1F46A", "family"),
        ("1F1EB-1F1F7", "flag: France"),
        ("1F3F4-E0067-E0062-E0073-E0063-E0074-E007F", "flag: Scotland"),
        ("0031-FE0F-20E3", "keycap: 1"),
        ("E000", None),
    ],
)  # fmt: skip
def test_captions_are_unicodes(code, name):
    assert emoji.caption(code, EMOJI_DATA) == name


def test_pictures_are_drawn_on_white(splits):
    train, _, _ = splits
    corners = train.images[:, :, 0, 0]
    assert (corners == 255).all(1).float().mean() > 0.95
    red = train.images[train.captions.index("red circle"), :, 16, 16].tolist()
    assert red[0] > 150 > 100 > max(red[1:])


def test_emoji_are_coloured(monkeypatch):
    with pytest.raises(NelboError, match="RGB"):
        load_data("emoji", channels=1)
    monkeypatch.setitem(__import__("sys").modules, "resvg_py", None)
    with pytest.raises(MissingExtraError, match=r"nelbo\[emoji\]"):
        load_data("emoji")


def test_an_unreadable_picture_is_skipped(tmp_path, monkeypatch):
    monkeypatch.setenv("NELBO_CACHE", str(tmp_path))
    real = emoji._pictures()
    chosen = {code: real[code] for code in sorted(real)[100:130]}
    broken = tmp_path / "1F600.svg"
    broken.write_text("<svg")
    monkeypatch.setattr(emoji, "_pictures", lambda: {**chosen, "1F600": broken})
    data = load_data("emoji", "all", size=8)
    assert len(data) == 30
    assert [line.split(":")[0] for line in data.skipped] == ["1F600"]
