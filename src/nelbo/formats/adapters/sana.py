"""Sana (Xie et al. 2024): a linear transformer over latents of an autoencoder without noise.

The network answers ε − x_0 at (1 − s) x_0 + s ε; its time is 1000 s, times a scale of its own. A
prompt follows an instruction to the language model that embeds it, the empty and negative ones do
not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from nelbo.chain.conditioning import Condition
from nelbo.formats.adapters.adapter import AdaptedNetwork, Adapter
from nelbo.formats.adapters.autoencoders import point_autoencoder
from nelbo.formats.adapters.parts import default_argument
from nelbo.formats.adapters.prompts import AdaptedPrompts

_GEMMA = "text_encoder"
_TOKENS = 300


class Network(AdaptedNetwork):
    """The linear transformer of Sana."""

    class_name = "SanaTransformer2DModel"
    patch = 1

    def answer(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """The velocity."""
        return self.transformer(
            x,
            encoder_hidden_states=condition.text,
            encoder_attention_mask=condition.text_mask,
            timestep=time * self.transformer.config["timestep_scale"],
        ).sample


class Prompts(AdaptedPrompts):
    """The hidden states of Gemma 2; prompts are in lower case."""

    encoders: ClassVar = {_GEMMA: ("Gemma2Model", "Gemma2ForCausalLM")}

    def embed(self, prompts: Sequence[str | None]) -> Condition:
        """The condition of prompts; None is the unconditional model."""
        given = [prompt for prompt in prompts if prompt is not None]
        parts = [self._embed(given, instructed=True)] if given else []
        if None in prompts:
            parts.append(self._embed([""], instructed=False))
        order = [given.index(prompt) if prompt is not None else len(given) for prompt in prompts]
        return Condition.join(parts)[torch.tensor(order)]

    def negative(self, prompts: Sequence[str | None]) -> Condition:
        """The condition of prompts that guidance leads away from."""
        return self._embed([prompt or "" for prompt in prompts], instructed=False)

    @torch.no_grad()
    def _embed(self, texts: Sequence[str], *, instructed: bool) -> Condition:
        texts = [text.lower().strip() for text in texts]
        most, tokenizer = _TOKENS, self.tokenizers[_GEMMA]
        tokenizer.padding_side = "right"
        if instructed:
            lines = default_argument("SanaPipeline", "complex_human_instruction")
            instruction = "\n".join(lines)
            texts = [instruction + text for text in texts]
            most += len(tokenizer.encode(instruction)) - 2
        ids, mask = self.tokens(_GEMMA, texts, most)
        text = self.models[_GEMMA](ids, attention_mask=mask)[0]
        # The first token and the last ones: what was instructed is left out.
        kept = [0, *range(1 - _TOKENS, 0)]
        return Condition(text=text[:, kept], text_mask=mask[:, kept])


ADAPTER = Adapter("SanaPipeline", Network, Prompts, point_autoencoder)
