"""The fields of a diffusion transformer, as in diffusers' `DiTTransformer2DModel` and, for one that
attends to a prompt, `PixArtTransformer2DModel`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nelbo.networks.config import is_positive_int, unsupported
from nelbo.networks.denoiser import DenoiserConfig
from nelbo.networks.mlp import FIRST_LAYERS


@dataclass(frozen=True)
class TransformerConfig(DenoiserConfig):
    """What both kinds share; a mistake is a `NelboError` that names the field.

    Attributes:
        num_attention_heads: heads of every attention layer.
        attention_head_dim: width of each; the tokens are as wide as all heads together.
        out_channels: channels of the output, `in_channels` if None; twice as many for a learned
            variance.
        num_layers: transformer blocks.
        dropout: probability in attention and MLP.
        attention_bias: whether queries, keys and values have a bias.
        sample_size: height and width the network was made for, in whose units it places patches;
            any size that patches divide runs, though diffusers runs squares alone.
        patch_size: side of the patch that becomes a token.
        activation_fn: of the MLP; see `nelbo.networks.mlp.FIRST_LAYERS`.
        norm_type: "ada_norm_zero" or "ada_norm_single", which is the kind of network.
        norm_elementwise_affine: whether the normalisations without a condition have weights.
        norm_eps: epsilon of these.
        norm_num_groups: kept, without effect.
        upcast_attention: kept, without effect, as in `TextUNetConfig`.
    """

    sample_size: int = 32
    in_channels: int = 4
    out_channels: int = None  # type: ignore[assignment]  # an integer once it is checked
    num_attention_heads: int = 16
    attention_head_dim: int = 72
    num_layers: int = 28
    dropout: float = 0.0
    norm_num_groups: int = 32
    attention_bias: bool = True
    patch_size: int = 2
    activation_fn: str = "gelu-approximate"
    num_embeds_ada_norm: int = 1000
    upcast_attention: bool = False
    norm_type: str = ""
    norm_elementwise_affine: bool = False
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.out_channels is None:
            object.__setattr__(self, "out_channels", self.in_channels)
        self._require_positive("in_channels", "out_channels", "sample_size", "patch_size")
        self._require_positive("num_attention_heads", "attention_head_dim", "num_layers")
        self._require_number("dropout", "norm_eps")
        if not 0 <= self.dropout <= 1:
            raise unsupported("dropout", self.dropout, "a probability")
        self._require_choice(
            {
                "attention_bias": (False, True),
                "norm_elementwise_affine": (False, True),
                "activation_fn": tuple(FIRST_LAYERS),
                "norm_type": (type(self).norm_type,),
            }
        )
        if self.width % 4:
            raise unsupported(
                "attention_head_dim",
                self.attention_head_dim,
                f"a width of {self.num_attention_heads} heads together that 4 divides",
            )

    @property
    def width(self) -> int:
        """Width of the tokens."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def size_divisor(self) -> int:
        """Height and width of an input must be multiples of this."""
        return self.patch_size

    @property
    def position_scale(self) -> float:
        """What positions are divided by."""
        return 1.0


@dataclass(frozen=True)
class DiTConfig(TransformerConfig):
    """The shape of a transformer that is conditioned on a class, or on nothing.

    Attributes:
        num_embeds_ada_norm: number of classes; one more row of the table stands for no label.
    """

    class_name: ClassVar[str] = "DiTTransformer2DModel"
    other_names: ClassVar[tuple[str, ...]] = (
        "Transformer2DModel",
    )  # that of the first checkpoints

    norm_type: str = "ada_norm_zero"

    def __post_init__(self) -> None:
        super().__post_init__()
        classes = self.num_embeds_ada_norm
        if not (is_positive_int(classes) or (classes == 0 and not isinstance(classes, bool))):
            raise unsupported("num_embeds_ada_norm", classes, "a number of classes, 0 for none")

    @property
    def num_class_embeds(self) -> int | None:
        """The number of classes, as a UNet names it."""
        return self.num_embeds_ada_norm or None


@dataclass(frozen=True)
class TextDiTConfig(TransformerConfig):
    """The shape of a transformer that attends to a prompt.

    Attributes:
        cross_attention_dim: width of the tokens that the blocks attend to: that of the network
            where `caption_channels` is given.
        caption_channels: width of the embedded prompt, which is projected first; None for none.
        interpolation_scale: what positions are divided by; None is sample_size // 64, at least 1.
        num_embeds_ada_norm: kept, without effect.
    """

    class_name: ClassVar[str] = "PixArtTransformer2DModel"
    for_text: ClassVar[bool] = True

    out_channels: int = 8
    sample_size: int = 128
    norm_type: str = "ada_norm_single"
    norm_eps: float = 1e-6
    cross_attention_dim: int = 1152
    interpolation_scale: int | None = None
    use_additional_conditions: bool | None = None
    caption_channels: int | None = None
    attention_type: str | None = "default"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_positive("cross_attention_dim")
        self._require_positive("interpolation_scale", "caption_channels", optional=True)
        self._require_choice({"attention_type": ("default", None)})
        extra = self.use_additional_conditions
        if extra or (extra is None and self.sample_size == 128):
            raise unsupported("use_additional_conditions", extra, "False: no size of the picture")
        if self.caption_channels is not None and self.cross_attention_dim != self.width:
            raise unsupported(
                "cross_attention_dim", self.cross_attention_dim, f"{self.width}, the width"
            )

    @property
    def text_width(self) -> int:
        """Width of the embedded prompt."""
        return self.caption_channels or self.cross_attention_dim

    @property
    def position_scale(self) -> float:
        """What positions are divided by."""
        return self.interpolation_scale or max(self.sample_size // 64, 1)
