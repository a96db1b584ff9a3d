"""The fields of an autoencoder, as in diffusers' `AutoencoderKL`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nelbo.networks.config import NetworkConfig, is_number, unsupported
from nelbo.networks.normalization import ACTIVATIONS

# Whether each residual block is followed by self-attention.
ENCODER_STAGES = {"DownEncoderBlock2D": False, "AttnDownEncoderBlock2D": True}
DECODER_STAGES = {"UpDecoderBlock2D": False, "AttnUpDecoderBlock2D": True}


@dataclass(frozen=True)
class AutoencoderConfig(NetworkConfig):
    """The shape of an autoencoder; a mistake in it is a `NelboError` that names the field.

    Attributes:
        in_channels: channels of x.
        out_channels: channels of the decoded x.
        down_block_types: one a resolution, from the highest; see `ENCODER_STAGES`.
        up_block_types: one a resolution, from the lowest; see `DECODER_STAGES`.
        block_out_channels: width at each resolution, from the highest.
        layers_per_block: residual blocks a resolution in the encoder; one more in the decoder.
        act_fn: "silu" ("swish") | "mish" | "gelu" | "relu".
        latent_channels: channels of z.
        norm_num_groups: groups of every normalisation.
        sample_size: height and width the network was made for; informative.
        scaling_factor: the factor by which a diffusion model multiplies z.
        shift_factor: kept; the shift that newer models, which nelbo does not read, subtract from z.
        latents_mean: kept; mean of each channel of z, where a model standardises by channel.
        latents_std: kept; standard deviation of each channel of z, likewise.
        force_upcast: kept; whether float16 overflows in this network.
        use_quant_conv: a 1×1 convolution follows the encoder.
        use_post_quant_conv: a 1×1 convolution precedes the decoder.
        mid_block_add_attention: the lowest resolution has an attention layer.
    """

    class_name: ClassVar[str] = "AutoencoderKL"

    in_channels: int = 3
    out_channels: int = 3
    down_block_types: tuple[str, ...] = ("DownEncoderBlock2D",)
    up_block_types: tuple[str, ...] = ("UpDecoderBlock2D",)
    block_out_channels: tuple[int, ...] = (64,)
    layers_per_block: int = 1
    act_fn: str = "silu"
    latent_channels: int = 4
    norm_num_groups: int = 32
    sample_size: int | tuple[int, int] | None = 32
    scaling_factor: float = 0.18215
    shift_factor: float | None = None
    latents_mean: tuple[float, ...] | None = None
    latents_std: tuple[float, ...] | None = None
    force_upcast: bool = True
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True

    def __post_init__(self) -> None:
        for name in ("down_block_types", "up_block_types", "block_out_channels"):
            self._require_list(name)
        self._to_tuples("sample_size", "latents_mean", "latents_std")
        self._require_positive(
            "in_channels", "out_channels", "layers_per_block", "latent_channels", "norm_num_groups"
        )
        self._require_positives("block_out_channels")
        self._require_size("sample_size")
        flags = ("force_upcast", "use_quant_conv", "use_post_quant_conv", "mid_block_add_attention")
        self._require_choice({"act_fn": tuple(ACTIVATIONS)} | dict.fromkeys(flags, (False, True)))
        levels = len(self.block_out_channels)
        self._require_block_types("down_block_types", ENCODER_STAGES, levels)
        self._require_block_types("up_block_types", DECODER_STAGES, levels)
        self._check_widths()
        self._check_scale()

    @property
    def downscale(self) -> int:
        """Ratio of the height and width of x to those of z."""
        return 2 ** (len(self.block_out_channels) - 1)

    def _check_widths(self) -> None:
        for width in self.block_out_channels:
            if width % self.norm_num_groups:
                raise unsupported(
                    "norm_num_groups",
                    self.norm_num_groups,
                    f"a divisor of every width in block_out_channels={self.block_out_channels}",
                )

    def _check_scale(self) -> None:
        self._require_number("scaling_factor")
        if self.scaling_factor <= 0:
            raise unsupported("scaling_factor", self.scaling_factor, "a positive number")
        if self.shift_factor is not None:
            self._require_number("shift_factor")
        for name in ("latents_mean", "latents_std"):
            value = getattr(self, name)
            if value is not None and not (
                isinstance(value, tuple)
                and len(value) == self.latent_channels
                and all(map(is_number, value))
            ):
                raise unsupported(name, value, f"{self.latent_channels} numbers, or none")
