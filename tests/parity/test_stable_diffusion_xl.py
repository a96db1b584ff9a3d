"""SDXL: two text encoders, the pooled prompt and the picture's size, against diffusers."""

from __future__ import annotations

import json
import shutil

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

import nelbo
from nelbo import Continuous, Diffusion, LatentDiffusion, NelboError
from nelbo.cli import main
from nelbo.text.paired import PairedTextEncoder
from tests.formats import tiny

pytestmark = pytest.mark.filterwarnings("ignore:.*does not state the number of its pixel levels")
PROMPTS = ["a red cat", "dog"]


@pytest.fixture(scope="module", params=[True, False], ids=["zeros", "empty"])
def pair(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("xl")
    peer = tiny.stable_diffusion_xl(path, zeros=request.param)
    return peer, nelbo.load(path / "pipeline"), path / "pipeline"


def theirs(peer, latents: torch.Tensor, **settings) -> np.ndarray:
    return peer(latents=latents.clone(), num_inference_steps=4, output_type="np", **settings).images


def ours(model: LatentDiffusion, path, latents: torch.Tensor, **settings) -> np.ndarray:
    x = model.sample(len(latents), nelbo.load_sampler(path, 4), x_T=latents, **settings)
    return (x / 2 + 0.5).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("negative", [None, ["red", ""]], ids=["none", "negative"])
def test_images_equal_those_of_diffusers(pair, negative):
    peer, model, path = pair
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = theirs(peer, latents, prompt=PROMPTS, negative_prompt=negative, guidance_scale=4.0)
    found = ours(model, path, latents, prompt=PROMPTS, negative_prompt=negative, guidance=4.0)
    assert expected.std() > 0.05
    np.testing.assert_allclose(found, expected, atol=5e-5)
    # and without guidance
    expected = theirs(peer, latents, prompt=PROMPTS, guidance_scale=1.0)
    np.testing.assert_allclose(ours(model, path, latents, prompt=PROMPTS), expected, atol=5e-5)


def test_what_the_network_is_told(pair):
    peer, model, _ = pair
    expected = peer.encode_prompt(PROMPTS, do_classifier_free_guidance=True, device="cpu")
    told, nothing = model.condition_on(PROMPTS), model.condition_on([None, None])
    found = (told.text, nothing.text, told.pooled_text, nothing.pooled_text)
    for mine, peers in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, peers, rtol=0, atol=1e-6)
    assert told.size.tolist() == [[16, 16, 0, 0, 16, 16]] * 2
    assert (nothing.text == 0).all() == model.text.zeros
    mixed = model.condition_on(["dog", None, "dog"])
    torch.testing.assert_close(mixed.text[0], told.text[1], rtol=0, atol=1e-6)
    assert torch.equal(mixed.text[0], mixed.text[2])


def test_saved_it_is_the_same_pipeline(pair, tmp_path):
    peer, model, path = pair
    nelbo.save(model, tmp_path, sampler=nelbo.load_sampler(path))
    again = diffusers.StableDiffusionXLPipeline.from_pretrained(tmp_path, add_watermarker=False)
    again.set_progress_bar_config(disable=True)
    assert again.config.force_zeros_for_empty_prompt == model.text.zeros
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    settings = {"prompt": "red dog", "guidance_scale": 3.0}
    np.testing.assert_allclose(
        theirs(again, latents, **settings), theirs(peer, latents, **settings), atol=1e-6
    )
    own = nelbo.load(tmp_path)
    assert isinstance(own.text, PairedTextEncoder)
    assert own.text.zeros == model.text.zeros


def test_evaluate_and_sample_by_command(pair, tmp_path, capsys):
    _, _, path = pair
    random = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(3):
        colours = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(colours).save(folder / f"{i}.png")
    (folder / "captions.txt").write_text("red cat\ndog\ncat\n")
    arguments = ["evaluate", str(path), "--data", str(folder), "--split", "all", "--levels", "2"]
    main([*arguments, "--json"])
    told = json.loads(capsys.readouterr().out)["bits_per_dim"]["total"]["mean"]
    (folder / "captions.txt").unlink()
    main([*arguments, "--json"])
    untold = json.loads(capsys.readouterr().out)["bits_per_dim"]["total"]["mean"]
    assert np.isfinite(told)
    assert told != untold
    out = tmp_path / "x.png"
    asked = ["--prompt", "cat", "--guidance", "3", "--negative", "dog", "-n", "2", "--steps", "2"]
    main(["sample", str(path), *asked, "--out", str(out)])
    assert Image.open(out).size[0] > 32


def test_mistakes_are_explained(pair, tmp_path):
    _, model, path = pair
    index = json.loads((path / "model_index.json").read_text())
    for changes, message in (
        ({"text_encoder": [None, None]}, "there is no 'text_encoder'"),
        ({"text_encoder_2": ["transformers", "T5EncoderModel"]}, "text_encoder_2 is of class 'T5"),
        ({"force_zeros_for_empty_prompt": "yes"}, "force_zeros_for_empty_prompt is 'yes'"),
    ):
        folder = tmp_path / message.replace(" ", "")[:8]
        folder.mkdir()
        for part in path.iterdir():
            (folder / part.name).symlink_to(part)
        (folder / "model_index.json").unlink()
        (folder / "model_index.json").write_text(json.dumps(index | changes))
        with pytest.raises(NelboError, match=message):
            nelbo.load(folder)
    folder = tmp_path / "standardised"
    shutil.copytree(path, folder)
    file = folder / "vae" / "config.json"
    of_channels = {"latents_mean": [0.1] * 4, "latents_std": [2.0] * 4}
    file.write_text(json.dumps(json.loads(file.read_text()) | of_channels))
    with pytest.raises(NelboError, match="latents_mean and latents_std are given"):
        nelbo.load(folder)
    single = LatentDiffusion(model.autoencoder, model.prior, text=model.text.first)
    with pytest.raises(NelboError, match="goes with two text encoders, not with one"):
        nelbo.save(single, tmp_path / "single")
    prior = model.prior
    shapeless = Diffusion(prior.network, prior.schedule, data=Continuous())
    model = LatentDiffusion(model.autoencoder, shapeless, text=model.text)
    with pytest.raises(NelboError, match="the prior has no shape"):
        model.condition_on(["cat"])
