r"""CLIP's text transformer, which reads the prompts of Stable Diffusion (Radford et al. 2021).

Tokens and their places are embedded and go through blocks of

.. math::
    z &\leftarrow z + \mathrm{attention}(\mathrm{norm}(z)) \\
    z &\leftarrow z + W_2\, a(W_1\, \mathrm{norm}(z))

in which a token attends to itself and those before it. State dicts are named as in transformers,
whose files are read and written.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from nelbo.base.errors import explained
from nelbo.base.files import read_json
from nelbo.networks.attention import read
from nelbo.networks.clip_config import ClipTextConfig
from nelbo.networks.files import CONFIG_FILE, locate
from nelbo.networks.pretrained import skeleton
from nelbo.networks.weights import load_weights, read_weights, write_network

WEIGHTS_FILE = "model.safetensors"
_FILES = (
    WEIGHTS_FILE,
    "model.safetensors.index.json",
    "model.fp16.safetensors",
    "model.safetensors.index.fp16.json",
)
# What files have before the names of all weights but the projection's.
_PREFIX, _PROJECTION = "text_model.", "text_projection."
# The half of a whole CLIP that sees, and what older releases wrote beside the weights.
_NOT_OF_TEXT = ("vision_model.", "visual_projection.", "logit_scale")
_NOT_A_WEIGHT = "position_ids"
# The end that configurations named before transformers 4.31, whatever the tokenizer's was.
_WRONG_END = 2
# The standard deviation that embeddings begin with.
_OF_EMBEDDINGS = 0.02


class ClipStates(NamedTuple):
    """What the transformer makes of prompts of N tokens; the names are those of transformers.

    Attributes:
        last_hidden_state: what comes from the last block, normalised, (B, N, D).
        pooler_output: of that, what is at the end of each prompt, (B, D).
        hidden_states: what goes into each block, and what comes from the last, (B, N, D) each.
        text_embeds: the projection of `pooler_output`, (B, E); None without one.
    """

    last_hidden_state: Float[Tensor, "prompts tokens width"]
    pooler_output: Float[Tensor, "prompts width"]
    hidden_states: tuple[Float[Tensor, "prompts tokens width"], ...]
    text_embeds: Float[Tensor, "prompts embedding"] | None


class ClipText(nn.Module):
    """CLIP's text transformer, with fresh weights.

    Args:
        config: its sizes.
        projected: whether it projects the state of the whole prompt, as the second of SDXL does.
    """

    def __init__(self, config: ClipTextConfig, *, projected: bool = False) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.embeddings = _Embeddings(config)
        self.encoder = _Encoder(config)
        self.final_layer_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.text_projection = (
            _linear(width, config.projection_dim, width**-0.5, bias=False) if projected else None
        )

    @classmethod
    def from_pretrained(
        cls, path: str | os.PathLike[str], subfolder: str | None = None, *, projected: bool = False
    ) -> Self:
        """The network in a directory or on the Hub, its weights in float32.

        Args:
            path: directory or Hub id, of a text transformer or of a whole CLIP.
            subfolder: where in it the network is.
            projected: as for the class.

        Raises:
            NelboError: a file is missing or damaged, or its weights do not fit its config.
        """
        config_file = locate(path, subfolder, CONFIG_FILE)
        file = locate(path, subfolder, *_FILES)
        found = read_json(config_file)
        with explained(config_file), skeleton():
            model = cls(ClipTextConfig.from_dict(found), projected=projected)
        model.load(read_weights(path, subfolder, file, torch.float32), file)
        return model.eval()

    def load(self, weights: Mapping[str, Tensor], file: Path) -> None:
        """Take these weights, named as in a file, without a copy.

        Raises:
            NelboError: they do not fit, or are not finite.
        """
        found = {
            name.removeprefix(_PREFIX): weight
            for name, weight in weights.items()
            if not name.startswith(_NOT_OF_TEXT) and not name.endswith(_NOT_A_WEIGHT)
        }
        if self.text_projection is None:
            found = {n: w for n, w in found.items() if not n.startswith(_PROJECTION)}
        load_weights(self, found, file)

    def forward(
        self,
        tokens: Int[Tensor, "prompts tokens"],
        attention_mask: Int[Tensor, "prompts tokens"] | None = None,
        *,
        output_hidden_states: bool = True,
    ) -> ClipStates:
        """The states of tokens.

        Args:
            tokens: of each prompt, padded to one length.
            attention_mask: 1 for tokens that are attended to, 0 for others; None for all.
            output_hidden_states: as transformers' own is asked for them; they always are there.
        """
        n = tokens.shape[1]
        sees = torch.ones(n, n, dtype=torch.bool, device=tokens.device).tril()
        if attention_mask is not None:
            sees = sees & attention_mask.bool()[:, None, None]
        states = self.encoder(self.embeddings(tokens), sees)
        last = self.final_layer_norm(states[-1])
        end = self.config.eos_token_id
        ends = (tokens if end == _WRONG_END else (tokens == end).int()).argmax(1)
        pooled = last[torch.arange(len(tokens), device=tokens.device), ends]
        embedded = None if self.text_projection is None else self.text_projection(pooled)
        return ClipStates(last, pooled, states, embedded)

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Write config.json and the weights, as every release of transformers reads them.

        Raises:
            NelboError: the directory cannot be written.
        """
        weights = {
            name if name.startswith(_PROJECTION) else _PREFIX + name: weight
            for name, weight in self.state_dict().items()
        }
        kind = self.config.class_names[self.text_projection is not None]
        # transformers reads in the precision of the config, whatever that of the weights.
        config = self.config.to_dict() | {"architectures": [kind], "torch_dtype": "float32"}
        write_network(Path(path), WEIGHTS_FILE, weights, config)


class _Embeddings(nn.Module):
    """Tokens and their places as vectors."""

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        for embedding in (self.token_embedding, self.position_embedding):
            nn.init.normal_(embedding.weight, std=_OF_EMBEDDINGS)

    def forward(
        self, tokens: Int[Tensor, "prompts tokens"]
    ) -> Float[Tensor, "prompts tokens width"]:
        """Embed tokens."""
        return self.token_embedding(tokens) + self.position_embedding.weight[: tokens.shape[1]]


class _Encoder(nn.Module):
    """All blocks, one after another."""

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Block(config) for _ in range(config.num_hidden_layers))

    def forward(
        self, z: Float[Tensor, "prompts tokens width"], sees: Bool[Tensor, "... tokens tokens"]
    ) -> tuple[Float[Tensor, "prompts tokens width"], ...]:
        """What goes into each block, and what comes from the last."""
        states = [z]
        for block in self.layers:
            states.append(block(states[-1], sees))
        return tuple(states)


class _Block(nn.Module):
    """Attention and MLP, each normalised and residual."""

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.self_attn = _Attention(config)
        self.layer_norm1 = nn.LayerNorm(width, eps=eps)
        self.mlp = _MLP(config)
        self.layer_norm2 = nn.LayerNorm(width, eps=eps)

    def forward(
        self, z: Float[Tensor, "prompts tokens width"], sees: Bool[Tensor, "... tokens tokens"]
    ) -> Float[Tensor, "prompts tokens width"]:
        """Apply the block."""
        z = z + self.self_attn(self.layer_norm1(z), sees)
        return z + self.mlp(self.layer_norm2(z))


class _Attention(nn.Module):
    """Each token reads from those it sees."""

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        width = config.hidden_size
        # Sums over all blocks, each with two residual branches, begin as large as one.
        of_inputs = (2 * config.num_hidden_layers * width) ** -0.5
        self.q_proj = _linear(width, width, of_inputs)
        self.k_proj = _linear(width, width, of_inputs)
        self.v_proj = _linear(width, width, of_inputs)
        self.out_proj = _linear(width, width, width**-0.5)

    def forward(
        self, z: Float[Tensor, "prompts tokens width"], sees: Bool[Tensor, "... tokens tokens"]
    ) -> Float[Tensor, "prompts tokens width"]:
        """Apply the layer."""
        q, k, v = (
            project(z).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.out_proj(read(q, k, v, sees).transpose(1, 2).flatten(2))


class _MLP(nn.Module):
    """W_2 a(W_1 z)."""

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        width, hidden = config.hidden_size, config.intermediate_size
        self.quick = config.hidden_act == "quick_gelu"
        self.fc1 = _linear(width, hidden, (2 * width) ** -0.5)
        self.fc2 = _linear(hidden, width, (2 * config.num_hidden_layers * width) ** -0.5)

    def forward(
        self, z: Float[Tensor, "prompts tokens width"]
    ) -> Float[Tensor, "prompts tokens width"]:
        """Apply the layers."""
        h = self.fc1(z)
        return self.fc2(h * torch.sigmoid(1.702 * h) if self.quick else F.gelu(h))


def _linear(inputs: int, outputs: int, std: float, *, bias: bool = True) -> nn.Linear:
    """A linear layer whose weights begin with this standard deviation, and its biases at 0."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.normal_(layer.weight, std=std)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer
