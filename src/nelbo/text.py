"""Prompts as what a network attends to: the CLIP text encoder of Stable Diffusion.

It is loaded with its weights, or made anew in the same format for one's own captions and trained
with the model that attends to it. Tokenizer and network are transformers', which is an optional
extra and is imported when a text encoder is loaded or made.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nelbo.errors import MissingExtraError, NelboError
from nelbo.networks.files import locate
from nelbo.tokenizer import train_tokenizer

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

    @classmethod
    def for_captions(
        cls,
        captions: Sequence[str],
        *,
        width: int = 256,
        layers: int = 4,
        heads: int = 4,
        vocabulary: int = 2048,
        max_tokens: int | None = None,
    ) -> TextEncoder:
        """A fresh text encoder to train, with a tokenizer of these captions.

        Args:
            captions: what it is to read.
            width: D, a multiple of `heads`.
            layers: transformer blocks.
            heads: attention heads of each block.
            vocabulary: the largest number of tokens; see `nelbo.tokenizer`.
            max_tokens: N, by default as many as the longest caption needs.

        Raises:
            MissingExtraError: transformers is not installed.
            NelboError: no captions, or numbers that do not fit.
        """
        transformers = _transformers()
        if width < 1 or layers < 1 or heads < 1 or width % heads:
            raise NelboError(
                f"width {width}, layers {layers} and heads {heads} must be positive, and heads "
                "divide width"
            )
        tokenizer = train_tokenizer(captions, vocabulary=vocabulary, max_tokens=max_tokens or 77)
        if max_tokens is None:
            tokenizer.model_max_length = max(
                len(ids) for ids in tokenizer(list(captions), truncation=False).input_ids
            )
        config = transformers.CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            # Of so few tokens, and trained in 16 bits on a CPU, faster than torch's own kernel.
            attn_implementation="eager",
        )
        return cls(tokenizer, transformers.CLIPTextModel(config))

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Write the folders `tokenizer/` and `text_encoder/` into a pipeline's directory."""
        folder = Path(path) / TOKENIZER
        self.tokenizer.save_pretrained(folder)
        if not (folder / "vocab.json").exists():
            # Newer releases of transformers write tokenizer.json alone, which older do not read.
            self.tokenizer.backend_tokenizer.model.save(str(folder))
        with _no_progress_bar():
            self.model.save_pretrained(Path(path) / TEXT_ENCODER)

    @property
    def max_tokens(self) -> int:
        """N, how many tokens a prompt becomes, with those for its start and end."""
        return min(self.tokenizer.model_max_length, self.config.max_position_embeddings)

    def tokens(self, prompts: Sequence[str]) -> Int[Tensor, "prompts tokens"]:
        """The tokens of each prompt, padded to N, (B, N) int64.

        Of a longer prompt the rest is dropped, with a warning that shows it.

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
        return tokens.input_ids

    def forward(
        self, tokens: Int[Tensor, "prompts tokens"]
    ) -> Float[Tensor, "prompts tokens width"]:
        """The last hidden states of tokens, (B, N, D), with a gradient to the weights."""
        tokens = tokens.to(next(self.model.parameters()).device)
        # Stable Diffusion 1 and 2 were trained with attention to the padding.
        masked = getattr(self.config, "use_attention_mask", False)
        return self.model(tokens, attention_mask=self._mask(tokens) if masked else None)[0]

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Float[Tensor, "prompts tokens width"]:
        """What a network attends to, (B, N, D), without gradient; errors as `tokens`."""
        return self(self.tokens(prompts))

    def _mask(self, tokens: Tensor) -> Tensor:
        """1 up to the end token of each prompt, 0 for the padding after it."""
        end = (tokens == self.tokenizer.eos_token_id).int().argmax(1, keepdim=True)
        return (torch.arange(tokens.shape[1], device=tokens.device) <= end).long()

    def _mention_dropped(self, prompts: Sequence[str]) -> None:
        kept = self.max_tokens - 1  # the end token stays
        for prompt in prompts:
            tokens = self.tokenizer(prompt, truncation=False, verbose=False).input_ids
            if len(tokens) > self.max_tokens:
                dropped = self.tokenizer.decode(tokens[kept:-1])
                warnings.warn(
                    f"a prompt is longer than {self.max_tokens} tokens; dropped: {dropped!r}",
                    stacklevel=4,
                )


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Without transformers' bars, which would cut through those of training."""
    logging = _transformers().utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise MissingExtraError("a text encoder", "text") from error
    return transformers
