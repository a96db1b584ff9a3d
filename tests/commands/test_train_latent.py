"""nelbo train --model autoencoder, then --model latent: both stages end to end, and resumed."""

from __future__ import annotations

import json
import shutil
from html import unescape
from pathlib import Path

import diffusers
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import nelbo
from nelbo import LatentDiffusion
from nelbo.chain.estimators import Importance, proposal_from
from nelbo.cli import main
from nelbo.data import load_data
from nelbo.evidence.autoencoder import evaluate_autoencoder, fit_scale
from nelbo.evidence.evaluation import evaluate
from nelbo.evidence.pilot import pilot
from nelbo.formats import model_directory
from nelbo.networks import AutoencoderKL
from nelbo.runs.checkpoints import Checkpoints
from nelbo.samplers import DDIM
from nelbo.training.images import TrainingImages
from nelbo.training.kinds.autoencoder.build import build_autoencoder
from nelbo.training.kinds.autoencoder.report import beside_reconstructions
from nelbo.training.kinds.latent.latents import encode_data, unit_scale
from nelbo.training.kinds.latent.making import new_latent_model
from nelbo.training.kinds.latent.options import LatentSettings
from tests.children import command
from tests.commands.squares import draw_squares
from tests.conftest import reports
from tests.faults.test_killed import wait_for
from tests.faults.test_mistakes import mistake
from tests.formats import tiny

EXACT = ["--threads", "1", "--precision", "fp32"]
# A first validation is the best so far, which is kept: a checkpoint halfway.
HALFWAY = ["--validate-every", "3"]
LITTLE = ["--evaluate-images", "12", "--evaluate-levels", "2", "--batch-size", "8"]
AUTOENCODER = [
    *("--model", "autoencoder", "--widths", "8", "16", "--latent-channels", "2"),
    *("--mirrored", "0.5", "--recoloured", "0.5", *EXACT, *LITTLE),
]
# By number, so that they do not depend on the time there is.
DRAWN = ["--sample-images", "16", "--sample-steps", "4"]
PRIOR = [
    *("--model", "latent", "--widths", "8", "16", "--heads", "2", "--levels", "12"),
    *DRAWN,
]
LATENT = [
    *PRIOR,
    *("--text-width", "16", "--text-layers", "1", "--text-heads", "2", "--vocabulary", "600"),
    *(*EXACT, *LITTLE),
]
STEPS = 6


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    return draw_squares(tmp_path_factory.mktemp("latent") / "pictures")


def train(pictures: Path, out: Path, options: list[str]) -> Path:
    main(
        ["train", str(pictures), "--size", "8", *options, "--out", str(out), "--steps", str(STEPS)]
    )
    return out


@pytest.fixture(scope="module")
def autoencoder(pictures) -> Path:
    return train(pictures, pictures.parent / "autoencoder", [*AUTOENCODER, *HALFWAY])


@pytest.fixture(scope="module")
def latent(pictures, autoencoder) -> Path:
    options = [*LATENT, *HALFWAY, "--autoencoder", str(autoencoder)]
    return train(pictures, pictures.parent / "latent", options)


def assert_same(unbroken: Path, out: Path, steps: int = STEPS) -> None:
    """Every tensor that was left behind after the last step is the same."""
    files = sorted(p.relative_to(unbroken) for p in unbroken.rglob("*.safetensors"))
    assert Checkpoints(unbroken / "training").steps()[-1] == steps
    files = [p for p in files if "training" not in p.parts or _is_last(unbroken / p)]
    assert len(files) > 3
    for file in files:
        first, second = load_file(unbroken / file), load_file(out / file)
        assert first.keys() == second.keys()
        for name in first:
            assert torch.equal(first[name], second[name]), (file, name)


def _is_last(file: Path) -> bool:
    """Whether a file is of the last checkpoint of its run."""
    kept = Checkpoints(file.parent.parent)
    return file.parent == kept.path(kept.steps()[-1])


def test_autoencoder_run(autoencoder, pictures):
    read = diffusers.AutoencoderKL.from_pretrained(autoencoder, subfolder="vae")
    mine = AutoencoderKL.from_pretrained(autoencoder, "vae")
    data = load_data(str(pictures), "test", size=8)
    x = data.images.float() / 127.5 - 1
    with torch.no_grad():
        theirs = read.decode(read.encode(x).latent_dist.mean).sample.clamp(-1, 1)
    shown = beside_reconstructions(mine, data)
    assert torch.equal(shown[::2], data.images)
    assert (shown[1::2].float() - (theirs + 1) * 127.5).abs().max() < 0.51
    evaluation = json.loads((autoencoder / "evaluation.json").read_text())
    psnr = 10 * torch.log10(4 / (theirs - x).square().flatten(1).mean(1)).mean()
    reading = evaluate_autoencoder(mine, data, evaluation["decoder_scale"])
    assert reading.psnr == pytest.approx(float(psnr), abs=1e-3)
    if len(data) <= 12:
        assert evaluation["test"]["psnr"] == pytest.approx(float(psnr), abs=1e-3)
    # Its bound is that of a latent model whose prior is N(0, I), term by term.
    q = mine.encode(x)
    prior = torch.distributions.Normal(0.0, 1.0)
    divergence = torch.distributions.kl_divergence(q, prior).flatten(1).sum(1).mean()
    assert reading.divergence_nats == pytest.approx(float(divergence), rel=1e-5)
    by_channel = torch.distributions.kl_divergence(q, prior).flatten(2).sum(2).mean(0)
    assert reading.divergence_by_channel == pytest.approx(by_channel.tolist(), rel=1e-5)
    assert (autoencoder / "samples" / "final.png").is_file()
    page = (autoencoder / "report.html").read_text()
    assert f"<b>{evaluation['test']['psnr']:.2f}</b>" in page
    # Each figure has its error over images: that of PSNR by diffusers' reconstructions.
    errors = evaluation["test"]["standard_errors"]
    if len(data) <= 12:
        each = 10 * torch.log10(4 / (theirs - x).square().flatten(1).mean(1))
        assert errors["psnr"] == pytest.approx(float(each.std()) / len(data) ** 0.5, abs=1e-3)
    assert f"<b>{evaluation['test']['psnr']:.2f}</b><span>± {errors['psnr']:.2f} dB" in page
    for name, decimals in (("psnr_of_mean", 2), ("reconstruction", 3), ("bits_per_dim", 3)):
        mean, error = evaluation["test"][name], errors[name]
        assert f"<td>{mean:.{decimals}f}<small>± {error:.{decimals}f}</small></td>" in page
    assert page.count("<img") == 2 * len(data) + 3 * min(6, len(data))  # pairs, and two channels


def test_the_end_draws_as_many_samples_as_asked_for(latent, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(latent, run)
    few = ["--sample-images", "3", "--sample-steps", "2"]
    main(["train", "--resume", "--out", str(run), *few])
    assert len((run / "samples" / "prompts.txt").read_text().splitlines()) == 3
    few = Image.open(run / "samples" / "final.png").size
    main(["report", str(run), "--images", "2", "--sample-images", "20", "--sample-steps", "2"])
    assert few < Image.open(run / "samples" / "final.png").size


def test_evaluate_and_report_an_autoencoder(autoencoder, tmp_path, capsys):
    written = json.loads((autoencoder / "evaluation.json").read_text())
    main(["evaluate", str(autoencoder), "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert printed["examples"] == written["test"]["examples"]  # there are fewer than 12
    for name in ("psnr", "bits_per_dim", "divergence_by_channel"):
        assert printed[name] == pytest.approx(written["test"][name])
    main(["evaluate", str(autoencoder), "--split", "train", "--images", "5"])
    assert "total (−ELBO)" in capsys.readouterr().out
    assert "--levels does not apply" in mistake(capsys, "evaluate", autoencoder, "--levels", "2")
    assert "no samples to draw" in mistake(capsys, "report", autoencoder, "--sample-images", "2")
    out = tmp_path / "run"
    shutil.copytree(autoencoder, out)
    before = json.loads((out / "evaluation.json").read_text())
    for name in ("report.html", "evaluation.json"):
        (out / name).unlink()
    main(["report", str(out), "--images", "12"])
    assert json.loads((out / "evaluation.json").read_text()) == before
    assert "The latents" in (out / "report.html").read_text()
    shown = " ".join(capsys.readouterr().out.split())
    for split in ("train", "test"):
        bits, error = (before[split][name] for name in ("bits_per_dim", "standard_errors"))
        assert f"{bits:.3f} ± {error['bits_per_dim']:.3f} bits/dim = reconstruction" in shown


def test_report_of_a_latent_run(latent, tmp_path):
    first = (latent / "report.html").read_text()
    evaluation = json.loads((latent / "evaluation.json").read_text())
    total = evaluation["test"]["bits_per_dim"]["total"]["mean"]
    for part in (f"<b>{total:.3f}</b>", "−entropy of the encoder", "Prompts and pictures"):
        assert part in first
    asked = (latent / "samples" / "prompts.txt").read_text().splitlines()[:32]
    for prompt in set(asked):
        assert first.count(f"<figcaption>{prompt}</figcaption>") == asked.count(prompt)
    out = tmp_path / "latent"
    shutil.copytree(latent, out)
    (out / "report.html").unlink()
    main(["report", str(out), "--images", "12", "--levels", "2", *DRAWN])
    # The same bound of the same images; how closely others are looked at is a matter of time.
    assert json.loads((out / "evaluation.json").read_text()) == evaluation
    again = (out / "report.html").read_text()
    shown = again.split("<h2>Reconstructions</h2>")[1].split("<h2>Least and most")[0]
    assert shown in first
    floor = evaluation["test"]["bits_per_dim"]["reconstruction"]["mean"]
    assert f"The autoencoder's floor is {floor:.3f} bits/dim" in unescape(shown)
    held_out = evaluation["test"]["images_of_split"]
    assert shown.split("<h2>")[0].count("<img") == 2 * min(16, held_out)


def test_latent_run_is_a_stable_diffusion_pipeline(latent):
    model = nelbo.load(latent)
    assert isinstance(model, LatentDiffusion)
    assert model.shape == (3, 8, 8)
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(latent)
    pipeline.set_progress_bar_config(disable=True)
    z = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(3))
    theirs = pipeline(
        "red square", latents=z, height=8, width=8, num_inference_steps=3, output_type="np"
    ).images
    steps = DDIM(3, spacing="trailing")
    mine = model.sample(1, steps, prompt="red square", guidance=7.5, x_T=z)
    theirs = torch.from_numpy(theirs).permute(0, 3, 1, 2) * 2 - 1
    assert (mine - theirs).abs().max() < 1e-4
    rows = [json.loads(line) for line in (latent / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "validation_bits_per_dim" in row] == [3, 6]
    assert all(row["bits_per_dim"] > 0 for row in rows)
    assert (latent / "samples" / "step-000006.png").is_file()
    assert "square" in (latent / "samples" / "prompts.txt").read_text()


def test_text_and_prior_have_learned_and_the_autoencoder_has_not(latent, autoencoder):
    first = load_file(Checkpoints(latent / "training").path(STEPS) / "optimizer.safetensors")
    assert any("exp_avg.text." in name for name in first)
    assert any("exp_avg.prior." in name for name in first)
    assert not any("autoencoder" in name for name in first)
    weights = "vae/diffusion_pytorch_model.safetensors"
    mine, given = load_file(latent / weights), load_file(autoencoder / weights)
    assert all(torch.equal(mine[name], given[name]) for name in given)


@pytest.mark.slow
def test_killed_it_ends_the_same(latent, autoencoder, pictures, tmp_path):
    out = tmp_path / "run"
    options = [*LATENT, *HALFWAY, "--autoencoder", autoencoder, "--out", out, "--steps", STEPS]
    child = command("train", pictures, "--size", 8, *options, log=tmp_path / "log")
    wait_for(out, 1)
    child.kill()
    assert Checkpoints(out / "training").steps()[-1] < STEPS
    main(["train", "--resume", "--out", str(out)])
    assert_same(latent, out)


@pytest.mark.parametrize("command", [["sample"], ["likelihood"], ["rank", "--out", "ranking"]])
def test_the_run_of_an_autoencoder_is_said_to_be_one(autoencoder, capsys, command):
    message = mistake(capsys, command[0], str(autoencoder), *command[1:])
    assert "the run of an autoencoder alone, whose bound and PSNR nelbo evaluate reads" in message


def test_sample_with_a_prompt(latent, tmp_path):
    out = tmp_path / "red.png"
    asked = ["--prompt", "red square", "-n", "2", "--steps", "2", "--guidance", "2"]
    main(["sample", str(latent), *asked, "--out", str(out)])
    assert Image.open(out).size[0] > 8


def test_a_shipped_checkpoint_goes_by_its_name(latent, tmp_path, monkeypatch):
    (tmp_path / "shipped").mkdir()
    (tmp_path / "shipped" / "squares").symlink_to(latent)
    monkeypatch.setattr(model_directory, "CHECKPOINTS", tmp_path / "shipped")
    monkeypatch.chdir(tmp_path)
    assert isinstance(nelbo.load("squares"), LatentDiffusion)
    main(["sample", "squares", "-n", "1", "--steps", "1", "--out", "one.png"])
    assert (tmp_path / "one.png").is_file()
    (tmp_path / "squares").mkdir()  # what is here comes first
    with pytest.raises(nelbo.NelboError, match="model_index"):
        nelbo.load("squares")


def test_evaluate_reads_the_bound_with_captions(latent, pictures, capsys):
    main(["evaluate", str(latent), "--levels", "3", "--seed", "5", "--json"])
    printed = json.loads(capsys.readouterr().out)
    model, data = nelbo.load(latent), load_data(str(pictures), "test", size=8)
    # Of the levels that a pilot finds to matter, as the library draws them.
    square, _ = pilot(model, data, torch.Generator().manual_seed(5))
    levels = Importance(3, proposal_from(square), reconstructions=2)
    generator = torch.Generator().manual_seed(5)
    (bound,) = evaluate(model, data, levels=levels, generator=generator)
    terms = printed["bits_per_dim"]
    assert terms["total"]["mean"] == pytest.approx(bound.mean().bits_per_dim.mean)
    parts = ["reconstruction", "entropy", "latent_reconstruction"]
    parts += ["prior_matching", "score_matching"]
    assert sum(terms[part]["mean"] for part in parts) == pytest.approx(terms["total"]["mean"])
    assert printed["density"] is False
    assert printed["levels_of_chain"] == 11
    main(["evaluate", str(latent), "--levels", "2"])
    assert "−entropy of the encoder" in capsys.readouterr().out


def test_a_new_prior_encodes_each_image_once(pictures):
    images = TrainingImages.load(str(pictures), 8, None)
    data, validation = load_data(str(pictures), "train", size=8), images.validation
    network = build_autoencoder(data, latent_channels=2, widths=(8, 16))
    settings = LatentSettings(widths=(8, 16), heads=2, levels=12, text_width=16, text_heads=2)
    seen = []
    counting = network.encoder.register_forward_hook(lambda _, x, __: seen.append(len(x[0])))
    model, latents = new_latent_model(settings, network, images)
    counting.remove()
    # The scale of the decoder is fitted to images for validation, here all of them.
    assert 0 < len(validation) < 256
    assert sum(seen) == len(data) + len(validation)
    assert model.decoder_scale == pytest.approx(fit_scale(network, validation), rel=1e-6)
    # As in two passes: one for the scale, one for the latents at that scale.
    captions = list(data.captions)
    measured = LatentDiffusion(network, model.prior, text=model.text, scale=1.0, data=model.data)
    measured.scale = unit_scale(encode_data(measured, data, captions))
    assert model.scale == measured.scale
    measured.decoder_scale = model.decoder_scale
    generator = torch.Generator().manual_seed(0)
    expected = encode_data(measured, data, captions, generator=generator)
    for name in ("mean", "stddev", "tokens", "keys"):
        assert torch.equal(getattr(latents, name), getattr(expected, name)), name
    torch.testing.assert_close(latents.cost, expected.cost, rtol=1e-5, atol=1e-3)
    assert latents.cost.std() > 0.1  # nor are they all alike


@pytest.mark.usefixtures("ends_with_the_model")
def test_labels_are_told_where_there_are_no_captions(tmp_path):
    small = ["--widths", "8", "16", "--latent-channels", "2", "--evaluate-images", "4"]
    out = tmp_path / "autoencoder"
    short = [*EXACT, "--steps", "2"]
    main(["train", "digits", "--model", "autoencoder", "--out", str(out), *small, *short])
    run = tmp_path / "run"
    arguments = ["--autoencoder", str(out), "--out", str(run), "--levels", "6", *short, *LITTLE]
    main(["train", "digits", "--model", "latent", *arguments, "--widths", "8", "16"])
    model = nelbo.load(run)
    assert model.num_classes == 10
    assert model.text is None
    assert model.data.levels == 17
    main(["report", str(run), "--images", "2", "--levels", "1", "--sample-images", "3"])
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Below each sample is the class that was asked for." in page
    assert "vocabulary" not in page


@pytest.fixture(scope="module")
def frozen(pictures, autoencoder) -> Path:
    """A run under a text encoder that is gone by the time it is resumed."""
    made = pictures.parent / "clip"
    for part in tiny.text_parts(made / "made").values():
        part.save_pretrained(made)
    options = [*PRIOR, *EXACT, *LITTLE, *HALFWAY, "--text-encoder", str(made)]
    options += ["--autoencoder", str(autoencoder)]
    with reports(False):
        run = train(pictures, pictures.parent / "frozen", options)
    made.rename(pictures.parent / "gone")
    return run


def test_a_frozen_text_encoder_stays_as_it_is(frozen, pictures):
    given = load_file(pictures.parent / "gone" / "model.safetensors")
    kept = load_file(frozen / "text_encoder" / "model.safetensors")
    # As most files name them, whichever release of transformers wrote what was given.
    named = {f"text_model.{name.removeprefix('text_model.')}": w for name, w in given.items()}
    assert named.keys() == kept.keys()
    assert all(torch.equal(named[name], kept[name]) for name in named)
    state = load_file(Checkpoints(frozen / "training").path(STEPS) / "model.safetensors")
    assert not any("text" in name.split(".")[0] for name in state)


def test_a_run_under_a_frozen_text_encoder_draws_as_diffusers_does(frozen):
    """With guidance, a negative prompt each, and the run's own noise schedule."""
    model = nelbo.load(frozen)
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(frozen)
    pipeline.set_progress_bar_config(disable=True)
    z = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(3))
    prompts, negative = ["red cat", "dog"], ["dog", ""]
    theirs = pipeline(
        prompts,
        negative_prompt=negative,
        guidance_scale=4.0,
        latents=z,
        height=8,
        width=8,
        num_inference_steps=3,
        output_type="np",
    ).images
    mine = model.sample(
        2,
        DDIM(3, spacing="trailing"),
        prompt=prompts,
        negative_prompt=negative,
        guidance=4.0,
        x_T=z,
    )
    theirs = torch.from_numpy(theirs).permute(0, 3, 1, 2) * 2 - 1
    assert theirs.std() > 0.05
    assert (mine - theirs).abs().max() < 1e-4


@pytest.mark.usefixtures("ends_with_the_model")
@pytest.mark.parametrize("kind", ["autoencoder", "latent", "frozen"])
def test_it_goes_on_from_a_checkpoint_as_if_unbroken(kind, request, tmp_path):
    unbroken, out = request.getfixturevalue(kind), tmp_path / "run"
    shutil.copytree(unbroken, out)
    kept = Checkpoints(out / "training")
    assert 0 < kept.steps()[-2] < STEPS
    shutil.rmtree(kept.path(STEPS))
    main(["train", "--resume", "--out", str(out)])
    assert_same(unbroken, out)


@pytest.mark.usefixtures("ends_with_the_model")
def test_a_trained_text_encoder_may_learn_on(frozen, autoencoder, pictures, tmp_path):
    run = tmp_path / "run"
    options = [*PRIOR, *LITTLE, *EXACT, "--autoencoder", str(autoencoder)]
    options += ["--text-encoder", str(frozen), "--train-text-encoder", "--steps", "2"]
    main(["train", str(pictures), "--size", "8", *options, "--out", str(run)])
    before, after = (load_file(r / "text_encoder" / "model.safetensors") for r in (frozen, run))
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_mistakes_with_a_text_encoder(autoencoder, pictures, tmp_path, capsys):
    common = ["--model", "latent", "--autoencoder", autoencoder, "--steps", "1"]
    common += ["--out", tmp_path / "run"]
    folder, clip = [pictures, "--size", "8"], ["--text-encoder", tmp_path]
    for data, options, message in (
        (folder, clip, "holds no config.json"),
        (folder, ["--train-text-encoder"], "--train-text-encoder is for --text-encoder"),
        (folder, [*clip, "--condition", "none"], "reads captions, but --condition is none"),
        (["digits"], clip, "digits has no captions, which --text-encoder needs"),
        (["digits"], ["--condition", "text"], "has no captions, which --condition text needs"),
        (folder, ["--condition", "words"], "unknown condition 'words'"),
    ):
        assert message in mistake(capsys, "train", *data, *common, *options)
        assert not (tmp_path / "run").exists()


def test_mistakes_are_explained(latent, autoencoder, pictures, tmp_path, capsys):
    out = ["--out", tmp_path / "new", "--steps", "1", "--size", "8"]
    options = ["--model", "latent", "--autoencoder", tmp_path]
    assert "holds no autoencoder" in mistake(capsys, "train", pictures, *options, *out)
    options = ["--model", "latent", "--autoencoder", autoencoder, "--condition", "label"]
    assert "has no labels" in mistake(capsys, "train", pictures, *options, *out)
    message = mistake(capsys, "train", pictures, "--model", "pixels", *out)
    assert "unknown --model 'pixels' (did you mean pixel?)" in message
    assert "expected one of auto, pixel, autoencoder, latent" in message
    message = mistake(capsys, "train", "--resume", "--out", latent, "--model", "pixel")
    assert "is of a model latent: leave --model out" in message
    message = mistake(capsys, "train", "--resume", "--out", latent, "--text-width", "32")
    assert "has --text-width 16, which cannot change to 32" in message
    assert not (tmp_path / "new").exists()
    options = ["--model", "autoencoder", "--perceptual-weight", "1"]
    assert "go together" in mistake(capsys, "train", pictures, *options, *out)
    options += ["--perceptual-weights", tmp_path / "none.safetensors"]
    assert "none.safetensors is not there" in mistake(capsys, "train", pictures, *options, *out)
