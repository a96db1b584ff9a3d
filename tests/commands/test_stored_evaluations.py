"""Stored bounds are read for what they are of, and for nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nelbo.cli import main
from tests.commands.test_evidence import run_json, table
from tests.faults.test_mistakes import mistake
from tests.formats import tiny

pytestmark = pytest.mark.filterwarnings("ignore:.*does not state the number of its pixel levels")


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    return _with_pictures(tmp_path_factory.mktemp("pixels"), tiny.ddpm)


@pytest.fixture(scope="module")
def of_text(tmp_path_factory) -> Path:
    """A model of text, and its evaluation."""

    def build(path: Path) -> None:
        tiny.stable_diffusion(path.parent / "made")
        shutil.copytree(path.parent / "made" / "pipeline", path)

    place = _with_pictures(tmp_path_factory.mktemp("text"), build, side=16)
    main([*map(str, _evaluate(place)), "--json"])
    return place


def _with_pictures(where: Path, build, side: int = 8) -> Path:
    build(where / "model")
    random = np.random.default_rng(0)
    (where / "pictures").mkdir()
    rows = []
    for i in range(4):
        pixels = random.integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(where / "pictures" / f"{i}.png")
        rows.append({"file_name": f"{i}.png", "text": "red cat" if i % 2 else "dog"})
    _write_captions(where / "pictures", rows)
    return where


def _write_captions(folder: Path, rows) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metadata.jsonl").write_text(lines)


def _edit_json(file: Path, **fields) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def _negate(place: Path) -> None:
    for file in (place / "pictures").glob("*.png"):
        Image.fromarray(255 - np.asarray(Image.open(file))).save(file)


def _swap_two(place: Path) -> None:
    """The same names and the same pixels, in another order."""
    first, second = place / "pictures" / "0.png", place / "pictures" / "1.png"
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(kept)


def _caption(place: Path) -> None:
    rows = [json.loads(line) for line in (place / "pictures/metadata.jsonl").open()]
    rows[2]["text"] = "red dog"
    _write_captions(place / "pictures", rows)


def _label(place: Path) -> None:
    rows = [json.loads(line) for line in (place / "pictures/metadata.jsonl").open()]
    _write_captions(place / "pictures", [row | {"label": f"l{i}"} for i, row in enumerate(rows)])


def _scheduler(**fields):
    return lambda place: _edit_json(place / "model/scheduler/scheduler_config.json", **fields)


def _network(place: Path) -> None:
    _edit_json(place / "model/unet/config.json", norm_eps=0.1)


def _decoder_scale(place: Path) -> None:
    file = place / "model/nelbo.json"
    file.write_text(json.dumps({"data": {"kind": "pixels", "levels": 256}, "decoder_scale": 0.7}))


def _tokenizer(place: Path) -> None:
    """Two words change places, as in another version of a tokenizer; no weight does."""
    file = place / "model/tokenizer/tokenizer.json"
    if file.is_file():
        content = json.loads(file.read_text())
        _swap_words(content["model"]["vocab"])
        file.write_text(json.dumps(content))
    file = place / "model/tokenizer/vocab.json"
    if file.is_file():
        words = json.loads(file.read_text())
        _swap_words(words)
        file.write_text(json.dumps(words))


def _swap_words(words: dict[str, int]) -> None:
    words["cat</w>"], words["dog</w>"] = words["dog</w>"], words["cat</w>"]


CHANGES = {
    "pixels": _negate,
    "pixels of two": _swap_two,
    "captions": _caption,
    "labels": _label,
    "noise levels": _scheduler(beta_end=0.3),
    "noise levels of another kind": _scheduler(beta_schedule="squaredcos_cap_v2"),
    "variance": _scheduler(variance_type="fixed_large"),
    "clip_sample": _scheduler(clip_sample=False),
    "thresholding": _scheduler(thresholding=True, sample_max_value=1.5),
    "prediction": _scheduler(prediction_type="v_prediction"),
    "network configuration": _network,
}
OF_TEXT = {
    "captions": _caption,
    "text encoder": _tokenizer,
    "decoder_scale": _decoder_scale,
    "prediction": _scheduler(prediction_type="v_prediction"),
}


def _evaluate(place: Path, *more):
    common = ["--data", place / "pictures", "--split", "all", "--out", place / "ev"]
    return ["evaluate", place / "model", *common, "--levels", "2", *more]


def _rank(place: Path):
    common = ["--data", place / "pictures", "--out", place / "ev", "--levels", "2", "--no-maps"]
    return ["rank", place / "model", "--split", "all", *common]


@pytest.fixture(scope="module", params=[_evaluate, _rank])
def evaluated(request, original, tmp_path_factory):
    """A command, where its images were evaluated, and a copy of all of that."""
    place = tmp_path_factory.mktemp("evaluated") / "place"
    shutil.copytree(original, place)
    main([*map(str, request.param(place)), "--json"])
    kept = place.with_name("kept")
    shutil.copytree(place, kept)
    return request.param, place, kept


@pytest.fixture
def command_and_place(evaluated):
    command, place, kept = evaluated
    shutil.rmtree(place)
    shutil.copytree(kept, place)
    return command, place


def test_what_was_evaluated_is_the_same(command_and_place, capsys):
    command, place = command_and_place
    again = run_json(capsys, *command(place))
    shutil.rmtree(place / "ev")
    first = run_json(capsys, *command(place))
    cost = {"calls": 0, "calls_per_image": 0, "calls_stored": 0}
    assert again | cost == first | cost


# Of `rank`, which keeps its bounds in the same store, one of the images and one of the model.
@pytest.mark.parametrize(
    ("evaluated", "change"),
    [*((_evaluate, change) for change in CHANGES), (_rank, "pixels"), (_rank, "prediction")],
    indirect=["evaluated"],
)
def test_what_was_evaluated_has_changed(change, command_and_place, capsys):
    command, place = command_and_place
    CHANGES[change](place)
    message = mistake(capsys, *command(place))
    assert "holds an evaluation with" in message
    assert change.split(" of ")[0] in message


@pytest.mark.parametrize("change", OF_TEXT)
def test_what_a_model_of_text_is_evaluated_on_has_changed(change, of_text, tmp_path, capsys):
    place = tmp_path / "place"
    shutil.copytree(of_text, place)
    OF_TEXT[change](place)
    message = mistake(capsys, *_evaluate(place))
    assert "holds an evaluation with" in message
    assert change in message


def test_every_change_is_named(original, tmp_path, capsys):
    place = tmp_path / "place"
    shutil.copytree(original, place)
    run_json(capsys, *_evaluate(place))
    _negate(place)
    _scheduler(clip_sample=False)(place)
    message = mistake(capsys, *_evaluate(place, "--seed", "3"))
    for name in ("pixels", "clip_sample", "seed 0, not 3"):
        assert name in message
    assert "weights" not in message


def test_what_is_read_from_the_store_was_not_evaluated_again(original, tmp_path, capsys):
    place = tmp_path / "place"
    shutil.copytree(original, place)
    first = run_json(capsys, *_evaluate(place, "--batch-size", "2"))
    assert first["calls_stored"] == 0
    # Four images, twice at level 1 and at two levels above; the pilot, at each of the 19 above.
    assert first["calls"] == 16 + 4 * 19
    # No pilot where nothing is left to be drawn.
    again = run_json(capsys, *_evaluate(place, "--batch-size", "2"))
    assert again["calls_stored"] == again["calls"] == 16
    assert again["bits_per_dim"] == first["bits_per_dim"]
    (place / "ev/bounds/00-000001.safetensors").unlink()
    again = run_json(capsys, *_evaluate(place, "--batch-size", "2"))
    assert again["calls_stored"] == 8
    assert again["calls"] == first["calls"]
    assert again["bits_per_dim"] == first["bits_per_dim"]


def test_a_store_of_an_older_version_is_refused_as_one(original, tmp_path, capsys):
    place = tmp_path / "place"
    shutil.copytree(original, place)
    run_json(capsys, *_evaluate(place))
    file = place / "ev/bounds/settings.json"
    settings = json.loads(file.read_text())
    del settings["format"], settings["pixels"]
    file.write_text(json.dumps(settings))
    message = mistake(capsys, *_evaluate(place))
    assert "by an older version of nelbo" in message
    assert "another directory" in message


def test_automatic_precision_goes_on_in_what_was_chosen(original, tmp_path, capsys):
    """Which is faster may change from one day to the next; bounds of one store do not mix."""
    place = tmp_path / "place"
    shutil.copytree(original, place)
    run_json(capsys, *_evaluate(place, "--precision", "bf16"))
    again = run_json(capsys, *_evaluate(place, "--precision", "auto"))
    assert again["precision"] == "bfloat16"
    assert again["calls_stored"] == again["calls"] == 16
    message = mistake(capsys, *_evaluate(place, "--precision", "fp32"))
    assert "precision 'bf16', not 'fp32'" in message


def test_the_table_is_of_the_images_that_were_evaluated(original, tmp_path, capsys):
    place = tmp_path / "place"
    shutil.copytree(original, place)
    result = run_json(capsys, *_evaluate(place))
    bits = [float(row["bits_per_dim"]) for row in table(place / "ev/images.csv")]
    assert np.mean(bits) == pytest.approx(result["bits_per_dim"]["total"]["mean"], rel=1e-5)
