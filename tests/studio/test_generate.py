"""Generate: what the command draws, with settings that draw it again."""

from __future__ import annotations

import base64
import io
import json
import shlex
import shutil

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file

from nelbo.cli import main
from nelbo.studio.uploads import Upload
from tests.studio.conftest import ask, of_type, picture


def opened(event) -> Image.Image:
    head, _, body = event["url"].partition(",")
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(body)))


@pytest.mark.parametrize(
    "settings",
    [
        {"label": "3", "guidance": 2.0, "sampler": "ddim", "steps": 5, "seed": 7, "n": 3},
        {"steps": 4, "seed": 1, "n": 2},
        {"guidance": 3.0, "steps": 4, "seed": 1, "n": 2},  # towards each class in turn
    ],
)
def test_pictures_are_those_of_the_command_to_copy(serve, digits, tmp_path, settings):
    events = ask(serve(), "generate", {"model": "digits", **settings})
    assert events[-1] == {"type": "done"}
    pictures = [opened(event) for event in of_type(events, "picture")]
    (result,) = of_type(events, "result")
    words = shlex.split(result["command"])[1:]
    words[words.index("--out") + 1] = str(tmp_path / "samples.png")
    main([*words, "--files", str(tmp_path / "files")])
    for i, image in enumerate(pictures):
        drawn = Image.open(tmp_path / "files" / f"{i:05d}.png")
        assert np.array_equal(np.asarray(image), np.asarray(drawn))
        kept = json.loads(image.text["nelbo"])
        assert kept["picture"] == i
        assert kept.get("class") == (None if "label" in settings else str(i))
        assert {name: kept[name] for name in settings} == settings
        again = of_type(ask(serve(), "generate", kept), "picture")[i]
        assert np.array_equal(np.asarray(opened(again)), np.asarray(image))


def test_every_step_is_shown_while_it_runs(serve):
    events = ask(serve(), "generate", {"model": "digits", "steps": 6, "n": 2, "seed": 3})
    progress = of_type(events, "progress")
    # A reader that is slow may miss some, never the last.
    assert progress[-1]["step"] == progress[-1]["of"] == 6
    assert [event["step"] for event in progress] == sorted(event["step"] for event in progress)
    assert any(len(event.get("previews", [])) == 2 for event in progress)


def test_a_prompt_and_what_to_lead_away_from(serve, stable):
    client = serve({"stable": str(stable)})
    asked = {"model": "stable", "prompt": "red cat", "steps": 2, "guidance": 3.0}
    plain = of_type(ask(client, "generate", asked), "picture")[0]
    away = of_type(ask(client, "generate", {**asked, "negative": "dog"}), "picture")[0]
    assert away["settings"]["negative"] == "dog"
    assert not np.array_equal(np.asarray(opened(plain)), np.asarray(opened(away)))


def test_a_sketch_is_followed_as_the_command_follows_it(serve, controlled, tmp_path):
    sketch = picture("control", (16, 16), name="sketch.png")
    asked = {"model": "controlled", "prompt": "red cat", "steps": 2, "control_scale": 0.5}
    client = serve({"controlled": str(controlled)})
    assert of_type(ask(client, "open", {"model": "controlled"}), "model")[0]["model"]["control"]
    events = ask(client, "generate", asked, [sketch])
    (tmp_path / "sketch.png").write_bytes(sketch[1][1])
    words = shlex.split(of_type(events, "result")[0]["command"])[1:]
    words[words.index("--out") + 1] = str(tmp_path / "samples.png")
    words[words.index("--control") + 1] = str(tmp_path / "sketch.png")
    main([*words, "--files", str(tmp_path / "files")])
    (drawn,) = of_type(events, "picture")
    expected = Image.open(tmp_path / "files" / "00000.png")
    assert np.array_equal(np.asarray(opened(drawn)), np.asarray(expected))
    # Drawn again from the sketch that the picture keeps.
    kept = base64.b64decode(drawn["settings"]["control"].partition(",")[2])
    again = ask(client, "generate", asked, [("control", ("sketch.png", kept, "image/png"))])
    assert of_type(again, "picture")[0]["url"] == drawn["url"]
    base = of_type(ask(client, "generate", asked), "picture")[0]
    assert not np.array_equal(np.asarray(opened(base)), np.asarray(expected))
    assert "control" not in base["settings"]


@pytest.mark.parametrize(
    ("count", "words"), [(0, ""), (1, " with a ControlNet"), (3, " with 3 ControlNets")]
)
def test_what_a_model_is_names_its_controlnets(
    serve, stable, controlled, three_controls, count, words
):
    path = {0: stable, 1: controlled, 3: three_controls}[count]
    opened = of_type(ask(serve({"model": str(path)}), "open", {"model": "model"}), "model")
    facts = opened[0]["model"]
    assert f"a diffusion model of its latents (4×8×8){words} and a text" in facts["description"]
    # Each weight is counted once, as those in the files are.
    sizes = {
        folder: sum(
            tensor.numel()
            for file in path.glob(f"{folder}*/*.safetensors")
            for tensor in load_file(file).values()
        )
        for folder in ("unet", "vae", "text_encoder", "controlnet")
    }
    names = ("prior", "autoencoder", "text encoder", "ControlNet")
    shown = [
        f"{size / 1e6:.2f}M {n}" for n, size in zip(names, sizes.values(), strict=True) if size
    ]
    assert sorted(facts["facts"]["parameters"].split(", ")) == sorted(shown)


def test_several_controlnets_have_no_sketch(serve, three_controls):
    """Three of a grey picture each take as many channels as one of colours."""
    client = serve({"three": str(three_controls)})
    assert of_type(ask(client, "open", {"model": "three"}), "model")[0]["model"]["control"] is None
    asked = {"model": "three", "prompt": "red cat", "steps": 2}
    (error,) = of_type(ask(client, "generate", asked, [picture("control", (16, 16))]), "error")
    assert "three has 3 ControlNets: use nelbo sample --control" in error["message"]


def test_dark_lines_on_paper_are_read_as_light_ones(serve, controlled, tmp_path):
    """By a model that was trained with scribbles, as `nelbo sample` reads them."""
    run = tmp_path / "run"
    shutil.copytree(controlled, run)
    notes = {"data": {"kind": "pixels", "levels": 256}, "control": "scribble"}
    (run / "nelbo.json").write_text(json.dumps(notes))
    light = Image.new("L", (16, 16))
    light.paste(255, (2, 2, 14, 5))
    asked = {"model": "run", "prompt": "red cat", "steps": 2}
    client, drawn = serve({"run": str(run)}), []
    clear = Image.new("RGBA", (16, 16), "white")
    clear.putalpha(light)  # light lines on nothing
    for sketch in (light, ImageOps.invert(light), clear):
        buffer = io.BytesIO()
        sketch.save(buffer, format="PNG")
        files = [("control", ("sketch.png", buffer.getvalue(), "image/png"))]
        drawn += of_type(ask(client, "generate", asked, files), "picture")
    first, *others = (np.asarray(opened(each)) for each in drawn)
    assert all(np.array_equal(first, other) for other in others)


def test_a_sketch_is_kept_as_the_model_reads_it_without_its_metadata():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (600, 700, 3), np.uint8))
    exif = Image.Exif()
    exif[0x010E] = "where it was taken"
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", exif=exif)
    large = Upload("large.jpg", buffer.getvalue())
    url = large.kept((3, 32, 32))
    content = base64.b64decode(url.partition(",")[2])
    assert b"taken" not in content
    kept = Upload("kept.png", content).drawing((3, 32, 32))
    assert torch.equal(kept, large.drawing((3, 32, 32)))
    assert large.kept((3, 512, 512)) is None


@pytest.mark.parametrize(
    ("settings", "files", "message"),
    [
        ({"model": "../../etc"}, [], "no model '../../etc' is served here"),
        ({"model": "digit"}, [], "did you mean digits?"),
        ({"model": "digits", "prompt": "a cat"}, [], "prompt was given to a model that reads none"),
        ({"model": "digits", "label": "12"}, [], "'12': digits has no such class"),
        ({"model": "digits", "steps": 30}, [], "20"),
        ({"model": "digits"}, [picture("control")], "takes no sketch: it has no ControlNet"),
    ],
)
def test_what_a_model_has_no_use_for_is_an_error_in_the_page(serve, settings, files, message):
    client = serve()
    events = ask(client, "generate", settings, files)
    assert message in events[-1]["message"]
    assert ask(client, "open", {"model": "digits"})[-1] == {"type": "done"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must lie in 1..1,000, got 0"),
        ({"steps": 2.5}, "steps must be a whole number, got 2.5"),
        ({"n": 1000}, "n must lie in 1..16, got 1000"),
        ({"seed": "x"}, "seed must be a whole number, got 'x'"),
        ({"guidance": 1e9}, "guidance must lie in 0..50"),
        ({"sampler": "eular"}, "did you mean euler?"),
        ({"prompt": "x" * 501}, "prompt has 501 characters, at most 500 are read"),
        ({"prompt": 3}, "prompt must be a text, got 3"),
        ("[1]", "the settings must be a JSON object, got list"),
        ("{", "the settings are no JSON"),
        ("[" * 100_000, "the settings are no JSON"),
    ],
)
def test_settings_out_of_range_are_refused(serve, settings, message):
    (event,) = ask(serve(), "generate", settings)
    assert event["status"] == 400
    assert message in event["error"]
