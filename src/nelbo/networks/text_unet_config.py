"""The fields of a text-conditional UNet, as in diffusers' `UNet2DConditionModel`.

The layouts are those of Stable Diffusion 1.x (1×1 convolutions around each transformer, 8 heads),
2.x (linear layers there, a number of heads for each resolution) and SDXL (several transformer
blocks a layer; the pooled prompt and the picture's size in the embedding).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nelbo.networks.config import per_level, unsupported
from nelbo.networks.unet_config import (
    MidKind,
    StageKind,
    UNetShape,
    require_frequencies,
    require_groups_divide,
)

DOWN_STAGES = {
    "DownBlock2D": StageKind(attention=None, resample="conv"),
    "CrossAttnDownBlock2D": StageKind(attention="cross", resample="conv"),
}
UP_STAGES = {
    "UpBlock2D": StageKind(attention=None, resample="conv"),
    "CrossAttnUpBlock2D": StageKind(attention="cross", resample="conv"),
}
MIDDLES = {
    "UNetMidBlock2DCrossAttn": MidKind(resnets=2, attention="cross"),
    "UNetMidBlock2D": MidKind(resnets=1, attention=None),
    None: None,
}
PER_LEVEL = (
    "layers_per_block",
    "attention_head_dim",
    "cross_attention_dim",
    "transformer_layers_per_block",
)
# Fields whose default is all that is supported.
_AS_USUAL = (
    *("dual_cross_attention", "reverse_transformer_layers_per_block", "encoder_hid_dim"),
    *("encoder_hid_dim_type", "num_attention_heads", "resnet_skip_time_act"),
    *("time_embedding_type", "time_embedding_act_fn", "timestep_post_act", "time_cond_proj_dim"),
    *("conv_in_kernel", "conv_out_kernel", "attention_type", "class_embeddings_concat"),
    "cross_attention_norm",
)


@dataclass(frozen=True)
class TextUNetConfig(UNetShape):
    """The shape of a text-conditional UNet; a mistake in it is a `NelboError` naming the field.

    Fields that only rare checkpoints change have one supported value each and are not listed.

    Attributes:
        mid_block_type: see `MIDDLES`.
        layers_per_block: like the other fields that may be lists, one for all resolutions or one
            for each.
        cross_attention_dim: D of the embedded prompt.
        transformer_layers_per_block: transformer blocks in each attention layer.
        attention_head_dim: the *number* of heads; the name is a mistake that the checkpoints keep.
        use_linear_projection: the layers around the transformer blocks are stored as linear maps,
            not as 1×1 convolutions.
        class_embed_type: as of a UNet without text, or "projection" (the label is a vector,
            through an MLP) | "simple_projection" (a matrix).
        projection_class_embeddings_input_dim: width of what the last two kinds and "text_time"
            project.
        addition_embed_type: None | "text_time": the pooled prompt and the embedded size of the
            picture are projected and added (Podell et al. 2023).
        addition_time_embed_dim: width of the embedding of each number of that size.
        upcast_attention: kept, without effect: the logits of `scaled_dot_product_attention` are
            accumulated in float32 whatever the precision of the weights.
    """

    class_name: ClassVar[str] = "UNet2DConditionModel"
    for_text: ClassVar[bool] = True

    in_channels: int = 4
    out_channels: int = 4
    down_block_types: tuple[str, ...] = (*["CrossAttnDownBlock2D"] * 3, "DownBlock2D")
    mid_block_type: str | None = "UNetMidBlock2DCrossAttn"
    up_block_types: tuple[str, ...] = ("UpBlock2D", *["CrossAttnUpBlock2D"] * 3)
    only_cross_attention: bool | tuple[bool, ...] = False
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    cross_attention_dim: int | tuple[int, ...] = 1280
    transformer_layers_per_block: int | tuple[int, ...] = 1
    reverse_transformer_layers_per_block: None = None
    encoder_hid_dim: None = None
    encoder_hid_dim_type: None = None
    attention_head_dim: int | tuple[int, ...] = 8
    num_attention_heads: None = None
    dual_cross_attention: bool = False
    use_linear_projection: bool = False
    addition_embed_type: str | None = None
    addition_time_embed_dim: int | None = None
    upcast_attention: bool | None = False
    resnet_skip_time_act: bool = False
    resnet_out_scale_factor: float = 1.0
    time_embedding_act_fn: None = None
    timestep_post_act: None = None
    time_cond_proj_dim: None = None
    conv_in_kernel: int = 3
    conv_out_kernel: int = 3
    projection_class_embeddings_input_dim: int | None = None
    attention_type: str = "default"
    class_embeddings_concat: bool = False
    mid_block_only_cross_attention: bool | None = None
    cross_attention_norm: None = None
    addition_embed_type_num_heads: int = 64

    def __post_init__(self) -> None:
        self._check_shared()
        self._to_tuples("only_cross_attention", *PER_LEVEL)
        self._check_own()
        self._check_stages()
        self._check_embeddings()

    @property
    def layers(self) -> tuple[int, ...]:
        """Residual blocks at each resolution on the way down."""
        return self._per_level(self.layers_per_block)

    @property
    def heads(self) -> tuple[int, ...]:
        """Attention heads at each resolution."""
        return self._per_level(self.attention_head_dim)

    @property
    def context_dims(self) -> tuple[int, ...]:
        """Width of the prompt as seen at each resolution."""
        return self._per_level(self.cross_attention_dim)

    @property
    def depths(self) -> tuple[int, ...]:
        """Transformer blocks in each attention layer, at each resolution."""
        return self._per_level(self.transformer_layers_per_block)

    @property
    def mid(self) -> MidKind | None:
        """The middle, if there is one."""
        return MIDDLES[self.mid_block_type]

    @property
    def takes_text(self) -> bool:
        """Whether any layer attends to a prompt."""
        kinds = [self.mid, *map(DOWN_STAGES.get, self.down_block_types)]
        kinds += map(UP_STAGES.get, self.up_block_types)
        return any(kind is not None and kind.attention == "cross" for kind in kinds)

    @property
    def takes_size(self) -> bool:
        """Whether the pooled prompt and the size of the picture are embedded (SDXL)."""
        return self.addition_embed_type == "text_time"

    @property
    def embedding_activation(self) -> str:
        """The non-linearity inside the embedding of the level."""
        return self.act_fn

    @property
    def output_activation(self) -> str:
        """The non-linearity before the last convolution."""
        return self.act_fn

    def down_stage(self, level: int) -> StageKind:
        """The stage at resolution `level` (0 is the highest) on the way down."""
        return DOWN_STAGES[self.down_block_types[level]]

    def up_stage(self, level: int) -> StageKind:
        """The stage at resolution `level` (0 is the highest) on the way up."""
        return UP_STAGES[self.up_block_types[-1 - level]]

    def _per_level(self, value: int | tuple[int, ...]) -> tuple[int, ...]:
        return per_level(value, len(self.block_out_channels))

    def _check_own(self) -> None:
        widths = self.block_out_channels
        kinds = (None, "timestep", "identity", "projection", "simple_projection")
        self._require_choice(
            {
                "mid_block_type": tuple(MIDDLES),
                "use_linear_projection": (False, True),
                "class_embed_type": kinds,
                "addition_embed_type": (None, "text_time"),
                "upcast_attention": (False, True, None),
                # One supported value each from here on.
                "only_cross_attention": (False, (False,) * len(widths)),
                "mid_block_only_cross_attention": (None, False),
                "resnet_out_scale_factor": (1.0, 1),
            }
            | {name: (getattr(TextUNetConfig, name),) for name in _AS_USUAL}
        )
        self._require_positive(
            "addition_time_embed_dim", "projection_class_embeddings_input_dim", optional=True
        )
        for name in PER_LEVEL:
            self._require_per_level(name, len(widths))

    def _check_stages(self) -> None:
        widths = self.block_out_channels
        self._require_block_types("down_block_types", DOWN_STAGES, len(widths))
        self._require_block_types("up_block_types", UP_STAGES, len(widths))
        require_frequencies(widths[0], self.freq_shift)
        require_groups_divide(widths, self.norm_num_groups)
        for level, (width, heads) in enumerate(zip(widths, self.heads, strict=True)):
            lowest = level == len(widths) - 1
            kinds = [self.down_stage(level), self.up_stage(level), self.mid if lowest else None]
            if any(kind is not None and kind.attention for kind in kinds) and width % heads:
                raise unsupported(
                    "attention_head_dim",
                    self.attention_head_dim,
                    f"numbers of heads that divide block_out_channels={widths}",
                )

    def _check_embeddings(self) -> None:
        width = self.projection_class_embeddings_input_dim
        if self.class_embed_type in ("projection", "simple_projection") and width is None:
            raise unsupported(
                "projection_class_embeddings_input_dim", None, "the width of the class vectors"
            )
        if self.addition_embed_type == "text_time":
            if width is None:
                raise unsupported(
                    "projection_class_embeddings_input_dim",
                    None,
                    "the width of the pooled prompt and the embedded size together",
                )
            if self.addition_time_embed_dim is None:
                raise unsupported("addition_time_embed_dim", None, "a positive integer")
