"""The fields of a ControlNet: as in diffusers' `ControlNetModel`, or of a UNet without text."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar

from nelbo.base.errors import NelboError
from nelbo.networks.config import NetworkConfig, unsupported
from nelbo.networks.text_unet_config import TextUNetConfig
from nelbo.networks.unet_config import UNetConfig

_MIRROR = {"CrossAttnDownBlock2D": "CrossAttnUpBlock2D"}


class ControlFields:
    """What every ControlNet states of its control."""

    conditioning_embedding_out_channels: tuple[int, ...]

    @property
    def downscale(self) -> int:
        """Ratio of the height and width of the control to those of x_t."""
        return 2 ** (len(self.conditioning_embedding_out_channels) - 1)


@dataclass(frozen=True)
class ControlNetConfig(ControlFields, NetworkConfig):
    """The shape of a ControlNet: that of the UNet it was copied from, and of the control.

    Fields that are also a `TextUNetConfig`'s mean the same as there.

    Attributes:
        conditioning_channels: channels of the control.
        controlnet_conditioning_channel_order: "rgb", or "bgr" to reverse the control's channels.
        conditioning_embedding_out_channels: widths of the convolutions that take the control to
            the resolution of x_t, halving it between one and the next.
    """

    class_name: ClassVar[str] = "ControlNetModel"

    in_channels: int = 4
    conditioning_channels: int = 3
    flip_sin_to_cos: bool = True
    freq_shift: float = 0
    down_block_types: tuple[str, ...] = (*["CrossAttnDownBlock2D"] * 3, "DownBlock2D")
    mid_block_type: str | None = "UNetMidBlock2DCrossAttn"
    only_cross_attention: bool | tuple[bool, ...] = False
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    downsample_padding: int = 1
    mid_block_scale_factor: float = 1
    act_fn: str = "silu"
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    cross_attention_dim: int = 1280
    transformer_layers_per_block: int | tuple[int, ...] = 1
    encoder_hid_dim: None = None
    encoder_hid_dim_type: None = None
    attention_head_dim: int | tuple[int, ...] = 8
    num_attention_heads: None = None
    use_linear_projection: bool = False
    class_embed_type: str | None = None
    addition_embed_type: str | None = None
    addition_time_embed_dim: int | None = None
    num_class_embeds: int | None = None
    upcast_attention: bool | None = False
    resnet_time_scale_shift: str = "default"
    projection_class_embeddings_input_dim: int | None = None
    controlnet_conditioning_channel_order: str = "rgb"
    conditioning_embedding_out_channels: tuple[int, ...] = (16, 32, 96, 256)
    global_pool_conditions: bool = False
    addition_embed_type_num_heads: int = 64

    def __post_init__(self) -> None:
        for name in (
            "down_block_types",
            "block_out_channels",
            "conditioning_embedding_out_channels",
        ):
            self._require_list(name)
        self._to_tuples(
            "only_cross_attention", "transformer_layers_per_block", "attention_head_dim"
        )
        self._require_positive("conditioning_channels", "layers_per_block", "cross_attention_dim")
        self._require_positives("conditioning_embedding_out_channels")
        self._require_choice(
            {
                "controlnet_conditioning_channel_order": ("rgb", "bgr"),
                # With it diffusers' pipelines also guide differently.
                "global_pool_conditions": (False,),
                "mid_block_type": ("UNetMidBlock2DCrossAttn", "UNetMidBlock2D"),
                "class_embed_type": (None, "timestep", "identity", "projection"),
            }
        )
        if self.class_embed_type == "timestep" and self.layout.act_fn not in ("silu", "swish"):
            raise unsupported("act_fn", self.act_fn, "'silu' with class_embed_type='timestep'")
        _ = self.layout  # Checks the fields the two have in common.

    @cached_property
    def layout(self) -> TextUNetConfig:
        """The UNet whose encoder this is."""
        down = reversed(self.down_block_types)
        mirrored = tuple(_MIRROR.get(str(kind), "UpBlock2D") for kind in down)
        return TextUNetConfig(
            up_block_types=mirrored, **{name: getattr(self, name) for name in shared_fields()}
        )


@dataclass(frozen=True)
class PlainControlNetConfig(ControlFields, UNetConfig):
    """The shape of the ControlNet of a UNet without text: the UNet's fields, and the control's.

    Fields of the way up are kept, without effect. For those of the control see `ControlNetConfig`.
    """

    class_name: ClassVar[str] = "UNet2DControlNet"

    conditioning_channels: int = 3
    controlnet_conditioning_channel_order: str = "rgb"
    conditioning_embedding_out_channels: tuple[int, ...] = (16,)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_list("conditioning_embedding_out_channels")
        self._require_positive("conditioning_channels")
        self._require_positives("conditioning_embedding_out_channels")
        self._require_choice({"controlnet_conditioning_channel_order": ("rgb", "bgr")})

    @property
    def layout(self) -> UNetConfig:
        """The UNet whose encoder this is."""
        return self


def config_for(
    unet: UNetConfig | TextUNetConfig, **control: Any
) -> ControlNetConfig | PlainControlNetConfig:
    """The config of a ControlNet for a UNet.

    Args:
        unet: that of the UNet.
        **control: the fields for the control.

    Raises:
        NelboError: a UNet with a field that a ControlNet has none for.
    """
    if isinstance(unet, UNetConfig):
        of_unet = {field.name: getattr(unet, field.name) for field in fields(UNetConfig)}
        return PlainControlNetConfig(**(of_unet | control))
    if unet.time_embedding_dim not in (None, 4 * unet.block_out_channels[0]):
        raise NelboError(
            f"the UNet has time_embedding_dim={unet.time_embedding_dim}, for which a ControlNet "
            "has no field"
        )
    shared = {name: getattr(unet, name) for name in shared_fields()}
    return ControlNetConfig(**(shared | control))


def check_controls(
    controlnet: ControlNetConfig | PlainControlNetConfig, unet: UNetConfig | TextUNetConfig
) -> None:
    """Raise `NelboError` for a ControlNet whose features are not those of a UNet."""
    for name in ("block_out_channels", "layers_per_block", "in_channels", "cross_attention_dim"):
        found, wanted = getattr(controlnet, name, None), getattr(unet, name, None)
        if found != wanted:
            raise NelboError(
                f"the ControlNet has {name} {found} and the UNet {wanted}: it was made for "
                "another base; give that, or a ControlNet that was trained for this one"
            )


def shared_fields() -> list[str]:
    """Names of the fields that a ControlNet and its UNet have in common."""
    unet = {field.name for field in fields(TextUNetConfig)}
    return [field.name for field in fields(ControlNetConfig) if field.name in unet]
