"""Weights of a run that diverged: one error that names them, and nothing is written."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import nelbo
from nelbo import Diffusion, LatentDiffusion, NelboError, NoiseSchedule, samplers
from nelbo.base.files import to_json
from nelbo.diffusion import flow
from nelbo.diffusion.measurement import level_profile
from tests.faults.test_mistakes import mistake
from tests.formats import tiny

pytestmark = pytest.mark.filterwarnings("ignore:.*does not state the number of its pixel levels")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A sound pipeline, one of latents, and pictures."""
    where = tmp_path_factory.mktemp("place")
    tiny.ddpm(where / "sound")
    tiny.stable_diffusion(where / "made")
    shutil.move(where / "made" / "pipeline", where / "text")
    random = np.random.default_rng(0)
    (where / "pictures").mkdir()
    for i in range(4):
        pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(where / "pictures" / f"{i}.png")
    return where


def spoil(directory: Path, value: float, part: str = "unet", name: str | None = None) -> str:
    """Put a value into one weight; returns the name of the tensor."""
    file = next((directory / part).glob("*.safetensors"))
    weights = load_file(file)
    name = name or sorted(k for k, w in weights.items() if w.ndim == 4)[0]
    weights[name].view(-1)[3] = value
    save_file(weights, file, metadata={"format": "pt"})
    return name


def spoiled(place: Path, tmp_path: Path, value: float, **options) -> tuple[Path, str]:
    directory = tmp_path / "bad"
    shutil.copytree(place / "sound", directory)
    return directory, spoil(directory, value, **options)


COMMANDS = {
    "sample": ["sample", "BAD", "--out", "OUT.png", "--files", "OUT"],
    "edit": ["edit", "BAD", "--image", "PICTURES/0.png", "--out", "OUT.png"],
    "export": ["export", "BAD", "--out", "OUT"],
    "evaluate": ["evaluate", "BAD", "--data", "PICTURES", "--split", "all", "--out", "OUT"],
    "rank": ["rank", "BAD", "--data", "PICTURES", "--split", "all", "--out", "OUT"],
    "likelihood": ["likelihood", "BAD", "--data", "PICTURES", "--split", "all"],
    "classify": ["classify", "BAD", "--data", "PICTURES", "--split", "all", "--out", "OUT.csv"],
    "compare": ["compare", "PICTURES", "--runs", "SOUND", "BAD", "--split", "all"],
    "fit": ["fit", "BAD", "--data", "PICTURES", "--split", "all"],
    "fit a copy": ["fit", "BAD", "--data", "PICTURES", "--split", "all", "--out", "OUT"],
}


# Which values are refused is a question to the one place where every command loads its model.
@pytest.mark.parametrize(
    ("command", "value"),
    [*((command, math.nan) for command in COMMANDS), ("rank", -math.inf), ("rank", 1e30)],
)
def test_commands_name_the_weight_and_write_nothing(command, value, place, tmp_path, capsys):
    bad, name = spoiled(place, tmp_path, value)
    names = {"BAD": bad, "SOUND": place / "sound", "PICTURES": place / "pictures"}
    names["OUT"] = tmp_path / "out"
    arguments = []
    for argument in COMMANDS[command]:
        for short, path in names.items():
            argument = argument.replace(short, str(path))
        arguments.append(argument)
    before = set(tmp_path.rglob("*"))
    message = mistake(capsys, *arguments, *(["--json"] if value == 1e30 else []))
    assert "not finite" in message
    assert name in message
    assert "such as" in message
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("part", ["vae", "text_encoder", "unet"])
def test_every_part_of_a_model_of_latents_is_looked_at(part, place, tmp_path):
    directory = tmp_path / "bad"
    shutil.copytree(place / "text", directory)
    file = next((directory / part).glob("*.safetensors"))
    name = spoil(directory, math.nan, part, sorted(load_file(file))[-1])
    with pytest.raises(NelboError, match="not finite") as raised:
        nelbo.load(directory)
    assert name.removeprefix("text_model.") in str(raised.value)


class Broken(torch.nn.Module):
    """Predicts what is no number for one example of a batch, from some level upwards."""

    def __init__(self, value: float, time: int = 3) -> None:
        super().__init__()
        self.value, self.time = value, time

    def forward(self, x_t, time, condition=None):
        found = torch.zeros_like(x_t)
        found[-1, 0, 0, 0] = torch.where(time[-1] >= self.time, self.value, 0.0)
        return found


X = torch.zeros(2, 1, 2, 2) - 1
CALLS = {
    "sample": lambda m: m.sample(2),
    "elbo": lambda m: m.elbo(X),
    "path": lambda m: m.path_elbo(X),
    "profile": lambda m: level_profile(m, X),
    "flow": lambda m: flow.log_likelihood(m, X, trace="exact", rtol=0.1, atol=0.1),
} | {
    kind: lambda m, kind=kind: m.sample(2, getattr(samplers, kind)(5))
    for kind in samplers.SAMPLERS.values()
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_predictions_are_looked_at_before_they_are_clipped(call, value):
    """Infinite ones would be clipped to a saturated picture."""
    schedule = NoiseSchedule.linear(6, 0.1, 0.5)
    model = Diffusion(Broken(value), schedule, clip_sample=True, shape=(1, 2, 2)).eval()
    with pytest.raises(NelboError, match=r"prediction of the network at its time .* not finite"):
        CALLS[call](model)


def test_a_step_of_training_is_judged_by_its_loss():
    model = Diffusion(Broken(math.nan, 0), NoiseSchedule.linear(6, 0.1, 0.5), shape=(1, 2, 2))
    assert nelbo.loss(model.train(), X.repeat(8, 1, 1, 1)).isnan()


def test_pictures_of_an_autoencoder_are_looked_at(place):
    model = nelbo.load(place / "text")
    assert isinstance(model, LatentDiffusion)
    with torch.no_grad():
        model.autoencoder.decoder.conv_out.bias[0] = math.inf
        with pytest.raises(NelboError, match="what the autoencoder decodes is not finite"):
            model.decode(torch.zeros(1, 4, 8, 8))


def test_what_is_not_finite_is_not_saved(place, tmp_path):
    model = nelbo.load(place / "sound")
    with torch.no_grad():
        model.network.conv_in.bias[0] = math.nan
    with pytest.raises(NelboError, match=r"conv_in.bias \(1 of 8 values, such as nan\)"):
        nelbo.save(model, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_json_is_json():
    """It has no name for what is not finite, and text may hold what is no character."""
    content = {"a": math.nan, "b": [math.inf, {"c": -math.inf}], "d": (1.5,), 2: "\udce9"}
    text = to_json(content)
    found = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert found == {"a": None, "b": [None, {"c": None}], "d": [1.5], "2": "\udce9"}
    assert text.encode("ascii")
    assert to_json({"name": "é"}) == '{"name": "é"}'
