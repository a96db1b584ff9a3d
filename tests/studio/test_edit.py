"""Edit: what the command makes of the same picture, with the same mask."""

from __future__ import annotations

import io
import json
import shlex

import numpy as np
import pytest
from PIL import Image

from nelbo.cli import main
from tests.studio.conftest import ask, of_type, picture
from tests.studio.test_generate import opened

IMAGE, OTHER = picture("image"), picture("other", seed=1, name="other.png")


def mask(white: slice = slice(2, 6)) -> tuple[str, tuple[str, bytes, str]]:
    values = np.zeros((8, 8), dtype=np.uint8)
    values[white, white] = 255
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, format="PNG")
    return "mask", ("mask.png", buffer.getvalue(), "image/png")


@pytest.mark.parametrize(
    ("settings", "files"),
    [
        ({"mode": "redraw", "strength": 0.5, "n": 2, "label": "3", "guidance": 2.0}, []),
        ({"mode": "paint", "n": 2, "jump_length": 2, "jump_n_sample": 2}, [mask()]),
        ({"mode": "between", "n": 3}, [OTHER]),
        ({"mode": "between", "n": 2, "sampler": "dpm_solver"}, [OTHER]),
    ],
    ids=["redraw", "paint", "between", "between by noise"],
)
def test_pictures_are_those_of_the_command_to_copy(serve, tmp_path, monkeypatch, settings, files):
    asked = {"model": "digits", "steps": 6, "seed": 5, **settings}
    events = ask(serve(), "edit", asked, [IMAGE, *files])
    assert events[-1] == {"type": "done"}
    pictures = [np.asarray(opened(event)) for event in of_type(events, "picture")]
    assert len(pictures) == settings["n"]
    for event in of_type(events, "picture"):
        kept = json.loads(opened(event).text["nelbo"])
        assert kept == event["settings"]
        assert {name: kept[name] for name in asked} == asked
    monkeypatch.chdir(tmp_path)
    for _, (name, content, _) in [IMAGE, *files]:
        (tmp_path / name).write_bytes(content)
    main(shlex.split(of_type(events, "result")[0]["command"])[1:])
    page = np.asarray(Image.open("edited.png"))
    # The grid enlarges each picture by a whole factor; every one of its pixels is in there.
    for made in pictures:
        assert any(
            np.array_equal(page[y : y + 8 * k : k, x : x + 8 * k : k][:8, :8], made)
            for k in (16, 10, 9, 8, 6)
            for y in range(0, page.shape[0] - 8 * k + 1, 1)
            for x in range(0, page.shape[1] - 8 * k + 1, 1)
            if page[y, x] == made[0, 0]
        )
    if settings["mode"] == "paint":
        kept = np.ones((8, 8), dtype=bool)
        kept[2:6, 2:6] = False
        grey = np.asarray(Image.open(io.BytesIO(IMAGE[1][1])).convert("L"), dtype=float)
        known = np.rint(np.rint(grey / 255 * 16) * 255 / 16)
        assert all(np.array_equal(made[kept], known[kept]) for made in pictures)


@pytest.mark.parametrize(
    ("settings", "files", "message"),
    [
        ({"mode": "redraw"}, [], "the picture to edit is missing"),
        ({"mode": "paint"}, [IMAGE], "the mask is missing"),
        ({"mode": "between"}, [IMAGE], "the picture to go over into is missing"),
        ({"mode": "erase"}, [IMAGE], "unknown mode 'erase'"),
        ({"mode": "paint"}, [IMAGE, mask(slice(0, 0))], "nothing is marked"),
        ({"mode": "paint"}, [IMAGE, mask(slice(0, 8))], "everything is marked"),
        ({"mode": "paint", "sampler": "ddim"}, [IMAGE, mask()], "painting walks with ddpm"),
        ({"mode": "redraw", "strength": 0.01}, [IMAGE], "leaves none of"),
        ({"mode": "redraw", "strength": 2}, [IMAGE], "strength must lie in 0.01..1"),
    ],
)
def test_mistakes(serve, settings, files, message):
    event = ask(serve(), "edit", {"model": "digits", "steps": 6, **settings}, files)[-1]
    assert message in (event.get("error") or event["message"])
