"""What a run records of itself, where it is of another kind than it should be."""

from __future__ import annotations

import json

import pytest

from nelbo import NelboError
from nelbo.formats.files import usual_guidance
from nelbo.formats.notes import exported, read_notes

NOTES = {
    "source": "digits",
    "settings": {"training": {"batch_size": 64}, "model": {"guidance": 2}},
    "trained": {"steps": 0, "seconds": 1.5, "threads": 1, "precision": "fp32"},
    "label_names": ["a", 1],
    "training_images": None,
    "started_from": {"model": "emoji", "sources": ["emoji"]},
    "of a later version": [1],
}


# What is asked for more of, or has a default that is not None.
NULLED = ("settings", "training", "model", "objective", "trained", "seconds", "started_from")


def test_notes_as_they_are_written(tmp_path):
    file = tmp_path / "nelbo.json"
    for notes in (NOTES, {}, {"trained": {}}):
        file.write_text(json.dumps(notes))
        assert read_notes(file) == notes


@pytest.mark.parametrize(
    "notes",
    [
        dict.fromkeys(NOTES),
        {"settings": {"training": None, "model": None}},
        {"settings": {"training": {"batch_size": None, "objective": None}}},
        {"trained": {"steps": 0, "seconds": None}},
    ],
)
def test_null_is_as_good_as_nothing(tmp_path, notes):
    """For all that reads notes by `get` with a default."""
    file = tmp_path / "nelbo.json"
    file.write_text(json.dumps(notes))
    found = read_notes(file)
    assert usual_guidance(found) == 1
    assert "settings" not in exported(found)
    for group in (found, *(each for each in found.values() if isinstance(each, dict))):
        assert not any(name in group and group[name] is None for name in NULLED)


@pytest.mark.parametrize(
    ("notes", "message"),
    [
        ({"settings": []}, r"settings is \[\], expected a mapping"),
        ({"settings": {"model": "pixel"}}, "settings.model is 'pixel', expected a mapping"),
        ({"settings": {"model": {"guidance": "2"}}}, "settings.model.guidance is '2', .* a number"),
        ({"settings": {"training": {"batch_size": -1}}}, "batch_size is -1, .* a whole number"),
        ({"trained": 3}, "trained is 3, expected a mapping"),
        ({"trained": {"steps": 1.5}}, "trained.steps is 1.5, expected a whole number"),
        ({"trained": {"seconds": 1.5}}, "trained.steps is None, expected a whole number"),
        ({"started_from": {"sources": []}}, "started_from.model is None, expected a string"),
        ({"label_names": "ab"}, "label_names is 'ab', expected a list"),
        ({"source": 3}, "source is 3, expected a string"),
        (
            {"started_from": {"model": "a", "sources": [1]}},
            r"sources is \[1\], expected a list of strings",
        ),
    ],
)
def test_the_error_names_file_field_and_kind(tmp_path, notes, message):
    file = tmp_path / "nelbo.json"
    file.write_text(json.dumps(NOTES | notes))
    with pytest.raises(NelboError, match=rf"nelbo\.json: .*{message}"):
        read_notes(file)


@pytest.mark.parametrize("content", ["{", "[" * 100_000, '{"a": ' + "1" * 5000 + "}"])
def test_json_that_no_parser_takes(tmp_path, content):
    (tmp_path / "nelbo.json").write_text(content)
    with pytest.raises(NelboError, match=r"nelbo\.json is not readable as JSON"):
        read_notes(tmp_path / "nelbo.json")
