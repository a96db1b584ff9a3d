"""The blocks of a diffusion transformer, and what conditions them; see `nelbo.networks.dit`."""

from __future__ import annotations

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn
from torch.nn import functional as F

from nelbo.networks.attention import Attention
from nelbo.networks.dit_config import DiTConfig, TextDiTConfig, TransformerConfig
from nelbo.networks.embeddings import EmbeddingMLP, Sinusoidal
from nelbo.networks.mlp import MLP

# Width of the sines and cosines of the time.
TIME = 256
# Epsilon of the normalisations that never have weights.
PLAIN_EPS = 1e-6


class DiTBlock(nn.Module):
    """Attention and MLP, modulated by an embedding of time and class that is the block's own."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.norm1 = AdaLayerNormZero(config.width, config.num_embeds_ada_norm)
        self.attn1 = _attention(config)
        self.norm3 = _norm(config)
        self.ff = MLP(config.width, activation=config.activation_fn, dropout=config.dropout)

    def forward(
        self, z: Float[Tensor, "batch tokens dim"], embedded: Float[Tensor, "batch dim"]
    ) -> Float[Tensor, "batch tokens dim"]:
        """Apply the block."""
        vectors = self.norm1.linear(F.silu(embedded))[:, None].chunk(6, dim=2)
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = vectors
        normal = F.layer_norm(z, z.shape[-1:], eps=PLAIN_EPS)
        z = torch.addcmul(z, gate_1, self.attn1(modulate(normal, shift_1, scale_1)))
        return torch.addcmul(z, gate_2, self.ff(modulate(self.norm3(z), shift_2, scale_2)))


class TextBlock(nn.Module):
    """Attention, attention to the prompt, and MLP; the first and last modulated by the time."""

    def __init__(self, config: TextDiTConfig) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm(config), _norm(config)
        self.attn1 = _attention(config)
        self.attn2 = _attention(config, config.cross_attention_dim)
        self.ff = MLP(config.width, activation=config.activation_fn, dropout=config.dropout)
        self.scale_shift_table = nn.Parameter(torch.zeros(6, config.width))

    def forward(
        self,
        z: Float[Tensor, "batch tokens dim"],
        vectors: Float[Tensor, "batch six dim"],
        context: Float[Tensor, "batch prompt_tokens context_dim"],
    ) -> Float[Tensor, "batch tokens dim"]:
        """Apply the block."""
        own = (self.scale_shift_table + vectors).chunk(6, dim=1)
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = own
        z = torch.addcmul(z, gate_1, self.attn1(modulate(self.norm1(z), shift_1, scale_1)))
        z = self.attn2(z, context) + z
        return torch.addcmul(z, gate_2, self.ff(modulate(self.norm2(z), shift_2, scale_2)))


class AdaLayerNormZero(nn.Module):
    """The six vectors of a block: its own embedding of time and class, and a linear map of it."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.emb = TimeAndClass(dim, classes)
        self.linear = nn.Linear(dim, 6 * dim)


class TimeAndClass(nn.Module):
    """MLP(time) + table(class); the last row of the table is that of no label."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.timestep_embedder = EmbeddingMLP(TIME, dim)
        self.class_embedder = nn.ModuleDict({"embedding_table": nn.Embedding(classes + 1, dim)})

    def forward(self, time: Float[Tensor, "batch 256"], rows: Tensor) -> Float[Tensor, "batch dim"]:
        """The embedding of each example."""
        return self.timestep_embedder(time) + self.class_embedder["embedding_table"](rows)


class TimeModulation(nn.Module):
    """The six vectors of all blocks, and the embedded time that they are linear in."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.time_proj = Sinusoidal(TIME)
        self.emb = nn.ModuleDict({"timestep_embedder": EmbeddingMLP(TIME, dim)})
        self.linear = nn.Linear(dim, 6 * dim)

    def forward(self, network_time: Num[Tensor, " batch"]) -> tuple[Tensor, Tensor]:
        """(B, 6, dim) and (B, dim)."""
        time = self.time_proj(network_time).to(self.linear.weight.dtype)
        embedded = self.emb["timestep_embedder"](time)
        return self.linear(F.silu(embedded)).unflatten(1, (6, -1)), embedded


class CaptionProjection(EmbeddingMLP):
    """linear → gelu → linear, from the embedded prompt to the width of the network."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, lambda x: F.gelu(x, approximate="tanh"))


def modulate(z: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """(1 + scale) ⊙ z + shift."""
    return torch.addcmul(shift, z, 1 + scale)


def start(network: nn.Module) -> None:
    """Initial weights (Peebles & Xie 2023): Xavier for layers, small ones for embeddings."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            small = "timestep_embedder" in name or "caption_projection" in name
            if small:
                nn.init.normal_(module.weight, std=0.02)
            else:
                nn.init.xavier_uniform_(module.weight.detach().flatten(1))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)


def zero(*layers: nn.Module) -> None:
    """Start layers at zero."""
    for layer in layers:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)


def _attention(config: TransformerConfig, context_dim: int | None = None) -> Attention:
    return Attention(
        config.width,
        heads=config.num_attention_heads,
        head_dim=config.attention_head_dim,
        context_dim=context_dim,
        bias=config.attention_bias,
        dropout=config.dropout,
    )


def _norm(config: TransformerConfig) -> nn.LayerNorm:
    affine = config.norm_elementwise_affine
    return nn.LayerNorm(config.width, eps=config.norm_eps, elementwise_affine=affine)
