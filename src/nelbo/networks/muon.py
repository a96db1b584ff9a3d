r"""Muon: steps of a matrix in all of its directions alike.

**Muon** (Jordan et al. 2024). AdamW scales the step of each weight by itself, and the weights of a
layer then move along few directions, those in which its gradients are large. Muon replaces the
momentum M of a matrix, a kernel taken as one row an output, by the nearest matrix with orthonormal
rows or columns,

.. math::
    M = U \operatorname{diag}(\sigma) V^\top \;\mapsto\; U V^\top,

so that all directions of the step have the same length. Embeddings are looked up rather than
multiplied by, and they, gains and biases keep AdamW.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.networks.sharding import assign, is_sharded, whole

# Decay of the momentum of matrices, and the root mean square of their steps as a part of the
# learning rate: about that of AdamW's first steps, so that one rate suits both.
_MOMENTUM, _STEP = 0.9, 1.2
# a x + b x³ + c x⁵, which takes every singular value in (0, 1] to about 1 when it is repeated.
_POLYNOMIAL, _REPEATS = (3.4445, -4.7750, 2.0315), 3


class Muon(torch.optim.AdamW):
    """AdamW, but for groups with `orthogonal`, whose matrices take Muon's steps.

    Args:
        groups: of parameters, each with "orthogonal" and "weight_decay".
        rate: the learning rate of all.
        beta2: AdamW's decay of second moments.
    """

    def __init__(self, groups: list[dict[str, Any]], rate: float, beta2: float) -> None:
        parameters = (parameter for group in groups for parameter in group["params"])
        super().__init__(groups, lr=rate, betas=(0.9, beta2), fused=can_fuse(parameters))

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move all parameters that have a gradient; those of matrices are used up."""
        assert closure is None
        # As the gradient scaler of fp16 reports it to optimisers that skip such a step themselves.
        overflow: Tensor | None = getattr(self, "found_inf", None)
        for group in self.param_groups:
            if group["orthogonal"]:
                if overflow is None or not overflow.item():
                    self._move(group)
                for parameter in group["params"]:
                    parameter.grad = None  # or AdamW would move it as well
        super().step()

    def _move(self, group: dict) -> None:
        alike: dict[torch.Size, list[Tensor]] = {}
        for parameter in group["params"]:
            if parameter.grad is not None:
                alike.setdefault(parameter.flatten(1).shape, []).append(parameter)
        for (rows, columns), parameters in alike.items():
            moved = orthogonalised(torch.stack([self._momentum(one) for one in parameters]))
            moved *= -group["lr"] * _STEP * math.sqrt(max(rows, columns))
            for parameter, change in zip(parameters, moved, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                if is_sharded(parameter):
                    share = torch.empty_like(parameter)
                    assign(share, change.view(parameter.shape))
                    parameter.add_(share)
                else:
                    parameter.add_(change.view(parameter.shape))

    def _momentum(self, parameter: Tensor) -> Tensor:
        """Nesterov's momentum after the gradient at hand, as a matrix that is not sharded."""
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        gradient = parameter.grad
        assert gradient is not None
        momentum = state["momentum"].lerp_(gradient, 1 - _MOMENTUM)
        return whole(gradient.lerp(momentum, _MOMENTUM)).flatten(1)


def can_fuse(parameters: Iterable[Tensor]) -> bool:
    """Whether Adam takes its steps of these parameters in one call."""
    return next(iter(parameters)).device.type in ("cpu", "cuda")


def orthogonalised(matrices: Float[Tensor, "k m n"]) -> Float[Tensor, "k m n"]:
    r"""About :math:`U V^\top` of each matrix.

    Newton–Schulz iterations :math:`X \leftarrow (aI + bXX^\top + c(XX^\top)^2) X` from
    :math:`X = M / \|M\|` (Jordan et al. 2024), which take singular values above a 30th of the norm
    to 0.7..1.2, and let smaller ones grow 41-fold. Their factors are polynomials of the first
    :math:`XX^\top`, so that they are multiplied with one another, in the smaller dimension, before
    they meet X.
    """
    wide = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.mT
    wide = wide / (wide.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = _POLYNOMIAL
    gram = wide @ wide.mT
    scaled_identity = a * torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    product = None
    for i in range(_REPEATS):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c) + scaled_identity
        product = factor if product is None else factor @ product
        if i + 1 < _REPEATS:
            gram = factor @ gram @ factor
    found = product @ wide
    return found if matrices.shape[1] <= matrices.shape[2] else found.mT
