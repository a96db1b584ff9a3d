"""The UNet of Stable Diffusion 1, 2 and XL, and the ControlNets of it.

`input_blocks` and `output_blocks` are rows of layers, each a residual block with its transformer,
or a change of resolution.
"""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from nelbo.formats.single.renaming import Rules, Weights, counted, renamed

# The width of an attention head of Stable Diffusion 2 and XL; the first version has 8 heads.
_HEAD_WIDTH, _HEADS = 64, 8
_FIRST_CONTEXT = 768
_SIZE_WIDTH = 256

_RESNET: Rules = (
    ("in_layers.0.", "norm1."),
    ("in_layers.2.", "conv1."),
    ("emb_layers.1.", "time_emb_proj."),
    ("out_layers.0.", "norm2."),
    ("out_layers.3.", "conv2."),
    ("skip_connection.", "conv_shortcut."),
)
_OUTSIDE: Rules = (
    ("time_embed.0.", "time_embedding.linear_1."),
    ("time_embed.2.", "time_embedding.linear_2."),
    ("label_emb.0.0.", "add_embedding.linear_1."),
    ("label_emb.0.2.", "add_embedding.linear_2."),
    ("input_blocks.0.0.", "conv_in."),
    ("middle_block.0.", "mid_block.resnets.0."),
    ("middle_block.1.", "mid_block.attentions.0."),
    ("middle_block.2.", "mid_block.resnets.1."),
    ("out.0.", "conv_norm_out."),
    ("out.2.", "conv_out."),
)
_BLOCK = re.compile(r"(input|output)_blocks\.(\d+)\.(\d)\.(.*)")
_HINT = re.compile(r"input_hint_block\.(\d+)\.(.*)")


def rename_unet(weights: Weights) -> dict[str, Tensor]:
    """The weights of a UNet, or of the half that a ControlNet has, as diffusers names them."""
    layers = _layers(weights)
    return {_unet_name(name, layers): weight for name, weight in weights.items()}


def unet_fields(weights: Weights) -> dict[str, Any]:
    """The fields of a `UNet2DConditionModel`, from weights as the file names them."""
    shared = _encoder_fields(weights)
    kinds = [kind.replace("Down", "Up") for kind in reversed(shared["down_block_types"])]
    return shared | {"up_block_types": kinds, "out_channels": len(weights["out.2.weight"])}


def rename_controlnet(weights: Weights) -> dict[str, Tensor]:
    """The weights of a ControlNet as diffusers names them."""
    last = counted(weights, r"input_hint_block\.(\d+)\.") - 1
    found: dict[str, Tensor] = {}
    plain: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if match := _HINT.match(name):
            i, rest = int(match[1]), match[2]
            # Every second layer is an activation.
            place = {0: "conv_in", last: "conv_out"}.get(i, f"blocks.{i // 2 - 1}")
            found[f"controlnet_cond_embedding.{place}.{rest}"] = weight
        elif name.startswith("zero_convs."):
            _, i_, _, rest = name.split(".")
            found[f"controlnet_down_blocks.{i_}.{rest}"] = weight
        elif name.startswith("middle_block_out.0."):
            found[renamed(name, (("middle_block_out.0.", "controlnet_mid_block."),))] = weight
        else:
            plain[name] = weight
    return found | rename_unet(plain)


def controlnet_fields(weights: Weights) -> dict[str, Any]:
    """The fields of a `ControlNetModel`, from weights as the file names them."""
    last = counted(weights, r"input_hint_block\.(\d+)\.") - 1
    widths = [len(weights[f"input_hint_block.{i}.weight"]) for i in range(0, last, 4)]
    return _encoder_fields(weights) | {
        "conditioning_channels": weights["input_hint_block.0.weight"].shape[1],
        "conditioning_embedding_out_channels": widths,
    }


def _encoder_fields(weights: Weights) -> dict[str, Any]:
    layers, count = _layers(weights), counted(weights, r"input_blocks\.(\d+)\.")
    stages = (count + layers) // (layers + 1)
    widths, depths, context = [], [], 0
    for stage in range(stages):
        block = f"input_blocks.{1 + stage * (layers + 1)}"
        widths.append(len(weights[f"{block}.0.out_layers.3.weight"]))
        depths.append(counted(weights, rf"{re.escape(block)}\.1\.transformer_blocks\.(\d+)\."))
    middle = "middle_block.1"
    context = weights[f"{middle}.transformer_blocks.0.attn2.to_k.weight"].shape[1]
    deepest = counted(weights, rf"{middle}\.transformer_blocks\.(\d+)\.")
    # A resolution without attention lists the depth of the nearest that has it.
    listed = [depth or 1 for depth in depths[:-1]] + [deepest]
    heads = [_HEADS if context == _FIRST_CONTEXT else width // _HEAD_WIDTH for width in widths]
    fields: dict[str, Any] = {
        "in_channels": weights["input_blocks.0.0.weight"].shape[1],
        "block_out_channels": widths,
        "layers_per_block": layers,
        "down_block_types": [
            "CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths
        ],
        "cross_attention_dim": context,
        "attention_head_dim": heads,
        "transformer_layers_per_block": listed,
        "use_linear_projection": weights[f"{middle}.proj_in.weight"].ndim == 2,
    }
    if "label_emb.0.0.weight" in weights:
        fields |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": _SIZE_WIDTH,
            "projection_class_embeddings_input_dim": weights["label_emb.0.0.weight"].shape[1],
        }
    return fields


def _layers(weights: Weights) -> int:
    """Residual blocks a resolution on the way down."""
    changes = [
        int(match[1])
        for match in (re.match(r"input_blocks\.(\d+)\.0\.op\.weight", name) for name in weights)
        if match
    ]
    return min(changes) - 1 if changes else counted(weights, r"input_blocks\.(\d+)\.") - 1


def _unet_name(name: str, layers: int) -> str:
    match = _BLOCK.match(name)
    if match is None or name.startswith("input_blocks.0."):
        name = renamed(name, _OUTSIDE)
        start, resnet, rest = name.partition(".resnets.")
        if not resnet:
            return name
        number, _, inner = rest.partition(".")
        return f"{start}{resnet}{number}.{renamed(inner, _RESNET)}"
    way, row, place, rest = match[1], int(match[2]), int(match[3]), match[4]
    stage, layer = divmod(row - (way == "input"), layers + 1)
    side = "down" if way == "input" else "up"
    start = f"{side}_blocks.{stage}"
    if rest.startswith("op."):
        return f"{start}.downsamplers.0.conv.{rest[3:]}"
    if place == 0:
        return f"{start}.resnets.{layer}.{renamed(rest, _RESNET)}"
    if rest.startswith("conv."):
        return f"{start}.upsamplers.0.{rest}"
    return f"{start}.attentions.{layer}.{rest}"
