"""Stable Diffusion 3 and 3.5 (Esser et al. 2024): two CLIP text encoders and a T5.

The network answers ε − x_0 at (1 − s) x_0 + s ε, and its time is 1000 s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from nelbo.chain.conditioning import Condition
from nelbo.formats.adapters.adapter import AdaptedNetwork, Adapter
from nelbo.formats.adapters.prompts import AdaptedPrompts

_CLIP = ("text_encoder", "text_encoder_2")
_T5 = "text_encoder_3"
_T5_TOKENS = 256


class Network(AdaptedNetwork):
    """The MMDiT of Stable Diffusion 3."""

    class_name = "SD3Transformer2DModel"

    def answer(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """The velocity."""
        return self.transformer(
            hidden_states=x,
            timestep=time,
            encoder_hidden_states=condition.text,
            pooled_projections=condition.pooled_text,
        ).sample


class Prompts(AdaptedPrompts):
    """Tokens of both CLIPs side by side, those of T5 after them; both pooled vectors of CLIP."""

    encoders: ClassVar = {
        **dict.fromkeys(_CLIP, ("CLIPTextModelWithProjection",)),
        _T5: ("T5EncoderModel",),
    }
    tokenizer_of: ClassVar = {
        name: name.replace("text_encoder", "tokenizer") for name in (*_CLIP, _T5)
    }
    may_lack = (_T5,)

    @torch.no_grad()
    def embed(self, prompts: Sequence[str | None]) -> Condition:
        """The condition of prompts; None is the empty one."""
        texts = [prompt or "" for prompt in prompts]
        most = self.tokenizers[_CLIP[0]].model_max_length
        tokens, pooled = [], []
        for name in _CLIP:
            ids, _ = self.tokens(name, texts, most)
            output = self.models[name](ids, output_hidden_states=True)
            tokens.append(output.hidden_states[-2])
            pooled.append(output.text_embeds)
        clip, width = torch.cat(tokens, -1), self.network["joint_attention_dim"]
        clip = torch.nn.functional.pad(clip, (0, width - clip.shape[-1]))
        if _T5 in self.models:
            t5 = self.models[_T5](self.tokens(_T5, texts, _T5_TOKENS)[0])[0]
        else:
            t5 = clip.new_zeros(len(texts), _T5_TOKENS, width)
        return Condition(text=torch.cat([clip, t5], -2), pooled_text=torch.cat(pooled, -1))


ADAPTER = Adapter("StableDiffusion3Pipeline", Network, Prompts)
