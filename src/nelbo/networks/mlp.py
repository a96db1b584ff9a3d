"""The MLP of a transformer block: a first layer with its non-linearity, and a second one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from nelbo.networks.transformer import GatedLinear


class GELULinear(nn.Module):
    """gelu(W z), exact or by its approximation with a tanh (Hendrycks & Gimpel 2016)."""

    def __init__(self, dim: int, hidden: int, *, approximate: str = "none") -> None:
        super().__init__()
        self.proj = nn.Linear(dim, hidden)
        self.approximate = approximate

    def forward(self, z: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens hidden"]:
        """Apply the layer."""
        return F.gelu(self.proj(z), approximate=self.approximate)


FIRST_LAYERS: dict[str, Callable[[int, int], nn.Module]] = {
    "gelu": GELULinear,
    "gelu-approximate": partial(GELULinear, approximate="tanh"),
    "geglu": GatedLinear,
}


class MLP(nn.Module):
    """Four times as wide inside.

    Args:
        dim: width of the tokens.
        activation: one of `FIRST_LAYERS`.
        dropout: probability of dropping a value inside.
    """

    def __init__(self, dim: int, *, activation: str, dropout: float = 0.0) -> None:
        super().__init__()
        first = FIRST_LAYERS[activation](dim, 4 * dim)
        self.net = nn.Sequential(first, nn.Dropout(dropout), nn.Linear(4 * dim, dim))

    def forward(self, z: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens dim"]:
        """Apply the layers."""
        return self.net(z)
