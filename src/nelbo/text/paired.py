"""Prompts as SDXL reads them: by two text encoders side by side (Podell et al. 2023, section 2.1).

Both give the hidden states before their last layer, joined token by token. The second also gives
one vector for the whole prompt, on which the network is conditioned as well.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.chain.conditioning import Condition
from nelbo.text.encoder import PromptEncoder, TextEncoder

SECOND_TOKENIZER = "tokenizer_2"
SECOND_TEXT_ENCODER = "text_encoder_2"


class PairedTextEncoder(PromptEncoder):
    """Prompts to the tokens of two CLIP text encoders and the pooled vector of the second.

    Args:
        first: of a network without a projection.
        second: of one with a projection of the whole prompt.
        zeros: condition the unconditional model on zeros, as in the training of SDXL; otherwise
            on the empty prompt. An explicit empty prompt is always embedded, as in diffusers.

    Raises:
        NelboError: encoders that read different numbers of tokens.
    """

    def __init__(self, first: TextEncoder, second: TextEncoder, *, zeros: bool = True) -> None:
        super().__init__()
        if first.max_tokens != second.max_tokens:
            raise NelboError(
                f"the two text encoders must read as many tokens, found {first.max_tokens} and "
                f"{second.max_tokens}"
            )
        self.first = first
        self.second = second
        self.zeros = zeros

    @classmethod
    def from_pretrained(
        cls, path: str | os.PathLike[str], *, zeros: bool = True
    ) -> PairedTextEncoder:
        """The text encoders of a pipeline, each with its tokenizer; errors as `TextEncoder`."""
        return cls(
            TextEncoder.from_pretrained(path),
            TextEncoder.from_pretrained(
                path,
                tokenizer=SECOND_TOKENIZER,
                text_encoder=SECOND_TEXT_ENCODER,
                projected=True,
            ),
            zeros=zeros,
        )

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Write the four folders into a pipeline's directory."""
        self.first.save_pretrained(path)
        self.second.save_pretrained(
            path, tokenizer=SECOND_TOKENIZER, text_encoder=SECOND_TEXT_ENCODER
        )

    @torch.no_grad()
    def embed(self, prompts: Sequence[str | None]) -> Condition:
        """The tokens (B, N, D₁ + D₂) and the pooled vector (B, D) of each prompt."""
        texts = [prompt or "" for prompt in prompts]
        first, second = (_read(encoder, texts) for encoder in (self.first, self.second))
        tokens = torch.cat([_penultimate(first), _penultimate(second)], dim=-1)
        pooled: Tensor = second.text_embeds
        if self.zeros:
            given = torch.tensor([prompt is not None for prompt in prompts], device=tokens.device)
            tokens, pooled = tokens * given.view(-1, 1, 1), pooled * given.view(-1, 1)
        return Condition(text=tokens, pooled_text=pooled)


def _read(encoder: TextEncoder, texts: Sequence[str]) -> Any:
    model = encoder.model
    tokens = encoder.tokens(texts).to(next(model.parameters()).device)
    return model(tokens, output_hidden_states=True)


def _penultimate(output: Any) -> Float[Tensor, "prompts tokens width"]:
    return output.hidden_states[-2]
