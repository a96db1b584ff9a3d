r"""Group normalisation and the pointwise non-linearities.

Group normalisation (Wu & He 2018) standardises the :math:`C/G` channels of a group over all
positions of one image, then applies a learned affine map per channel:

.. math:: y_c = \gamma_c \frac{x_c - \mu_{g(c)}}{\sqrt{\sigma^2_{g(c)} + \epsilon}} + \delta_c
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Activation = Callable[[Tensor], Tensor]


def silu(x: Tensor) -> Tensor:
    """x · sigmoid(x); overwrites x when no gradient is recorded, so never call it on an input."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


def relu(x: Tensor) -> Tensor:
    """max(x, 0); overwrites x, whose backward pass needs the output only."""
    return F.relu(x, inplace=True)


# Each of these may overwrite its argument: the callers hand over a fresh tensor.
ACTIVATIONS: dict[str, Activation] = {
    "silu": silu,
    "swish": silu,
    "mish": F.mish,
    "gelu": F.gelu,
    "relu": relu,
}
