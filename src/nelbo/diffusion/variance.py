r"""The reverse variance :math:`\Sigma_t` of :math:`p(x_{t-1}|x_t)`.

:math:`\beta_t` and :math:`\tilde\beta_t` are the optimal choices for data of unit variance and for
a single point (Ho et al. 2020, section 3.2). :math:`\tilde\beta_1 = 0`, so at t = 1
:math:`\tilde\beta_2` takes its place, as in DDPM.

**The optimal one.** Let :math:`e_t = E\|x_0 - \hat x_0(x_t)\|^2`, D the dimensions and :math:`w_t`
the weight of :math:`x_0` in the posterior mean. For one variance :math:`\sigma^2` a level,

.. math::
    E\,KL = \frac D2\left[\frac{\tilde\beta_t + w_t^2 e_t / D}{\sigma^2} - 1
        + \log\frac{\sigma^2}{\tilde\beta_t}\right],

whose derivative vanishes only at :math:`\sigma_t^{*2} = \tilde\beta_t + w_t^2 e_t / D`, a minimum.
For the exact :math:`\hat x_0 = E[x_0|x_t]` it is theorem 1 of Bao et al. 2022 (Analytic-DPM); with
the measured error of any network it stays optimal for that network. As
:math:`w_t^2 / \tilde\beta_t = \mathrm{SNR}_{t-1} - \mathrm{SNR}_t`, what is left is
:math:`\tfrac D2 \log(1 + (\mathrm{SNR}_{t-1} - \mathrm{SNR}_t)\, e_t / D)`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.chain.level import Level
from nelbo.diffusion.coefficients import Coefficient
from nelbo.diffusion.profile import LevelProfile
from nelbo.diffusion.schedule import Levels, NoiseSchedule


class FixedVariance:
    """One variance a level, the same for every pixel.

    Args:
        variance: Σ_t at every level, (T+1,).
    """

    is_learned = False

    def __init__(self, variance: Levels) -> None:
        self.least = variance
        self.log_variance = Coefficient(variance.log())

    def log(self, t: Level, x_t: Tensor, output: Tensor | None) -> Tensor:
        """log Σ_t, broadcastable to the state."""
        return self.log_variance(t, x_t)


class LearnedRange:
    r"""The network chooses between two variances for every pixel.

    :math:`\Sigma_t = \exp(f \log\beta_t + (1 - f) \log\tilde\beta_t)` with
    :math:`f = (v + 1)/2` from its second C channels (Nichol & Dhariwal 2021, eq. 15).

    Args:
        low: β̃_t, (T+1,).
        high: β_t, (T+1,).
    """

    is_learned = True

    def __init__(self, low: Levels, high: Levels) -> None:
        self.least = low
        self.log_low = Coefficient(low.log())
        self.log_high = Coefficient(high.log())

    def log(self, t: Level, x_t: Tensor, output: Tensor | None) -> Tensor:
        """log Σ_t, one value a pixel."""
        return within_range(self.log_low(t, x_t), self.log_high(t, x_t), output)


def within_range(log_low: Tensor, log_high: Tensor, output: Tensor | None) -> Tensor:
    """f·log_high + (1 − f)·log_low with f = (v + 1)/2, v the network's output for it."""
    assert output is not None
    fraction = (output + 1) / 2
    return fraction * log_high + (1 - fraction) * log_low


ReverseVariance = FixedVariance | LearnedRange

VARIANCES: dict[str, Callable[[NoiseSchedule, LevelProfile | None], ReverseVariance]] = {
    "fixed_small": lambda schedule, _: FixedVariance(_positive_posterior_variance(schedule)),
    "fixed_large": lambda schedule, _: FixedVariance(schedule.betas),
    "learned_range": lambda schedule, _: LearnedRange(
        _positive_posterior_variance(schedule), schedule.betas
    ),
    "analytic": lambda schedule, profile: FixedVariance(analytic_variance(schedule, profile)),
}


def analytic_variance(schedule: NoiseSchedule, profile: LevelProfile | None) -> Levels:
    """The optimal variance σ*²_t at every level of a chain, (T+1,).

    At t = 1, where data are rounded, it is the variance of p(x_0|x_1) under which they are the
    most likely.

    Args:
        schedule: the chain, whole or respaced.
        profile: measured on the whole chain.

    Raises:
        NelboError: no profile, or one of another chain.
    """
    if profile is None:
        raise NelboError(
            "variance='analytic' is measured on data: use fit_variance(model, x_0), or pass "
            "profile=level_profile(model, x_0)"
        )
    parent = profile_levels(schedule, profile)
    error = profile.squared_error[parent] / profile.dims
    variance = schedule.posterior_variance + schedule.posterior_data_weight.square() * error
    variance[1] = profile.data_variance[parent[1]]
    return variance


def profile_levels(schedule: NoiseSchedule, profile: LevelProfile) -> Tensor:
    """Which level of the profiled chain each level of a respaced one is, (T+1,) int64.

    Raises:
        NelboError: the profile is of another chain.
    """
    found = difference(schedule, profile)
    if found is not None:
        raise NelboError(f"the level profile is of another chain ({found}): measure it again")
    return profile.schedule.levels_of(schedule)


def difference(schedule: NoiseSchedule, profile: LevelProfile) -> str | None:
    """How a chain differs from what a profile was measured on, in words; None where it is of it."""
    chain = profile.schedule
    parent = chain.levels_of(schedule)
    strange = chain.network_times[parent] != schedule.network_times
    if strange.any():
        t = int(strange.nonzero()[0])
        return (
            f"it was measured on {profile.num_levels} levels, none of which has the network time "
            f"{int(schedule.network_times[t])} of level {t} of the model's {schedule.num_levels}"
        )
    measured = chain.alphas_cumprod[parent]
    apart = ~torch.isclose(measured, schedule.alphas_cumprod, rtol=1e-6, atol=1e-9)
    if apart.any():
        far = (measured - schedule.alphas_cumprod).abs()
        t = int(far.argmax())
        return (
            f"the signal power ᾱ at level {t} is {float(schedule.alphas_cumprod[t]):.6g} in the "
            f"model and {float(measured[t]):.6g} where the profile was measured"
        )
    return None


def _positive_posterior_variance(schedule: NoiseSchedule) -> Levels:
    variance = schedule.posterior_variance.clone()
    # A chain of one level has no β̃_2; β_1 is what is left.
    variance[1] = variance[2] if schedule.num_levels > 1 else schedule.betas[1]
    return variance
