"""Checkpoints that ship with the package: what is written, what is found, what is not."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import diffusers
import pytest
import torch

import nelbo
from nelbo import NelboError, checkpoints, load_sampler
from nelbo.checkpoints import save_checkpoint
from nelbo.cli import main
from nelbo.coding.bits import Bits
from nelbo.coding.progressive import chain_of, expected_groups, walk
from nelbo.coding.reverse_channel import BITS
from nelbo.data import load_data
from nelbo.formats import Pipeline, model_directory
from nelbo.formats.model_directory import available
from nelbo.networks import ControlledUNet, ControlNet
from nelbo.runs.run_directory import RunDirectory
from nelbo.samplers import DDIM
from nelbo.training.kinds.latent.report import SAMPLER
from tests.commands.squares import draw_squares
from tests.faults.test_mistakes import mistake, snapshot
from tests.formats import tiny
from tests.training.test_latents import text_model

CARD = "# A toy\n\nMade by a test.\n"


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    monkeypatch.setattr(model_directory, "CHECKPOINTS", tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", available())
def test_what_ships_is_small_has_a_card_and_loads(name):
    path = checkpoints.checkpoint_path(name)
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    assert size <= checkpoints.LARGEST
    card = (path / "README.md").read_text(encoding="utf-8")
    assert "CC BY-SA 4.0" in card
    assert "OpenMoji" in card
    assert "\nnelbo train " in card
    assert f"# {name}\n" in card
    assert RunDirectory(path).notes["source"] == "emoji"
    assert nelbo.pretrained(name) is not None


def test_the_emoji_ship_with_the_levels_that_they_are_coded_along():
    """With a profile each level is expected to take a group of bits or more; without, 11 do not."""
    path = checkpoints.checkpoint_path("emoji")
    model, card = Pipeline.open(str(path)).model(), (path / "README.md").read_text("utf-8")
    assert model.chain.profile is not None
    assert f"--images {model.chain.profile.examples} --levels" in card
    assert model.chain.variance == "fixed_small"  # of the chain that is sampled and evaluated
    assert min(expected_groups(chain_of(model, None))[1:]) >= 1
    model.chain.profile = None
    assert min(expected_groups(chain_of(model, None))[1:]) < 0.2


@pytest.mark.slow
@torch.no_grad()
def test_emoji_are_coded_coarse_to_fine_in_as_many_bits_as_their_kls():
    model, data = nelbo.pretrained("emoji").eval(), load_data("emoji", "test", size=32)
    images = data.images[::60][:8]
    chain, x_0 = chain_of(model, None), model.encode(model.data.to_network(images)).mean
    contents, coded = [Bits() for _ in images], 0.0
    walks = [
        walk(chain, content, model.condition_for(1), x[None])
        for content, x in zip(contents, x_0, strict=True)
    ]
    for states in zip(*walks, strict=True):
        coded += sum(state.bits for state in states)
        bits = sum(len(content.bits) for content in contents)
        if bits > 30 * len(images):  # how many groups there are is sent, too
            assert bits < 1.15 * coded + 0.1 * bits / BITS
        if bits > 300 * len(images):
            break


@pytest.mark.slow
def test_the_card_of_the_emoji_has_the_error_of_the_autoencoder_that_ships():
    model = nelbo.pretrained("emoji")
    data = load_data("emoji", "test", size=32)
    x = model.data.to_network(data.images)
    with torch.no_grad():
        error = (model.autoencoder(x).clamp(-1, 1) - x).double().square().flatten(1).mean(1)
    of_each, of_all = (float(10 * (4 / e).log10().mean()) for e in (error, error.mean()))
    card = (checkpoints.checkpoint_path("emoji") / "README.md").read_text(encoding="utf-8")
    assert f"test ({len(data)} images) | {of_each:.2f} dB ({of_all:.2f} dB of the mean" in card


def test_all_that_ships_weighs_no_more_than_promised():
    files = [file for file in model_directory.CHECKPOINTS.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 2 * checkpoints.LARGEST


def test_what_ships_keeps_its_sampler_and_what_made_it(shelf):
    notes = {
        "source": "emoji",
        "training_images": 4013,
        "trained": {"steps": 1234, "seconds": 3700.0},
        "settings": {"training": {}, "model": {"guidance": 3.0}},
        "parameters": 1,
    }
    save_checkpoint(text_model().eval(), shelf / "emoji", CARD, notes, SAMPLER)
    assert load_sampler("emoji", 25) == SAMPLER
    kept = RunDirectory(shelf / "emoji").notes
    assert kept["source"] == "emoji"
    assert kept["settings"] == notes["settings"]
    assert "parameters" not in kept


def test_evaluate_finds_the_data_of_what_ships(shelf, monkeypatch, tmp_path_factory, capsys):
    pictures = draw_squares(tmp_path_factory.mktemp("data") / "pictures")
    save_checkpoint(text_model().eval(), shelf / "toy", CARD, {"source": str(pictures)})
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    main(["evaluate", "toy", "--images", "2", "--levels", "1", "--json"])
    assert json.loads(capsys.readouterr().out)["data"] == str(pictures)


def test_what_ships_is_reported_in_a_copy(shelf, monkeypatch, tmp_path_factory, capsys):
    pictures = draw_squares(tmp_path_factory.mktemp("data") / "pictures")
    trained = {"steps": 7, "seconds": 3.0}
    notes = {"source": str(pictures), "trained": trained, "settings": {"model": {"guidance": 2.0}}}
    model = text_model().eval()
    model.decoder_scale = 0.25
    save_checkpoint(model, shelf / "toy", CARD, notes, DDIM(2))
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    before = snapshot(shelf)
    brief = ["--levels", "1", "--images", "2", "--json"]
    assert "stays as it is: give --out DIR" in mistake(capsys, "report", "toy", *brief)
    main(["report", "toy", "--out", "reported", *brief])
    assert snapshot(shelf) == before
    printed = json.loads(capsys.readouterr().out)
    assert Path(printed["report"]) == Path("reported", "report.html")
    page = Path(printed["report"]).read_text()
    assert "7 steps in 3 s" in page
    assert Path("reported", "samples", "final.png").is_file()
    assert nelbo.load("reported").decoder_scale == 0.25


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


def test_control_ships_beside_its_base(shelf):
    save_checkpoint(text_model().eval(), shelf / "toy", CARD)
    base = nelbo.pretrained("toy")
    net = ControlNet.from_unet(base.prior.network, conditioning_embedding_out_channels=(4, 8))
    tiny.randomise(net)
    base.prior.network = ControlledUNet(base.prior.network, [net])
    size = save_checkpoint(base, shelf / "toy-control", CARD, {"source": "x"}, SAMPLER, base="toy")
    assert size == sum(f.stat().st_size for f in (shelf / "toy-control").rglob("*") if f.is_file())
    folders = {path.name for path in (shelf / "toy-control").iterdir() if path.is_dir()}
    assert folders == {"controlnet", "scheduler"}
    again = nelbo.pretrained("toy-control")
    assert load_sampler("toy-control", 25) == SAMPLER
    own = nelbo.pretrained("toy").state_dict()
    shared = {
        name.replace("network.unet.", "network."): w for name, w in again.state_dict().items()
    }
    assert all(torch.equal(shared[name], weight) for name, weight in own.items())
    control = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    x_T = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    drawn = [m.sample(1, DDIM(3), prompt="red", control=control, x_T=x_T) for m in (base, again)]
    torch.testing.assert_close(*drawn, rtol=0, atol=0.02)
    nelbo.save(again, shelf / "whole")
    assert diffusers.StableDiffusionControlNetPipeline.from_pretrained(shelf / "whole")
    with torch.no_grad():
        base.prior.network.unet.conv_in.weight.mul_(2)
    with pytest.raises(NelboError, match="is not the unet of toy, its base"):
        save_checkpoint(base, shelf / "other", CARD, base="toy")


def test_a_checkpoint_draws_in_diffusers_as_it_is(shelf):
    save_checkpoint(text_model().eval(), shelf / "toy", CARD)
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(shelf / "toy")
    pipeline.set_progress_bar_config(disable=True)
    x_T = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    size = {"height": 32, "width": 32, "num_inference_steps": 3, "guidance_scale": 1.0}
    theirs = pipeline("red square", latents=x_T, output_type="pt", **size).images
    model = nelbo.pretrained("toy")
    ours = model.sample(1, load_sampler("toy", 3), prompt="red square", x_T=x_T)
    assert (ours.clamp(-1, 1) - (2 * theirs - 1)).abs().max() < 1e-4


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
    assert model_directory.resolve("somebody/emoji") == "somebody/emoji"


def test_a_folder_of_its_name_that_is_no_pipeline_is_said_to_hide_it(
    shelf, monkeypatch, tmp_path_factory, capsys
):
    save_checkpoint(text_model(), shelf / "toy", CARD)
    monkeypatch.chdir(tmp_path_factory.mktemp("here"))
    Path("toy").mkdir()
    Path("toy", "picture.png").touch()
    with pytest.raises(NelboError, match=r"folder 'toy' here without .*, which hides"):
        nelbo.load("toy")
    assert "rename the folder" in mistake(capsys, "sample", "toy", "--prompt", "one")
    assert "rename the folder" in mistake(capsys, "compare", "digits", "--runs", "toy", "toy")
    assert nelbo.pretrained("toy") is not None
    # A run of that name is what is meant.
    nelbo.save(text_model(), "toy")
    assert model_directory.resolve("toy") == "toy"
    assert not model_directory.ships("toy")
    assert model_directory.ships(shelf / "toy")


def test_what_ships_as_a_link_ships(tmp_path, monkeypatch, capsys):
    shelf, elsewhere = tmp_path / "shelf", tmp_path / "elsewhere"
    shelf.mkdir()
    monkeypatch.setattr(model_directory, "CHECKPOINTS", shelf)
    monkeypatch.chdir(tmp_path)
    save_checkpoint(text_model(), elsewhere / "toy", CARD)
    assert not model_directory.ships(elsewhere / "toy")
    (shelf / "toy").symlink_to(elsewhere / "toy")
    assert model_directory.ships(shelf / "toy")
    before = snapshot(elsewhere)
    assert "stays as it is: give --out DIR" in mistake(capsys, "fit", "toy")
    assert snapshot(elsewhere) == before
    # And a link to one of them from elsewhere.
    save_checkpoint(text_model(), shelf / "own", CARD)
    Path("link").symlink_to(shelf / "own")
    assert model_directory.ships("link")
