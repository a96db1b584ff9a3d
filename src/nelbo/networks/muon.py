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
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.networks.sharding import assign, is_sharded, whole

# Decay of the momentum of matrices, and the root mean square of their steps as a part of the
# learning rate: about that of AdamW's first steps, so that one rate suits both.
_MOMENTUM, _STEP = 0.9, 1.2
# a x + b x³ + c x⁵, which takes every singular value in (0, 1] to about 1 when it is repeated.
_POLYNOMIAL, _REPEATS = (3.4445, -4.7750, 2.0315), 3
# Numbers that are moved at a time, unless one matrix has more: each needs room for several others.
_AT_ONCE = 1 << 24


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
                    for weights in _in_parts(group["params"]):
                        self._move(group, weights)
                for parameter in group["params"]:
                    parameter.grad = None  # or AdamW would move it as well
        super().step()

    def _move(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        changes = orthogonalised([whole(m).flatten(1) for m in self._momenta(weights)])
        rate = group["lr"]
        torch._foreach_mul_(changes, [-rate * _STEP * math.sqrt(max(c.shape)) for c in changes])
        torch._foreach_mul_(weights, 1 - rate * group["weight_decay"])
        torch._foreach_add_(weights, [_like(w, c) for w, c in zip(weights, changes, strict=True)])

    def _momenta(self, weights: list[Tensor]) -> list[Tensor]:
        """Nesterov's momentum of each after the gradient at hand."""
        for weight in weights:
            if not self.state[weight]:
                zero = torch.zeros_like(weight, memory_format=torch.preserve_format)
                self.state[weight]["momentum"] = zero
        momenta = [self.state[weight]["momentum"] for weight in weights]
        gradients = [cast(Tensor, weight.grad) for weight in weights]
        torch._foreach_lerp_(momenta, gradients, 1 - _MOMENTUM)
        return list(torch._foreach_lerp(gradients, momenta, _MOMENTUM))


def _in_parts(weights: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Those that have a gradient, as many at a time as the memory for their changes allows."""
    part: list[Tensor] = []
    numbers = 0
    for weight in weights:
        if weight.grad is None:
            continue
        if part and numbers + weight.numel() > _AT_ONCE:
            yield part
            part, numbers = [], 0
        part.append(weight)
        numbers += weight.numel()
    if part:
        yield part


def _like(weight: Tensor, change: Tensor) -> Tensor:
    """A change in the shape of the weight, and sharded as it is."""
    change = change.view(weight.shape)
    if not is_sharded(weight):
        return change
    share = torch.empty_like(weight)
    assign(share, change)
    return share


def can_fuse(parameters: Iterable[Tensor]) -> bool:
    """Whether Adam takes its steps of these parameters in one call."""
    return next(iter(parameters)).device.type in ("cpu", "cuda")


def orthogonalised(matrices: Sequence[Float[Tensor, "_ _"]]) -> list[Float[Tensor, "_ _"]]:
    r"""About :math:`U V^\top` of each matrix.

    Newton–Schulz iterations :math:`X \leftarrow (aI + bXX^\top + c(XX^\top)^2) X` from
    :math:`X = M / \|M\|` (Jordan et al. 2024), which take singular values above a 30th of the norm
    to 0.7..1.2, and let smaller ones grow 41-fold. Their factors are polynomials of the first
    :math:`XX^\top`, so that they are multiplied with one another, in the smaller dimension, before
    they meet X; those of all matrices of one smaller dimension at a time.
    """
    wide = [m if m.shape[0] <= m.shape[1] else m.mT for m in matrices]
    norms = torch._foreach_add(torch._foreach_norm(wide), 1e-7)
    wide = list(torch._foreach_div(wide, norms))
    alike: dict[int, list[int]] = {}
    for i, matrix in enumerate(wide):
        alike.setdefault(len(matrix), []).append(i)
    found = list(wide)
    for numbers in alike.values():
        grams = torch.stack([wide[i] @ wide[i].mT for i in numbers])
        for i, product in zip(numbers, _products(grams), strict=True):
            found[i] = product @ wide[i]
    return [f if m.shape[0] <= m.shape[1] else f.mT for f, m in zip(found, matrices, strict=True)]


def _products(gram: Float[Tensor, "k m m"]) -> Float[Tensor, "k m m"]:
    """What the iterations multiply each X with, from its X Xᵀ."""
    a, b, c = _POLYNOMIAL
    scaled_identity = a * torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    product: Tensor | None = None
    for i in range(_REPEATS):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c) + scaled_identity
        product = factor if product is None else factor @ product
        if i + 1 < _REPEATS:
            gram = factor @ gram @ factor
    assert product is not None
    return product
