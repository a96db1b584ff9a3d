"""nelbo train --start-from: a new run that begins with a trained model of any kind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

import nelbo
from nelbo.cli import main
from nelbo.data import load_data
from nelbo.evidence.autoencoder import fit_scale
from nelbo.formats import model_directory
from nelbo.runs.checkpoints import Checkpoints
from nelbo.training.kinds.autoencoder.build import read_autoencoder
from tests.commands.squares import draw_squares
from tests.commands.test_train_latent import EXACT, LATENT, LITTLE, assert_same
from tests.faults.test_mistakes import mistake
from tests.formats import tiny

pytestmark = pytest.mark.usefixtures("unreported")
MORE = [*EXACT, *LITTLE]
# A rate that leaves float32 weights where they are.
STILL = ["--learning-rate", "1e-30", "--weight-decay", "0", "--steps", "2"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    return draw_squares(tmp_path_factory.mktemp("start") / "pictures")


@pytest.fixture(scope="module")
def pixel(pictures) -> Path:
    out = pictures.parent / "pixel"
    small = ["--size", "8", "--widths", "8", "16", "--levels", "12", "--steps", "4"]
    main(["train", str(pictures), *small, *MORE, "--out", str(out)])
    return out


@pytest.fixture(scope="module")
def latent(pictures) -> Path:
    out = pictures.parent / "latent"
    main(["train", str(pictures), "--size", "8", *LATENT, "--steps", "8", "--out", str(out)])
    return out


def weights(path: Path) -> dict[str, torch.Tensor]:
    return nelbo.load(path).state_dict()


def test_a_model_of_pixels_starts_as_it_was(pictures, pixel, tmp_path, capsys):
    out = tmp_path / "out"
    main(["train", str(pictures), "--start-from", str(pixel), *MORE, *STILL, "--out", str(out)])
    assert "Training on from the model of" in capsys.readouterr().err
    before, after = weights(pixel), weights(out)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    notes = json.loads((out / "nelbo.json").read_text())
    assert notes["settings"]["model"] == {"start_from": str(pixel)}
    assert nelbo.load(out).schedule.num_levels == 12
    main(["report", str(out), "--images", "2", "--levels", "1", "--sample-images", "2"])
    assert str(pixel) in (out / "report.html").read_text()


def test_one_step_from_a_model_is_one_step_of_its_optimiser(pictures, pixel, tmp_path):
    """AdamW's first step moves no weight by more than the learning rate, and most by about that."""
    out = tmp_path / "out"
    rate = ["--learning-rate", "1e-3", "--warmup-steps", "0", "--weight-decay", "0"]
    rate += ["--steps", "1", "--ema-decay", "0", "--optimizer", "adamw"]
    main(["train", str(pictures), "--start-from", str(pixel), *MORE, *rate, "--out", str(out)])
    after = weights(out)
    moved = [(after[n] - w).abs() for n, w in weights(pixel).items()]
    largest = torch.stack([m.max() for m in moved if m.numel()])
    assert largest.max() < 1.01e-3
    assert torch.cat([m.flatten() for m in moved]).median() > 0.5e-3


def test_a_run_that_was_started_from_another_resumes_exactly(
    pictures, pixel, tmp_path, monkeypatch
):
    """Also where both are named by relative paths."""
    monkeypatch.chdir(pictures.parent)
    unbroken, out = tmp_path / "unbroken", tmp_path / "out"
    start = ["train", pictures.name, "--start-from", pixel.name, *MORE, "--steps", "10"]
    start += ["--validate-every", "5"]  # which is the best so far, and kept
    main([*start, "--out", str(unbroken)])
    shutil.copytree(unbroken, out)
    kept = Checkpoints(out / "training")
    shutil.rmtree(kept.path(10))
    assert kept.steps()[-1] == 5
    main([*start, "--resume", "--out", str(out)])
    assert_same(unbroken, out, 10)


@pytest.mark.parametrize("learns", [False, True])
def test_a_latent_model_with_its_text_encoder(pictures, latent, tmp_path, learns):
    out = tmp_path / "out"
    options = ["--train-text-encoder"] * learns + ["--steps", "2", "--level-shift", "2"]
    options += ["--balance", "captions", "--ema-decay", "0"]
    main(["train", str(pictures), "--start-from", str(latent), *MORE, *options, "--out", str(out)])
    before, after = weights(latent), weights(out)
    changed = {n.split(".")[0] for n in before if not torch.equal(before[n], after[n])}
    assert changed == ({"prior", "text"} if learns else {"prior"})
    first, second = nelbo.load(latent), nelbo.load(out)
    assert first.scale == second.scale
    if not learns:
        return
    shutil.rmtree(Checkpoints(out / "training").path(2))
    # How samples are guided may change, since nothing is learned from it.
    main(["train", "--resume", "--out", str(out), "--guidance", "1.5"])
    assert all(torch.equal(after[n], w) for n, w in weights(out).items())
    assert json.loads((out / "nelbo.json").read_text())["settings"]["model"]["guidance"] == 1.5


def test_a_pipeline_of_diffusers(pictures, tmp_path):
    """The images are cut to what the pipeline takes, and its words stay its words."""
    tiny.stable_diffusion(tmp_path)
    pipeline, out = tmp_path / "pipeline", tmp_path / "out"
    start = ["train", str(pictures), "--start-from", str(pipeline), *MORE, *STILL]
    main([*start, "--out", str(out)])
    before, after = weights(pipeline), weights(out)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert nelbo.load(out).decoder_scale > 0
    assert nelbo.load(out).shape == nelbo.load(pipeline).shape != (3, 8, 8)


def test_an_autoencoder_of_another_size(pictures, latent, tmp_path):
    out = tmp_path / "out"
    options = ["--model", "autoencoder", "--kl-weight", "0.5", "--size", "16", *MORE, *STILL]
    main(["train", str(pictures), "--start-from", str(latent), *options, "--out", str(out)])
    before, after = read_autoencoder(latent), read_autoencoder(out)
    assert all(torch.equal(w, after.state_dict()[n]) for n, w in before.state_dict().items())
    assert after.config.sample_size == (16, 16)
    notes = json.loads((out / "nelbo.json").read_text())
    assert notes["settings"]["model"]["kl_weight"] == 0.5
    assert "widths" not in notes["settings"]["model"]
    # It is of a kind of its own then, without saying so, and of that size.
    again = tmp_path / "again"
    main(["train", str(pictures), "--start-from", str(out), *MORE, *STILL, "--out", str(again)])
    assert read_autoencoder(again).config.sample_size == (16, 16)


def test_a_decoder_by_itself(pictures, latent, tmp_path, capsys):
    """It learns, and the latents, which a prior was trained on, are what they were."""
    out, options = tmp_path / "out", ["--model", "autoencoder", "--freeze-encoder", *MORE]
    start = ["--start-from", str(latent), "--learning-rate", "1e-2", "--steps", "2"]
    main(["train", str(pictures), *start, *options, "--size", "8", "--out", str(out)])
    main(["train", "--resume", "--steps", "4", "--out", str(out)])
    before, after = (read_autoencoder(path) for path in (latent, out))
    x = nelbo.Pixels(256).to_network(load_data(str(pictures), size=8).images[:4])
    assert torch.equal(before.encode(x).mean, after.encode(x).mean)
    assert torch.equal(before.encode(x).stddev, after.encode(x).stddev)
    kept = {
        name for name, w in before.state_dict().items() if torch.equal(w, after.state_dict()[name])
    }
    learned = set(before.state_dict()) - kept
    assert {name.split(".")[0] for name in kept} == {"encoder", "quant_conv"}
    assert {name.split(".")[0] for name in learned} == {"decoder", "post_quant_conv"}
    asked = ["train", str(pictures), *options, "--out", str(tmp_path / "anew")]
    assert "name that by --start-from" in mistake(capsys, *asked)


def test_a_run_that_is_called_as_the_checkpoint_that_it_starts_from(
    pictures, pixel, monkeypatch, tmp_path
):
    """The name means the checkpoint, also once a run of that name is there."""
    shelf = tmp_path / "shelf"
    shutil.copytree(pixel, shelf / "squares")
    monkeypatch.setattr(model_directory, "CHECKPOINTS", shelf)
    monkeypatch.chdir(tmp_path)
    main(["train", str(pictures), "--start-from", "squares", *MORE, *STILL, "--out", "squares"])
    kept = yaml.safe_load((tmp_path / "squares" / "config.yaml").read_text())
    assert kept["start_from"] == "squares"
    before, after = weights(shelf / "squares"), weights(tmp_path / "squares")
    for name, weight in before.items():  # a zero becomes 1e-30
        torch.testing.assert_close(after[name], weight, rtol=0, atol=1e-20)


def test_the_settings_of_a_run_with_its_model(pictures, pixel, tmp_path):
    """--config says how to train, --start-from which model, whose settings are not asked again."""
    out = tmp_path / "out"
    config = ["--config", str(pixel / "config.yaml"), "--start-from", str(pixel)]
    main(["train", *config, "--seed", "3", "--out", str(out)])
    kept = yaml.safe_load((out / "config.yaml").read_text())
    assert (kept["training"]["steps"], kept["training"]["seed"]) == (4, 3)
    assert kept["start_from"] == str(pixel)
    # And once more from the settings of that run.
    again = tmp_path / "again"
    main(["train", "--config", str(out / "config.yaml"), "--out", str(again)])
    before = weights(out)
    assert all(torch.equal(before[n], w) for n, w in weights(again).items())


def test_killed_while_the_first_model_was_written(latent, tmp_path):
    """What there is of it is no model yet: the run goes on from the checkpoint all the same.

    The scale of its decoder is the likeliest σ of the new images, without which their bound would
    be of others.
    """
    folder = draw_squares(tmp_path / "dark")
    for file in folder.glob("*.png"):
        Image.eval(Image.open(file), lambda level: level // 3).save(file)
    unbroken, out = tmp_path / "unbroken", tmp_path / "out"
    start = ["train", str(folder), "--start-from", str(latent), *MORE, "--steps", "3"]
    main([*start, "--out", str(unbroken)])
    model = nelbo.load(unbroken)
    expected = fit_scale(model.autoencoder, load_data(str(folder), "validation", size=8))
    assert model.decoder_scale == pytest.approx(expected, rel=1e-4)
    assert model.decoder_scale != pytest.approx(nelbo.load(latent).decoder_scale, rel=1e-2)
    shutil.copytree(unbroken, out)
    for name in ("model_index.json", "unet", "text_encoder"):
        shutil.rmtree(out / name) if (out / name).is_dir() else (out / name).unlink()
    main(["train", "--resume", "--out", str(out)])
    assert_same(unbroken, out, 3)
    assert nelbo.load(out).decoder_scale == model.decoder_scale


def test_where_a_model_began_is_remembered(pictures, pixel, tmp_path):
    """Whose images made the first one, and its licence, are on the card of the last."""
    first, out, card = tmp_path / "first", tmp_path / "out", tmp_path / "card"
    shutil.copytree(pixel, first)
    notes = json.loads((first / "nelbo.json").read_text()) | {"source": "emoji"}
    (first / "nelbo.json").write_text(json.dumps(notes))
    for start, run in ((first, out), (out, tmp_path / "again")):
        main(["train", str(pictures), "--start-from", str(start), *MORE, *STILL, "--out", str(run)])
    kept = json.loads((tmp_path / "again" / "nelbo.json").read_text())["started_from"]
    assert kept["sources"] == [str(pictures), "emoji"]
    assert kept["licence"] == "cc-by-sa-4.0"
    main(["export", str(tmp_path / "again"), "--out", str(card)])
    text = (card / "README.md").read_text()
    assert 'license: "cc-by-sa-4.0"' in text
    assert "OpenMoji" in text
    assert "It began with the weights of out." in text
    assert str(tmp_path) not in text + (card / "nelbo.json").read_text()


def test_mistakes(pictures, pixel, latent, tmp_path, capsys):
    out = tmp_path / "out"
    controlled = tmp_path / "controlled" / "pipeline"
    tiny.stable_diffusion(controlled.parent, control=True)
    bare = draw_squares(tmp_path / "bare")
    (bare / "metadata.jsonl").unlink()
    for data, options, message in (
        (pictures, [pixel, "--widths", "8", "8"], "--widths (8, 8): with --start-from the model"),
        (pictures, [latent, "--text-width", "8"], "--text-width 8: with --start-from"),
        (pictures, [latent, "--model", "pixel"], "of latents: give --model latent"),
        (pictures, [pixel, "--model", "latent"], "of pixels: give --model pixel"),
        (pictures, [pixel, "--model", "autoencoder"], "a model of pixels, without an autoencoder"),
        (pictures, [latent, "--autoencoder", latent], "leave --autoencoder out"),
        (pictures, [latent, "--autoencoder-steps", "1"], "--autoencoder-steps"),
        (pictures, [tmp_path / "nothing"], "nothing"),
        (pictures, [pixel, "--size", "16"], "the model (3, 8, 8): load them in its size"),
        ("digits", [pixel], "17 pixel levels, the model has 256"),
        (bare, [latent], "has no captions, which the model to start from reads"),
        (pictures, [controlled], "--control is missing"),
        (pictures, [latent, "--balance", "labels"], "has no labels to balance its images by"),
        (pictures, [latent, "--balance", "words"], "unknown --balance 'words'"),
        (pictures, [latent, "--level-shift", "0"], "--level-shift must be positive"),
        (
            pictures,
            [latent, "--objective", "sigmoid", "--level-shift", "2"],
            "a shift of levels is for",
        ),
        (
            pictures,
            [latent, "--balance-power", "1"],
            "--balance-power sets the strength of --balance",
        ),
        (tmp_path / "gone", [pixel], "unknown data"),
    ):
        message_found = mistake(
            capsys, "train", str(data), "--start-from", *options, "--steps", "2", "--out", out
        )
        assert message in message_found, options
        assert not out.exists()


def test_the_autoencoder_of_a_run_is_no_model_to_start_a_prior_from(
    pictures, latent, tmp_path, capsys
):
    first, out = latent / "autoencoder", tmp_path / "out"
    message = mistake(
        capsys,
        *("train", pictures, "--start-from", first, "--model", "latent", "--steps", "1"),
        *("--out", out),
    )
    assert f"train its prior with --autoencoder {first}" in message


def classes(folder: Path, names: str) -> Path:
    """Two grey pictures of each class."""
    for i, name in enumerate(names):
        for j in range(2):
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (20 * i, 30 * j, 90)).save(folder / name / f"{j}.png")
    return folder


def test_other_classes_need_a_word(tmp_path, capsys):
    """A model of classes goes on with those of other pictures, or without any."""
    small = ["--size", "8", "--widths", "8", "16", "--levels", "12", *EXACT, *LITTLE]
    abc, cde = classes(tmp_path / "abc", "abc"), classes(tmp_path / "cdef", "cdef")
    first = tmp_path / "first"
    conditional = ["--class-conditional", "--steps", "2", "--out", str(first)]
    main(["train", str(abc), *small, *conditional])
    assert "classes of" not in capsys.readouterr().err
    again = ["--start-from", str(first), *MORE, *STILL]
    main(["train", str(abc), *again, "--out", str(tmp_path / "again")])
    others = classes(tmp_path / "abd", "abd")
    message = mistake(capsys, "train", others, *again, "--out", tmp_path / "wrong")
    assert "'d' stands where it has 'c'" in message
    start = ["train", cde, "--start-from", first, *MORE, *STILL, "--out"]
    message = mistake(capsys, *start, tmp_path / "same")
    assert "has 4 classes, the model to start from 3" in message
    assert "--start-classes new" in message
    assert "--start-classes none" in message
    assert not (tmp_path / "same").exists()
    main([*map(str, start), str(tmp_path / "new"), "--start-classes", "new"])
    table = "network.class_embedding.weight"
    before, after = weights(first)[table], weights(tmp_path / "new")[table]
    assert after.shape[0] == 4
    assert torch.equal(after[0], before[2])
    assert after[1:].abs().max() < 1e-20
    notes = json.loads((tmp_path / "new" / "nelbo.json").read_text())
    assert notes["label_names"] == ["c", "d", "e", "f"]
    main(["train", "--resume", "--out", str(tmp_path / "new"), "--steps", "3"])
    assert (weights(tmp_path / "new")[table] - after).abs().max() < 1e-20
    main([*map(str, start), str(tmp_path / "none"), "--start-classes", "none"])
    assert nelbo.load(tmp_path / "none").num_classes == 0
    wrong = ["--attention", "3", "--steps", "1", "--out", tmp_path / "plain"]
    said = mistake(capsys, "train", abc, *small, *wrong)
    assert f"the 3 classes of {abc} are not used: --class-conditional conditions" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--start-classes", "new"], "--start-classes takes effect with --start-from only"),
        (["--start-classes", "new", "--start-from", "RUN"], "has no classes"),
        (["--class-conditional", "--start-from", "RUN"], "or give --start-classes new"),
    ],
)
def test_mistakes_about_classes(pictures, pixel, tmp_path, capsys, options, message):
    given = [str(pixel) if option == "RUN" else option for option in options]
    out = tmp_path / "out"
    assert message in mistake(capsys, "train", pictures, *given, "--steps", "1", "--out", out)
    assert not out.exists()
