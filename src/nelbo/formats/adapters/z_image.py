"""Z-Image: a rectified flow whose time runs from noise to data.

The network answers x_0 − ε at (1 − s) x_0 + s ε, and its time is 1 − s: both point the other way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from nelbo.chain.conditioning import Condition
from nelbo.formats.adapters.adapter import LEVELS, AdaptedNetwork, Adapter
from nelbo.formats.adapters.prompts import AdaptedPrompts, pad_together

_QWEN = "text_encoder"
_TOKENS = 512


class Network(AdaptedNetwork):
    """The single-stream transformer of Z-Image, which takes lists of pictures and prompts."""

    class_name = "ZImageTransformer2DModel"

    def answer(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """The velocity."""
        assert condition.text is not None
        assert condition.text_mask is not None
        texts = [
            text[kept.bool()]
            for text, kept in zip(condition.text, condition.text_mask, strict=True)
        ]
        pictures = list(x.unsqueeze(2).unbind(0))  # of one frame
        output = self.transformer(pictures, 1 - time / LEVELS, texts, return_dict=False)[0]
        return -torch.stack(list(output)).squeeze(2)


class Prompts(AdaptedPrompts):
    """The hidden states of Qwen3 before its last layer, of the prompt as a message to it."""

    encoders: ClassVar = {_QWEN: ("Qwen3Model", "Qwen3ForCausalLM")}

    @torch.no_grad()
    def embed(self, prompts: Sequence[str | None]) -> Condition:
        """The condition of prompts; None is the empty one."""
        texts = [
            self.tokenizers[_QWEN].apply_chat_template(
                [{"role": "user", "content": prompt or ""}],
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=True,
            )
            for prompt in prompts
        ]
        ids, mask = self.tokens(_QWEN, texts, _TOKENS)
        output = self.models[_QWEN](
            input_ids=ids, attention_mask=mask.bool(), output_hidden_states=True
        ).hidden_states[-2]
        return pad_together([one[kept.bool()] for one, kept in zip(output, mask, strict=True)])


ADAPTER = Adapter("ZImagePipeline", Network, Prompts, spacing="trailing")
