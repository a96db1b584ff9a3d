r"""Moving averages of a model's weights, and the reconstruction of averages of any length.

A run keeps an exponential moving average of its weights, whose length has to be chosen before
training. Karras et al. (2024, "Analyzing and Improving the Training Dynamics of Diffusion Models",
section 3) choose it afterwards: two averages with power function profiles

.. math::
    \hat\theta_\gamma(t) =
    \frac{\int_0^t \tau^\gamma \theta(\tau)\,d\tau}{\int_0^t \tau^\gamma\,d\tau},
    \qquad\text{tracked by}\qquad
    \hat\theta_\gamma(t) = \beta \hat\theta_\gamma(t-1) + (1 - \beta)\,\theta(t),\quad
    \beta = (1 - 1/t)^{\gamma+1}

are stored now and then. Any profile is close to a weighted sum of the stored ones, with the weights
that make the squared difference of the profiles smallest (appendix C). The length of a profile is
its standard deviation relative to the training time, σ_rel.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from nelbo.base.errors import NelboError
from nelbo.networks.sharding import assign, local, whole

Model = TypeVar("Model", bound=nn.Module)
# The two lengths that Karras et al. track.
TRACKED = (0.05, 0.10)


class ExponentialMovingAverage(Generic[Model]):
    r"""Averages weights as :math:`\bar\theta \leftarrow d\,\bar\theta + (1 - d)\,\theta`.

    The decay warms up as :math:`d_n = \min(d, (1 + n) / (10 + n))`, so that the first, poor weights
    are forgotten quickly.

    Args:
        model: the model to follow; its copy is `model` here.
        decay: d, in [0, 1).
    """

    def __init__(self, model: Model, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.updates = 0

    @torch.no_grad()
    def update(self, model: Model) -> None:
        """Take in the weights of `model` after a step."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        averages = [local(p) for p in self.model.parameters()]
        torch._foreach_lerp_(averages, [local(p) for p in model.parameters()], 1 - decay)
        for average, buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            average.copy_(buffer)


class PowerAverages:
    """Two averages with power function profiles, to be stored now and then.

    Args:
        model: the model to follow.
        lengths: σ_rel of each.
    """

    def __init__(self, model: nn.Module, lengths: Sequence[float] = TRACKED) -> None:
        self.updates = 0
        self._averages = {
            length: {f"{length}:{n}": p.detach().clone() for n, p in model.named_parameters()}
            for length in lengths
        }

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights of `model` after a step."""
        self.updates += 1
        weights = [local(p) for p in model.parameters()]
        for length, averages in self._averages.items():
            beta = (1 - 1 / self.updates) ** (exponent(length) + 1)
            torch._foreach_lerp_([local(a) for a in averages.values()], weights, 1 - beta)

    def named(self) -> dict[str, Tensor]:
        """The averages, each as σ_rel:name; every process must ask for them."""
        each = self._averages.values()
        return {key: whole(average) for averages in each for key, average in averages.items()}

    def load(self, kept: Mapping[str, Tensor], updates: int) -> None:
        """Restore what `named` gave after `updates` updates."""
        self.updates = updates
        for averages in self._averages.values():
            for key, average in averages.items():
                assign(average, kept[key])


def exponent(length: float) -> float:
    r"""The exponent γ of the profile of relative length σ_rel.

    The positive root of :math:`\sigma_{rel}^2 (\gamma+2)^2 (\gamma+3) = \gamma + 1` (Karras et al.
    2024, eq. 3).

    Raises:
        NelboError: a length that no power function with γ > 0 has.
    """
    # At γ = 0, the plain mean, the length is 1/√12.
    if not 0 < length < 12**-0.5:
        raise NelboError(f"sigma_rel must lie between 0 and {12**-0.5:.4f}, got {length}")
    inverse = length**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


def combination(stored: Sequence[tuple[float, float]], wanted: tuple[float, float]) -> np.ndarray:
    r"""The weights with which stored averages make up the wanted one, float64.

    Of all weights that sum to one they minimise the squared difference of the profiles
    :math:`p(\tau) = (\gamma+1)\,\tau^\gamma / t^{\gamma+1}` on [0, t]. Karras et al. (2024,
    appendix C) leave the sum free, which few snapshots miss: the average of a network is then
    smaller than the network ever was.

    Args:
        stored: time t and exponent γ of each.
        wanted: t and γ.
    """
    count = len(stored)
    # The last row and column are of the Lagrange multiplier of the sum.
    system = np.ones((count + 1, count + 1))
    system[:count, :count] = [[_inner_product(a, b) for b in stored] for a in stored]
    system[count, count] = 0.0
    target = np.array([*(_inner_product(a, wanted) for a in stored), 1.0])
    return np.linalg.lstsq(system, target, rcond=None)[0][:count]


def _inner_product(a: tuple[float, float], b: tuple[float, float]) -> float:
    """∫ p_a(τ) p_b(τ) dτ."""
    (t_a, g_a), (t_b, g_b) = sorted((a, b))
    return (g_a + 1) * (g_b + 1) * (t_a / t_b) ** g_b / ((g_a + g_b + 1) * t_b)


def combine(
    snapshots: Mapping[int, Mapping[str, Tensor]], length: float, step: int | None = None
) -> dict[str, Tensor]:
    """The average of relative length `length` at a step, from stored ones.

    Args:
        snapshots: by step, what `PowerAverages.named` gave then.
        length: σ_rel of the average.
        step: when; the last that is stored by default.

    Raises:
        NelboError: no snapshots, or none up to that step or as late as it.
    """
    if not snapshots:
        raise NelboError("there are no snapshots to combine: train with --snapshot-every")
    last = max(snapshots)
    step = last if step is None else step
    if step > last:
        raise NelboError(f"no snapshot as late as step {step}; the last is of step {last}")
    stored, tensors = [], []
    for at, content in sorted(snapshots.items()):
        if at <= step:
            for key in sorted({name.partition(":")[0] for name in content}):
                stored.append((float(at), exponent(float(key))))
                tensors.append(
                    {n.partition(":")[2]: v for n, v in content.items() if n.startswith(f"{key}:")}
                )
    if not stored:
        raise NelboError(f"no snapshot up to step {step}; the first is of step {min(snapshots)}")
    weights = combination(stored, (float(step), exponent(length)))
    return {
        # In float64: the weights are large, of both signs, and cancel.
        name: sum(
            (w * content[name].double() for w, content in zip(weights, tensors, strict=True)),
            torch.zeros_like(value, dtype=torch.float64),
        ).to(value.dtype)
        for name, value in tensors[0].items()
    }
