"""The optimisers of the networks: Muon where there is a likelihood, Adam of a GAN."""

from __future__ import annotations

import torch
from torch import nn

from nelbo.networks.muon import Muon, can_fuse

# Of what is no matrix.
_BETA2 = 0.99
# Layers whose matrices features are multiplied by.
_LAYERS = (nn.Linear, nn.Conv2d, nn.RNNBase)


def muon_of(network: nn.Module, rate: float) -> Muon:
    """Muon of the matrices of layers, and Adam of all other parameters."""
    layers = (module for module in network.modules() if isinstance(module, _LAYERS))
    of_layers = (weight for layer in layers for weight in layer.parameters(recurse=False))
    matrices = {id(weight) for weight in of_layers if weight.ndim > 1}
    parts: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for parameter in network.parameters():
        parts[id(parameter) in matrices].append(parameter)
    return Muon(
        [
            {"params": weights, "orthogonal": orthogonal, "weight_decay": 0.0}
            for orthogonal, weights in parts.items()
        ],
        rate,
        _BETA2,
    )


def adam_of(network: nn.Module, rate: float, betas: tuple[float, float]) -> torch.optim.Adam:
    """Adam of all parameters, in one fused call where it can be."""
    fused = can_fuse(network.parameters())
    return torch.optim.Adam(network.parameters(), rate, betas, fused=fused)
