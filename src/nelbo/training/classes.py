"""A trained network for other classes than those that it was trained with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from nelbo.base.errors import NelboError
from nelbo.networks import UNet

_TABLE = "class_embedding.weight"


def with_classes(network: UNet, before: Sequence[str], after: Sequence[str]) -> UNet:
    """The network with an embedding of other classes, and every other weight as it is.

    A class of the same name keeps its embedding. A new one begins as zero, which adds nothing: as
    an image without a label, see docs/decisions/0004-no-label-adds-nothing.md.

    Args:
        network: the trained one, with or without classes.
        before: the names of its classes; empty where it has none, or they are not known.
        after: of those that are wanted; none for a network without.

    Raises:
        NelboError: a network whose labels are no numbers of classes.
    """
    config = network.config
    if config.class_embed_type is not None:
        raise NelboError(
            f"the labels of this network are embedded by {config.class_embed_type!r}, not by a "
            "table of classes: its classes cannot be changed"
        )
    weights = network.state_dict()
    old = weights.pop(_TABLE, None)
    fitting = UNet(replace(config, num_class_embeds=len(after) or None)).to(network.dtype)
    if after:
        table = torch.zeros_like(fitting.state_dict()[_TABLE])
        for i, name in enumerate(after):
            if old is not None and name in before:
                table[i] = old[list(before).index(name)]
        weights[_TABLE] = table
    fitting.load_state_dict(weights)
    return fitting.train(network.training)
