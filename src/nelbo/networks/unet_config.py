"""The fields of a UNet, named and understood as in diffusers' `UNet2DModel`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from nelbo.errors import NelboError
from nelbo.networks.normalization import ACTIVATIONS

CLASS_NAME = "UNet2DModel"


class StageKind(NamedTuple):
    """What a block type of the config stands for.

    Attributes:
        attention: each residual block is followed by self-attention.
        resample: how the stage changes resolution, "conv" | "resnet"; None leaves the choice to
            the field `downsample_type` or `upsample_type`.
    """

    attention: bool
    resample: str | None


DOWN_STAGES = {
    "DownBlock2D": StageKind(attention=False, resample="conv"),
    "ResnetDownsampleBlock2D": StageKind(attention=False, resample="resnet"),
    "AttnDownBlock2D": StageKind(attention=True, resample=None),
}
UP_STAGES = {
    "UpBlock2D": StageKind(attention=False, resample="conv"),
    "ResnetUpsampleBlock2D": StageKind(attention=False, resample="resnet"),
    "AttnUpBlock2D": StageKind(attention=True, resample=None),
}


@dataclass(frozen=True)
class UNetConfig:
    """The shape of a UNet; a mistake in it is a `NelboError` that names the field.

    Attributes:
        sample_size: height and width the network was made for; informative, any fitting size runs.
        in_channels: channels of x_t.
        out_channels: channels of the output; 2 · in_channels for a learned variance.
        center_input_sample: map an input in [0, 1] to [−1, 1] first.
        time_embedding_type: "positional" (sinusoidal) | "fourier" | "learned" (a table).
        time_embedding_dim: width of the embedding, 4 · block_out_channels[0] if None.
        freq_shift: s in the sinusoidal frequencies; 1 is that of Ho et al. (2020).
        flip_sin_to_cos: cosines come before sines.
        down_block_types: one a resolution, from the highest; see `DOWN_STAGES`.
        mid_block_type: "UNetMidBlock2D", or None for no middle.
        up_block_types: one a resolution, from the lowest; see `UP_STAGES`.
        block_out_channels: width at each resolution, from the highest.
        layers_per_block: residual blocks a resolution on the way down; one more on the way up.
        mid_block_scale_factor: ρ of the residual layers in the middle.
        downsample_padding: 1, or 0 to pad below and on the right only.
        downsample_type: "conv" | "resnet", for stages with attention.
        upsample_type: "conv" | "resnet", for stages with attention.
        dropout: probability in the residual blocks.
        act_fn: "silu" ("swish") | "mish" | "gelu" | "relu".
        attention_head_dim: width of a head; None for a single head.
        norm_num_groups: groups of every normalisation.
        attn_norm_num_groups: groups of the middle's attention layer; if None, norm_num_groups
            with "default" time conditioning and no normalisation with "scale_shift".
        norm_eps: epsilon of every normalisation.
        resnet_time_scale_shift: "default" (added) | "scale_shift".
        add_attention: whether the middle has an attention layer.
        class_embed_type: None (a table of num_class_embeds vectors, if that is given) |
            "timestep" (the label is embedded as a time) | "identity" (the label is an embedding).
        num_class_embeds: number of classes.
        num_train_timesteps: rows of the "learned" time embedding.
    """

    sample_size: int | tuple[int, int] | None = None
    in_channels: int = 3
    out_channels: int = 3
    center_input_sample: bool = False
    time_embedding_type: str = "positional"
    time_embedding_dim: int | None = None
    freq_shift: float = 0
    flip_sin_to_cos: bool = True
    down_block_types: tuple[str, ...] = ("DownBlock2D", *["AttnDownBlock2D"] * 3)
    mid_block_type: str | None = "UNetMidBlock2D"
    up_block_types: tuple[str, ...] = (*["AttnUpBlock2D"] * 3, "UpBlock2D")
    block_out_channels: tuple[int, ...] = (224, 448, 672, 896)
    layers_per_block: int = 2
    mid_block_scale_factor: float = 1
    downsample_padding: int = 1
    downsample_type: str = "conv"
    upsample_type: str = "conv"
    dropout: float = 0.0
    act_fn: str = "silu"
    attention_head_dim: int | None = 8
    norm_num_groups: int = 32
    attn_norm_num_groups: int | None = None
    norm_eps: float = 1e-5
    resnet_time_scale_shift: str = "default"
    add_attention: bool = True
    class_embed_type: str | None = None
    num_class_embeds: int | None = None
    num_train_timesteps: int | None = None

    def __post_init__(self) -> None:
        self._normalise()
        self._check_numbers()
        self._check_choices()
        self._check_stages()
        self._check_widths()

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> UNetConfig:
        """Read a config.json; a field nelbo does not know must be unset."""
        if not isinstance(found, Mapping):
            raise NelboError(f"a UNet config must be a JSON object, found {type(found).__name__}")
        class_name = found.get("_class_name", CLASS_NAME)
        if class_name != CLASS_NAME:
            raise _unsupported("_class_name", class_name, repr(CLASS_NAME))
        names = {field.name for field in fields(cls)}
        given = {name: value for name, value in found.items() if not name.startswith("_")}
        for name, value in given.items():
            if name not in names and value not in (None, False):
                raise _unsupported(name, value, f"the fields of {CLASS_NAME}")
        return cls(**{name: value for name, value in given.items() if name in names})

    @property
    def embedding_dim(self) -> int:
        """Width of the summed embedding of time and conditions."""
        return self.time_embedding_dim or 4 * self.block_out_channels[0]

    @property
    def size_divisor(self) -> int:
        """Height and width of an input must be multiples of this."""
        return 2 ** (len(self.block_out_channels) - 1)

    @property
    def mid_attention_groups(self) -> int | None:
        """Groups of the middle's attention layer."""
        if self.attn_norm_num_groups is not None:
            return self.attn_norm_num_groups
        return self.norm_num_groups if self.resnet_time_scale_shift == "default" else None

    def head_dim(self, channels: int) -> int:
        """Width of an attention head in a layer of this many channels."""
        return channels if self.attention_head_dim is None else self.attention_head_dim

    def down_stage(self, level: int) -> StageKind:
        """The stage at resolution `level` (0 is the highest) on the way down."""
        attention, resample = DOWN_STAGES[self.down_block_types[level]]
        return StageKind(attention, resample or self.downsample_type)

    def up_stage(self, level: int) -> StageKind:
        """The stage at resolution `level` (0 is the highest) on the way up."""
        attention, resample = UP_STAGES[self.up_block_types[-1 - level]]
        return StageKind(attention, resample or self.upsample_type)

    def _normalise(self) -> None:
        for name in ("down_block_types", "up_block_types", "block_out_channels"):
            value = getattr(self, name)
            if isinstance(value, str) or not isinstance(value, Sequence) or not value:
                raise _unsupported(name, value, "a list with one entry for each resolution")
            object.__setattr__(self, name, tuple(value))
        if isinstance(self.sample_size, list):
            object.__setattr__(self, "sample_size", tuple(self.sample_size))

    def _check_numbers(self) -> None:
        positive = ("in_channels", "out_channels", "layers_per_block", "norm_num_groups")
        optional = (
            "time_embedding_dim",
            "attention_head_dim",
            "attn_norm_num_groups",
            "num_class_embeds",
            "num_train_timesteps",
        )
        for name in (*positive, *optional):
            value = getattr(self, name)
            if value is None and name in optional:
                continue
            if not _is_positive_int(value):
                raise _unsupported(name, value, "a positive integer")
        for width in self.block_out_channels:
            if not _is_positive_int(width):
                raise _unsupported(
                    "block_out_channels", self.block_out_channels, "positive integers"
                )
        for name in ("mid_block_scale_factor", "norm_eps", "freq_shift", "dropout"):
            if not _is_number(getattr(self, name)):
                raise _unsupported(name, getattr(self, name), "a number")
        if not self.mid_block_scale_factor:
            raise _unsupported("mid_block_scale_factor", 0, "a number other than zero")
        if not 0 <= self.dropout <= 1:
            raise _unsupported("dropout", self.dropout, "a probability")
        sizes = self.sample_size if isinstance(self.sample_size, tuple) else (self.sample_size,)
        if self.sample_size is not None and not (
            len(sizes) <= 2 and all(_is_positive_int(size) for size in sizes)
        ):
            raise _unsupported("sample_size", self.sample_size, "a positive integer or a pair")

    def _check_choices(self) -> None:
        choices: dict[str, tuple[object, ...]] = {
            "center_input_sample": (False, True),
            "flip_sin_to_cos": (False, True),
            "add_attention": (False, True),
            "time_embedding_type": ("positional", "fourier", "learned"),
            "mid_block_type": ("UNetMidBlock2D", None),
            "downsample_padding": (0, 1),
            "downsample_type": ("conv", "resnet"),
            "upsample_type": ("conv", "resnet"),
            "act_fn": tuple(ACTIVATIONS),
            "resnet_time_scale_shift": ("default", "scale_shift"),
            "class_embed_type": (None, "timestep", "identity"),
        }
        for name, supported in choices.items():
            value = getattr(self, name)
            if not any(value == choice for choice in supported):
                raise _unsupported(name, value, ", ".join(map(repr, supported)))
        if self.time_embedding_type == "learned" and self.num_train_timesteps is None:
            raise _unsupported("num_train_timesteps", None, "the number of levels to be learned")
        if self.time_embedding_type == "fourier" and self.class_embed_type == "timestep":
            # The class would go through the logarithm of the noise scale.
            raise _unsupported("class_embed_type", "timestep", "None, 'identity' with 'fourier'")

    def _check_stages(self) -> None:
        for name, known in (("down_block_types", DOWN_STAGES), ("up_block_types", UP_STAGES)):
            # "UNetRes" is a prefix that the first checkpoints carry.
            value = tuple(str(kind).removeprefix("UNetRes") for kind in getattr(self, name))
            for kind in value:
                if kind not in known:
                    raise _unsupported(name, kind, ", ".join(known))
            if len(value) != len(self.block_out_channels):
                levels = len(self.block_out_channels)
                raise _unsupported(
                    name, value, f"{levels} entries, one for each block_out_channels"
                )
            object.__setattr__(self, name, value)

    def _check_widths(self) -> None:
        widths = self.block_out_channels
        if self.time_embedding_type == "positional" and not widths[0] // 2 > self.freq_shift:
            raise _unsupported("freq_shift", self.freq_shift, f"less than {widths[0] // 2}")
        for below, width in zip((*widths[1:], widths[-1]), widths, strict=True):
            # A normalisation on the way up also sees the width below and the skip connection's.
            for channels in (width, below + width):
                if channels % self.norm_num_groups:
                    raise _unsupported(
                        "norm_num_groups",
                        self.norm_num_groups,
                        f"a divisor of the layer widths that block_out_channels={widths} leads to "
                        f"({channels} among them)",
                    )
        groups = self.mid_attention_groups
        if groups is not None and widths[-1] % groups:
            raise _unsupported("attn_norm_num_groups", groups, f"a divisor of {widths[-1]}")
        for width in self._attention_widths():
            if self.head_dim(width) > width:
                raise _unsupported(
                    "attention_head_dim",
                    self.attention_head_dim,
                    f"at most {width}, the width of the narrowest attention layer",
                )

    def _attention_widths(self) -> list[int]:
        widths = [
            width
            for level, width in enumerate(self.block_out_channels)
            if self.down_stage(level).attention or self.up_stage(level).attention
        ]
        if self.mid_block_type is not None and self.add_attention:
            widths.append(self.block_out_channels[-1])
        return sorted(widths)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_positive_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _unsupported(field: str, found: object, supported: str) -> NelboError:
    return NelboError(f"UNet config field {field!r}: found {found!r}, supported: {supported}")
