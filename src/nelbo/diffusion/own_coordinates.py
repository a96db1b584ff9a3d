"""What a network of your own answers at scales α(τ) and σ(τ) of your own: the noise, or a score."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nelbo.base.arguments import check_count, check_kind, check_numbers, described
from nelbo.base.bisection import bisection
from nelbo.base.errors import NelboError
from nelbo.diffusion.noise_level import wide
from nelbo.diffusion.prediction import Epsilon
from nelbo.diffusion.schedule import NoiseSchedule

Scale = Callable[[Tensor], Tensor | float]

# Noise levels whose time is held, at most: many times those of a chain.
_MOST_HELD = 100_000
# Where scales are looked at.
_PLACES = 101


class EpsilonAt(Epsilon):
    """The noise ε at the state α(τ) x_0 + σ(τ) ε and time τ.

    Args:
        alpha: α of times, (B,).
        sigma: σ of times, (B,).
        times: the first and last τ; at noise beyond them the network is called with the nearer.

    Raises:
        NelboError: ends without signal or without noise, or σ / α that does not increase.
    """

    name = "own_epsilon"

    def __init__(self, alpha: Scale, sigma: Scale, times: tuple[float, float]) -> None:
        for name, scale in (("alpha", alpha), ("sigma", sigma)):
            check_kind(name, scale, Callable, "a function of times, (B,)")
        check_kind("times", times, Sequence, "the first and the last time")
        if len(times) != 2:
            raise NelboError(f"times must be the first and the last time, got {described(times)}")
        check_numbers(**{"times[0]": times[0], "times[1]": times[1]})
        self._alpha, self._sigma, self._times = alpha, sigma, times
        at = torch.linspace(*times, _PLACES, dtype=torch.float64)
        log_sigma = self.log_sigma(at)
        low, high = float(log_sigma[0]), float(log_sigma[-1])
        if not -torch.inf < low < high < torch.inf:
            raise NelboError(
                f"log(σ/α) must increase from one finite value to another, got {low:.4g} at time "
                f"{times[0]:g} and {high:.4g} at {times[1]:g}: choose times=(first, last) with "
                "both signal and noise"
            )
        if (falls := log_sigma.diff() < 0).any():
            first = float(at[falls.nonzero()[0, 0]])
            raise NelboError(
                f"log(σ/α) must increase with the time, and it falls after time {first:.4g}: check "
                "alpha and sigma"
            )
        self._ends = low, high
        self._held: dict[float, float] = {}

    def schedule(self, T: int) -> NoiseSchedule:
        """T levels between the ends, even in log SNR."""
        check_count("the number of levels T", T)
        log_sigma = torch.linspace(*self._ends, T, dtype=torch.float64)
        return NoiseSchedule.from_levels(torch.sigmoid(-2 * log_sigma))

    def network_input(
        self, x_t: Tensor, time: Tensor, a: Tensor, s: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The state of these scales, and their time."""
        own = self.time_of((s.double() / a.double()).log().flatten().detach()).to(x_t.device)
        scale = torch.hypot(self.alpha(own), self.sigma(own)).to(x_t.dtype)
        return wide(scale, x_t) * x_t, own.to(a.dtype).expand(len(x_t))

    def alpha(self, times: Tensor) -> Tensor:
        """α, (B,)."""
        return torch.as_tensor(self._alpha(times)).to(times).expand(times.shape)

    def sigma(self, times: Tensor) -> Tensor:
        """σ, (B,)."""
        return torch.as_tensor(self._sigma(times)).to(times).expand(times.shape)

    def log_sigma(self, times: Tensor) -> Tensor:
        """log(σ/α), (B,)."""
        return (self.sigma(times) / self.alpha(times)).log()

    def time_of(self, log_sigma: Tensor) -> Tensor:
        """The time of each log(σ/α), (B,) float64 on the CPU; each is found once and held."""
        values, place = log_sigma.double().cpu().unique(return_inverse=True)
        wanted = values.tolist()
        if len(self._held) > _MOST_HELD:
            self._held.clear()
        if new := [value for value in wanted if value not in self._held]:
            found = self._sought(torch.tensor(new, dtype=torch.float64))
            self._held.update(zip(new, found.tolist(), strict=True))
        times = torch.tensor([self._held[value] for value in wanted], dtype=torch.float64)
        return times[place]

    def _sought(self, log_sigma: Tensor) -> Tensor:
        first, last = (torch.full_like(log_sigma, end) for end in self._times)
        return bisection(lambda times: self.log_sigma(times) > log_sigma, first, last)


class ScoreAt(EpsilonAt):
    """The score ∇ log p(x) = −ε / σ(τ) at the state α(τ) x_0 + σ(τ) ε and time τ.

    Arguments are those of `EpsilonAt`.
    """

    name = "own_score"

    def x_0(self, output: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Tensor:
        """The data of which −σ(τ) times the output is the noise."""
        return super().x_0(self.epsilon(output, x_t, a, s), x_t, a, s)

    def epsilon(self, output: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Tensor:
        """−σ(τ) times the output."""
        return -self._noise_scale((s.double() / a.double()).log()).to(s) * output

    def target(self, x_0: Tensor, epsilon: Tensor, a: Tensor, s: Tensor) -> Tensor:
        """−ε / σ(τ)."""
        return -epsilon / self._noise_scale((s.double() / a.double()).log()).to(s)

    def data_error(self, log_snr: Tensor) -> Tensor:
        """σ(τ)² s²/a²."""
        return super().data_error(log_snr) * self.noise_error(log_snr)

    def noise_error(self, log_snr: Tensor) -> Tensor:
        """σ(τ)²."""
        return self._noise_scale(-log_snr / 2).square().to(log_snr)

    def _noise_scale(self, log_sigma: Tensor) -> Tensor:
        """σ of the time of each log(σ/α), of its shape."""
        return self.sigma(self.time_of(log_sigma.detach().flatten())).view(log_sigma.shape)
