"""Every network in every configuration of `tests/parity`, on the device and on the CPU.

The reference is the output and the gradients of float64 on the CPU, which `tests/parity` holds
equal to diffusers'.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nelbo.networks import AutoencoderKL, ControlledUNet, ControlNet, UNet
from nelbo.training.precision import Autocast
from tests.gpu.check import Check, deviation, difference, exact_products, placed, within
from tests.parity import test_autoencoder, test_controlnet, test_dit, test_text_unet, test_unet

# Of float64, float32 and bf16. Random weights amplify rounding more than trained ones do.
DOUBLE, SINGLE, HALF = 1e-9, 1e-3, 1e-1


class _Autoencoder(nn.Module):
    """Both distributions' parameters and the reconstruction, as one tensor."""

    def __init__(self, autoencoder: AutoencoderKL) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, x: Tensor) -> Tensor:
        q = self.autoencoder.encode(x)
        parts = q.mean, q.stddev, self.autoencoder.decode(q.mean)
        return torch.cat([part.flatten() for part in parts])


def _unet(name: str) -> tuple[nn.Module, Any]:
    x_t, network_time, label = test_unet.inputs(name)
    network = test_unet.same_network(test_unet.peer_network(name))
    return network, (x_t, network_time, test_unet.Condition(label=label))


def _text_unet(name: str) -> tuple[nn.Module, Any]:
    network = test_text_unet.same_network(test_text_unet.peer_network(name))
    return network, test_text_unet.inputs(name)


def _dit(name: str) -> tuple[nn.Module, Any]:
    peer: Any = test_dit.peer_network(name)
    network = test_dit.own_class(name).from_config(peer.config).double()
    network.load_state_dict(peer.state_dict())
    return network.eval(), test_dit.inputs(name, 8)


def _autoencoder(name: str) -> tuple[nn.Module, Any]:
    network = test_autoencoder.same_network(test_autoencoder.peer_network(name))
    return _Autoencoder(network), (test_autoencoder.image(name),)


def _controlnet(name: str) -> tuple[nn.Module, Any]:
    unet, controlnet = test_controlnet.peers(name)
    pair = test_controlnet.same(unet, UNet), test_controlnet.same(controlnet, ControlNet)
    return ControlledUNet(*pair), test_controlnet.inputs(name)


def _outputs(network: nn.Module, inputs: Any) -> tuple[Tensor, Tensor]:
    """The output, and the gradients of its mean square in one tensor."""
    network.zero_grad(set_to_none=True)
    output = network(*inputs)
    output.square().mean().backward()
    gradients = [w.grad.flatten() for w in network.parameters() if w.grad is not None]
    return output.detach(), torch.cat(gradients)


def _parity(make: Callable[[str], tuple[nn.Module, Any]], name: str, device: torch.device) -> str:
    network, inputs = make(name)
    output, gradient = _outputs(network, inputs)
    figures = []
    with exact_products():
        for dtype, limit in ((torch.float64, DOUBLE), (torch.float32, SINGLE)):
            found = _outputs(placed(network, device, dtype), placed(inputs, device, dtype))
            which = str(dtype).removeprefix("torch.")
            figures.append(within(which, difference(found[0], output), limit))
            figures.append(within("gradients", difference(found[1], gradient), limit))
    single = placed(network, device, torch.float32)
    with torch.no_grad():
        found = Autocast(single, torch.bfloat16)(*placed(inputs, device, torch.float32))
    return ", ".join([*figures, within("bf16", deviation(found, output), HALF)])


def checks() -> list[Check]:
    """A check for each network and configuration."""
    kinds = {
        "unet": (_unet, test_unet.CONFIGS),
        "text-unet": (_text_unet, test_text_unet.CONFIGS),
        "transformer": (_dit, test_dit.CONFIGS),
        "autoencoder": (_autoencoder, test_autoencoder.CONFIGS),
        "controlnet": (_controlnet, test_controlnet.CONFIGS),
    }
    return [
        Check(f"{kind}/{name}", partial(_parity, make, name))
        for kind, (make, configs) in kinds.items()
        for name in configs
    ]
