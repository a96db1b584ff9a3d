"""Flux: a rectified flow over packed latents, with CLIP's pooled vector and the tokens of T5.

The network answers ε − x_0 at (1 − s) x_0 + s ε, and its time is s. That of Flux dev is distilled
from a guided one, whose guidance is an input: what it models is the guided chain.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from nelbo.chain.conditioning import Condition
from nelbo.formats.adapters.adapter import LEVELS, Adapter
from nelbo.formats.adapters.packing import SIDE, PackedNetwork, pack, unpack
from nelbo.formats.adapters.prompts import AdaptedPrompts

_CLIP, _T5 = "text_encoder", "text_encoder_2"
_T5_TOKENS = 512


class Network(PackedNetwork):
    """The transformer of Flux, over tokens of 2×2 latents with their rows and columns."""

    class_name = "FluxTransformer2DModel"

    def answer(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """The velocity."""
        height, width = x.shape[2:]
        assert condition.text is not None
        tokens = self.transformer(
            hidden_states=pack(x),
            timestep=time / LEVELS,
            guidance=self.guidance_input(x),
            pooled_projections=condition.pooled_text,
            encoder_hidden_states=condition.text,
            txt_ids=x.new_zeros(condition.text.shape[1], 3),
            img_ids=_places(x, height // SIDE, width // SIDE),
        ).sample
        return unpack(tokens, height, width)


class Prompts(AdaptedPrompts):
    """The tokens of T5, and CLIP's pooled vector."""

    encoders: ClassVar = {_CLIP: ("CLIPTextModel",), _T5: ("T5EncoderModel",)}
    tokenizer_of: ClassVar = {_CLIP: "tokenizer", _T5: "tokenizer_2"}

    @torch.no_grad()
    def embed(self, prompts: Sequence[str | None]) -> Condition:
        """The condition of prompts; None is the empty one."""
        texts = [prompt or "" for prompt in prompts]
        clip, _ = self.tokens(_CLIP, texts, self.tokenizers[_CLIP].model_max_length)
        t5, _ = self.tokens(_T5, texts, _T5_TOKENS)
        pooled = self.models[_CLIP](clip).pooler_output
        return Condition(text=self.models[_T5](t5)[0], pooled_text=pooled)


def _places(like: Tensor, rows: int, columns: int) -> Tensor:
    """0, row and column of each token, (N, 3)."""
    places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
    return torch.nn.functional.pad(places, (1, 0)).to(like)


ADAPTER = Adapter("FluxPipeline", Network, Prompts, spacing="trailing")
