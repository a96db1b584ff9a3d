"""Numbers that make no sense are refused before anything is trained, by every kind of model."""

from __future__ import annotations

import dataclasses
import math

import pytest

from nelbo import NelboError
from nelbo.training.config import TrainingConfig, parse_duration
from nelbo.training.kinds.autoencoder.options import AutoencoderSettings
from nelbo.training.kinds.latent.options import LatentSettings
from nelbo.training.kinds.pixel.options import ModelConfig
from nelbo.training.ranges import check_threads
from tests.faults.test_mistakes import mistake

SETTINGS = (TrainingConfig, ModelConfig, AutoencoderSettings, LatentSettings)


def floats(kind):
    return [f.name for f in dataclasses.fields(kind) if f.type in ("float", "float | None")]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in SETTINGS for name in floats(kind)]
)
def test_every_float_is_finite(kind, name, value):
    with pytest.raises(NelboError, match=f"--{name.replace('_', '-')} must be a finite number"):
        kind(**{name: value}).check()


@pytest.mark.parametrize(
    ("kind", "name", "refused", "accepted"),
    [
        (ModelConfig, "dropout", 1.0, 0.99),
        (ModelConfig, "dropout", -0.1, 0.0),
        (ModelConfig, "levels", 0, 1),
        (ModelConfig, "layers", 0, 1),
        (ModelConfig, "levels", 100_001, 100_000),
        (LatentSettings, "layers", 101, 100),
        (AutoencoderSettings, "layers", 10**30, 100),
        (ModelConfig, "attention", (0,), (4,)),
        (AutoencoderSettings, "latent_channels", 0, 1),
        (AutoencoderSettings, "kl_weight", -1e-9, 0.0),
        (AutoencoderSettings, "adversarial_weight", -1.0, 0.0),
        (AutoencoderSettings, "mirrored", 1.01, 1.0),
        (AutoencoderSettings, "recoloured", -0.01, 0.0),
        (LatentSettings, "heads", 0, 1),
        (LatentSettings, "text_layers", 0, 1),
        (LatentSettings, "vocabulary", 0, 600),
        (LatentSettings, "levels", -3, 1),
        (TrainingConfig, "learning_rate", 0.0, 1e-9),
        (TrainingConfig, "ema_decay", 1.0, 0.0),
        (TrainingConfig, "label_dropout", 1.0, 0.0),
        (TrainingConfig, "weight_decay", -1e-9, 0.0),
        (TrainingConfig, "steps", 0, 1),
        (TrainingConfig, "keep_checkpoints", 0, 1),
    ],
)
def test_ends_of_ranges(kind, name, refused, accepted):
    kind(**{name: accepted}).check()
    with pytest.raises(NelboError, match=f"--{name.replace('_', '-')} must"):
        kind(**{name: refused}).check()


def test_defaults_make_sense():
    for kind in SETTINGS:
        kind().check()


@pytest.mark.parametrize("text", ["1e400s", "9" * 400, "0s", "nan", "inf", "-1s"])
def test_durations_end(text):
    with pytest.raises(NelboError, match="is not a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dropout", "1"], "--dropout must lie in [0, 1), got 1"),
        (["--levels", "0"], "--levels must be at least 1, got 0"),
        (["--evaluate-images", "0"], "--evaluate-images must be at least 1"),
        (["--threads", "0"], "--threads must be at least 1"),
        (["--model", "autoencoder", "--mirrored", "2"], "--mirrored must lie in [0, 1], got 2"),
        (["--model", "latent", "--text-heads", "0"], "--text-heads must be at least 1"),
    ],
)
def test_the_command_line_says_so(options, message, tmp_path, capsys):
    out = tmp_path / "run"
    assert message in mistake(capsys, "train", "digits", "--out", out, "--steps", "3", *options)
    assert not out.exists()


def test_settings_of_a_file(tmp_path, capsys):
    def read(content: str) -> str:
        file = tmp_path / "config.yaml"
        file.write_text(content)
        return mistake(
            capsys, "train", "digits", "--out", tmp_path / "run", "--config", file, "--steps", "3"
        )

    message = read("epochs: 3\n")
    assert "unknown field 'epochs'; expected" in message
    for internal in ("overwrite", "resume", "accept_changed_data", "json"):
        assert internal not in message
    assert "(did you mean evaluate_images" in read("evaluate_image: 3\n")
    assert "learning_rate is a field of training: indent it" in read("learning_rate: 3\n")
    assert "(did you mean learning_rate" in read("training:\n  learn_rate: 3\n")
    assert "--weight-decay must be a finite number" in read("training:\n  weight_decay: .nan\n")
    assert "--dropout must lie in [0, 1)" in read("model:\n  dropout: 1.0\n")


@pytest.mark.parametrize("threads", [0, 1025, 10**30])
def test_threads_are_of_a_number_that_can_be(threads):
    """torch crashes where it cannot start them."""
    check_threads(None)
    check_threads(1024)
    with pytest.raises(NelboError, match="--threads must be at"):
        check_threads(threads)
