"""The three parts of a UNet: resolutions on the way down, the bottom, resolutions on the way up.

Each runs residual blocks, each followed by its attention layer if it has one, then changes the
resolution if it is to. An attention layer is any module called as `(x, context)`, so that the
same stages serve self-attention and attention to a prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn


class Stage(nn.Module):
    """Residual blocks and the attention layers between them."""

    def __init__(self, resnets: Sequence[nn.Module], attentions: Sequence[nn.Module]) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        self.attentions = nn.ModuleList(attentions)

    def layers(self) -> Iterator[tuple[nn.Module, nn.Module | None]]:
        """Each residual block with the attention layer that follows it, or None."""
        attentions = self.attentions or [None] * len(self.resnets)
        return zip(self.resnets, attentions, strict=True)


class DownStage(Stage):
    """One resolution on the way down; hands over every intermediate result."""

    def __init__(
        self,
        resnets: Sequence[nn.Module],
        attentions: Sequence[nn.Module] = (),
        downsampler: nn.Module | None = None,
    ) -> None:
        super().__init__(resnets, attentions)
        self.downsamplers = nn.ModuleList([] if downsampler is None else [downsampler])

    def forward(
        self, x: Tensor, embedding: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """The result and the skip connections, in the order they arise."""
        skips = []
        for resnet, attention in self.layers():
            x = resnet(x, embedding)
            if attention is not None:
                x = attention(x, context)
            skips.append(x)
        for downsampler in self.downsamplers:
            x = downsampler(x, embedding)
            skips.append(x)
        return x, skips


class MidStage(Stage):
    """The lowest resolution: one residual block more than there are attention layers."""

    def layers(self) -> Iterator[tuple[nn.Module, nn.Module | None]]:
        """Each residual block with the attention layer that follows it, or None."""
        attentions = [*self.attentions, *[None] * (len(self.resnets) - len(self.attentions))]
        return zip(self.resnets, attentions, strict=True)

    def forward(
        self, x: Tensor, embedding: Tensor | None = None, context: Tensor | None = None
    ) -> Tensor:
        """Apply the layers."""
        for resnet, attention in self.layers():
            x = resnet(x, embedding)
            if attention is not None:
                x = attention(x, context)
        return x


class UpStage(Stage):
    """One resolution on the way up; each residual block also reads a skip connection."""

    def __init__(
        self,
        resnets: Sequence[nn.Module],
        attentions: Sequence[nn.Module] = (),
        upsampler: nn.Module | None = None,
    ) -> None:
        super().__init__(resnets, attentions)
        self.upsamplers = nn.ModuleList([] if upsampler is None else [upsampler])

    def forward(
        self,
        x: Tensor,
        skips: list[Tensor],
        embedding: Tensor,
        context: Tensor | None = None,
    ) -> Tensor:
        """Apply the layers, taking skip connections from the end of the list."""
        for resnet, attention in self.layers():
            x = resnet(torch.cat([x, skips.pop()], dim=1), embedding)
            if attention is not None:
                x = attention(x, context)
        for upsampler in self.upsamplers:
            x = upsampler(x, embedding)
        return x
