"""Prompts as what a network attends to: the CLIP text encoder of Stable Diffusion.

It is loaded with its weights, or made anew in the same format for one's own captions and trained
with the model that attends to it. SDXL has two of them, see `nelbo.text.paired`.
"""

from __future__ import annotations

import json
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nelbo.base.arguments import check_path
from nelbo.base.digest import digest
from nelbo.base.errors import NelboError
from nelbo.chain.conditioning import Condition
from nelbo.networks.clip import ClipText
from nelbo.networks.clip_config import ClipTextConfig
from nelbo.networks.files import CONFIG_FILE, locate
from nelbo.text.tokenizer import ClipTokenizer, train_tokenizer

# The least number of tokens that a new text encoder reads, including start and end.
LEAST_TOKENS = 16
TOKENIZER = "tokenizer"
TEXT_ENCODER = "text_encoder"


class PromptEncoder(nn.Module, ABC):
    """Maps prompts to the condition of a network."""

    @property
    def frozen(self) -> bool:
        """Whether it stays as it is while a prior is trained: no weight requires a gradient."""
        return not any(weight.requires_grad for weight in self.parameters())

    def condition(self, prompts: Sequence[str | None]) -> Condition:
        """The condition of a network for each prompt; None is the unconditional model.

        Raises:
            NelboError: no prompts, or one that is not a string.
        """
        check_prompts(prompts, str | None)
        distinct = list(dict.fromkeys(prompts))
        place = {prompt: i for i, prompt in enumerate(distinct)}
        return self.embed(distinct)[torch.tensor([place[prompt] for prompt in prompts])]

    def negative(self, prompts: Sequence[str | None]) -> Condition:
        """The condition of prompts that guidance leads away from; errors as `condition`."""
        return self.condition(prompts)

    def identity(self) -> str:
        """A hash of the configurations and the tokenizers, whose values are no weights."""
        encoders = [part for part in self.modules() if isinstance(part, TextEncoder)]
        return digest(
            [
                repr(getattr(self, "zeros", None)),
                *(json.dumps(e.config.to_dict(), sort_keys=True, default=str) for e in encoders),
                *(_vocabulary(each.tokenizer) for each in encoders),
            ]
        )

    @abstractmethod
    def embed(self, prompts: Sequence[str | None]) -> Condition:
        """`condition` of distinct prompts, without gradient."""

    @abstractmethod
    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Write the folders of the encoder into a pipeline's directory."""


class TextEncoder(PromptEncoder):
    """Prompts to the last hidden states of CLIP's text transformer, one vector a token.

    The empty prompt is the unconditional model.

    Args:
        tokenizer: a `ClipTokenizer`; one of transformers does as well.
        model: a `ClipText`, or a `CLIPTextModel` of transformers.
    """

    def __init__(self, tokenizer: Any, model: nn.Module) -> None:
        super().__init__()
        self.tokenizer: Any = tokenizer
        self.model: Any = model
        self.config: Any = model.config

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        *,
        tokenizer: str = TOKENIZER,
        text_encoder: str = TEXT_ENCODER,
        projected: bool = False,
    ) -> TextEncoder:
        """The text encoder of a pipeline: the folders `tokenizer/` and `text_encoder/`.

        A directory that holds a CLIP model and its tokenizer by themselves does as well.

        Args:
            path: the pipeline's directory or Hub id.
            tokenizer: the folder of the tokenizer.
            text_encoder: the folder of the network.
            projected: whether the network is one with a projection of the whole prompt.

        Raises:
            MissingExtraError: the package tokenizers is not installed.
            NelboError: a part is missing or damaged, or its weights are a pickle.
        """
        check_path("path", path)
        root = Path(path)
        if (root / CONFIG_FILE).is_file() and not (root / text_encoder).is_dir():
            tokenizer = text_encoder = ""
        locate(path, text_encoder, CONFIG_FILE)  # of what is missing the network is named first
        tokens = ClipTokenizer.from_pretrained(path, tokenizer)
        return cls(tokens, ClipText.from_pretrained(path, text_encoder, projected=projected)).eval()

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
            captions: texts to make the tokenizer from.
            width: D, a multiple of `heads`.
            layers: transformer blocks.
            heads: attention heads of each block.
            vocabulary: the largest number of tokens; see `nelbo.text.tokenizer`.
            max_tokens: N, by default as many as the longest caption needs, and at least 16.

        Raises:
            MissingExtraError: the package tokenizers is not installed.
            NelboError: no captions, or numbers that do not fit.
        """
        if width < 1 or layers < 1 or heads < 1 or width % heads:
            raise NelboError(
                f"width {width}, layers {layers} and heads {heads} must be positive, and heads "
                "divide width"
            )
        limit = {} if max_tokens is None else {"max_tokens": max_tokens}
        tokenizer = train_tokenizer(captions, vocabulary=vocabulary, **limit)
        if max_tokens is None:
            longest = max(map(len, tokenizer(captions).input_ids))
            tokenizer.model_max_length = max(LEAST_TOKENS, longest)
        config = ClipTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        return cls(tokenizer, ClipText(config))

    def save_pretrained(
        self,
        path: str | os.PathLike[str],
        *,
        tokenizer: str = TOKENIZER,
        text_encoder: str = TEXT_ENCODER,
    ) -> None:
        """Write the folders `tokenizer/` and `text_encoder/` into a pipeline's directory."""
        self.tokenizer.save_pretrained(Path(path) / tokenizer)
        self.model.save_pretrained(Path(path) / text_encoder)

    @property
    def max_tokens(self) -> int:
        """N, how many tokens a prompt becomes, with those for its start and end."""
        return min(self.tokenizer.model_max_length, self.config.max_position_embeddings)

    def tokens(self, prompts: Sequence[str]) -> Int[Tensor, "prompts tokens"]:
        """The tokens of each prompt, padded to N, (B, N) int64.

        The rest of a longer prompt is dropped, with a warning that shows it.

        Raises:
            NelboError: no prompts, one that is not a string, or a token that the network has no
                vector for.
        """
        check_prompts(prompts)
        n, end = self.max_tokens, self.tokenizer.eos_token_id
        read = self.tokenizer(list(prompts)).input_ids
        self._mention_dropped(prompts, read)
        tokens = torch.full((len(read), n), self.tokenizer.pad_token_id)
        for row, ids in zip(tokens, read, strict=True):
            kept = ids if len(ids) <= n else [*ids[: n - 1], end]
            row[: len(kept)] = torch.tensor(kept)
        if (last := int(tokens.max())) >= self.config.vocab_size:
            raise NelboError(
                f"the tokenizer has a token of number {last}, and the text encoder vectors for "
                f"0..{self.config.vocab_size - 1} (vocab_size): they are of different models"
            )
        return tokens

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

    def embed(self, prompts: Sequence[str | None]) -> Condition:
        """`encode`, with the empty prompt in place of None."""
        return Condition(text=self.encode([prompt or "" for prompt in prompts]))

    def _mask(self, tokens: Tensor) -> Tensor:
        """1 up to the end token of each prompt, 0 for the padding after it."""
        end = (tokens == self.tokenizer.eos_token_id).int().argmax(1, keepdim=True)
        return (torch.arange(tokens.shape[1], device=tokens.device) <= end).long()

    def _mention_dropped(self, prompts: Sequence[str], read: Sequence[list[int]]) -> None:
        """Warn of truncated prompts, once for all of them."""
        kept = self.max_tokens - 1  # the end token stays
        dropped = [
            (prompt, self.tokenizer.decode(ids[kept:-1]))
            for prompt, ids in dict(zip(prompts, read, strict=True)).items()
            if len(ids) > self.max_tokens
        ]
        if not dropped:
            return
        (prompt, rest), more = dropped[0], len(dropped) - 1
        others = f" (and the end of {more} other{'s' * (more > 1)})" if more else ""
        warnings.warn(
            f"the prompt {shorten(prompt)!r} is longer than {self.max_tokens} tokens; dropped: "
            f"{shorten(rest)!r}{others}",
            stacklevel=4,
        )


def check_prompts(prompts: Sequence[str | None], kind: Any = str) -> None:
    """Raise `NelboError` unless these are strings (or of another kind), at least one."""
    if isinstance(prompts, str) or not prompts or not all(isinstance(p, kind) for p in prompts):
        raise NelboError(f"prompts must be a list of strings, got {prompts!r}")


def shorten(text: str, most: int = 40) -> str:
    """A text of at most `most` characters, with its end left out."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _vocabulary(tokenizer: Any) -> str:
    words = json.dumps(tokenizer.get_vocab(), sort_keys=True)
    whole = getattr(tokenizer, "backend_tokenizer", None)
    # With the merges, which the vocabulary does not determine, if the tokenizer can be serialised.
    return f"{words}{tokenizer.model_max_length}{'' if whole is None else whole.to_str()}"
