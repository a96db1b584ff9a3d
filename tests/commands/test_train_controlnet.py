"""nelbo train --model controlnet on bases of latents and of pixels, end to end and resumed."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import nelbo
from nelbo import Condition
from nelbo.cli import main
from nelbo.commands.starting_point import parse_train
from nelbo.data.controls import controls_of
from nelbo.diffusion.objectives import BatchPart, Objective
from nelbo.evidence.inputs import condition_for
from nelbo.networks import ControlNet
from nelbo.runs.checkpoints import Checkpoints
from nelbo.runs.run_directory import RunDirectory
from nelbo.samplers import DDIM
from nelbo.training.images import TrainingImages
from nelbo.training.kinds.controlnet.base import read_base
from nelbo.training.kinds.controlnet.kind import ControlNets
from nelbo.training.kinds.controlnet.options import TrainControl
from nelbo.training.task import Batch
from nelbo.training.trainer import Trainer
from tests.commands.squares import draw_squares
from tests.conftest import reports
from tests.faults.test_mistakes import mistake
from tests.formats import tiny

EXACT = ["--threads", "1", "--precision", "fp32", "--batch-size", "8"]
LITTLE = [
    *("--evaluate-images", "4", "--evaluate-levels", "2", "--sample-images", "4"),
    *("--sample-steps", "2", "--learning-rate", "1e-3"),
]
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    return draw_squares(tmp_path_factory.mktemp("controlnet") / "pictures")


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A StableDiffusionPipeline of 16 × 16 pixels."""
    path = tmp_path_factory.mktemp("base")
    tiny.stable_diffusion(path)
    return path / "pipeline"


@pytest.fixture(scope="module")
def pixel_base(pictures) -> Path:
    """A run of pixels with classes."""
    for i, file in enumerate(sorted(pictures.glob("*.png"))):
        folder = pictures.parent / "classes" / f"class {i % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, folder / file.name)
    out = pictures.parent / "pixel"
    options = ["--widths", "8", "16", "--levels", "12", "--class-conditional", "--steps", "2"]
    given = [*EXACT, *LITTLE, "--model", "pixel", "--size", "8"]
    with reports(False):
        main(["train", str(pictures.parent / "classes"), "--out", str(out), *options, *given])
    return out


def test_the_level_profile_of_a_base_is_not_that_of_a_controlled_one(base, tmp_path):
    model = nelbo.load(base)
    x_0 = torch.zeros(2, *model.chain.shape)
    profile = nelbo.level_profile(model.chain, x_0, model.condition_for(2), levels=3)
    nelbo.save(model.with_profile(profile), tmp_path / "fitted")
    assert nelbo.load(tmp_path / "fitted").chain.profile is not None
    assert read_base(str(tmp_path / "fitted")).chain.profile is None
    nelbo.save(model.with_profile(profile, variance="analytic"), tmp_path / "analytic")
    assert read_base(str(tmp_path / "analytic")).chain.profile is not None  # it cannot do without


def train(data: Path, base: Path, out: Path, *options: object) -> Path:
    given = [*EXACT, *LITTLE, "--control", "outline", *map(str, options)]
    main(
        [
            "train",
            str(data),
            "--model",
            "controlnet",
            "--base",
            str(base),
            "--out",
            str(out),
            *given,
        ]
    )
    return out


@pytest.fixture(scope="module")
def run(pictures, base) -> Path:
    out = pictures.parent / "run"
    return train(pictures, base, out, "--steps", 2, "--validate-every", 1)


def digests(directory: Path) -> dict[str, str]:
    """Of every file."""
    return {
        str(file.relative_to(directory)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(directory.rglob("*"))
        if file.is_file()
    }


def test_the_base_stays_as_it_is(run, base):
    for part in ("unet", "vae"):
        mine, given = (load_file(where / part / WEIGHTS) for where in (run, base))
        assert mine.keys() == given.keys()
        assert all(torch.equal(mine[name], given[name]) for name in given)
    before = ControlNet.from_unet(nelbo.load(base).prior.network).state_dict()
    now = load_file(run / "controlnet" / WEIGHTS)
    moved = [name for name in now if name in before and not torch.equal(now[name], before[name])]
    assert "controlnet_mid_block.weight" in moved
    kept = load_file(Checkpoints(run / "training").path(2) / "model.safetensors")
    assert all(name.startswith("controlnet.") for name in kept)


def test_a_base_of_nelbo_is_copied_byte_by_byte(pixel_base, pictures, tmp_path):
    """With classes, and with controls that are pictures of their own."""
    before = digests(pixel_base)
    controls = tmp_path / "controls"
    data = pictures.parent / "classes"
    for file in data.rglob("*.png"):
        place = controls / file.relative_to(data).with_suffix(".webp")
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.open(file).resize((20, 20)).save(place, lossless=True)
    out = tmp_path / "run"
    train(data, pixel_base, out, "--control", controls, "--steps", 2, "--horizontal-flip")
    assert digests(pixel_base) == before
    assert digests(out)[f"unet/{WEIGHTS}"] == before[f"unet/{WEIGHTS}"]
    model = nelbo.load(out)
    assert model.control_shape == (3, 8, 8)
    assert model.num_classes == 2
    peer = diffusers.DDPMPipeline.from_pretrained(out)  # without the control, which it has none of
    assert peer.unet.config.num_class_embeds == 2
    notes = json.loads((out / "nelbo.json").read_text())
    assert (notes["control"], notes["base"]) == (str(controls), str(pixel_base))
    assert notes["label_names"] == ["class 0", "class 1"]
    evaluation = json.loads((out / "evaluation.json").read_text())
    given = [row["given"] for row in evaluation["control"]["explained"]]
    assert given == [
        "control",
        "class and control",
        "class",
        *["class and control"] * 3,
        "another image's control",
    ]


def _kind(data: Path, base: Path, **options) -> tuple[ControlNets, TrainingImages]:
    asked = TrainControl(data=str(data), base=str(base), control="outline", **options)
    images = TrainingImages.load(str(data), *ControlNets.asked_frame(asked, None))
    asked = replace(asked, training=replace(asked.training, batch_size=8))
    return ControlNets(asked, images, torch.device("cpu")), images


@pytest.mark.parametrize(
    ("given", "expected"),
    [([], "clipped"), (["--objective", "min_snr"], "min_snr")],
)
def test_the_objective_is_that_of_the_base(given, expected, pictures, pixel_base):
    data = pictures.parent / "classes"
    command = [str(data), "--model", "controlnet", "--base", str(pixel_base), *given]
    options = parse_train([*command, "--control", "outline", "--out", "unused"])
    images = TrainingImages.load(str(data), *ControlNets.asked_frame(options, None))
    kind = ControlNets(options, images, torch.device("cpu"))
    assert kind.task.config.objective == kind.options.training.objective == expected


def test_a_base_that_states_no_objective_leaves_the_usual_one(pictures, base):
    command = [str(pictures), "--model", "controlnet", "--base", str(base)]
    options = parse_train([*command, "--control", "outline", "--out", "unused"])
    images = TrainingImages.load(str(pictures), *ControlNets.asked_frame(options, None))
    assert ControlNets(options, images, torch.device("cpu")).task.config.objective == "hybrid"


@pytest.mark.parametrize("of", ["latents", "pixels"])
def test_at_step_zero_it_is_the_base(of, pictures, base, pixel_base):
    data, path = (pictures, base) if of == "latents" else (pictures.parent / "classes", pixel_base)
    kind, images = _kind(data, path)
    whole, fresh = kind.whole(kind.task.module), nelbo.load(path)
    some = controls_of("outline", images.test).of_all(images.test).take(slice(2))
    condition = condition_for(whole, some)
    x_t = torch.randn(2, *fresh.chain.shape)
    for t in (1, fresh.chain.num_levels):
        with torch.no_grad():
            mine = whole.chain.predict(x_t, t, condition)
            theirs = fresh.chain.predict(x_t, t, replace(condition, control=None))
        assert torch.equal(mine.x_0, theirs.x_0)
    sampler = DDIM(2)
    kwargs = {"x_T": x_t, "condition": condition}
    bare = {"x_T": x_t, "condition": replace(condition, control=None)}
    assert torch.equal(whole.sample(2, sampler, **kwargs), fresh.sample(2, sampler, **bare))
    figures = kind.of_reading(kind.task.module, kind.reading(kind.task.module, 2))
    names = ("explained_bits", "explained_error", "own_bits", "own_error")
    assert figures == dict.fromkeys(names, 0.0)


def test_the_objective_is_that_of_the_base_and_moves_the_control_alone(pictures, base):
    kind, _ = _kind(pictures, base)
    trainer = Trainer(kind.task)
    base_before = copy.deepcopy(kind.base.state_dict())
    index, part = torch.arange(8), BatchPart(0, 8, 8)
    batch = Batch(0, index, part, torch.Generator().manual_seed(3))
    terms = kind.task.terms(trainer.variant("fp32"), batch)
    # The same draws by hand: who is shown no caption and no control, latents, levels and noise.
    generator = torch.Generator().manual_seed(3)
    withheld = torch.rand(8, generator=generator) < kind.options.training.label_dropout
    torch.rand(8, generator=generator)
    some = kind.task.examples_of.latents.take(index)
    z = some.mean + some.stddev * torch.randn(some.mean.shape, generator=generator)
    text = some.captions[some.caption_index.masked_fill(withheld, 0)].text
    expected = Objective("hybrid", kind.task.level_sampler)(
        kind.base.chain, z, Condition(text=text), generator=generator
    )
    assert torch.equal(terms.loss.detach(), expected.loss.detach())
    for _ in range(3):
        next(trainer.run())
    assert all(torch.equal(v, base_before[k]) for k, v in kind.base.state_dict().items())
    assert torch.count_nonzero(trainer.model.controlnet.controlnet_mid_block.weight)


def test_it_is_a_pipeline_of_diffusers(run):
    """The same picture for the same noise."""
    peer = diffusers.StableDiffusionControlNetPipeline.from_pretrained(run)
    peer.set_progress_bar_config(disable=True)
    control = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    x_T = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    theirs = peer(
        "red square",
        image=control,
        latents=x_T.clone(),
        num_inference_steps=4,
        guidance_scale=3.0,
        output_type="np",
    ).images
    sampler = nelbo.load_sampler(run, 4)
    options = {"prompt": "red square", "guidance": 3.0, "x_T": x_T}
    mine = nelbo.load(run).sample(1, sampler, control=control, **options)
    np.testing.assert_allclose((mine / 2 + 0.5).permute(0, 2, 3, 1).numpy(), theirs, atol=1e-4)


def test_what_the_control_explains_is_recorded(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    read = {row["step"]: row["explained_bits"] for row in rows if "explained_bits" in row}
    assert read.keys() == {1, 2}
    assert read.keys() == {row["step"] for row in rows if "own_bits" in row}
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert evaluation["test"]["conditioned_on"] == "caption and the control"
    explained = {
        (row["without"], row["given"]): row["bits"] for row in evaluation["control"]["explained"]
    }
    both = explained["nothing", "text and control"]
    assert both == pytest.approx(
        explained["nothing", "control"] + explained["control", "text and control"], abs=1e-3
    )
    assert both == pytest.approx(
        explained["nothing", "text"] + explained["text", "text and control"], abs=1e-3
    )
    by_level = sum(row["bits"] for row in evaluation["control"]["by_level"])
    assert by_level == pytest.approx(explained["nothing", "control"], abs=1e-3)
    page = (run / "report.html").read_text()
    assert "What the control explains" in page
    assert "Drawn by the control" in page


@pytest.mark.slow
def test_resumed_it_ends_the_same(pictures, base, tmp_path):
    options = ["--control", "scribble", "--steps", 4, "--save-every", "0.01s"]
    run, out = (train(pictures, base, tmp_path / name, *options) for name in ("run", "out"))
    kept = Checkpoints(out / "training")
    assert kept.steps()[0] < 4
    shutil.rmtree(kept.path(4))
    main(["train", "--resume", "--out", str(out)])
    for name in ("controlnet", "unet"):
        first, second = (load_file(where / name / WEIGHTS) for where in (run, out))
        assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.slow
def test_it_goes_on_from_a_controlnet_of_diffusers(run, base, pictures, tmp_path):
    """A folder of a ControlNetModel, as they are published."""
    published = diffusers.ControlNetModel.from_pretrained(run / "controlnet")
    published.save_pretrained(tmp_path / "published")
    start = ["--start-from", tmp_path / "published", "--steps", 1, "--learning-rate", 1e-9]
    out = train(pictures, base, tmp_path / "on", *start)
    first, second = (load_file(where / "controlnet" / WEIGHTS) for where in (run, out))
    assert all(torch.allclose(first[key], second[key], atol=1e-6) for key in first)
    again = tmp_path / "again"  # a run brings its base
    options = ["--start-from", str(run), "--steps", "1", "--control", "mask"]
    main(["train", str(pictures), "--out", str(again), *EXACT, *LITTLE, *options])
    assert RunDirectory(again).notes["control"] == "mask"


def test_sample_and_evaluate(run, tmp_path, capsys):
    sketch = tmp_path / "sketch.gif"
    white, black = (Image.new("RGB", (40, 20), colour) for colour in ("white", "black"))
    white.paste(0, (5, 5, 35, 8))
    white.save(sketch, save_all=True, append_images=[black])
    out = tmp_path / "out.png"
    asked = ["--control", str(sketch), "-n", "2", "--steps", "2", "--out", str(out)]
    strength = ["--control-scale", "0.5", "--control-end", "0.5"]
    main(["sample", str(run), *asked, "--prompt", "red square", *strength])
    notes = capsys.readouterr().err
    assert "is 20×40 pixels, the control 16×16" in notes
    assert "has several frames: the first is taken" in notes
    assert "is dark on light, and is inverted" in notes
    main(["sample", str(run), *asked, "--guess", "--guidance", "2", "--annotate"])
    main(["sample", str(run), "-n", "1", "--steps", "2", "--out", str(out)])
    assert "without --control the base alone draws" in capsys.readouterr().err
    image = tmp_path / "picture.png"
    Image.new("RGB", (16, 16), "red").save(image)
    edit = ["edit", str(run), "--image", str(image), "--steps", "2", "--out", str(out)]
    main([*edit, "--control", str(sketch)])
    capsys.readouterr()
    main(["evaluate", str(run), "--images", "4", "--levels", "2", "--json"])
    with_control = json.loads(capsys.readouterr().out)
    assert with_control["control"]["images"] == 4
    main(["evaluate", str(run), "--images", "4", "--levels", "2", "--control", "none"])
    assert "bits explained" not in capsys.readouterr().out
    main(["evaluate", str(run), "--images", "4", "--levels", "2", "--control", "mask"])
    assert "bits explained" in capsys.readouterr().out


def test_published_controlnets_on_a_base(run, base, tmp_path, capsys):
    out = tmp_path / "out.png"
    two = ["--controlnet", str(run / "controlnet"), "--controlnet", str(run)]
    sketch = tmp_path / "sketch.png"
    Image.new("L", (16, 16)).save(sketch)
    given = ["sample", str(base), *two, "-n", "1", "--steps", "2", "--out", str(out)]
    main([*given, "--control", str(sketch), "--control", str(sketch)])
    assert out.is_file()
    message = mistake(capsys, *given, "--control", sketch)
    assert "--control is given for 1 ControlNets" in message
    assert "has 2 with --controlnet: give it once for each" in message


def test_each_controlnet_reads_its_control_as_it_was_trained(run, base, tmp_path, capsys):
    """Of a run, and of its folder, lines are light on dark; of a ControlNet alone that is not
    known."""
    copied = shutil.copytree(run / "controlnet", tmp_path / "alone")
    dark = tmp_path / "dark.png"
    paper = Image.new("L", (16, 16), 255)
    paper.paste(0, (4, 4, 12, 6))
    paper.save(dark)
    given = ["--control", dark, "-n", 1, "--steps", 2, "--out", tmp_path / "out.png"]
    for nets, inverted in (
        (["sample", base, "--controlnet", run], 1),
        (["sample", base, "--controlnet", run / "controlnet"], 1),
        (["sample", base, "--controlnet", copied], 0),
        (["sample", run, "--controlnet", run / "controlnet", "--control", dark], 2),
        (["sample", base, "--controlnet", run, "--annotate"], 0),  # an outline of its own
    ):
        main([str(word) for word in (*nets, *given)])
        assert capsys.readouterr().err.count("is inverted") == inverted, nets
    alone = ["sample", base, "--controlnet", copied, "--annotate", *given]
    assert "not trained with an annotator's controls" in mistake(capsys, *alone)


def test_light_lines_on_nothing_are_seen(run, tmp_path, capsys):
    clear = Image.new("RGBA", (16, 16), (255, 255, 255, 0))
    clear.paste("white", (4, 4, 12, 6))
    for name, sketch in (("clear", clear), ("white", Image.new("L", (16, 16), 255))):
        sketch.save(tmp_path / f"{name}.png")
        words = ["sample", run, "--control", tmp_path / f"{name}.png", "-n", 1, "--steps", 2]
        main([str(word) for word in (*words, "--out", tmp_path / "out.png")])
        notes = capsys.readouterr().err
        assert "is inverted" not in notes
        assert ("shows no lines: the base alone draws" in notes) == (name == "white")


def test_captions_that_the_base_does_not_read_are_left_out(pictures, tmp_path):
    captioned = tmp_path / "captioned"
    shutil.copytree(pictures, captioned)
    lines = [json.dumps({"file_name": f.name, "text": "a"}) for f in captioned.glob("*.png")]
    (captioned / "metadata.jsonl").write_text("\n".join(lines))
    base = tmp_path / "base"
    options = ["--autoencoder-steps", "1", "--steps", "2", "--widths", "8", "--levels", "12"]
    given = [*EXACT, *LITTLE, "--model", "latent", "--size", "8", "--condition", "none"]
    main(["train", str(captioned), "--out", str(base), *options, *given, "--heads", "2"])
    out = train(captioned, base, tmp_path / "run", "--steps", 1)
    model = nelbo.load(out)
    assert not model.reads_text
    assert model.control_shape == (3, 8, 8)


def test_mistakes(run, base, pictures, pixel_base, tmp_path, capsys):
    out, other = tmp_path / "out", tmp_path / "other"
    peer = tiny.text_unet(block_out_channels=(8, 24))
    fields = {"conditioning_embedding_out_channels": (4, 8)}
    diffusers.ControlNetModel.from_unet(peer, **fields).save_pretrained(other)
    new = ["train", pictures, "--model", "controlnet", "--out", out]
    for given, message in (
        ([*new, "--control", "canny"], "--base is missing"),
        ([*new, "--base", base], "--control is missing"),
        ([*new, "--base", tmp_path, "--control", "canny"], "--base: "),
        (["sample", run, "--control", "--steps", 2], "--control is given without a picture"),
        (["sample", pixel_base, "--label", "--steps", 2], "--label is given without a class"),
        ([*new, "--base", base, "--control", "cany"], "(did you mean canny?)"),
        ([*new, "--base", base, "--control", "x"], "outline, colours, mask, depth-like"),
        ([*new, "--base", run, "--control", "canny"], "has a ControlNet itself"),
        ([*new, "--base", base, "--control", "canny", "--size", "8"], "shape (3, 8, 8)"),
        (
            [*new, "--base", base, "--control", "canny", "--start-from", other],
            "the ControlNet has block_out_channels (8, 24) and the UNet (8, 16)",
        ),
        (
            [*new, "--base", base, "--control", "canny", "--start-from", base],
            "has no ControlNet; give it as --base",
        ),
        (["sample", base, "--control", "x.png"], "has no ControlNet; --controlnet puts one"),
        (["sample", run, "--control-scale", "2"], "--control-scale takes effect with --control"),
        (["sample", run, "--control", "x.png"], "there is no picture x.png"),
        (
            ["evaluate", base, "--data", pictures, "--resize", "--control", "canny"],
            "has no ControlNet",
        ),
    ):
        found = mistake(capsys, *given)
        assert message in found, (message, found)
    assert not out.exists()
