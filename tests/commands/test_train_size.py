"""nelbo train without --widths: the network is chosen once, and the run keeps it."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from nelbo.cli import main
from nelbo.training.kinds.pixel import choices
from nelbo.training.kinds.pixel.network_size import FittingNetwork

pytestmark = pytest.mark.usefixtures("unreported")

SHORT = ["--levels", "10", "--batch-size", "8", "--evaluate-images", "4", "--evaluate-levels", "2"]
FEW = ["--sample-images", "2", "--sample-steps", "2", "--threads", "1"]
FEW += ["--precision", "fp32"]


@pytest.fixture
def asked(monkeypatch) -> list[float]:
    """The times that a network was to be chosen for."""
    times: list[float] = []

    def choose(config, data, seconds, *rest, **options):
        times.append(seconds)
        return FittingNetwork((8, 16, 16), 12345, 0.01, 100 * seconds)

    monkeypatch.setattr(choices, "choose_network", choose)
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
        (["--widths", "8", "16", "--time-budget", "0.2s"], [8, 16]),
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
