"""The fields of a text-conditional UNet, as in diffusers' `UNet2DConditionModel`.

The layouts are those of Stable Diffusion 1.x (1×1 convolutions around each transformer, 8 heads),
2.x (linear layers there, a number of heads for each resolution) and SDXL (several transformer
blocks a layer; the pooled prompt and the picture's size in the embedding).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nelbo.networks.config import per_level, unsupported
from nelbo.networks.denoiser import DenoiserConfig
from nelbo.networks.normalization import ACTIVATIONS
from nelbo.networks.unet_config import (
    MidKind,
    StageKind,
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


@dataclass(frozen=True)
class TextUNetConfig(DenoiserConfig):
    """The shape of a text-conditional UNet; a mistake in it is a `NelboError` naming the field.

    Fields that only rare checkpoints change have one supported value each and are not listed.

    Attributes:
        sample_size: height and width the network was made for; informative, any fitting size runs.
        in_channels: channels of x_t.
        out_channels: channels of the output; 2 · in_channels for a learned variance.
        center_input_sample: map an input in [0, 1] to [−1, 1] first.
        flip_sin_to_cos: cosines come before sines in the embedding of the level.
        freq_shift: s in the sinusoidal frequencies; 1 is that of Ho et al. (2020).
        down_block_types: one a resolution, from the highest; see `DOWN_STAGES`.
        mid_block_type: see `MIDDLES`.
        up_block_types: one a resolution, from the lowest; see `UP_STAGES`.
        block_out_channels: width at each resolution, from the highest.
        layers_per_block: residual blocks a resolution on the way down; one more on the way up.
            Like the other fields that may be lists, one for all resolutions or one for each.
        downsample_padding: 1, or 0 to pad below and on the right only.
        mid_block_scale_factor: ρ of the residual layers in the middle.
        dropout: probability in the residual blocks.
        act_fn: "silu" ("swish") | "mish" | "gelu" | "relu".
        norm_num_groups: groups of every normalisation.
        norm_eps: epsilon of the residual blocks' normalisations.
        cross_attention_dim: D of the embedded prompt.
        transformer_layers_per_block: transformer blocks in each attention layer.
        attention_head_dim: the *number* of heads; the name is a mistake that the checkpoints keep.
        use_linear_projection: the layers around the transformer blocks are stored as linear maps,
            not as 1×1 convolutions.
        class_embed_type: None (a table of num_class_embeds vectors, if that is given) |
            "timestep" (the label is embedded as a time) | "identity" (the label is an embedding) |
            "projection" (the label is a vector, through an MLP) | "simple_projection" (a matrix).
        num_class_embeds: number of classes.
        projection_class_embeddings_input_dim: width of what the last two kinds and "text_time"
            project.
        addition_embed_type: None | "text_time": the pooled prompt and the embedded size of the
            picture are projected and added (Podell et al. 2023).
        addition_time_embed_dim: width of the embedding of each number of that size.
        upcast_attention: kept, without effect: the logits of `scaled_dot_product_attention` are
            accumulated in float32 whatever the precision of the weights.
        resnet_time_scale_shift: "default" (added) | "scale_shift".
        time_embedding_dim: width of the embedding, 4 · block_out_channels[0] if None.
    """

    class_name: ClassVar[str] = "UNet2DConditionModel"
    for_text: ClassVar[bool] = True

    in_channels: int = 4
    out_channels: int = 4
    center_input_sample: bool = False
    flip_sin_to_cos: bool = True
    freq_shift: float = 0
    down_block_types: tuple[str, ...] = (*["CrossAttnDownBlock2D"] * 3, "DownBlock2D")
    mid_block_type: str | None = "UNetMidBlock2DCrossAttn"
    up_block_types: tuple[str, ...] = ("UpBlock2D", *["CrossAttnUpBlock2D"] * 3)
    only_cross_attention: bool | tuple[bool, ...] = False
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int | tuple[int, ...] = 2
    downsample_padding: int = 1
    mid_block_scale_factor: float = 1
    dropout: float = 0.0
    act_fn: str = "silu"
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    cross_attention_dim: int | tuple[int, ...] = 1280
    transformer_layers_per_block: int | tuple[int, ...] = 1
    reverse_transformer_layers_per_block: None = None
    encoder_hid_dim: None = None
    encoder_hid_dim_type: None = None
    attention_head_dim: int | tuple[int, ...] = 8
    num_attention_heads: None = None
    dual_cross_attention: bool = False
    use_linear_projection: bool = False
    class_embed_type: str | None = None
    addition_embed_type: str | None = None
    addition_time_embed_dim: int | None = None
    num_class_embeds: int | None = None
    upcast_attention: bool | None = False
    resnet_time_scale_shift: str = "default"
    resnet_skip_time_act: bool = False
    resnet_out_scale_factor: float = 1.0
    time_embedding_type: str = "positional"
    time_embedding_dim: int | None = None
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
        for name in ("down_block_types", "up_block_types", "block_out_channels"):
            self._require_list(name)
        self._to_tuples("sample_size", "only_cross_attention", *PER_LEVEL)
        self._check_choices()
        self._check_numbers()
        self._check_stages()
        self._check_embeddings()

    @property
    def embedding_dim(self) -> int:
        """Width of the summed embedding of time and conditions."""
        return self.time_embedding_dim or 4 * self.block_out_channels[0]

    @property
    def size_divisor(self) -> int:
        """Height and width of an input must be multiples of this."""
        return 2 ** (len(self.block_out_channels) - 1)

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

    def _check_choices(self) -> None:
        levels = len(self.block_out_channels)
        self._require_choice(
            {
                "center_input_sample": (False, True),
                "flip_sin_to_cos": (False, True),
                "mid_block_type": tuple(MIDDLES),
                "downsample_padding": (0, 1),
                "act_fn": tuple(ACTIVATIONS),
                "use_linear_projection": (False, True),
                "class_embed_type": (
                    None,
                    "timestep",
                    "identity",
                    "projection",
                    "simple_projection",
                ),
                "addition_embed_type": (None, "text_time"),
                "upcast_attention": (False, True, None),
                "resnet_time_scale_shift": ("default", "scale_shift"),
                # One supported value each from here on.
                "only_cross_attention": (False, (False,) * levels),
                "mid_block_only_cross_attention": (None, False),
                "dual_cross_attention": (False,),
                "reverse_transformer_layers_per_block": (None,),
                "encoder_hid_dim": (None,),
                "encoder_hid_dim_type": (None,),
                "num_attention_heads": (None,),
                "resnet_skip_time_act": (False,),
                "resnet_out_scale_factor": (1.0, 1),
                "time_embedding_type": ("positional",),
                "time_embedding_act_fn": (None,),
                "timestep_post_act": (None,),
                "time_cond_proj_dim": (None,),
                "conv_in_kernel": (3,),
                "conv_out_kernel": (3,),
                "attention_type": ("default",),
                "class_embeddings_concat": (False,),
                "cross_attention_norm": (None,),
            }
        )

    def _check_numbers(self) -> None:
        self._require_positive("in_channels", "out_channels", "norm_num_groups")
        self._require_positive(
            "time_embedding_dim",
            "num_class_embeds",
            "addition_time_embed_dim",
            "projection_class_embeddings_input_dim",
            optional=True,
        )
        self._require_positives("block_out_channels")
        for name in PER_LEVEL:
            self._require_per_level(name, len(self.block_out_channels))
        self._require_number("mid_block_scale_factor", "norm_eps", "freq_shift", "dropout")
        if not self.mid_block_scale_factor:
            raise unsupported("mid_block_scale_factor", 0, "a number other than zero")
        if not 0 <= self.dropout <= 1:
            raise unsupported("dropout", self.dropout, "a probability")
        self._require_size("sample_size")

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
