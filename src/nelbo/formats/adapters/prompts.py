"""Prompts of adapted pipelines, by the tokenizers and text encoders that they come with."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nelbo.base.digest import digest
from nelbo.chain.conditioning import Condition
from nelbo.formats.adapters.parts import load_part, load_tokenizer
from nelbo.formats.pipeline import Pipeline
from nelbo.text import PromptEncoder, shorten


class AdaptedPrompts(PromptEncoder):
    """Embeds prompts with the parts of a pipeline; subclasses write `embed`.

    Args:
        tokenizers: by their folders.
        models: the text encoders by their folders; one that may be absent is left out.
        network: the configuration of the network that attends to them.

    Attributes:
        encoders: the folders of the text encoders, and the classes of each in transformers.
        tokenizer_of: the folder of the tokenizer of each.
        may_lack: the folders of those that a pipeline may do without.
    """

    encoders: ClassVar[Mapping[str, tuple[str, ...]]]
    tokenizer_of: ClassVar[Mapping[str, str]] = {"text_encoder": "tokenizer"}
    may_lack: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, tokenizers: dict[str, Any], models: dict[str, Any], network: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.tokenizers = tokenizers
        self.models: Any = nn.ModuleDict(models)
        self.network = network

    @classmethod
    def read(cls, pipeline: Pipeline, network: Mapping[str, Any]) -> AdaptedPrompts:
        """The parts of a pipeline; errors as `load_part`."""
        held = pipeline.index.parts
        there = [name for name in cls.encoders if name in held or name not in cls.may_lack]
        tokenizers = {name: load_tokenizer(pipeline, cls.tokenizer_of[name]) for name in there}
        models = {
            name: load_part(pipeline, name, "transformers", cls.encoders[name]) for name in there
        }
        return cls(tokenizers, models, network)

    def identity(self) -> str:
        """A hash of the configurations and the tokenizers."""
        configs = [_plain(model.config.to_dict()) for model in self.models.values()]
        words = [json.dumps(t.get_vocab(), sort_keys=True) for t in self.tokenizers.values()]
        return digest([type(self).__name__, *configs, *words])

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Write the folders into a pipeline's directory."""
        for name, model in self.models.items():
            model.save_pretrained(Path(path) / name)
            self.tokenizers[name].save_pretrained(Path(path) / self.tokenizer_of[name])

    def tokens(
        self, name: str, texts: Sequence[str], most: int, *, padding: str = "max_length"
    ) -> tuple[Tensor, Tensor]:
        """The tokens of texts for an encoder, and 1 where they are no padding, (B, N) int64 each.

        The rest of a longer text is dropped, with a warning.
        """
        tokenizer, model = self.tokenizers[name], self.models[name]
        found = tokenizer(
            list(texts), padding=padding, max_length=most, truncation=True, return_tensors="pt"
        )
        for text in dict.fromkeys(texts):
            if len(tokenizer(text, truncation=False, verbose=False).input_ids) > most:
                warnings.warn(
                    f"the prompt {shorten(text)!r} is longer than {most} tokens of {name}; the "
                    "rest is dropped",
                    stacklevel=3,
                )
        device = next(model.parameters()).device
        return found.input_ids.to(device), found.attention_mask.to(device)


def pad_together(texts: Sequence[Tensor]) -> Condition:
    """The condition on texts of different lengths, (N, D) each, padded at the end."""
    text = nn.utils.rnn.pad_sequence(list(texts), batch_first=True)
    mask = torch.stack([torch.arange(text.shape[1]) < len(one) for one in texts])
    return Condition(text=text, text_mask=mask.long().to(text.device))


def _plain(config: Mapping[str, Any]) -> str:
    """A configuration without what depends on where and by which release it was written."""

    def kept(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        own = {str(name): one for name, one in value.items() if name != "transformers_version"}
        return {name: kept(one) for name, one in own.items() if not name.startswith("_")}

    return json.dumps(kept(config), sort_keys=True, default=str)
