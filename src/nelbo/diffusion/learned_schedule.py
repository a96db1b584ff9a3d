r"""A noise schedule that is learned: a monotone network of continuous time.

In continuous time :math:`t \in [0, 1]` the noise is given by
:math:`\gamma(t) = -\log \mathrm{SNR}(t)`,

.. math::
    x_t = a x_0 + s \epsilon, \qquad
    a^2 = \mathrm{sigmoid}(-\gamma(t)), \quad s^2 = \mathrm{sigmoid}(\gamma(t)),

where γ grows (Kingma et al. 2021, "Variational Diffusion Models", section 3.2). It is

.. math::
    \gamma(t) = \gamma_0 + (\gamma_1 - \gamma_0)\, u(t), \qquad
    u(t) = \kappa t + (1 - \kappa) \frac{h(t) - h(0)}{h(1) - h(0)}, \qquad
    h(t) = \sum_k w_k\, \mathrm{sigmoid}(c_k (t - m_k))

with positive w_k and c_k and a small share κ of a line, so that whatever the parameters are, u
grows from 0 to 1 (appendix H).
The two end points decide the bound of the data, the shape u the variance of its estimate.
"""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from nelbo.base.errors import NelboError
from nelbo.diffusion.schedule import NoiseSchedule

HIDDEN = 32
# κ: no two levels of a chain have the same noise.
_LINE = 0.02
# Levels of a chain that its shape is read at.
_FITTED = 200
# Adam moves every parameter by about the learning rate of the image network's; the shape is to be
# found within hundreds of its steps.
_SPEED = 5.0


class LearnedSchedule(nn.Module):
    """γ(t) on [0, 1], growing by construction; at first a line.

    Args:
        first: γ(0) = −log SNR of the least noise.
        last: γ(1), of the most.
        learn_ends: whether the end points are parameters too.
        hidden: how many sigmoids h has.

    Raises:
        NelboError: ends that are not finite or do not grow.
    """

    def __init__(
        self, first: float, last: float, *, learn_ends: bool = True, hidden: int = HIDDEN
    ) -> None:
        super().__init__()
        if not 0 < last - first < float("inf"):
            raise NelboError(
                f"γ must grow from its first value to its last, both finite; got {first}..{last}"
            )
        self.first = nn.Parameter(torch.tensor(float(first)), requires_grad=learn_ends)
        # softplus(span) = γ(1) − γ(0), and its inverse.
        span = torch.tensor(float(last) - float(first), dtype=torch.float64)
        raw = span + torch.log(-torch.expm1(-span))
        self.raw_span = nn.Parameter(raw.float(), requires_grad=learn_ends)
        # Sigmoids as wide as they are apart, from a little before 0 to a little after 1: their
        # sum is close to a line.
        self.center = nn.Parameter(torch.linspace(-0.1, 1.1, hidden))
        self.log_steepness = nn.Parameter(torch.full((hidden,), 2.0 * hidden).log() / _SPEED)
        self.log_weight = nn.Parameter(torch.zeros(hidden))

    @classmethod
    def like(cls, schedule: NoiseSchedule, *, learn_ends: bool = True) -> LearnedSchedule:
        """With the ends of a chain, and as near to its shape as least squares bring it.

        Raises:
            NelboError: noise that does not grow, or is not finite.
        """
        levels = torch.linspace(1, schedule.num_levels, _FITTED).round().long().unique()
        wanted = -schedule.log_snr[levels]
        first, last = wanted[[0, -1]].tolist()
        gamma = cls(first, last, learn_ends=learn_ends)
        if len(levels) > 2:
            t = (levels - 1) / (schedule.num_levels - 1)
            gamma._fit_shape(t.double(), (wanted - first) / (last - first))
        return gamma

    @property
    def span(self) -> Float[Tensor, ""]:
        """γ(1) − γ(0)."""
        return F.softplus(self.raw_span)

    def forward(self, t: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        """γ(t)."""
        return self.first + self.span * self.shape(t)[0]

    def shape(
        self, t: Float[Tensor, "*times"]
    ) -> tuple[Float[Tensor, "*times"], Float[Tensor, "*times"]]:
        """u(t), from 0 to 1, and its derivative u'(t)."""
        ends = torch.tensor([0.0, 1.0], dtype=t.dtype, device=t.device)
        (low, high), _ = self._growing(ends)
        value, slope = self._growing(t)
        share = (1 - _LINE) / (high - low)
        return _LINE * t + share * (value - low), _LINE + share * slope

    @torch.no_grad()
    def discretize(self, T: int) -> NoiseSchedule:
        r"""The chain whose level t has the noise of time (t − 1)/(T − 1), float64.

        Raises:
            NelboError: fewer than two levels, or so little noise at time 0 that float64 has none.
        """
        if T < 2:
            raise NelboError(f"a learned schedule goes between two levels or more, got T={T}")
        exact = copy.deepcopy(self).cpu().double()
        gamma = exact(torch.linspace(0, 1, T, dtype=torch.float64))
        return NoiseSchedule.from_levels(torch.sigmoid(-gamma))

    def _fit_shape(self, t: Tensor, wanted: Tensor) -> None:
        exact = copy.deepcopy(self).double()
        shape = {n: getattr(exact, n) for n in ("center", "log_steepness", "log_weight")}
        optimizer = torch.optim.LBFGS(
            list(shape.values()), max_iter=100, line_search_fn="strong_wolfe"
        )

        def error() -> Tensor:
            optimizer.zero_grad()
            error = 1e4 * (exact.shape(t)[0] - wanted).square().mean()
            error.backward()
            return error

        with torch.enable_grad():
            optimizer.step(error)
        for name, value in shape.items():
            getattr(self, name).data.copy_(value.data)

    def _growing(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """h(t) and h'(t)."""
        steepness, weight = (_SPEED * self.log_steepness).exp(), (_SPEED * self.log_weight).exp()
        hidden = torch.sigmoid(steepness * (t[..., None] - self.center))
        slope = (weight * steepness * hidden * (1 - hidden)).sum(-1)
        return (weight * hidden).sum(-1), slope
