"""Draws that are made where their generator is, whichever device the model is on."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def choose(
    p: Float[Tensor, "batch choices"], generator: torch.Generator | None
) -> Int[Tensor, " batch"]:
    """One of the choices for each row, with the probabilities of the row."""
    at = p if generator is None else p.to(generator.device)
    return torch.multinomial(at, 1, generator=generator)[:, 0].to(p.device)


def rand_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Uniform noise in [0, 1) of the shape, dtype and device of `x`."""
    device = x.device if generator is None else generator.device
    return torch.rand(x.shape, generator=generator, dtype=x.dtype, device=device).to(x.device)
