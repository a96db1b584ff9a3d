"""The configuration of CLIP's text transformer, as transformers writes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Self

from nelbo.networks.config import NetworkConfig, unsupported

ACTIVATIONS = ("quick_gelu", "gelu")


@dataclass(frozen=True)
class ClipTextConfig(NetworkConfig):
    """The fields of a `CLIPTextConfig` of transformers that nelbo computes with.

    Attributes:
        vocab_size: number of tokens.
        hidden_size: D, the width of a token.
        intermediate_size: width within the MLP.
        projection_dim: width of the vector of a whole prompt, where there is a projection.
        num_hidden_layers: blocks.
        num_attention_heads: heads of each, which divide D.
        max_position_embeddings: the largest number of tokens of a prompt.
        hidden_act: quick_gelu of CLIP, gelu of OpenCLIP.
        layer_norm_eps: the epsilon of the normalisations.
        attention_dropout: share of attention weights that are dropped in training; 0.
        bos_token_id: the token at the start.
        eos_token_id: the token at the end; its state is that of the whole prompt. 2, which early
            files have, stands for the largest number in a prompt.
        pad_token_id: the token after the end.
        use_attention_mask: no token attends to the padding, as in some pipelines.
    """

    # Without and with a projection of the whole prompt.
    class_names: ClassVar[tuple[str, str]] = ("CLIPTextModel", "CLIPTextModelWithProjection")
    class_name: ClassVar[str] = class_names[0]

    vocab_size: int = 49408
    hidden_size: int = 512
    intermediate_size: int = 2048
    projection_dim: int = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    attention_dropout: float = 0.0
    bos_token_id: int | None = 49406
    eos_token_id: int = 49407
    pad_token_id: int | None = 1
    use_attention_mask: bool | None = False

    def __post_init__(self) -> None:
        self._require_positive(
            *("vocab_size", "hidden_size", "intermediate_size", "projection_dim"),
            *("num_hidden_layers", "num_attention_heads", "max_position_embeddings"),
        )
        self._require_number("layer_norm_eps", "attention_dropout", "eos_token_id")
        self._require_choice(
            {
                "hidden_act": ACTIVATIONS,
                "attention_dropout": (0.0, 0),
                "use_attention_mask": (False, True, None),
            }
        )
        if self.hidden_size % self.num_attention_heads:
            raise unsupported(
                "num_attention_heads",
                self.num_attention_heads,
                f"a divisor of hidden_size, {self.hidden_size}",
            )

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Self:
        """Read a config.json, of a text transformer or of a whole CLIP.

        Fields of other purposes, of which transformers writes many, are left out.
        """
        text = found.get("text_config", found)
        if not isinstance(text, Mapping):
            raise unsupported("text_config", text, "an object")
        names = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in text.items() if name in names})

    def to_dict(self) -> dict[str, Any]:
        """The fields, and which kind of model they are of."""
        return {"model_type": "clip_text_model"} | asdict(self)
