"""nelbo train without --widths: the network is chosen once, and the run keeps it."""

from __future__ import annotations

import json
import re

import pytest
import torch
import yaml

from nelbo.cli import main
from nelbo.data import ImageData
from nelbo.runs.run_directory import RunDirectory
from nelbo.training.config import TrainingConfig
from nelbo.training.images import TrainingImages
from nelbo.training.kinds import network_size
from nelbo.training.kinds.latent.kind import Latent
from nelbo.training.kinds.latent.options import LatentSettings, TrainLatent
from nelbo.training.kinds.network_size import FittingNetwork
from nelbo.training.processes import Processes

pytestmark = pytest.mark.usefixtures("unreported")

SHORT = ["--levels", "10", "--batch-size", "8", "--evaluate-images", "4", "--evaluate-levels", "2"]
FEW = ["--sample-images", "2", "--sample-steps", "2", "--threads", "1"]
FEW += ["--precision", "fp32"]


@pytest.fixture
def asked(monkeypatch) -> list[float]:
    """The times that a network was to be chosen for."""
    times: list[float] = []

    def choose(choices, task_of, training, seconds, *rest, **options):
        times.append(seconds)
        return FittingNetwork((8, 16, 16), 12345, 0.01, 100 * seconds)

    monkeypatch.setattr(network_size, "choose_network", choose)
    return times


def widths(run) -> tuple[list[int], list[int]]:
    """What the settings of a run and its network say."""
    settings = yaml.safe_load((run / "config.yaml").read_text())
    network = json.loads((run / "unet" / "config.json").read_text())
    return settings["model"]["widths"], network["block_out_channels"]


def test_a_time_budget_chooses_and_resume_keeps(asked, tmp_path, capsys):
    run = tmp_path / "run"
    main(["train", "digits", "--out", str(run), "--time-budget", "0.5s", *SHORT, *FEW])
    assert asked == [0.5]
    assert widths(run) == ([8, 16, 16], [8, 16, 16])
    said = " ".join(capsys.readouterr().err.split())
    assert "Network: 8 16 16 channels, 0.01M weights" in said
    assert re.search(r"about 50 images, 0 passes over 1,\d{3} ", said)
    main(["train", "--resume", "--out", str(run), "--time-budget", "1s", *FEW])
    assert asked == [0.5]
    assert widths(run) == ([8, 16, 16], [8, 16, 16])
    other = tmp_path / "other"
    main(["train", "--config", str(run / "config.yaml"), "--out", str(other), "--steps", "1", *FEW])
    assert asked == [0.5]
    assert widths(other) == ([8, 16, 16], [8, 16, 16])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--widths", "8", "16", "--dropout", "0", "--time-budget", "0.2s"], [8, 16]),
        (["--steps", "1", "--batch-size", "2"], [32, 64, 64]),
    ],
)
def test_widths_that_are_given_and_steps_without_a_time_choose_nothing(
    asked, tmp_path, given, expected
):
    run = tmp_path / "run"
    main(["train", "digits", "--out", str(run), *SHORT, *FEW, *given])
    assert asked == []
    assert widths(run) == (expected, expected)


@pytest.mark.parametrize(
    ("asked_for", "seconds"),
    [
        ({"time_budget": "200s"}, [150.0]),  # a quarter is the autoencoder's
        ({"steps": 100}, []),
        ({"time_budget": "200s", "widths": (32, 40)}, []),
        ({"time_budget": "200s", "resume": True}, []),
    ],
)
def test_a_prior_is_chosen_for_what_the_autoencoder_leaves(asked, tmp_path, asked_for, seconds):
    pixels = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    data = ImageData("nothing", pixels, 256, tuple("abcd"))
    settings = LatentSettings(levels=4, widths=asked_for.pop("widths", ()))
    resume = asked_for.pop("resume", False)
    training = TrainingConfig(precision="fp32", batch_size=4, **asked_for)
    options = TrainLatent(model=settings, training=training, resume=resume, threads=1)
    images = TrainingImages("nothing", data, data, data)
    processes = Processes(torch.device("cpu"))
    stage = next(Latent.stages(options, images, processes, RunDirectory(tmp_path)))
    assert asked == seconds
    assert stage.whole.model.widths == ((8, 16, 16) if seconds else settings.widths)
