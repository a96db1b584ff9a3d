r"""Embeddings of the network time :math:`t` as a vector.

`Sinusoidal` is the embedding of Vaswani et al. (2017) as used by Ho et al. (2020),
`GaussianFourier` that of Song et al. (2021), `LearnedTime` a table. `EmbeddingMLP` maps any of
them to the width in which time, class and later conditions are summed.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor, nn
from torch.nn import functional as F

from nelbo.base.errors import NelboError
from nelbo.networks.normalization import Activation, silu


def sinusoidal_embedding(
    t: Num[Tensor, " batch"],
    dim: int,
    *,
    freq_shift: float = 0.0,
    cos_first: bool = True,
    max_period: float = 10_000.0,
) -> Float[Tensor, "batch dim"]:
    r"""Sines and cosines of t at geometrically spaced frequencies, always in float32.

    .. math:: \omega_k = P^{-k / (d/2 - s)}, \quad k = 0 .. d/2 - 1

    with P = `max_period`, d = `dim` and s = `freq_shift`. An odd `dim` is padded with a zero.
    """
    # float32 whatever the network's precision: checkpoints were trained on these very values.
    half = dim // 2
    exponent = torch.arange(half, dtype=torch.float32, device=t.device) * -math.log(max_period)
    angle = t.float()[:, None] * (exponent / (half - freq_shift)).exp()
    sin, cos = angle.sin(), angle.cos()
    embedding = torch.cat([cos, sin] if cos_first else [sin, cos], dim=1)
    return F.pad(embedding, (0, dim % 2)) if dim % 2 else embedding


class Sinusoidal(nn.Module):
    """`sinusoidal_embedding` with its options fixed; no weights."""

    def __init__(self, dim: int, *, freq_shift: float = 0.0, cos_first: bool = True) -> None:
        super().__init__()
        self.dim = dim
        self.freq_shift = freq_shift
        self.cos_first = cos_first

    def forward(self, t: Num[Tensor, " batch"]) -> Float[Tensor, "batch dim"]:
        """Embed t."""
        return sinusoidal_embedding(
            t, self.dim, freq_shift=self.freq_shift, cos_first=self.cos_first
        )


class GaussianFourier(nn.Module):
    r"""sin and cos of :math:`2\pi w_k \log t` with fixed random w, for noise scales t > 0."""

    def __init__(self, num_frequencies: int, *, scale: float = 16.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_frequencies) * scale, requires_grad=False)

    def forward(self, t: Num[Tensor, " batch"]) -> Float[Tensor, "batch dim"]:
        """Embed t."""
        angle = t.log()[:, None] * self.weight * (2 * math.pi)
        return torch.cat([angle.sin(), angle.cos()], dim=1)


class LearnedTime(nn.Embedding):
    """One learned vector for each integer t in 0 .. num_embeddings − 1."""

    def forward(self, t: Num[Tensor, " batch"]) -> Float[Tensor, "batch dim"]:
        """Look t up."""
        index = t.long()
        require_in_range(index, 0, self.num_embeddings, "network_time", "num_train_timesteps")
        return super().forward(index)


class EmbeddingMLP(nn.Module):
    """linear → activation → linear, from an embedding to the width shared by all conditions.

    Args:
        in_features: width of the embedding.
        out_features: width shared by all conditions.
        activation: the non-linearity, which may overwrite its argument.
    """

    def __init__(self, in_features: int, out_features: int, activation: Activation = silu) -> None:
        super().__init__()
        self.activation = activation
        self.linear_1 = nn.Linear(in_features, out_features)
        self.linear_2 = nn.Linear(out_features, out_features)

    def forward(self, embedding: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        """Map the embedding."""
        return self.linear_2(self.activation(self.linear_1(embedding)))


class SizeEmbedding(EmbeddingMLP):
    """Embeds the pooled prompt and the picture's size, as in SDXL (Podell et al. 2023).

    Args:
        in_features: width of the pooled prompt and of the embedded size together.
        out_features: width shared by all conditions.
        each: embedding of each number of the size.
    """

    def __init__(self, in_features: int, out_features: int, each: Sinusoidal) -> None:
        super().__init__(in_features, out_features)
        self.each = each

    def forward(  # type: ignore[override]
        self, pooled_text: Float[Tensor, "batch dim"], size: Num[Tensor, "batch numbers"]
    ) -> Float[Tensor, "batch out"]:
        """Map both together."""
        numbers = self.each(size.flatten()).unflatten(0, size.shape).flatten(1)
        both = torch.cat([pooled_text, numbers.to(pooled_text.dtype)], dim=1)
        if both.shape[1] != self.linear_1.in_features:
            raise NelboError(
                f"condition.pooled_text {tuple(pooled_text.shape)} and condition.size "
                f"{tuple(size.shape)} make {both.shape[1]} features, but this network has "
                f"projection_class_embeddings_input_dim={self.linear_1.in_features}"
            )
        return super().forward(both)


def checked_label(label: Tensor, classes: int, field: str) -> Int[Tensor, " batch"]:
    """The classes of examples as int64; −1 is no label.

    Args:
        label: what a condition holds.
        classes: how many there are.
        field: the name of their number in the configuration.

    Raises:
        NelboError: a label of another shape or type, or outside −1 .. classes − 1.
    """
    whole = not (label.is_floating_point() or label.is_complex() or label.dtype == torch.bool)
    if label.ndim != 1 or not whole:
        raise NelboError(
            f"condition.label has shape {tuple(label.shape)} and type {label.dtype}, expected "
            "the number of the class of each example, (batch,) int64"
        )
    label = label.long()
    require_in_range(label, -1, classes, "condition.label", field)
    return label


def require_in_range(
    value: Int[Tensor, " batch"], low: int, high: int, what: str, field: str
) -> None:
    """Refuse indices outside low .. high − 1, which a table look-up reports cryptically."""
    if value.numel() == 0:
        return
    smallest, largest = (int(v) for v in torch.aminmax(value))
    if smallest < low or largest >= high:
        found = smallest if smallest < low else largest
        raise NelboError(
            f"{what} holds {found}, but this network has {field}={high}: "
            f"values must be in {low}..{high - 1}"
        )
