"""nelbo export: what is written runs in diffusers and in nelbo."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import diffusers
import pytest
import torch
from huggingface_hub import ModelCard

import nelbo
from nelbo.cli import main
from nelbo.formats import model_directory
from nelbo.samplers import DDIM
from tests.faults.test_mistakes import mistake
from tests.formats import tiny
from tests.training.test_latents import text_model


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
    for words in ("8×8", "17 pixel levels", "12 steps", "Alpaydin", "DDPMPipeline", "nelbo.load"):
        assert words in card.text


def test_an_evaluation_that_was_edited_is_named_before_anything_is_written(
    run_path, tmp_path, capsys
):
    copy = tmp_path / "run"
    shutil.copytree(run_path, copy)
    evaluation = json.loads((copy / "evaluation.json").read_text())
    del evaluation["test"]["bits_per_dim"]["total"]["standard_error"]
    (copy / "evaluation.json").write_text(json.dumps(evaluation))
    message = mistake(capsys, "export", copy, "--out", tmp_path / "exported")
    assert "evaluation.json: these are no figures of a run: 'standard_error'; nelbo rep" in message
    assert not (tmp_path / "exported").exists()


def toy(path, **notes) -> nelbo.LatentDiffusion:
    """A small model of text, saved with its decoder scale as a run would save it."""
    model = text_model().eval()
    model.decoder_scale = 0.25
    nelbo.save(model, path, sampler=DDIM(3, spacing="trailing", steps_offset=1), notes=notes)
    return model


def test_a_run_of_latents(tmp_path):
    """Its picture in diffusers, and on its card the terms, the prompt and the guidance."""
    run, out = tmp_path / "run", tmp_path / "exported"
    notes = {
        "source": str(tmp_path / "holiday"),
        "trained": {"steps": 7, "seconds": 3.0},
        "settings": {"training": {"seed": 0}, "model": {"guidance": 2.5}},
    }
    model = toy(run, **notes)
    terms = ("reconstruction", "entropy", "latent_reconstruction", "total")
    bits = {t: {"mean": i + 0.125, "standard_error": 0.5} for i, t in enumerate(terms)}
    evaluation = {"test": {"examples": 9, "bits_per_dim": bits}}
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    (run / "training").mkdir()
    (run / "samples").mkdir()
    (run / "samples" / "prompts.txt").write_text("red square\nblue circle\n")
    main(["export", str(run), "--out", str(out), "--name", "Toy"])
    parts = ("unet", "scheduler", "vae", "text_encoder", "tokenizer")
    files = {"README.md", "model_index.json", "nelbo.json"}
    assert {p.name for p in out.iterdir()} == {*parts, *files}
    assert str(tmp_path) not in (out / "nelbo.json").read_text() + (out / "README.md").read_text()
    assert nelbo.load_sampler(out) == nelbo.load_sampler(run)
    assert nelbo.load(out).decoder_scale == 0.25

    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(out)
    pipeline.set_progress_bar_config(disable=True)
    x_T = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    size = {"height": 32, "width": 32, "num_inference_steps": 3, "guidance_scale": 2.5}
    theirs = pipeline("red square", latents=x_T, output_type="pt", **size).images
    ours = model.sample(1, nelbo.load_sampler(out, 3), prompt="red square", guidance=2.5, x_T=x_T)
    assert (ours.clamp(-1, 1) - (2 * theirs - 1)).abs().max() < 1e-4

    card = ModelCard.load(out / "README.md")
    assert "text-to-image" in card.data.tags
    assert card.data.license is None
    for words in (
        "# Toy",
        "7 steps of holiday.",
        "| −entropy of the encoder | 1.125 ± 0.500 |",
        "| **total (−ELBO)** | 3.125 ± 0.500 |",
        'pipeline("red square", guidance_scale=2.5, num',
        "prompt=prompt, guidance=2.5",
        "nelbo sample PATH --prompt 'red square'",
    ):
        assert words in card.text


def test_a_checkpoint_that_ships_takes_its_card_along(tmp_path, monkeypatch):
    monkeypatch.setattr(model_directory, "CHECKPOINTS", tmp_path / "shelf")
    monkeypatch.chdir(tmp_path)
    toy(tmp_path / "shelf" / "toy", source="emoji")
    (tmp_path / "shelf" / "toy" / "README.md").write_text(
        "---\nlicense: cc-by-sa-4.0\n---\n\n# toy\n\n## How good it is\n\n```sh\n## measured\n```\n"
        "Not very.\n\n## How to use\n\nGladly.\n"
    )
    main(["export", "toy", "--out", "exported", "--prompt", "blue circle"])
    card = ModelCard.load("exported/README.md")
    assert card.data.license == "cc-by-sa-4.0"
    assert "## How good it is\n\n```sh\n## measured\n```\nNot very.\n\n## Credit" in card.text
    assert "Gladly" not in card.text
    assert "shared under the same licence, [CC BY-SA 4.0]" in card.text
    assert 'pipeline("blue circle"' in card.text


@pytest.mark.parametrize("prompt", ['it\'s $HOME `id` !5 \\ "x"', "-n", "a\u2028b"])
def test_the_commands_of_a_card_are_given_the_prompt_as_it_is(tmp_path, prompt):
    toy(tmp_path / "run", source="holiday")
    (tmp_path / "run" / "samples").mkdir(exist_ok=True)
    (tmp_path / "run" / "samples" / "prompts.txt").write_text(f"{prompt}\nblue circle\n")
    main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "out")])
    card = (tmp_path / "out" / "README.md").read_text()
    line = next(line for line in card.split("\n") if line.startswith("nelbo sample PATH"))
    asked = ["sh", "-c", line.replace("nelbo", "printf '%s\\n'", 1)]
    given = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    assert given.split("\n")[2:-3] in (["--prompt", prompt], [f"--prompt={prompt}"])


def test_a_card_that_is_not_utf8_is_read_as_well_as_can_be(tmp_path):
    toy(tmp_path / "run")
    card = "---\nlicense: mit\n---\n\n# toy\n\n## How good it is\n\nTrès bien.\n"
    (tmp_path / "run" / "README.md").write_bytes(card.encode("latin-1"))
    main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "out")])
    written = ModelCard.load(tmp_path / "out" / "README.md")
    assert written.data.license == "mit"
    assert "Tr\N{REPLACEMENT CHARACTER}s bien." in written.text


def test_latents_without_text(tmp_path):
    tiny.unconditional(tmp_path / "model")
    main(["export", str(tmp_path / "model"), "--out", str(tmp_path / "out")])
    pipeline = diffusers.LDMPipeline.from_pretrained(tmp_path / "out")
    assert len(pipeline(batch_size=2, num_inference_steps=2).images) == 2
    card = (tmp_path / "out" / "README.md").read_text()
    assert 'LDMPipeline.from_pretrained("PATH")' in card
    assert "prompt" not in card


@pytest.mark.parametrize("kind", ["pixels", "classes", "latents", "text", "control"])
def test_the_python_of_the_card_runs(tmp_path, run_path, kind):
    if kind == "pixels":
        path = run_path
    elif kind == "classes":
        path = tmp_path / "model"
        network = tiny.pixel_unet(num_class_embeds=3)
        diffusers.DDPMPipeline(network, diffusers.DDPMScheduler(20)).save_pretrained(path)
    elif kind == "latents":
        path = tmp_path / "model"
        tiny.unconditional(path)
    elif kind == "control":
        path = tmp_path / "model"
        tiny.stable_diffusion(tmp_path, control=True)
        controlled = nelbo.load(tmp_path / "pipeline")
        controlled.decoder_scale = 0.25
        nelbo.save(controlled, path)
    else:
        path = tmp_path / "model"
        toy(path)
    out = tmp_path / "out"
    main(["export", str(path), "--out", str(out)])
    card = (out / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(blocks) == (1 if kind == "classes" else 2)
    assert ("nelbo sample PATH --control sketch.png" in card) == (kind == "control")
    model = nelbo.load(out)
    names = {
        "images": torch.zeros(2, *model.shape, dtype=torch.uint8),
        "captions": ["one", "two"],
        "labels": torch.tensor([0, 2]),
    }
    # What diffusers draws are the `images` of its own block alone.
    for block in blocks:
        exec(block.replace("PATH", str(out)), dict(names))


def test_an_autoencoder_alone_is_no_pipeline(tmp_path, capsys):
    tiny.autoencoder().save_pretrained(tmp_path / "run" / "vae")
    (tmp_path / "run" / "nelbo.json").write_text("{}")
    message = mistake(capsys, "export", tmp_path / "run", "--out", tmp_path / "out")
    assert "its folder vae/ is an AutoencoderKL that diffusers reads" in message


def test_export_refuses_a_directory_with_content(run_path, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(SystemExit) as exit_:
        main(["export", str(run_path), "--out", str(tmp_path)])
    assert exit_.value.code == 2
    assert "is not empty" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
