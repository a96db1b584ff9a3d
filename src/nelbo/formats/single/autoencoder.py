"""The autoencoder of Stable Diffusion, and of later models that keep its layout.

Its decoder counts resolutions from the highest, and its attention is stored as 1×1 convolutions.
"""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from nelbo.formats.single.renaming import Rules, Weights, counted, renamed

_RESNET: Rules = (("nin_shortcut.", "conv_shortcut."),)
_ATTENTION: Rules = (
    ("norm.", "group_norm."),
    ("q.", "to_q."),
    ("k.", "to_k."),
    ("v.", "to_v."),
    ("proj_out.", "to_out.0."),
)
_STAGE = re.compile(r"(encoder\.down|decoder\.up)\.(\d+)\.(block|attn)\.(\d+)\.(.*)")
_CHANGE = re.compile(r"(encoder\.down|decoder\.up)\.(\d+)\.(down|up)sample\.(conv\..*)")
_MIDDLE = re.compile(r"(encoder|decoder)\.mid\.(block|attn)_(\d)\.(.*)")


def rename_autoencoder(weights: Weights) -> dict[str, Tensor]:
    """The weights of an autoencoder as diffusers names them."""
    stages = counted(weights, r"encoder\.down\.(\d+)\.")
    found = {}
    for name, weight in weights.items():
        new = _name(name, stages)
        if "attentions" in new and weight.ndim == 4:
            weight = weight.flatten(1)
        found[new] = weight
    return found


def autoencoder_fields(weights: Weights, scaling_factor: float) -> dict[str, Any]:
    """The fields of an `AutoencoderKL`, from weights as the file names them."""
    stages = counted(weights, r"encoder\.down\.(\d+)\.")
    return {
        "in_channels": weights["encoder.conv_in.weight"].shape[1],
        "out_channels": len(weights["decoder.conv_out.weight"]),
        "down_block_types": ["DownEncoderBlock2D"] * stages,
        "up_block_types": ["UpDecoderBlock2D"] * stages,
        "block_out_channels": [
            len(weights[f"encoder.down.{i}.block.0.conv1.weight"]) for i in range(stages)
        ],
        "layers_per_block": counted(weights, r"encoder\.down\.0\.block\.(\d+)\."),
        "latent_channels": weights["decoder.conv_in.weight"].shape[1],
        "scaling_factor": scaling_factor,
        "use_quant_conv": "quant_conv.weight" in weights,
        "use_post_quant_conv": "post_quant_conv.weight" in weights,
    }


def _name(name: str, stages: int) -> str:
    if match := _STAGE.match(name):
        start = _stage(match[1], int(match[2]), stages)
        if match[3] == "block":
            return f"{start}.resnets.{match[4]}.{renamed(match[5], _RESNET)}"
        return f"{start}.attentions.{match[4]}.{renamed(match[5], _ATTENTION)}"
    if match := _CHANGE.match(name):
        return f"{_stage(match[1], int(match[2]), stages)}.{match[3]}samplers.0.{match[4]}"
    if match := _MIDDLE.match(name):
        number, start = int(match[3]) - 1, f"{match[1]}.mid_block"
        if match[2] == "block":
            return f"{start}.resnets.{number}.{renamed(match[4], _RESNET)}"
        return f"{start}.attentions.{number}.{renamed(match[4], _ATTENTION)}"
    return name.replace(".norm_out.", ".conv_norm_out.")


def _stage(side: str, number: int, stages: int) -> str:
    if side == "encoder.down":
        return f"encoder.down_blocks.{number}"
    return f"decoder.up_blocks.{stages - 1 - number}"
