"""Qwen-Image (Wu et al. 2025): a rectified flow over packed latents of an autoencoder of films.

The network answers ε − x_0 at (1 − s) x_0 + s ε, and its time is s. A guided answer is brought back
to the norm of the conditional one, token by token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from nelbo.chain.conditioning import Condition
from nelbo.formats.adapters.adapter import LEVELS, Adapter
from nelbo.formats.adapters.autoencoders import film_autoencoder
from nelbo.formats.adapters.packing import SIDE, PackedNetwork, pack, unpack
from nelbo.formats.adapters.parts import library_of
from nelbo.formats.adapters.prompts import AdaptedPrompts, pad_together

_QWEN = "text_encoder"
_TOKENS = 512
_LONGEST = 1024  # with the rest of a prompt dropped to `_TOKENS` after it is embedded


class Network(PackedNetwork):
    """The transformer of Qwen-Image."""

    class_name = "QwenImageTransformer2DModel"

    def answer(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """The velocity."""
        batch, _, height, width = x.shape
        assert condition.text is not None
        assert condition.text_mask is not None
        longest = int(condition.text_mask.sum(1).max())
        mask = condition.text_mask[:, :longest]
        tokens = self.transformer(
            hidden_states=pack(x),
            timestep=time / LEVELS,
            guidance=self.guidance_input(x),
            encoder_hidden_states=condition.text[:, :longest],
            encoder_hidden_states_mask=None if mask.all() else mask,
            img_shapes=[[(1, height // SIDE, width // SIDE)]] * batch,
        ).sample
        return unpack(tokens, height, width)

    def rescale_guided(self, guided: Tensor, conditional: Tensor) -> Tensor:
        """Each token with the norm that it has without guidance."""
        both = [pack(answer) for answer in (guided, conditional)]
        norms = [tokens.norm(dim=-1, keepdim=True) for tokens in both]
        return unpack(both[0] * (norms[1] / norms[0]), *guided.shape[2:])


class Prompts(AdaptedPrompts):
    """The last hidden states of Qwen2.5-VL, without those of what is asked of it."""

    encoders: ClassVar = {_QWEN: ("Qwen2_5_VLForConditionalGeneration",)}

    @torch.no_grad()
    def embed(self, prompts: Sequence[str | None]) -> Condition:
        """The condition of prompts; None is the empty one."""
        template, before = _template()
        texts = [template.format(prompt or "") for prompt in prompts]
        ids, mask = self.tokens(_QWEN, texts, _LONGEST + before, padding="longest")
        output = self.models[_QWEN](
            input_ids=ids, attention_mask=mask, output_hidden_states=True
        ).hidden_states[-1]
        own = [one[kept.bool()] for one, kept in zip(output, mask, strict=True)]
        return pad_together([one[before:][:_TOKENS] for one in own])


def _template() -> tuple[str, int]:
    """What the language model is asked about a prompt, and how many tokens come before that."""
    name = "QwenImagePipeline"
    parts = ("scheduler", "vae", "text_encoder", "tokenizer", "transformer")
    empty = getattr(library_of("diffusers", name), name)(**dict.fromkeys(parts))
    return empty.prompt_template_encode, empty.prompt_template_encode_start_idx


ADAPTER = Adapter("QwenImagePipeline", Network, Prompts, film_autoencoder, "trailing")
