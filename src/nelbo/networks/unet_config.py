"""The fields of a UNet, with the names and meanings of diffusers' `UNet2DModel`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from nelbo.networks.config import unsupported
from nelbo.networks.denoiser import DenoiserConfig
from nelbo.networks.normalization import ACTIVATIONS


class StageKind(NamedTuple):
    """What a block type of the config stands for.

    Attributes:
        attention: what follows each residual block: "self" for attention among positions,
            "cross" for a transformer that also attends to the prompt, None for nothing.
        resample: how the stage changes resolution, "conv" | "resnet"; None leaves the choice to
            the field `downsample_type` or `upsample_type`.
    """

    attention: str | None
    resample: str | None


class MidKind(NamedTuple):
    """What the middle is made of: residual blocks, and attention after the first of them."""

    resnets: int
    attention: str | None


DOWN_STAGES = {
    "DownBlock2D": StageKind(attention=None, resample="conv"),
    "ResnetDownsampleBlock2D": StageKind(attention=None, resample="resnet"),
    "AttnDownBlock2D": StageKind(attention="self", resample=None),
}
UP_STAGES = {
    "UpBlock2D": StageKind(attention=None, resample="conv"),
    "ResnetUpsampleBlock2D": StageKind(attention=None, resample="resnet"),
    "AttnUpBlock2D": StageKind(attention="self", resample=None),
}


@dataclass(frozen=True)
class UNetShape(DenoiserConfig):
    """The fields that UNets with and without text have in common; defaults of blocks are theirs.

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
        mid_block_type: the kind of middle; None for no middle.
        up_block_types: one a resolution, from the lowest; see `UP_STAGES`.
        block_out_channels: width at each resolution, from the highest.
        layers_per_block: residual blocks a resolution on the way down; one more on the way up.
        mid_block_scale_factor: ρ of the residual layers in the middle.
        downsample_padding: 1, or 0 to pad below and on the right only.
        dropout: probability in the residual blocks.
        act_fn: "silu" ("swish") | "mish" | "gelu" | "relu".
        norm_num_groups: groups of every normalisation.
        norm_eps: epsilon of every normalisation; with text of those in residual blocks.
        resnet_time_scale_shift: "default" (added) | "scale_shift".
        class_embed_type: None (a table of num_class_embeds vectors, if that is given) |
            "timestep" (the label is embedded as a time) | "identity" (the label is an embedding).
        num_class_embeds: number of classes.
    """

    center_input_sample: bool = False
    time_embedding_type: str = "positional"
    time_embedding_dim: int | None = None
    freq_shift: float = 0
    flip_sin_to_cos: bool = True
    down_block_types: tuple[str, ...] = ()
    mid_block_type: str | None = None
    up_block_types: tuple[str, ...] = ()
    block_out_channels: tuple[int, ...] = ()
    layers_per_block: int | tuple[int, ...] = 2
    mid_block_scale_factor: float = 1
    downsample_padding: int = 1
    dropout: float = 0.0
    act_fn: str = "silu"
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    resnet_time_scale_shift: str = "default"
    class_embed_type: str | None = None
    num_class_embeds: int | None = None

    @property
    def embedding_dim(self) -> int:
        """Width of the summed embedding of time and conditions."""
        return self.time_embedding_dim or 4 * self.block_out_channels[0]

    @property
    def size_divisor(self) -> int:
        """Height and width of an input must be multiples of this."""
        return 2 ** (len(self.block_out_channels) - 1)

    def _check_shared(self) -> None:
        for name in ("down_block_types", "up_block_types", "block_out_channels"):
            self._require_list(name)
        self._to_tuples("sample_size")
        self._require_positive("in_channels", "out_channels", "norm_num_groups")
        self._require_positive("time_embedding_dim", "num_class_embeds", optional=True)
        self._require_positives("block_out_channels")
        self._require_number("mid_block_scale_factor", "norm_eps", "freq_shift", "dropout")
        if not self.mid_block_scale_factor:
            raise unsupported("mid_block_scale_factor", 0, "a number other than zero")
        if not 0 <= self.dropout <= 1:
            raise unsupported("dropout", self.dropout, "a probability")
        self._require_size("sample_size")
        self._require_choice(
            {
                "center_input_sample": (False, True),
                "flip_sin_to_cos": (False, True),
                "downsample_padding": (0, 1),
                "act_fn": tuple(ACTIVATIONS),
                "resnet_time_scale_shift": ("default", "scale_shift"),
            }
        )


@dataclass(frozen=True)
class UNetConfig(UNetShape):
    """The shape of a UNet; a mistake in it is a `NelboError` that names the field.

    Attributes:
        mid_block_type: "UNetMidBlock2D", or None for no middle.
        downsample_type: "conv" | "resnet", for stages with attention.
        upsample_type: "conv" | "resnet", for stages with attention.
        attention_head_dim: width of a head; None for a single head.
        attn_norm_num_groups: groups of the middle's attention layer; if None, norm_num_groups
            with "default" time conditioning and no normalisation with "scale_shift".
        add_attention: whether the middle has an attention layer.
        num_train_timesteps: rows of the "learned" time embedding.
    """

    class_name: ClassVar[str] = "UNet2DModel"

    down_block_types: tuple[str, ...] = ("DownBlock2D", *["AttnDownBlock2D"] * 3)
    mid_block_type: str | None = "UNetMidBlock2D"
    up_block_types: tuple[str, ...] = (*["AttnUpBlock2D"] * 3, "UpBlock2D")
    block_out_channels: tuple[int, ...] = (224, 448, 672, 896)
    layers_per_block: int = 2
    downsample_type: str = "conv"
    upsample_type: str = "conv"
    attention_head_dim: int | None = 8
    attn_norm_num_groups: int | None = None
    add_attention: bool = True
    num_train_timesteps: int | None = None

    def __post_init__(self) -> None:
        self._check_shared()
        self._check_own()
        self._check_stages()
        self._check_widths()

    @property
    def layers(self) -> tuple[int, ...]:
        """Residual blocks at each resolution on the way down."""
        return (self.layers_per_block,) * len(self.block_out_channels)

    @property
    def mid(self) -> MidKind | None:
        """The middle, if there is one."""
        if self.mid_block_type is None:
            return None
        return MidKind(resnets=2, attention="self" if self.add_attention else None)

    @property
    def takes_text(self) -> bool:
        """Whether any layer attends to a prompt."""
        return False

    @property
    def embedding_activation(self) -> str:
        """The non-linearity inside the embedding of the level."""
        return "silu"

    @property
    def output_activation(self) -> str:
        """The non-linearity before the last convolution."""
        return "silu"

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

    def _check_own(self) -> None:
        self._require_positive("layers_per_block")
        self._require_positive(
            "attention_head_dim", "attn_norm_num_groups", "num_train_timesteps", optional=True
        )
        self._require_choice(
            {
                "add_attention": (False, True),
                "time_embedding_type": ("positional", "fourier", "learned"),
                "mid_block_type": ("UNetMidBlock2D", None),
                "downsample_type": ("conv", "resnet"),
                "upsample_type": ("conv", "resnet"),
                "class_embed_type": (None, "timestep", "identity"),
            }
        )
        if self.time_embedding_type == "learned" and self.num_train_timesteps is None:
            raise unsupported("num_train_timesteps", None, "the number of levels to be learned")
        if self.time_embedding_type == "fourier" and self.class_embed_type == "timestep":
            # The class would go through the logarithm of the noise scale.
            raise unsupported("class_embed_type", "timestep", "None, 'identity' with 'fourier'")

    def _check_stages(self) -> None:
        levels = len(self.block_out_channels)
        for name, known in (("down_block_types", DOWN_STAGES), ("up_block_types", UP_STAGES)):
            # "UNetRes" is a prefix that the first checkpoints carry.
            value = tuple(str(kind).removeprefix("UNetRes") for kind in getattr(self, name))
            object.__setattr__(self, name, value)
            self._require_block_types(name, known, levels)

    def _check_widths(self) -> None:
        widths = self.block_out_channels
        if self.time_embedding_type == "positional":
            require_frequencies(widths[0], self.freq_shift)
        require_groups_divide(widths, self.norm_num_groups)
        groups = self.mid_attention_groups
        if groups is not None and widths[-1] % groups:
            raise unsupported("attn_norm_num_groups", groups, f"a divisor of {widths[-1]}")
        for width in self._attention_widths():
            if self.head_dim(width) > width:
                raise unsupported(
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
        if self.mid is not None and self.mid.attention:
            widths.append(self.block_out_channels[-1])
        return sorted(widths)


def require_frequencies(width: int, freq_shift: float) -> None:
    """The sinusoidal embedding divides by width / 2 − freq_shift."""
    if not width // 2 > freq_shift:
        raise unsupported("freq_shift", freq_shift, f"less than {width // 2}")


def require_groups_divide(widths: tuple[int, ...], groups: int) -> None:
    """Every normalisation needs a number of channels that its groups divide."""
    for below, width in zip((*widths[1:], widths[-1]), widths, strict=True):
        # A normalisation on the way up also sees the width below and the skip connection's.
        for channels in (width, below + width):
            if channels % groups:
                raise unsupported(
                    "norm_num_groups",
                    groups,
                    f"a divisor of the layer widths that block_out_channels={widths} leads to "
                    f"({channels} among them)",
                )
