"""What was evaluated, so that stored bounds are taken for those of nothing else.

A bound depends on the weights, and as much on the pixels, on what the model is conditioned on, and
on the chain: noise levels, variance, clipping, what the network predicts. Each is one line of the
settings of a `nelbo.evidence.bound_store.BoundStore`, which names those that differ.
"""

from __future__ import annotations

import json
from typing import Any

from torch import Tensor

from nelbo.base.digest import digest
from nelbo.chain.model import Model
from nelbo.data import ImageData
from nelbo.diffusion import Diffusion
from nelbo.evidence.given import given_of

# Images hashed at a time: those that are mapped from a file need not fit the memory.
_AT_ONCE = 4096


def identify(model: Model, data: ImageData) -> dict[str, Any]:
    """Everything that decides the bounds of a model on images, by what it is called in messages."""
    what = given_of(model, data).what
    conditioned = f"the {what}" if what else "-"
    weights = (part for named in sorted(model.state_dict().items()) for part in named)
    return {
        **_of_images(data),
        "weights": digest(weights, size=16),
        **model.identity(),
        "conditioned on": conditioned,
    }


def identify_profile(model: Model) -> str:
    """The level profile of a model, where levels are drawn by it; "-" where there is none."""
    chain: Diffusion | None = model.chain
    return "-" if chain is None or chain.profile is None else chain.profile.digest()


def _of_images(data: ImageData) -> dict[str, Any]:
    captions = None if data.captions is None else json.dumps(data.captions)
    labels: list[str | Tensor] = [json.dumps(data.label_names)]
    labels += [] if data.labels is None else [data.labels]
    shape = "×".join(map(str, data.shape))
    return {
        "images": len(data),
        "names of the images": digest([json.dumps(data.names)]),
        "pixels": f"{shape}, {digest(data.images.split(_AT_ONCE))}",
        "captions": "-" if captions is None else digest([captions]),
        "controls": "-" if data.controls is None else digest(data.controls.split(_AT_ONCE)),
        "labels": "-" if data.labels is None else digest(labels),
    }
