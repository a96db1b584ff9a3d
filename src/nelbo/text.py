"""Prompts as what a network attends to: the CLIP text encoder of Stable Diffusion.

Tokenizer and network are transformers', which is an optional extra and is imported when a text
encoder is loaded.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nelbo.errors import MissingExtraError, NelboError
from nelbo.networks.files import locate

TOKENIZER = "tokenizer"
TEXT_ENCODER = "text_encoder"
WEIGHTS_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "model.fp16.safetensors",
    "model.safetensors.index.fp16.json",
)


class TextEncoder(nn.Module):
    """Prompts to the last hidden states of a `CLIPTextModel`, one vector a token.

    Args:
        tokenizer: a transformers `CLIPTokenizer`.
        model: a transformers `CLIPTextModel`.
    """

    def __init__(self, tokenizer: Any, model: nn.Module) -> None:
        super().__init__()
        self.tokenizer: Any = tokenizer
        self.model: Any = model
        self.config: Any = model.config

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str]) -> TextEncoder:
        """The text encoder of a pipeline: the folders `tokenizer/` and `text_encoder/`.

        Args:
            path: the pipeline's directory or Hub id.

        Raises:
            MissingExtraError: transformers is not installed.
            NelboError: a part is missing or damaged, or its weights are a pickle.
        """
        transformers = _transformers()
        locate(path, TEXT_ENCODER, "config.json")
        weights = locate(path, TEXT_ENCODER, *WEIGHTS_FILES)
        variant = "fp16" if "fp16" in weights.name else None
        part = TOKENIZER
        try:
            tokenizer = transformers.CLIPTokenizer.from_pretrained(path, subfolder=TOKENIZER)
            part = TEXT_ENCODER
            model = transformers.CLIPTextModel.from_pretrained(
                path, subfolder=TEXT_ENCODER, use_safetensors=True, variant=variant
            )
        # The libraries below raise whatever they meet in a damaged file.
        except Exception as error:
            raise NelboError(f"{path}/{part} cannot be read: {error}") from error
        return cls(tokenizer, model.float()).eval()

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Write the folders `tokenizer/` and `text_encoder/` into a pipeline's directory."""
        self.tokenizer.save_pretrained(Path(path) / TOKENIZER)
        self.model.save_pretrained(Path(path) / TEXT_ENCODER)

    @property
    def max_tokens(self) -> int:
        """N, how many tokens a prompt becomes, with those for its start and end."""
        return min(self.tokenizer.model_max_length, self.config.max_position_embeddings)

    def encode(self, prompts: Sequence[str]) -> Float[Tensor, "prompts tokens width"]:
        """What a network attends to, (B, N, D).

        A prompt is padded to N tokens; of a longer one the rest is dropped, with a warning that
        shows it.

        Raises:
            NelboError: no prompts, or one that is not a string.
        """
        if isinstance(prompts, str) or not prompts or not all(isinstance(p, str) for p in prompts):
            raise NelboError(f"prompts must be a list of strings, got {prompts!r}")
        self._mention_dropped(prompts)
        tokens = self.tokenizer(
            list(prompts),
            padding="max_length",
            max_length=self.max_tokens,
            truncation=True,
            return_tensors="pt",
        )
        device = next(self.model.parameters()).device
        # Stable Diffusion 1 and 2 were trained with attention to the padding.
        masked = getattr(self.config, "use_attention_mask", False)
        mask = tokens.attention_mask.to(device) if masked else None
        with torch.no_grad():
            return self.model(tokens.input_ids.to(device), attention_mask=mask)[0]

    def forward(self, prompts: Sequence[str]) -> Tensor:
        """The same as `encode`."""
        return self.encode(prompts)

    def _mention_dropped(self, prompts: Sequence[str]) -> None:
        kept = self.max_tokens - 1  # the end token stays
        for prompt in prompts:
            tokens = self.tokenizer(prompt, truncation=False, verbose=False).input_ids
            if len(tokens) > self.max_tokens:
                dropped = self.tokenizer.decode(tokens[kept:-1])
                warnings.warn(
                    f"a prompt is longer than {self.max_tokens} tokens; dropped: {dropped!r}",
                    stacklevel=3,
                )


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise MissingExtraError("a text encoder", "text") from error
    return transformers
