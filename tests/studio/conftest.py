"""A server of tiny models, asked without a network."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
from diffusers.models.controlnets.multicontrolnet import MultiControlNetModel
from PIL import Image
from starlette.testclient import TestClient

import nelbo
from nelbo.data import load_data
from nelbo.studio.server import Studio
from tests.formats import tiny

HERE = "http://127.0.0.1"


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Path:
    """A run of class-conditional digits, untrained, with 20 levels."""
    path = tmp_path_factory.mktemp("studio") / "digits"
    fields = dict(tiny.LAYERS, sample_size=8, in_channels=1, out_channels=1, num_class_embeds=10)
    stages = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    network = tiny.randomise(nelbo.UNet(**fields, **stages))
    model = nelbo.Diffusion(
        network,
        nelbo.NoiseSchedule.cosine(20),
        prediction="sample",
        data=nelbo.Pixels(17),
        shape=(1, 8, 8),
        clip_sample=True,
    )
    names = list(load_data("digits", "test").label_names)
    notes = {"source": "digits", "label_names": names, "splits": {}, "trained": {"steps": 1}}
    nelbo.save(model, path, notes=notes)
    return path


@pytest.fixture(scope="session")
def stable(tmp_path_factory) -> Path:
    """A tiny Stable Diffusion with random weights."""
    path = tmp_path_factory.mktemp("stable")
    tiny.stable_diffusion(path)
    return path / "pipeline"


@pytest.fixture(scope="session")
def controlled(tmp_path_factory) -> Path:
    """The same with a ControlNet."""
    path = tmp_path_factory.mktemp("controlled")
    tiny.stable_diffusion(path, control=True)
    return path / "pipeline"


@pytest.fixture(scope="session")
def three_controls(controlled, tmp_path_factory) -> Path:
    """The same with three ControlNets, each for a grey picture."""
    path = tmp_path_factory.mktemp("three")
    peer = StableDiffusionControlNetPipeline.from_pretrained(controlled, safety_checker=None)
    shape = {"conditioning_channels": 1, "conditioning_embedding_out_channels": (4, 8)}
    nets = [ControlNetModel.from_unet(peer.unet, **shape) for _ in range(3)]
    parts = {**peer.components, "controlnet": MultiControlNetModel(nets)}
    StableDiffusionControlNetPipeline(**parts, requires_safety_checker=False).save_pretrained(path)
    return path


@pytest.fixture
def serve(digits) -> Iterator[Callable[..., TestClient]]:
    """Start a server; by default of the digits alone."""
    clients: list[TestClient] = []

    def start(models: dict[str, str] | None = None, **options: Any) -> TestClient:
        studio = Studio(
            models or {"digits": str(digits)},
            lambda: torch.device("cpu"),
            preload=False,
            **options,
        )
        client = TestClient(studio.application(), base_url=HERE, raise_server_exceptions=False)
        clients.append(client.__enter__())
        return client

    yield start
    for client in clients:
        client.__exit__(None, None, None)


def ask(
    client: TestClient,
    task: str,
    settings: dict[str, Any] | str,
    files: list[tuple[str, tuple[str, bytes, str]]] | None = None,
) -> list[dict[str, Any]]:
    """The events of a task."""
    text = settings if isinstance(settings, str) else json.dumps(settings)
    # A field as a file without a name, so that the body is multipart without any file as well.
    parts = [("settings", (None, text)), *(files or [])]
    response = client.post(f"/api/{task}", files=parts)
    if response.status_code != 200:
        return [{"type": "refused", "status": response.status_code, **response.json()}]
    assert response.headers["content-type"].startswith("text/event-stream")
    return [json.loads(part[6:]) for part in response.text.split("\n\n") if part.startswith("data")]


def of_type(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in events if event["type"] == kind]


def picture(
    field: str = "image", size: tuple[int, int] = (8, 8), name: str = "picture.png", seed: int = 0
) -> tuple[str, tuple[str, bytes, str]]:
    """An upload of random colours."""
    values = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, format="PNG")
    return field, (name, buffer.getvalue(), "image/png")
