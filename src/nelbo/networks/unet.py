r"""The UNet: the network that every level of the decoder chain shares.

A stack of residual blocks goes down in resolution and up again; each block on the way up also
reads what a block on the way down left behind (Ronneberger et al. 2015, Ho et al. 2020). Names of
weights and config fields are those of diffusers' `UNet2DModel` and `UNet2DConditionModel`, which
are the same network with different layers between the residual blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn

from nelbo.base.errors import NelboError
from nelbo.chain.conditioning import Condition
from nelbo.networks.denoiser import Denoiser
from nelbo.networks.normalization import ACTIVATIONS
from nelbo.networks.text_unet_config import TextUNetConfig
from nelbo.networks.unet_config import UNetConfig
from nelbo.networks.unet_encoder import Residuals, UNetEncoder, zero, zero_residual_branches
from nelbo.networks.unet_stages import StageFactory

_TABLE = "class_embedding.weight"


class UNet(UNetEncoder, Denoiser):
    """The denoising network, called as `(x_t, network_time, condition)`.

    A fresh network starts as Ho et al. (2020) do: the last layer of every residual branch and of
    the network is zero, so that each block begins as the identity and the output as zero; all
    else is PyTorch's default.

    Args:
        config: a `UNetConfig`, or a `TextUNetConfig` for a network that attends to a prompt.
        **fields: instead of a config, the fields of a `UNetConfig`.
    """

    folder = "unet"
    config_classes = (UNetConfig, TextUNetConfig)
    config: UNetConfig | TextUNetConfig

    def __init__(self, config: UNetConfig | TextUNetConfig | None = None, **fields: Any) -> None:
        super().__init__(config, **fields)
        config = self.config
        widths = config.block_out_channels
        skip_widths = self._build_encoder(config)
        stages = StageFactory(config)
        channels = widths[-1]
        self.up_blocks = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            self.up_blocks.append(stages.up_stage(level, channels, skip_widths))
            channels = width
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, widths[0], eps=config.norm_eps)
        self.output_activation = ACTIVATIONS[config.output_activation]
        self.conv_out = nn.Conv2d(widths[0], config.out_channels, 3, padding=1)
        zero_residual_branches(self)
        zero(self.conv_out)

    def forward(
        self,
        x_t: Float[Tensor, "batch in_channels height width"],
        network_time: Num[Tensor, " batch"] | Num[Tensor, ""],
        condition: Condition | None = None,
        *,
        residuals: Residuals | None = None,
    ) -> Float[Tensor, "batch out_channels height width"]:
        """The network's prediction at x_t.

        Args:
            x_t: latents; height and width must be multiples of 2 to the number of halvings.
            network_time: network time of each example, integer or fractional, (B,).
            condition: its label adds the class embedding; without a label (−1, or no condition)
                nothing is added, which is the unconditional model. A text-conditional network
                attends to its text. Its control is for a ControlNet.
            residuals: features that a ControlNet adds; see `ControlledUNet`.
        """
        self._check_input(x_t)
        network_time = network_time.to(x_t.device).expand(x_t.shape[0])
        embedding, context = self.embed(network_time, condition), self.context(condition)
        h = x_t.to(self.dtype)
        if self.config.center_input_sample:
            h = 2 * h - 1

        skips, h = self.descend(self.conv_in(h), embedding, context)
        if residuals is not None:
            skips, h = _add(skips, h, residuals)
        for stage in self.up_blocks:
            h = stage(h, skips, embedding, context)
        h = self.conv_out(self.output_activation(self.conv_norm_out(h)))
        if self.config.time_embedding_type == "fourier":
            # The output is a score in units of the noise scale, which is what t is here.
            h = h / network_time.to(h.dtype)[:, None, None, None]
        return h

    def with_classes(self, before: Sequence[str], after: Sequence[str]) -> UNet:
        """The network with an embedding of other classes; see `Denoiser.with_classes`.

        A class of the same name keeps its embedding. A new one begins as zero, which adds nothing:
        as an image without a label, see docs/decisions/0004-no-label-adds-nothing.md.
        """
        if self.config.class_embed_type is not None:
            raise NelboError(
                f"the labels of this network are embedded by {self.config.class_embed_type!r}, not "
                "by a table of classes: its classes cannot be changed"
            )
        weights = self.state_dict()
        old = weights.pop(_TABLE, None)
        fitting = UNet(replace(self.config, num_class_embeds=len(after) or None)).to(self.dtype)
        if after:
            table = torch.zeros_like(fitting.state_dict()[_TABLE])
            for i, name in enumerate(after):
                if old is not None and name in before:
                    table[i] = old[list(before).index(name)]
            weights[_TABLE] = table
        fitting.load_state_dict(weights)
        return fitting.train(self.training)


def _add(skips: list[Tensor], middle: Tensor, residuals: Residuals) -> tuple[list[Tensor], Tensor]:
    shapes = [tuple(skip.shape) for skip in (*skips, middle)]
    found = [tuple(residual.shape) for residual in (*residuals.skips, residuals.middle)]
    if shapes != found:
        raise NelboError(
            "the residuals do not fit this UNet's features, so they are of a ControlNet for "
            f"another UNet: found shapes {found}, expected {shapes}"
        )
    added = [skip + residual for skip, residual in zip(skips, residuals.skips, strict=True)]
    return added, middle + residuals.middle
