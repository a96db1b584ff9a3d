"""Attention in 16 bits: other products than torch's own, the same function."""

from __future__ import annotations

import pytest
import torch

from nelbo.networks.attention import Attention


def _read_and_gradients(
    attention: Attention, x: torch.Tensor, context: torch.Tensor | None
) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    read = attention(x, context)
    read.square().sum().backward()
    assert x.grad is not None
    return [read.detach(), x.grad, *(p.grad for p in attention.parameters() if p.grad is not None)]


@pytest.mark.parametrize("prompt_tokens", [None, 5])
def test_attention_in_bfloat16_is_that_of_float64_to_its_precision(
    prompt_tokens: int | None,
) -> None:
    torch.manual_seed(0)
    context_dim = None if prompt_tokens is None else 12
    # A width of heads that is no power of four: its root is rounded in 16 bits.
    attention = Attention(20, heads=2, head_dim=10, context_dim=context_dim)
    x = torch.randn(3, 16, 20)
    context = None if prompt_tokens is None else torch.randn(3, prompt_tokens, 12)
    with torch.autocast("cpu", torch.bfloat16):
        found = _read_and_gradients(attention, x, context)
    attention.zero_grad()
    attention.double()
    expected = _read_and_gradients(
        attention, x.double(), None if context is None else context.double()
    )
    for mine, right in zip(found, expected, strict=True):
        if right.norm() > 1e-6:  # the bias of the keys has no influence
            assert (mine - right).norm() < 0.02 * right.norm()
