"""The text encoders in a single file: CLIP as transformers names it, and OpenCLIP.

OpenCLIP keeps queries, keys and values in one matrix, and its projection transposed.
"""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from nelbo.formats.single.renaming import Rules, Weights, counted, renamed

_HEAD_WIDTH = 64
_OUTSIDE: Rules = (
    ("token_embedding.", "embeddings.token_embedding."),
    ("positional_embedding", "embeddings.position_embedding.weight"),
    ("ln_final.", "final_layer_norm."),
)
_LAYER: Rules = (
    ("ln_1.", "layer_norm1."),
    ("ln_2.", "layer_norm2."),
    ("attn.out_proj.", "self_attn.out_proj."),
    ("mlp.c_fc.", "mlp.fc1."),
    ("mlp.c_proj.", "mlp.fc2."),
)
_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.(.*)")
_PROJECTION = "text_projection"
_BUFFERS = ("logit_scale", "embeddings.position_ids", "attn_mask")


def rename_clip(weights: Weights) -> dict[str, Tensor]:
    """The weights of a CLIP text encoder below `text_model`, and its projection if it has one."""
    found = {}
    for name, weight in weights.items():
        name = name.removeprefix("text_model.")
        if name not in _BUFFERS:
            found[name] = weight
    return found


def rename_open_clip(weights: Weights, layers: int | None = None) -> dict[str, Tensor]:
    """The weights of an OpenCLIP text encoder as those of CLIP.

    Args:
        weights: as the file names them.
        layers: how many layers to keep; None keeps all.
    """
    found: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if name == _PROJECTION:
            found[f"{_PROJECTION}.weight"] = weight.T.contiguous()
        elif match := _BLOCK.match(name):
            layer, rest = int(match[1]), match[2]
            if layers is not None and layer >= layers:
                continue
            start = f"encoder.layers.{layer}"
            if rest.startswith("attn.in_proj_"):
                kind = rest.removeprefix("attn.in_proj_")
                for letter, one in zip("qkv", weight.chunk(3), strict=True):
                    found[f"{start}.self_attn.{letter}_proj.{kind}"] = one
            else:
                found[f"{start}.{renamed(rest, _LAYER)}"] = weight
        elif name not in _BUFFERS:
            found[renamed(name, _OUTSIDE)] = weight
    return found


def clip_fields(weights: Weights, activation: str) -> dict[str, Any]:
    """The fields of a `CLIPTextConfig`, from renamed weights.

    Args:
        weights: as `rename_clip` and `rename_open_clip` name them.
        activation: "quick_gelu" of CLIP, "gelu" of OpenCLIP.
    """
    words, width = weights["embeddings.token_embedding.weight"].shape
    projection = weights.get(f"{_PROJECTION}.weight")
    return {
        "vocab_size": words,
        "hidden_size": width,
        "intermediate_size": len(weights["encoder.layers.0.mlp.fc1.weight"]),
        "num_hidden_layers": counted(weights, r"encoder\.layers\.(\d+)\."),
        "num_attention_heads": width // _HEAD_WIDTH,
        "max_position_embeddings": len(weights["embeddings.position_embedding.weight"]),
        "hidden_act": activation,
        "projection_dim": width if projection is None else len(projection),
    }
