"""The transformer to train for pictures or latents of a size: its blocks, patches and heads."""

from __future__ import annotations

from typing import Any

from nelbo.base.errors import NelboError
from nelbo.data.size import divisible_near
from nelbo.networks import DiT, DiTConfig, TextDiT, TextDiTConfig
from nelbo.training.memory import built_within_memory

# Widths to choose among; from 384 on those of DiT-S and B, with their number of blocks.
WIDTHS = (32, 64, 96, 128, 192, 256, 384, 512, 768)
_HEAD = 32
_FEWEST_BLOCKS, _MOST_BLOCKS = 4, 12
# Patches along a side that a default patch makes, at most.
_PATCHES = 16


def build_transformer(
    shape: tuple[int, ...],
    *,
    width: int,
    blocks: int | None = None,
    patch: int | None = None,
    out_channels: int | None = None,
    num_classes: int = 0,
    text_width: int | None = None,
    dropout: float = 0.0,
    source: str = "the images",
) -> DiT | TextDiT:
    """A fresh transformer.

    Args:
        shape: (C, H, W) of what it denoises.
        width: of its tokens.
        blocks: how many; by default a thirty-second of the width, from 4 to 12.
        patch: side of a patch; by default the smallest power of two that makes at most 16 a side.
        out_channels: as many as C by default.
        num_classes: of the labels; 0 for none.
        text_width: of the embedded prompt, for a network that attends to one.
        dropout: in attention and MLP.
        source: what the shape is of, for messages.

    Raises:
        NelboError: a patch that does not divide the shape, or a width that 4 does not.
    """
    channels, height, width_of_picture = shape
    patch = patch or usual_patch(height, width_of_picture)
    if height % patch or width_of_picture % patch:
        near = divisible_near((height, width_of_picture), patch)
        raise NelboError(
            f"{source} are {height}×{width_of_picture}, which patches of {patch} pixels (--patch) "
            f"do not divide: give another --patch, or {near}"
        )
    if width < 4 or width % 4:
        raise NelboError(f"--widths of a transformer must be a multiple of 4, got {width}")
    heads = next(n for n in range(max(1, width // _HEAD), 0, -1) if width % n == 0)
    fields: dict[str, Any] = {
        "num_attention_heads": heads,
        "attention_head_dim": width // heads,
        "num_layers": blocks or usual_blocks(width),
        "in_channels": channels,
        "out_channels": out_channels or channels,
        "sample_size": max(height, width_of_picture),
        "patch_size": patch,
        "dropout": dropout,
    }
    if text_width is None:
        config = DiTConfig(**fields, num_embeds_ada_norm=num_classes)
        return built_within_memory(lambda: DiT(config))
    text: dict[str, Any] = {"caption_channels": text_width, "cross_attention_dim": width}
    of_text = TextDiTConfig(**fields, **text, use_additional_conditions=False)
    return built_within_memory(lambda: TextDiT(of_text))


def usual_blocks(width: int) -> int:
    """A thirty-second of the width, as DiT-S has it, from 4 to 12."""
    return max(_FEWEST_BLOCKS, min(_MOST_BLOCKS, width // _HEAD))


def usual_patch(height: int, width: int) -> int:
    """The smallest power of two that makes at most 16 patches a side and divides both."""
    patch = 1
    while (
        max(height, width) > _PATCHES * patch and height % (2 * patch) == width % (2 * patch) == 0
    ):
        patch *= 2
    return patch


def one_width(widths: tuple[int, ...], usual: int) -> int:
    """The width of a transformer, of what --widths holds.

    Raises:
        NelboError: several.
    """
    if len(widths) > 1:
        raise NelboError(
            f"--widths of --network dit is one number, the width of its tokens, got {list(widths)}"
        )
    return widths[0] if widths else usual
