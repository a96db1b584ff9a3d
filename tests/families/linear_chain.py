r"""A linear-Gaussian hierarchical VAE, whose posterior is known by conditioning normals.

.. math:: z_T \sim N(0, I), \quad z_{t-1} = A_t z_t + N(0, Q_t), \quad x = A_1 z_1 + N(0, Q_1)

Given x the latents are a Markov chain upwards, with :math:`p(z_1|x) \prod p(z_t|z_{t-1})`, so the
exact encoder is of the form that an MHVAE's has.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence, register_kl

from nelbo import TractableMHVAE


class OneEvent(MultivariateNormal):
    """A full normal whose log-probability keeps a dimension for an MHVAE to sum over."""

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value)[:, None]


@register_kl(OneEvent, OneEvent)
def _kl(q: OneEvent, p: OneEvent) -> Tensor:
    plain = (MultivariateNormal(d.mean, d.covariance_matrix) for d in (q, p))
    return kl_divergence(*plain)[:, None]


def by_level(step):
    """A step of one level, made one of a level for each example."""

    @functools.wraps(step)
    def apart(self, *arguments):
        *states, t = arguments[:-1] if arguments[-1] is None else arguments  # no condition
        if isinstance(t, int):
            return step(self, *states, t)
        size = states[0].shape[1]
        mean = torch.empty_like(states[0])
        covariance = mean.new_empty(len(mean), size, size)
        for level in t.unique().tolist():
            at = t == level
            q = step(self, *(state[at] for state in states), level)
            mean[at], covariance[at] = q.mean, q.covariance_matrix
        return OneEvent(mean, covariance)

    return apart


class LinearChain(TractableMHVAE):
    """`levels` latents of `size` values, over data of `size` values, float64.

    Args:
        tilt: what the mean of q(z_1|x) is off by; 0 for the exact posterior.
    """

    def __init__(self, size: int, levels: int, tilt: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.num_levels, self.shape, self.tilt = levels, (size,), tilt
        root = torch.randn(levels, size, size, generator=g, dtype=torch.float64)
        self.noise = 0.3 * root @ root.mT / size + 0.2 * torch.eye(size)
        self.gain = torch.randn(levels, size, size, generator=g, dtype=torch.float64) / size**0.5
        # Every covariance of (x, z_1, ..., z_T), built from the top.
        spread = [torch.eye(size, dtype=torch.float64)]
        for t in range(levels, 0, -1):
            a = self.gain[t - 1]
            spread.append(a @ spread[-1] @ a.T + self.noise[t - 1])
        self.spread = spread[::-1]

    def p_prior(self, shape):
        return self._normal(torch.zeros(shape, dtype=torch.float64), self.spread[-1])

    @by_level
    def p_step(self, x_t, t, condition=None):
        return self._normal(x_t @ self.gain[t - 1].T, self.noise[t - 1])

    def p_data(self, x_1, condition=None):
        return self._normal(x_1 @ self.gain[0].T, self.noise[0])

    def log_prob(self, x: Tensor) -> Tensor:
        return MultivariateNormal(torch.zeros(x.shape[1]).double(), self.spread[0]).log_prob(x)

    @by_level
    def q_step(self, x_prev, t):
        """Bayes' rule for one step: the state above given the one below."""
        return self._above(x_prev, t - 1, t)

    @by_level
    def q_marginal(self, x_0, t):
        return self._above(x_0, 0, t)

    @by_level
    def q_posterior(self, x_t, x_0, t):
        """q(z_{t−1} | z_t, x): z_{t−1} from x first, then conditioned on z_t."""
        before = self._above(x_0, 0, t - 1)
        step = self.q_step(before.mean, t)
        gain = self._up(t - 1, t)
        p = before.covariance_matrix[0]
        k = torch.linalg.solve(gain @ p @ gain.T + step.covariance_matrix[0], gain @ p).T
        mean = before.mean + (x_t - step.mean) @ k.T
        return self._normal(mean, p - k @ gain @ p)

    def _up(self, low: int, high: int) -> Tensor:
        """The matrix of E[state at `high` | state at `low`]."""
        down = torch.eye(len(self.spread[0]), dtype=torch.float64)
        for t in range(low, high):
            down = down @ self.gain[t]
        return torch.linalg.solve(self.spread[low], down @ self.spread[high]).T

    def _above(self, x: Tensor, low: int, high: int) -> OneEvent:
        gain = self._up(low, high)
        covariance = self.spread[high] - gain @ self.spread[low] @ gain.T
        tilt = self.tilt if low == 0 else 0.0
        # Higher states follow the tilted z_1.
        shift = tilt * torch.ones_like(x) @ (self._up(1, high).T if low == 0 else gain.T)
        return self._normal(x @ gain.T + shift, covariance)

    def _normal(self, mean: Tensor, covariance: Tensor) -> OneEvent:
        return OneEvent(mean, (covariance + covariance.T).expand(len(mean), -1, -1) / 2)
