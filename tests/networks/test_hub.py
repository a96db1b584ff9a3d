"""What is looked for on the Hub, what is mistyped, and what is said where there is no network."""

from __future__ import annotations

import time
from pathlib import Path

import huggingface_hub.constants
import huggingface_hub.errors
import pytest
import torch

from nelbo.base.errors import NelboError
from nelbo.base.suggestions import did_you_mean, directories_near
from nelbo.networks import UNet, hub, pretrained


@pytest.fixture
def saved(tmp_path, monkeypatch) -> Path:
    """A network in runs/digits of the current directory."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    UNet(
        block_out_channels=(8,),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
    ).save_pretrained("runs/digits")
    return Path("runs/digits")


def answer(monkeypatch, download) -> list[tuple[str, str | None, str]]:
    """A Hub that answers with `download(name)`; returns what it is asked for."""
    asked = []

    def downloaded(hub_id, name, subfolder=None, local_files_only=False):
        assert not local_files_only
        asked.append((hub_id, subfolder, name))
        return str(download(name))

    monkeypatch.setattr(hub, "_answers", lambda hub_id, period: True)
    monkeypatch.setattr(hub, "hf_hub_download", downloaded)
    return asked


def test_hub(saved, monkeypatch):
    asked = answer(monkeypatch, lambda name: saved / name)
    UNet.from_pretrained("owner/name", subfolder="unet")
    assert asked == [
        ("owner/name", "unet", pretrained.CONFIG_FILE),
        ("owner/name", "unet", pretrained.WEIGHTS_FILE),
    ]


@pytest.mark.parametrize(
    "path",
    [
        "runs/digit",
        "./rnus/digits",
        "rnus/digits/unet",
        "rnus",
        "~/digits",
        "/digits",
        "../x",
        "..",
    ],
)
def test_what_is_no_hub_id_is_not_asked_for(saved, monkeypatch, path):
    asked = answer(monkeypatch, lambda name: saved / name)
    with pytest.raises(NelboError, match=r"no directory|holds no"):
        UNet.from_pretrained(path)
    assert asked == []


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("runs/digit", "did you mean runs/digits?"),
        ("rnus", "did you mean runs?"),
        ("./rnus/digts", "did you mean runs/digits?"),
        ("runs/xyz", "runs holds digits"),
        ("runs", "its folders digits do"),
        ("nothing", "models of the Hub are named owner/name"),
    ],
)
def test_mistyped(saved, typed, said):
    with pytest.raises(NelboError) as error:
        UNet.from_pretrained(typed)
    assert said in str(error.value)


def test_near_directories(tmp_path):
    for name in ("runs/digits", "runs/digits-large", "data"):
        (tmp_path / name).mkdir(parents=True)
    assert (
        directories_near(tmp_path / "rnus" / "digits") == f" (did you mean {tmp_path}/runs/digits?)"
    )
    assert "digits or" in directories_near(tmp_path / "runs" / "digitss")
    assert directories_near(Path("far/away/from/everything")) == ""
    assert did_you_mean("emojis", ["digits", "emoji"]) == " (did you mean emoji?)"
    assert did_you_mean("cats", ["digits", "emoji"]) == ""


@pytest.fixture
def no_network(monkeypatch):
    """The real client of the Hub, at an address where nothing listens."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    hub._answers.cache_clear()


def test_without_a_network_the_hub_is_not_waited_for(saved, no_network, monkeypatch):
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    with pytest.raises(NelboError) as error:
        UNet.from_pretrained("rnus/digits")
    assert sum(slept) < 10  # the client's own retries take 24 s
    assert "did you mean runs/digits?" in str(error.value)
    assert "the Hub cannot be reached" in str(error.value)


def test_a_hub_that_knows_no_such_repository(saved, monkeypatch):
    def missing(name):
        response = type("Response", (), {"headers": {}, "request": None, "status_code": 404})()
        raise huggingface_hub.errors.RepositoryNotFoundError("404", response=response)

    answer(monkeypatch, missing)
    with pytest.raises(NelboError, match=r"did you mean runs/digits\?.*nothing of that name"):
        UNet.from_pretrained("rnus/digits")


def test_hub_without_safetensors(saved, monkeypatch):
    def only_config(name):
        if name == pretrained.CONFIG_FILE:
            return saved / name
        raise huggingface_hub.errors.EntryNotFoundError("no such file")

    answer(monkeypatch, only_config)
    with pytest.raises(NelboError, match="safetensors only"):
        UNet.from_pretrained("owner/name")
