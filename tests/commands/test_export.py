"""nelbo export: what is written runs in diffusers and in nelbo."""

from __future__ import annotations

import json

import diffusers
import pytest
import torch
from huggingface_hub import ModelCard

import nelbo
from nelbo.cli import main


def test_export_is_a_clean_pipeline_with_a_card(run_path, tmp_path):
    out = tmp_path / "exported"
    main(["export", str(run_path), "--out", str(out), "--license", "cc-by-4.0"])
    assert {p.name for p in out.iterdir()} == {
        "README.md",
        "model_index.json",
        "nelbo.json",
        "scheduler",
        "unet",
    }
    before, after = nelbo.load(run_path), nelbo.load(out)
    for name, weight in before.state_dict().items():
        assert torch.equal(weight, after.state_dict()[name])
    torch.testing.assert_close(before.schedule.betas, after.schedule.betas)
    assert after.data == nelbo.Pixels(17)
    assert diffusers.DDPMPipeline.from_pretrained(out).unet.config.in_channels == 1

    card = ModelCard.load(out / "README.md")
    assert card.data.license == "cc-by-4.0"
    assert card.data.library_name == "diffusers"
    total = json.loads((run_path / "evaluation.json").read_text())["test"]["bits_per_dim"]["total"]
    assert f"{total['mean']:.3f}" in card.text
    for words in ("8×8", "17 levels", "12 steps", "Alpaydin", "DDPMPipeline", "nelbo.load"):
        assert words in card.text


def test_export_refuses_a_directory_with_content(run_path, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(SystemExit) as exit_:
        main(["export", str(run_path), "--out", str(tmp_path)])
    assert exit_.value.code == 2
    assert "is not empty" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
