"""Checkpoints that ship with the package: what is written, what is found, what is not."""

from __future__ import annotations

import copy

import pytest
import torch

import nelbo
from nelbo import NelboError, checkpoints
from nelbo.checkpoints import available, save_checkpoint
from nelbo.samplers import DDIM
from tests.training.test_latents import text_model

CARD = "# A toy\n\nMade by a test.\n"


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "DIRECTORY", tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", available())
def test_what_ships_is_small_has_a_card_and_loads(name):
    path = checkpoints.checkpoint_path(name)
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    assert size <= checkpoints.LARGEST
    assert "licen" in (path / "README.md").read_text().lower()
    assert nelbo.pretrained(name) is not None


def test_a_checkpoint_is_half_as_large_and_draws_the_same(shelf):
    model = text_model().eval()
    model.decoder_scale = 0.25
    before = copy.deepcopy(model.state_dict())
    size = save_checkpoint(model, shelf / "toy", CARD)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name])
    nelbo.save(model, shelf / "whole")
    for part in ("unet", "vae", "text_encoder"):
        whole, half = (
            next((shelf / name / part).glob("*.safetensors")).stat().st_size
            for name in ("whole", "toy")
        )
        assert half < 0.65 * whole  # names take their share in so small a model
    assert size < 1e6
    assert available() == ["toy", "whole"]
    again = nelbo.pretrained("toy")
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    assert again.decoder_scale == 0.25
    assert (shelf / "toy" / "README.md").read_text() == CARD
    x_T = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    ours, theirs = (m.sample(2, DDIM(3), prompt="red square", x_T=x_T) for m in (again, model))
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.05)


def test_mistakes_are_explained(shelf, monkeypatch):
    with pytest.raises(NelboError, match=r"no checkpoint 'emoji' .* ships none"):
        nelbo.pretrained("emoji")
    model = text_model()
    with pytest.raises(NelboError, match="needs a card"):
        save_checkpoint(model, shelf / "a", " ")
    save_checkpoint(model, shelf / "a", CARD)
    with pytest.raises(NelboError, match="there are a; a run"):
        nelbo.pretrained("../a")
    monkeypatch.setattr(checkpoints, "LARGEST", 1000)
    with pytest.raises(NelboError, match="can ship"):
        save_checkpoint(model, shelf / "b", CARD)
    with torch.no_grad():
        model.autoencoder.decoder.conv_in.weight.fill_(1e6)
    with pytest.raises(NelboError, match=r"decoder\.conv_in\.weight has weights that float16"):
        save_checkpoint(model, shelf / "c", CARD)


def test_a_mistyped_name_is_not_looked_for_elsewhere(shelf, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    save_checkpoint(text_model(), shelf / "emoji", CARD)
    with pytest.raises(NelboError, match=r"no checkpoint 'emojis'.*did you mean emoji\?"):
        nelbo.load("emojis")
    assert checkpoints.resolve("somebody/emoji") == "somebody/emoji"
