"""PixArt-Σ (Chen et al. 2024): a DDPM whose network also answers the reverse variance.

The network answers ε, and its time is the level of the chain less one. Prompts are tokens of T5
with a mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from nelbo.chain.conditioning import Condition
from nelbo.formats.adapters.adapter import AdaptedNetwork, Adapter
from nelbo.formats.adapters.prompts import AdaptedPrompts

_T5 = "text_encoder"
_TOKENS = 300


class Network(AdaptedNetwork):
    """The transformer of PixArt-Σ."""

    class_name = "PixArtTransformer2DModel"

    @staticmethod
    def output_multiple(config: Mapping[str, Any]) -> int:
        """2 with a learned variance."""
        return config["out_channels"] // config["in_channels"]

    def answer(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """The noise, and what interpolates the variance."""
        return self.transformer(
            x,
            encoder_hidden_states=condition.text,
            encoder_attention_mask=condition.text_mask,
            timestep=time,
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        ).sample


class Prompts(AdaptedPrompts):
    """The tokens of T5; prompts are in lower case."""

    encoders: ClassVar = {_T5: ("T5EncoderModel",)}

    @torch.no_grad()
    def embed(self, prompts: Sequence[str | None]) -> Condition:
        """The condition of prompts; None is the empty one."""
        texts = [(prompt or "").lower().strip() for prompt in prompts]
        ids, mask = self.tokens(_T5, texts, _TOKENS)
        return Condition(text=self.models[_T5](ids, attention_mask=mask)[0], text_mask=mask)


ADAPTER = Adapter("PixArtSigmaPipeline", Network, Prompts)
