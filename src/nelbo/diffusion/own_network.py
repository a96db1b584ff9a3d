r"""A chain around a network of your own, in the coordinates that it was trained in.

A network that was trained at states :math:`x = \alpha(\tau) x_0 + \sigma(\tau) \epsilon` is one of
the same chain: :math:`x / \sqrt{\alpha^2 + \sigma^2}` is its state, and
:math:`\bar\alpha = \alpha^2 / (\alpha^2 + \sigma^2)` its signal power. The levels of a chain built
here are even in log SNR between the ends of the noise.

**The variance** of :math:`p(x_{t-1}|x_t)` is `fixed_large` unless another is named. Data that have
a density are smooth at the finest noise, where :math:`\beta_t` is the best variance. At level 1
`fixed_small` takes :math:`\tilde\beta_2`, which between fine levels is a small part of the noise of
level 1, so that 1,000 levels lose about 20 nats a dimension. What `fixed_large` loses where noise
is high falls as 1/T; `nelbo.fit_variance` removes it.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nelbo.base.arguments import check_kind, check_number
from nelbo.base.errors import NelboError
from nelbo.chain.bound import Bound
from nelbo.chain.conditioning import Condition
from nelbo.chain.data_space import DataSpace, Pixels
from nelbo.chain.estimators import Estimator
from nelbo.diffusion.model import Diffusion
from nelbo.diffusion.network_check import LEAST_EXAMPLES, likely_mistake
from nelbo.diffusion.noise_level import wide
from nelbo.diffusion.own_coordinates import EpsilonAt, Scale, ScoreAt
from nelbo.diffusion.prediction import Parameterization, RawDenoiser
from nelbo.diffusion.schedule import NoiseSchedule

_DEFAULT_VARIANCE = "fixed_large"
# σ of level 1 for 256 pixel levels (Karras et al. 2022, table 1): where these are farther
# apart, noise as fine costs bits that no network can win back.
_EDM_SIGMA_MIN = 0.002


def from_denoiser(
    D: Callable[..., Tensor],
    *,
    shape: Sequence[int],
    T: int = 1000,
    sigma_min: float | None = None,
    sigma_max: float = 80.0,
    **options: Any,
) -> Diffusion:
    """The chain of a denoiser, as EDM has it (Karras et al. 2022).

    Args:
        D: (x, sigma) or (x, sigma, condition) -> x_0, with x = x_0 + σ ε, (B, C, H, W), and σ (B,).
        shape: (C, H, W) of one example.
        T: number of levels, even in log SNR.
        sigma_min: σ of level 1; by default 0.002, a quarter of the distance between 256 pixel
            levels, and of fewer pixel levels a quarter of theirs.
        sigma_max: σ of level T.
        **options: those of `Diffusion`: `data`, `variance` ("fixed_large" by default), ...

    Raises:
        NelboError: ends that are not 0 < sigma_min < sigma_max, or options that do not fit.
    """
    schedule = _between(sigma_min, sigma_max, T, options)
    if isinstance(D, Preconditioned):
        return _chain(OwnNetwork(D.function), schedule, RawDenoiser(D.sigma_data), shape, options)
    return _chain(OwnNetwork(D), schedule, "denoiser", shape, options)


def from_velocity(
    v: Callable[..., Tensor],
    *,
    shape: Sequence[int],
    T: int = 1000,
    sigma_min: float | None = None,
    sigma_max: float = 80.0,
    **options: Any,
) -> Diffusion:
    """The chain of a velocity, as flow matching has it (Lipman et al. 2023; Liu et al. 2023).

    Args:
        v: (x, s) or (x, s, condition) -> ε − x_0, with x = (1 − s) x_0 + s ε, (B, C, H, W), and
            s (B,) from 0, the data, to 1, the noise.
        shape: (C, H, W) of one example.
        T: number of levels, even in log SNR.
        sigma_min: σ = s / (1 − s) of level 1; by default as of a denoiser.
        sigma_max: σ of level T.
        **options: those of `Diffusion`: `data`, `variance` ("fixed_large" by default), ...

    Raises:
        NelboError: ends that are not 0 < sigma_min < sigma_max, or options that do not fit.
    """
    schedule = _between(sigma_min, sigma_max, T, options)
    return _chain(OwnNetwork(v), schedule, "velocity", shape, options)


def from_score(
    score: Callable[..., Tensor],
    *,
    alpha: Scale,
    sigma: Scale,
    shape: Sequence[int],
    T: int = 1000,
    times: tuple[float, float] = (1e-5, 1.0),
    **options: Any,
) -> Diffusion:
    """The chain of a score ∇ log p(x) = −ε / σ(τ) (Song et al. 2021).

    Args:
        score: (x, time) or (x, time, condition) -> score, with x = α(τ) x_0 + σ(τ) ε,
            (B, C, H, W), and τ (B,).
        alpha: α of times (B,).
        sigma: σ of times (B,); σ / α increases.
        shape: (C, H, W) of one example.
        T: number of levels, even in log SNR.
        times: τ of level 1 and of level T.
        **options: those of `Diffusion`: `data`, `variance` ("fixed_large" by default), ...

    Raises:
        NelboError: scales that do not go from data to noise, or options that do not fit.
    """
    own = ScoreAt(alpha, sigma, times)
    return _chain(OwnNetwork(score), own.schedule(T), own, shape, options)


def from_epsilon(
    eps: Callable[..., Tensor],
    *,
    alpha: Scale | None = None,
    sigma: Scale | None = None,
    schedule: NoiseSchedule | None = None,
    shape: Sequence[int],
    T: int = 1000,
    times: tuple[float, float] = (1e-5, 1.0),
    **options: Any,
) -> Diffusion:
    """The chain of a network that predicts the noise, given either its scales or a schedule.

    Args:
        eps: (x, time) or (x, time, condition) -> ε, with x = α(τ) x_0 + σ(τ) ε, (B, C, H, W), and
            τ (B,).
        alpha: α of times (B,).
        sigma: σ of times (B,); σ / α increases.
        schedule: in place of both: x = √ᾱ_t x_0 + √(1 − ᾱ_t) ε, and the time is t − 1.
        shape: (C, H, W) of one example.
        T: number of levels, even in log SNR; with a schedule those of the schedule.
        times: τ of level 1 and of level T; with a schedule it has no use.
        **options: those of `Diffusion`: `data`, `variance` ("fixed_large" by default), ...

    Raises:
        NelboError: neither scales nor a schedule or both, scales that do not go from data to
            noise, or options that do not fit.
    """
    network = OwnNetwork(eps)
    if schedule is not None and alpha is None and sigma is None:
        return _chain(network, schedule, "epsilon", shape, options)
    if schedule is not None or alpha is None or sigma is None:
        raise NelboError("from_epsilon takes either alpha and sigma, or a schedule")
    own = EpsilonAt(alpha, sigma, times)
    return _chain(network, own.schedule(T), own, shape, options)


def preconditioned(F: Callable[..., Tensor], sigma_data: float = 0.5) -> Preconditioned:
    """EDM's denoiser of a raw network F (Karras et al. 2022, table 1): see `Preconditioned`.

    Raises:
        NelboError: a sigma_data that is not positive.
    """
    return Preconditioned(F, sigma_data)


class OwnChain(Diffusion):
    """The chain of a network of your own, whose conventions are looked at with its first bound."""

    _is_checked = False

    def elbo(
        self,
        x_0: Tensor,
        condition: Condition | None = None,
        *,
        levels: int | Estimator | None = None,
        generator: torch.Generator | None = None,
    ) -> Bound:
        """As `Diffusion.elbo`; of enough examples the first call warns as `check_network` raises.

        That takes about 12 calls of the network, and more where it finds a mistake.
        """
        if not self._is_checked and len(x_0) >= LEAST_EXAMPLES:
            self._is_checked = True
            if message := likely_mistake(self, x_0, condition, quick=True):
                warnings.warn(message, stacklevel=2)
        return super().elbo(x_0, condition, levels=levels, generator=generator)


class OwnNetwork(nn.Module):
    """Calls a function (x, time) or (x, time, condition) as a chain calls its network.

    Args:
        function: any callable; the parameters of a module become those of the model.

    Raises:
        NelboError: it cannot be called so.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        if not callable(function) or not (_takes(function, 2) or _takes(function, 3)):
            raise NelboError(
                f"a network is called with (x, time) or (x, time, condition), got {function!r}: "
                "wrap it in a function of these"
            )
        self.function = function
        self._takes_condition = _takes(function, 3)
        self._needs_condition = self._takes_condition and not _takes(function, 2)

    def forward(self, x: Tensor, time: Tensor, condition: Condition | None = None) -> Tensor:
        """The function's answer, (B, C, H, W).

        Raises:
            NelboError: a condition for a function that takes none, or no tensor in answer.
        """
        if condition is None and not self._needs_condition:
            return _checked(self.function(x, time))
        if not self._takes_condition:
            raise NelboError(
                "a condition was given to a network that takes none: define it with a third "
                "argument, (x, time, condition)"
            )
        return _checked(self.function(x, time, condition))


class Preconditioned(OwnNetwork):
    r"""The denoiser of a raw network F (Karras et al. 2022, eq. 7 and table 1).

    .. math::
        D(x; \sigma) = c_{skip} x + c_{out} F(c_{in} x, c_{noise}), \qquad
        c_{skip} = \frac{\sigma_d^2}{\sigma^2 + \sigma_d^2}, \quad
        c_{out} = \frac{\sigma\,\sigma_d}{\sqrt{\sigma^2 + \sigma_d^2}}, \quad
        c_{in} = \frac{1}{\sqrt{\sigma^2 + \sigma_d^2}}, \quad
        c_{noise} = \tfrac14 \log\sigma

    Args:
        function: F, (x, c_noise) or (x, c_noise, condition), c_noise (B,).
        sigma_data: σ_d, the standard deviation of the data.

    Raises:
        NelboError: a sigma_data that is not positive.
    """

    def __init__(self, function: Callable[..., Tensor], sigma_data: float) -> None:
        super().__init__(function)
        check_number("sigma_data", sigma_data)
        if not 0 < sigma_data < torch.inf:
            raise NelboError(f"sigma_data must be positive, got {sigma_data}")
        self.sigma_data = sigma_data

    def forward(self, x: Tensor, time: Tensor, condition: Condition | None = None) -> Tensor:
        """x_0 at the state x and σ, (B, C, H, W)."""
        sigma, data = wide(time, x).to(x.dtype), self.sigma_data
        total = (sigma.square() + data**2).sqrt()
        raw = super().forward(x / total, time.log() / 4, condition)
        return (data / total).square() * x + sigma * data / total * raw


def _between(
    sigma_min: float | None, sigma_max: float, T: int, options: Mapping[str, Any]
) -> NoiseSchedule:
    if sigma_min is None:
        data: DataSpace = options.get("data", Pixels())
        check_kind("data", data, DataSpace, "Pixels(levels) or Continuous()")
        sigma_min = _EDM_SIGMA_MIN * (Pixels().levels - 1) / (data.shown_levels - 1)
    return NoiseSchedule.variance_exploding(T, sigma_min, sigma_max, rho=torch.inf)


def _chain(
    network: OwnNetwork,
    schedule: NoiseSchedule,
    prediction: str | Parameterization,
    shape: Sequence[int],
    options: dict[str, Any],
) -> Diffusion:
    for name in ("prediction", "schedule"):
        if name in options:
            raise NelboError(f"{name} follows from the network's coordinates here: leave it out")
    options = {"variance": _DEFAULT_VARIANCE} | options
    return OwnChain(network, schedule, prediction=prediction, shape=shape, **options)


def _checked(answer: Any) -> Tensor:
    if not isinstance(answer, Tensor):
        raise NelboError(
            f"the network answered a {type(answer).__name__}, expected a tensor (B, C, H, W): take "
            "it out of that, as lambda x, time: net(x, time).sample for networks of diffusers"
        )
    return answer


def _takes(function: Callable[..., Tensor], number: int) -> bool:
    """Whether a callable takes this many arguments by their place; unknown ones take two."""
    called = function.forward if isinstance(function, nn.Module) else function
    try:
        inspect.signature(called).bind(*[None] * number)
    except TypeError:
        return False
    except ValueError:  # it has no signature to read
        return number == 2
    return True
