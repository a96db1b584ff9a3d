"""nelbo train --preset: defaults by what the model is for; what is given comes first."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import tyro
import yaml
from PIL import Image

from nelbo.cli import main
from nelbo.commands.options.train import Train
from nelbo.commands.starting_point import starting_point
from nelbo.data import load_data
from nelbo.data.stream import ImageStream
from nelbo.training.config import TrainingConfig
from nelbo.training.images import TrainingImages
from nelbo.training.kinds.network_size import FittingNetwork
from nelbo.training.kinds.pixel import choices
from nelbo.training.kinds.pixel.options import ModelConfig
from nelbo.training.kinds.pixel.presets import DEFAULT_PRESET, PRESETS
from nelbo.training.processes import Processes

pytestmark = pytest.mark.usefixtures("unreported")

TINY = ["--widths", "8", "16", "--levels", "10", "--batch-size", "4", "--steps", "1"]
SHORT = ["--evaluate-images", "4", "--evaluate-levels", "2", "--sample-images", "2", *TINY]
FEW = [*SHORT, "--sample-steps", "2", "--threads", "1", "--precision", "fp32"]


def parsed(*arguments: str) -> Train:
    given = ["digits", "--out", "x", *arguments]
    return tyro.cli(
        Train, args=given, default=starting_point(given), config=(tyro.conf.OmitArgPrefixes,)
    )


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_changes_the_defaults_that_it_names_and_no_others(name):
    command = parsed("--preset", name)
    assert command.preset == name
    for group, usual in (("training", TrainingConfig()), ("model", ModelConfig())):
        expected = dataclasses.replace(usual, **getattr(PRESETS[name], group))
        assert getattr(command, group) == expected


def test_without_a_preset_it_is_the_default_one():
    asked = parsed("--preset", DEFAULT_PRESET)
    assert parsed() == dataclasses.replace(asked, left_open=("mirroring", "dropout", "objective"))
    assert Train().training == TrainingConfig(**PRESETS[DEFAULT_PRESET].training)
    assert Train().model == ModelConfig(**PRESETS[DEFAULT_PRESET].model)


@pytest.mark.parametrize(
    ("data", "given", "dropout"),
    [
        # 20 passes over 1,332 pictures are 26,640 images.
        ("pictures", ["--steps", "26639", "--batch-size", "1"], 0.0),
        ("pictures", ["--steps", "26640", "--batch-size", "1"], 0.1),
        ("pictures", ["--steps", "6660", "--batch-size", "4"], 0.1),
        ("pictures", ["--steps", "3", "--dropout", "0.2"], 0.2),
        ("pictures", ["--steps", "99999", "--dropout", "0"], 0.0),
        ("pictures", ["--time-budget", "20s"], 0.0),
        ("pictures", ["--time-budget", "200s"], 0.1),
        ("pictures", ["--time-budget", "20s", "--widths", "8", "8"], 0.0),
        ("pictures", ["--time-budget", "200s", "--widths", "8", "8"], 0.1),
        ("pictures", ["--time-budget", "200s", "--steps", "100"], 0.0),
        ("stream", ["--steps", "9999"], 0.0),
        ("few levels", ["--steps", "3"], 0.1),
    ],
)
def test_few_passes_need_no_dropout(data, given, dropout, monkeypatch, capsys):
    def found(offered, task_of, options, train, seconds, processes):
        widths = offered[-1]  # a machine that computes 200 pictures a second
        return FittingNetwork(widths, 1, 0.005, 200 * seconds)

    monkeypatch.setattr(choices, "fitting_network", found)
    monkeypatch.setattr(choices, "FEW_PASSES", 20)
    train = load_data("digits", "train")
    if data != "few levels":
        train = dataclasses.replace(train, levels=256)
    if data == "stream":
        train = dataclasses.replace(train, stream=ImageStream(list, 1))
    images = TrainingImages(data, train, train, train)
    chosen = choices.with_choices(parsed(*given), images, Processes(torch.device("cpu")))
    assert chosen.model.dropout == dropout
    assert chosen.left_open == ()
    said = "No dropout, which pays with 20 passes" in capsys.readouterr().err
    assert said is (dropout == 0 and "--dropout" not in given)


@pytest.mark.parametrize("name", PRESETS)
def test_what_is_given_comes_first(name):
    given = ["--objective", "edm", "--schedule", "sigmoid", "--learning-rate", "0.5"]
    for order in (["--preset", name, *given], [*given, "--preset", name]):
        command = parsed(*order)
        assert (command.training.objective, command.model.schedule) == ("edm", "sigmoid")
        assert command.training.learning_rate == 0.5


def test_presets_differ():
    chosen = [(parsed("--preset", n).training, parsed("--preset", n).model) for n in PRESETS]
    assert all(a != b for i, a in enumerate(chosen) for b in chosen[:i])


def test_mistakes(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["train", "digits", "--out", str(tmp_path / "run"), "--preset", "fast"])
    assert stopped.value.code == 2
    assert "unknown --preset 'fast'" in " ".join(capsys.readouterr().err.split())
    latent = ["train", "emoji", "--out", str(tmp_path / "run"), "--preset", "pictures"]
    with pytest.raises(SystemExit) as stopped:
        main(latent)
    assert stopped.value.code == 2
    assert "--preset is an option of --model pixel" in " ".join(capsys.readouterr().err.split())


def settings(run) -> dict:
    return yaml.safe_load((run / "config.yaml").read_text())


def test_a_run_keeps_its_preset_and_resume_and_config_take_none(tmp_path, capsys):
    run, other = tmp_path / "run", tmp_path / "other"
    main(["train", "digits", "--out", str(run), "--preset", "pictures", *FEW])
    kept = settings(run)
    assert (kept["preset"], kept["training"]["objective"]) == ("pictures", "min_snr")
    assert kept["model"]["schedule"] == "cosine"
    main(["train", "--resume", "--out", str(run), "--steps", "2", "--threads", "1"])
    main(["train", "--config", str(run / "config.yaml"), "--out", str(other), "--steps", "1"])
    assert settings(run)["training"] | {"steps": 1} == kept["training"]
    assert settings(other)["model"] == kept["model"]
    for again in (["--resume", "--out", str(run)], ["--config", str(run / "config.yaml")]):
        with pytest.raises(SystemExit) as stopped:
            main(["train", *again, "--out", str(run), "--preset", "both"])
        assert stopped.value.code == 2
        assert "leave --preset out" in " ".join(capsys.readouterr().err.split())


def test_settings_that_a_file_leaves_out_are_the_usual_ones(tmp_path):
    file = tmp_path / "few.yaml"
    file.write_text("data: digits\nmodel:\n  widths: [8, 16]\ntraining:\n  steps: 1\n")
    command = starting_point(["--config", str(file), "--out", "x"])
    assert command.model == dataclasses.replace(Train().model, widths=(8, 16))
    assert command.training == dataclasses.replace(Train().training, steps=1)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--preset", "both"], ("clipped", "mixed")),
        (["--objective", "simple"], ("simple", "mixed")),
        (["--schedule", "linear"], ("clipped", "linear")),
    ],
)
def test_data_of_few_levels_do_not_have_the_bound_where_something_else_is_given(
    given, expected, tmp_path
):
    run = tmp_path / "run"
    main(["train", "digits", "--out", str(run), *given, *FEW])
    kept = settings(run)
    assert (kept["training"]["objective"], kept["model"]["schedule"]) == expected


@pytest.fixture
def folder(tmp_path):
    """Pictures and their mirror images."""
    generator = torch.Generator().manual_seed(0)
    path = tmp_path / "pictures"
    path.mkdir()
    for index in range(12):
        pixels = torch.randint(0, 256, (4, 4), generator=generator).byte().numpy()
        Image.fromarray(pixels).save(path / f"{index}.png")
        Image.fromarray(pixels[:, ::-1].copy()).save(path / f"{index}-mirrored.png")
    return path


@pytest.mark.parametrize(
    ("data", "given", "mirrored", "said"),
    [
        ("digits", [], False, False),
        ("folder", [], True, True),
        ("folder", ["--no-horizontal-flip"], False, False),
        ("digits", ["--horizontal-flip"], True, False),
    ],
)
def test_mirroring_is_decided_by_the_pictures_unless_it_is_given(
    data, given, mirrored, said, folder, tmp_path, capsys
):
    run = tmp_path / "run"
    source = [str(folder), "--size", "4"] if data == "folder" else [data]
    main(["train", *source, "--out", str(run), *given, *FEW])
    assert settings(run)["training"]["horizontal_flip"] is mirrored
    # Data of few pixel levels have the bound.
    expected = ("bound", "geometric") if data == "digits" else ("clipped", "mixed")
    kept = settings(run)
    assert (kept["training"]["objective"], kept["model"]["schedule"]) == expected
    assert "left_open" not in settings(run)
    assert ("Mirroring half of the pictures" in capsys.readouterr().err) is said
    if not said:
        return
    main(["train", "--resume", "--out", str(run), "--steps", "2", "--threads", "1"])
    assert settings(run)["training"]["horizontal_flip"] is mirrored
