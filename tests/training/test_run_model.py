"""The model of a run as of a checkpoint, or with its average of another length."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import nelbo
from nelbo.cli import main
from nelbo.runs.checkpoints import Checkpoints
from nelbo.training.run_model import kept_checkpoint, with_weights
from nelbo.training.snapshots import load_snapshots, reconstruct_average
from tests.commands.squares import draw_squares
from tests.conftest import reports
from tests.faults.test_mistakes import mistake

COMMON = [
    *("--steps", "12", "--batch-size", "8", "--threads", "1", "--precision", "fp32"),
    *("--validate-every", "4", "--keep-checkpoints", "3", "--snapshot-every", "4"),
    *("--save-every", "0.001s", "--evaluate-images", "4", "--evaluate-levels", "2"),
    *("--sample-images", "2", "--sample-steps", "2"),
]


def trained(folder: Path, *options: str) -> Path:
    pictures = draw_squares(folder / "pictures")
    with reports(False):
        main(
            ["train", str(pictures), "--size", "8", "--out", str(folder / "run"), *COMMON, *options]
        )
    return folder / "run"


@pytest.fixture(scope="module")
def pixel(tmp_path_factory) -> Path:
    return trained(tmp_path_factory.mktemp("pixel"), "--widths", "8", "16", "--levels", "6")


@pytest.fixture(scope="module")
def latent(tmp_path_factory) -> Path:
    return trained(
        tmp_path_factory.mktemp("latent"),
        *("--model", "latent", "--widths", "8", "16", "--heads", "2", "--levels", "6"),
        *("--text-width", "16", "--text-layers", "1", "--text-heads", "2", "--vocabulary", "600"),
        *("--autoencoder-steps", "3"),
    )


@pytest.fixture(params=["pixel", "latent"])
def run(request) -> Path:
    return request.getfixturevalue(request.param)


def test_the_last_checkpoint_is_the_model_of_the_run(run):
    last = Checkpoints(run / "training").steps()[-1]
    mine = with_weights(run, kept_checkpoint(run, last).tensors["average"]).state_dict()
    own = nelbo.load(run).state_dict()
    assert mine.keys() == own.keys()
    for name, value in own.items():
        assert torch.equal(mine[name], value), name


def test_the_best_checkpoint(run, tmp_path):
    kept = Checkpoints(run / "training")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    bits = {row["step"]: row["validation_bits_per_dim"] for row in rows if row["step"] % 4 == 0}
    assert kept.best() == min(bits, key=lambda step: bits[step])
    first, last = kept.steps()[0], kept.steps()[-1]
    assert first < last
    weights = load_file(kept.path(first) / "average.safetensors")
    name = next(name for name in weights if name.endswith("network.conv_in.weight"))
    own = nelbo.load(run).state_dict()[name]
    assert not torch.equal(weights[name], own)
    out = tmp_path / "first"
    main(["export", str(run), "--out", str(out), "--checkpoint", str(first)])
    assert torch.equal(nelbo.load(out).state_dict()[name], weights[name])
    assert json.loads((out / "nelbo.json").read_text())["trained"]["steps"] == first
    assert "bits/dim" not in (out / "README.md").read_text()  # that was measured of the last
    best = tmp_path / "best"
    main(["export", str(run), "--out", str(best), "--checkpoint", "best"])
    weights = load_file(kept.path(kept.best() or 0) / "average.safetensors")
    assert torch.equal(nelbo.load(best).state_dict()[name], weights[name])


def test_a_stored_average_comes_back(run, tmp_path):
    stored = load_file(run / "training" / "snapshots" / "step-000008.safetensors")
    trained = {name.partition(":")[2] for name in stored}
    model = reconstruct_average(run, 0.1, step=8)
    state = model.state_dict()
    for name in trained & state.keys():
        torch.testing.assert_close(state[name], stored[f"0.1:{name}"], rtol=1e-4, atol=1e-6)
    assert sum(name in state for name in trained) > 10
    text = getattr(model, "text", None)
    assert any(name.startswith("text.") for name in trained) == (text is not None)
    for name, value in [] if text is None else text.named_parameters():
        torch.testing.assert_close(value, stored[f"0.1:text.{name}"], rtol=1e-4, atol=1e-6)
    out = tmp_path / "averaged"
    main(["export", str(run), "--out", str(out), "--sigma-rel", "0.1"])
    noted = json.loads((out / "nelbo.json").read_text())["trained"]
    assert noted == {"steps": max(load_snapshots(run / "training")), "sigma_rel": 0.1}
    exported, expected = nelbo.load(out).state_dict(), reconstruct_average(run, 0.1).state_dict()
    for name, value in expected.items():
        assert torch.equal(exported[name], value), name


def test_mistakes_are_explained(pixel, latent, tmp_path, capsys):
    out = ["--out", tmp_path / "out"]

    def wrong(run: Path, *options: str) -> str:
        return mistake(capsys, "export", run, *out, *options)

    steps = ", ".join(map(str, Checkpoints(pixel / "training").steps()))
    assert f"of the steps {steps}, none of step 5" in wrong(pixel, "--checkpoint", "5")
    both = ["--checkpoint", "best", "--sigma-rel", "0.1"]
    assert "either --checkpoint or --sigma-rel" in wrong(pixel, *both)
    assert "between 0 and 0.2887" in wrong(pixel, "--sigma-rel", "0.5")
    assert not (tmp_path / "out").exists()
    other = Checkpoints(latent / "training")
    with pytest.raises(nelbo.NelboError, match="not of the model"):
        with_weights(pixel, other.load(other.steps()[-1]).tensors["average"])


@pytest.mark.usefixtures("ends_with_the_model")
def test_a_run_without_validation_or_snapshots(tmp_path, capsys):
    run = tmp_path / "run"
    few = ["--steps", "2", "--widths", "8", "--levels", "5", "--threads", "1"]
    few += ["--precision", "fp32"]
    main(["train", "digits", "--out", str(run), *few])
    out = ["--out", tmp_path / "out"]
    assert "--validate-every" in mistake(capsys, "export", run, *out, "--checkpoint", "best")
    assert "--snapshot-every" in mistake(capsys, "export", run, *out, "--sigma-rel", "0.1")
