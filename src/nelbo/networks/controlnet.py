r"""ControlNet: spatial control for a frozen UNet (Zhang et al. 2023).

A copy of the UNet's encoder reads x_t plus an embedding of the control; its features are added
to the UNet's skip connections :math:`h_i` and middle through 1×1 convolutions Z that start at
zero, so that training starts from the UNet itself:

.. math:: h_i \leftarrow h_i + s\, Z_i(h'_i), \qquad
    h'_0 = \mathrm{conv}(x_t) + \mathrm{embed}(\mathrm{control})

Names of weights and config fields are those of diffusers' `ControlNetModel`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Self

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn
from torch.nn import functional as F

from nelbo.base.errors import NelboError
from nelbo.chain.conditioning import Condition, check_condition
from nelbo.networks.controlnet_config import ControlNetConfig, shared_fields
from nelbo.networks.text_unet_config import TextUNetConfig
from nelbo.networks.unet import UNet
from nelbo.networks.unet_config import UNetConfig
from nelbo.networks.unet_encoder import Residuals, UNetEncoder, zero, zero_residual_branches


class ControlledUNet(nn.Module):
    """A UNet and a ControlNet as one network, called as `(x_t, network_time, condition)`.

    Args:
        unet: the network that predicts.
        controlnet: the network that reads `condition.control`.
        scale: s, the strength of the control.
    """

    folder = UNet.folder

    def __init__(self, unet: UNet, controlnet: ControlNet, scale: float = 1.0) -> None:
        super().__init__()
        self.unet = unet
        self.controlnet = controlnet
        self.scale = scale

    @property
    def config(self) -> UNetConfig | TextUNetConfig:
        """That of the UNet, whose input and output these are."""
        return self.unet.config

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the UNet's weights."""
        return self.unet.dtype

    def forward(
        self,
        x_t: Float[Tensor, "batch in_channels height width"],
        network_time: Num[Tensor, " batch"] | Num[Tensor, ""],
        condition: Condition | None = None,
    ) -> Float[Tensor, "batch out_channels height width"]:
        """The UNet's prediction at x_t under control."""
        skips, middle = self.controlnet(x_t, network_time, condition)
        if self.scale != 1:
            skips, middle = tuple(self.scale * skip for skip in skips), self.scale * middle
        return self.unet(x_t, network_time, condition, residuals=Residuals(skips, middle))


class ControlNet(UNetEncoder):
    """Maps x_t and a control to residuals of a UNet's features.

    A fresh network adds nothing.

    Args:
        config: the shape of the network.
        **fields: instead of a config, the fields of a `ControlNetConfig`.
    """

    config_classes = (ControlNetConfig,)
    config: ControlNetConfig

    def __init__(self, config: ControlNetConfig | None = None, **fields: Any) -> None:
        super().__init__(config, **fields)
        config = self.config
        skip_widths = self._build_encoder(config.layout)
        self.controlnet_cond_embedding = ControlEmbedding(
            config.conditioning_channels,
            config.conditioning_embedding_out_channels,
            config.block_out_channels[0],
        )
        self.controlnet_down_blocks = nn.ModuleList(
            nn.Conv2d(width, width, 1) for width in skip_widths
        )
        lowest = config.block_out_channels[-1]
        self.controlnet_mid_block = nn.Conv2d(lowest, lowest, 1)
        self.reverses_channels = config.controlnet_conditioning_channel_order == "bgr"
        zero_residual_branches(self)
        zero(self.controlnet_cond_embedding.conv_out)
        zero(self.controlnet_down_blocks)
        zero(self.controlnet_mid_block)

    @classmethod
    def from_unet(cls, unet: UNet, **fields: Any) -> Self:
        """A ControlNet that starts as a copy of a text-conditional UNet's encoder.

        Args:
            unet: the network to control; it is copied and not changed.
            **fields: the fields of `ControlNetConfig` for the control.
        """
        if not isinstance(unet.config, TextUNetConfig):
            raise NelboError(
                "a ControlNet has the format of diffusers' ControlNetModel, which goes with "
                f"UNet2DConditionModel only; found {unet.config.class_name}"
            )
        width = unet.config.time_embedding_dim
        if width not in (None, 4 * unet.config.block_out_channels[0]):
            raise NelboError(
                f"the UNet has time_embedding_dim={width}, for which a ControlNet has no field"
            )
        shared = {name: getattr(unet.config, name) for name in shared_fields()}
        controlnet = cls(ControlNetConfig(**(shared | fields)))
        controlnet.to(unet.conv_in.weight)
        copied = {
            name: weight
            for name, weight in unet.state_dict().items()
            if not name.startswith(("up_blocks.", "conv_norm_out.", "conv_out."))
        }
        controlnet.load_state_dict(copied, strict=False)
        return controlnet

    def forward(
        self,
        x_t: Float[Tensor, "batch in_channels height width"],
        network_time: Num[Tensor, " batch"] | Num[Tensor, ""],
        condition: Condition | None = None,
    ) -> Residuals:
        """The residuals of the UNet's features at x_t for `condition.control`.

        Args:
            x_t: latents.
            network_time: network time of each example, (B,).
            condition: as for the UNet; its control is of shape (batch, conditioning_channels,
                f · height, f · width), with f = `config.downscale`, and usually in [0, 1].
        """
        self._check_input(x_t)
        control = self._control(x_t, condition)
        network_time = network_time.to(x_t.device).expand(x_t.shape[0])
        embedding, context = self.embed(network_time, condition), self.context(condition)
        h = self.conv_in(x_t.to(self.dtype)) + self.controlnet_cond_embedding(control)
        skips, middle = self.descend(h, embedding, context)
        return Residuals(
            tuple(
                convolve(skip)
                for convolve, skip in zip(self.controlnet_down_blocks, skips, strict=True)
            ),
            self.controlnet_mid_block(middle),
        )

    def _control(self, x_t: Tensor, condition: Condition | None) -> Tensor:
        check_condition(condition)
        control = None if condition is None else condition.control
        if control is None:
            raise NelboError("a ControlNet needs a control: pass Condition(control=...)")
        factor = self.config.downscale
        height, width = (factor * side for side in x_t.shape[2:])
        expected = (x_t.shape[0], self.config.conditioning_channels, height, width)
        if tuple(control.shape) != expected:
            raise NelboError(
                f"condition.control has shape {tuple(control.shape)}, expected {expected}: "
                f"{factor} times the height and width of x_t"
            )
        control = control.to(self.dtype)
        return control.flip(1) if self.reverses_channels else control


class ControlEmbedding(nn.Module):
    """Convolutions that take the control to the resolution and width of the UNet's first features.

    Args:
        in_channels: channels of the control.
        widths: of the convolutions; the resolution is halved between one and the next.
        out_channels: width of the UNet's first features.
    """

    def __init__(self, in_channels: int, widths: Sequence[int], out_channels: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList()
        for width, wider in pairwise(widths):
            self.blocks.append(nn.Conv2d(width, width, 3, padding=1))
            self.blocks.append(nn.Conv2d(width, wider, 3, padding=1, stride=2))
        self.conv_out = nn.Conv2d(widths[-1], out_channels, 3, padding=1)

    def forward(
        self, control: Float[Tensor, "batch channels image_height image_width"]
    ) -> Float[Tensor, "batch out_channels height width"]:
        """Embed the control."""
        h = F.silu(self.conv_in(control))
        for convolve in self.blocks:
            h = F.silu(convolve(h))
        return self.conv_out(h)
