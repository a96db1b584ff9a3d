r"""ControlNet: spatial control for a frozen UNet (Zhang et al. 2023).

A copy of the UNet's encoder reads x_t plus an embedding of the control; its features are added
to the UNet's skip connections :math:`h_i` and middle through 1×1 convolutions Z that start at
zero, so that training starts from the UNet itself:

.. math:: h_i \leftarrow h_i + s\, Z_i(h'_i), \qquad
    h'_0 = \mathrm{conv}(x_t) + \mathrm{embed}(\mathrm{control})

Names of weights and config fields are those of diffusers' `ControlNetModel`, which goes with UNets
that read text. That of a UNet without has the same names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, Self, cast

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn
from torch.nn import functional as F

from nelbo.base.arguments import check_kind
from nelbo.base.digest import config_digest
from nelbo.base.errors import NelboError
from nelbo.chain.conditioning import Condition, check_condition
from nelbo.networks.control import Strength
from nelbo.networks.controlnet_config import (
    ControlNetConfig,
    PlainControlNetConfig,
    check_controls,
    config_for,
)
from nelbo.networks.text_unet_config import TextUNetConfig
from nelbo.networks.unet import UNet
from nelbo.networks.unet_config import UNetConfig
from nelbo.networks.unet_encoder import Residuals, UNetEncoder, zero, zero_residual_branches


class ControlledUNet(nn.Module):
    """A UNet with one or several ControlNets as one network, `(x_t, network_time, condition)`.

    Their residuals are added up. The control of a condition holds those of all of them, one after
    the other along its channels; without a control the network is the UNet itself.

    Args:
        unet: the network that predicts.
        controlnets: those that read `condition.control`, or one of them.
        scale: s, the strength of the control, for all or one each.
        strengths: instead, how each of them acts.

    Raises:
        NelboError: no ControlNet, one for another UNet, another number of strengths than of
            ControlNets, a scale that is no finite number, or ControlNets whose controls are of
            different sizes.
    """

    folder = UNet.folder

    def __init__(
        self,
        unet: UNet,
        controlnets: ControlNet | Sequence[ControlNet],
        scale: float | Sequence[float] = 1.0,
        *,
        strengths: Sequence[Strength] | None = None,
    ) -> None:
        super().__init__()
        nets = list(controlnets) if isinstance(controlnets, Sequence) else [controlnets]
        for i, net in enumerate(nets):
            check_kind(f"controlnets[{i}]", net, ControlNet, "a ControlNet")
        if not nets:
            raise NelboError("controlnets is empty: give one ControlNet or several")
        if strengths is None:
            scales = list(scale) if isinstance(scale, Sequence) else [scale] * len(nets)
            strengths = [Strength(each) for each in scales]
        if len(strengths) != len(nets):
            raise NelboError(f"{len(nets)} ControlNets were given {len(strengths)} strengths")
        for net in nets:
            check_controls(net.config, unet.config)
        if len({net.config.downscale for net in nets}) > 1:
            sizes = ", ".join(str(net.config.downscale) for net in nets)
            raise NelboError(
                "ControlNets that act together read controls of one size; these read controls of "
                f"{sizes} times the size of x_t"
            )
        self.unet = unet
        self.controlnets = nn.ModuleList(nets)
        self.strengths = tuple(strengths)

    @property
    def config(self) -> UNetConfig | TextUNetConfig:
        """That of the UNet, whose input and output these are."""
        return self.unet.config

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the UNet's weights."""
        return self.unet.dtype

    @property
    def nets(self) -> list[ControlNet]:
        """The ControlNets."""
        return [cast(ControlNet, net) for net in self.controlnets]

    @property
    def control_channels(self) -> list[int]:
        """The channels of the control of each."""
        return [net.config.conditioning_channels for net in self.nets]

    @property
    def downscale(self) -> int:
        """Ratio of the height and width of the controls to those of x_t."""
        return self.nets[0].config.downscale

    @property
    def guesses(self) -> bool:
        """Whether any acts in guess mode, where guidance leads away from no control."""
        return any(strength.guess for strength in self.strengths)

    def acting(self, strengths: Sequence[Strength]) -> ControlledUNet:
        """The same networks with other strengths."""
        network = ControlledUNet(self.unet, self.nets, strengths=strengths)
        return network.train(self.training)

    def identity(self) -> str:
        """The strengths and configurations of the ControlNets, in a line."""
        each = zip(self.nets, self.strengths, strict=True)
        return "; ".join(f"{config_digest(net)}, {strength}" for net, strength in each)

    def forward(
        self,
        x_t: Float[Tensor, "batch in_channels height width"],
        network_time: Num[Tensor, " batch"] | Num[Tensor, ""],
        condition: Condition | None = None,
    ) -> Float[Tensor, "batch out_channels height width"]:
        """The UNet's prediction at x_t under control."""
        check_condition(condition)
        if condition is None or condition.control is None:
            return self.unet(x_t, network_time, condition)
        residuals = self._residuals(x_t, network_time, condition, condition.control)
        return self.unet(x_t, network_time, condition, residuals=residuals)

    def _residuals(
        self, x_t: Tensor, network_time: Tensor, condition: Condition, control: Tensor
    ) -> Residuals | None:
        """The sum of all that act here; None where none does."""
        channels = self.control_channels
        if len(channels) > 1 and control.shape[1:2] != (sum(channels),):
            raise NelboError(
                f"condition.control has shape {tuple(control.shape)}, expected {sum(channels)} "
                f"channels: those of {len(channels)} ControlNets, {' + '.join(map(str, channels))}"
            )
        parts = control.split(channels, 1) if len(channels) > 1 else [control]
        total: Residuals | None = None
        for net, strength, part in zip(self.controlnets, self.strengths, parts, strict=True):
            weight = strength.at(network_time)
            if weight is None:
                continue
            found = net(x_t, network_time, replace(condition, control=part))
            if strength != Strength():
                found = found.scaled(weight, strength.shares(len(found.skips) + 1))
            total = found if total is None else total.plus(found)
        return total


class ControlNet(UNetEncoder):
    """Maps x_t and a control to residuals of a UNet's features.

    A fresh network adds nothing.

    Args:
        config: the shape of the network: a `ControlNetConfig`, or a `PlainControlNetConfig` for the
            control of a UNet without text.
        **fields: instead of a config, the fields of a `ControlNetConfig`.
    """

    config_classes = (ControlNetConfig, PlainControlNetConfig)
    config: ControlNetConfig | PlainControlNetConfig

    def __init__(
        self, config: ControlNetConfig | PlainControlNetConfig | None = None, **fields: Any
    ) -> None:
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
        """A ControlNet that starts as a copy of a UNet's encoder.

        Args:
            unet: the network to control; it is copied and not changed.
            **fields: the fields of the config for the control.

        Raises:
            NelboError: a UNet with a field that a ControlNet has none for.
        """
        controlnet = cls(config_for(unet.config, **fields))
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
        h = x_t.to(self.dtype)
        if self.layout.center_input_sample:
            h = 2 * h - 1
        h = self.conv_in(h) + self.controlnet_cond_embedding(control)
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
        if not control.is_floating_point():
            raise NelboError(
                f"condition.control is of type {control.dtype}, expected real numbers, usually in "
                "[0, 1]: divide pixels of 0..255 by 255"
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
