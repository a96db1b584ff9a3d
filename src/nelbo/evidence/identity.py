"""What was evaluated, so that stored bounds are taken for those of nothing else.

A bound depends on the weights, and as much on the pixels, on what the model is conditioned on, and
on the chain: noise levels, variance, clipping, what the network predicts. Each is one line of the
settings of a `nelbo.evidence.bound_store.BoundStore`, which names those that differ.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from nelbo.data import ImageData
from nelbo.diffusion import Diffusion
from nelbo.evidence.bound_store import fingerprint
from nelbo.evidence.evaluation import chain_of
from nelbo.evidence.given import given_of
from nelbo.latent import LatentDiffusion
from nelbo.networks.guidance import GuidedNetwork
from nelbo.text import TextEncoder

# Images hashed at a time: those that are mapped from a file need not fit the memory.
_AT_ONCE = 4096


def identify(model: Diffusion | LatentDiffusion, data: ImageData) -> dict[str, Any]:
    """Everything that decides the bounds of a model on images, by what it is called in messages."""
    what = given_of(model, data).what
    conditioned = f"the {what}" if what else "-"
    return {**_of_images(data), **_of_model(model), "conditioned on": conditioned}


def identify_profile(model: Diffusion | LatentDiffusion) -> str:
    """The level profile of a model, where levels are drawn by it; "-" where there is none."""
    profile = model.profile
    if profile is None:
        return "-"
    square = profile.score_matching_square
    return _digest([json.dumps(profile.levels.tolist()), square])


def _of_images(data: ImageData) -> dict[str, Any]:
    captions = None if data.captions is None else json.dumps(data.captions)
    labels: list[str | Tensor] = [json.dumps(data.label_names)]
    labels += [] if data.labels is None else [data.labels]
    shape = "×".join(map(str, data.shape))
    return {
        "images": len(data),
        "names of the images": _digest([json.dumps(data.names)]),
        "pixels": f"{shape}, {_digest(data.images.split(_AT_ONCE))}",
        "captions": "-" if captions is None else _digest([captions]),
        "labels": "-" if data.labels is None else _digest(labels),
    }


def _of_model(model: Diffusion | LatentDiffusion) -> dict[str, Any]:
    chain = chain_of(model)
    schedule = chain.schedule
    threshold = chain.thresholding
    found: dict[str, Any] = {
        "weights": fingerprint(model),
        "network configuration": _config(chain.network),
        "noise levels": (
            f"{schedule.num_levels}, with alphas_cumprod from "
            f"{float(schedule.alphas_cumprod[1]):.6g} to {float(schedule.alphas_cumprod[-1]):.6g}, "
            + _digest([schedule.alphas_cumprod, schedule.network_times])
        ),
        "prediction": chain.prediction,
        "variance": chain.variance,
        "clip_sample": chain.clip_sample,
        "thresholding": "-" if threshold is None else repr(threshold),
        "pixel levels": repr(model.data),
        "guidance": _guidance(chain.network),
    }
    if chain.variance == "analytic":
        found["level profile"] = identify_profile(model)
    if isinstance(model, LatentDiffusion):
        found |= {
            "autoencoder configuration": _config(model.autoencoder),
            "scale of the latents": model.scale,
            "decoder_scale": model.decoder_scale,
            "text encoder": _text(model.text),
        }
    return found


def _guidance(network: Any) -> str:
    if not isinstance(network, GuidedNetwork):
        return "-"
    away = network.unconditional
    parts = [] if away is None else [v for v in vars(away).values() if v is not None]
    return f"{network.scale:g}, {network.times}, {network.rescale:g}, {_digest(parts)}"


def _text(text: nn.Module | None) -> str:
    """The configuration and the tokenizers, whose values are no weights."""
    if text is None:
        return "-"
    encoders = [part for part in text.modules() if isinstance(part, TextEncoder)]
    return _digest(
        [
            repr(getattr(text, "zeros", None)),
            *(json.dumps(each.config.to_dict(), sort_keys=True, default=str) for each in encoders),
            *(_vocabulary(each.tokenizer) for each in encoders),
        ]
    )


def _vocabulary(tokenizer: Any) -> str:
    words = json.dumps(tokenizer.get_vocab(), sort_keys=True)
    whole = getattr(tokenizer, "backend_tokenizer", None)
    # With the merges, which the words do not tell, where the tokenizer can be written down.
    return f"{words}{tokenizer.model_max_length}{'' if whole is None else whole.to_str()}"


def _config(network: Any) -> str:
    config: Any = getattr(network, "config", None)
    content = config.to_dict() if hasattr(config, "to_dict") else repr(config)
    return _digest([json.dumps(content, sort_keys=True, default=str)])


def _digest(parts: Iterable[str | Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        if isinstance(part, Tensor):
            plain = part.detach().cpu().contiguous().view(-1).view(torch.uint8)
            digest.update(plain.numpy().data)
        else:
            digest.update(part.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
