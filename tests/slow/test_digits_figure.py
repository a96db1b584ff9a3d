"""The figure in the README: two minutes of training on digits."""

from __future__ import annotations

import json

import diffusers
import pytest
import torch

from nelbo.cli import main


@pytest.mark.slow
def test_two_minutes_on_digits_reach_the_bound(tmp_path):
    torch.set_num_threads(2)
    out = tmp_path / "digits"
    main(
        ["train", "digits", "--out", str(out), "--time-budget", "120s", "--evaluate-levels", "all"]
    )
    test = json.loads((out / "evaluation.json").read_text())["test"]
    print(json.dumps(test, indent=2))
    assert test["levels_per_image"] == 999
    assert test["examples"] == 299
    assert test["bits_per_dim"]["total"]["mean"] <= 2.10
    pipeline = diffusers.DDPMPipeline.from_pretrained(out)
    images = pipeline(batch_size=4, num_inference_steps=50, output_type="np").images
    assert images.shape == (4, 8, 8, 1)
