"""The objective of a ControlNet: that of the base's chain under control, whose base is frozen."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from nelbo.chain.conditioning import Condition
from nelbo.diffusion import Diffusion
from nelbo.diffusion.objectives import BatchPart, Objective, TrainingTerms
from nelbo.networks import ControlledUNet, ControlNet
from nelbo.training.task import Wrap


class Frozen:
    """A module that another one uses and does not train: no part of it, and shared by copies.

    Args:
        module: the module.
    """

    def __init__(self, module: Any) -> None:
        self.module = module

    def __deepcopy__(self, memo: dict[int, Any]) -> Frozen:
        return self


class ControlObjective(nn.Module):
    """The objective of a batch; its parameters are the ControlNet's.

    Args:
        controlnet: the network to train.
        base: the chain that it controls.
    """

    def __init__(self, controlnet: ControlNet, base: Diffusion) -> None:
        super().__init__()
        self.controlnet = controlnet
        unet: Any = base.network
        self.base = Frozen(base)
        self.network = Frozen(ControlledUNet(unet, controlnet))

    def wrapped(self, wrap: Wrap) -> ControlObjective:
        """The same objective with the base and the ControlNet wrapped as one network."""
        twin = copy.copy(self)
        twin.network = Frozen(wrap(ControlledUNet(self.base.module.network, self.controlnet)))
        return twin

    @property
    def chain(self) -> Diffusion:
        """The base under the control of the network as it is now."""
        network = self.network.module
        controlled = self.base.module.replace(network=network).train(self.training)
        # The base stays as it is used, with its dropout off.
        network.unet.eval()
        return controlled

    def forward(
        self,
        x_0: Tensor,
        condition: Condition | None,
        *,
        objective: Objective,
        generator: torch.Generator | None = None,
        part: BatchPart | None = None,
    ) -> TrainingTerms:
        """As `Objective`, of the chain under control."""
        return objective(self.chain, x_0, condition, generator=generator, part=part)
