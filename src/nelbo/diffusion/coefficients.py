r"""The coefficients of a chain by their names, computed once in float64.

Every formula of `Diffusion` reads its coefficients at the level of each example from here: go to
the attribute for how it follows from the schedule, and to `NoiseSchedule` for its source.
"""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from nelbo.chain.level import Level
from nelbo.diffusion.schedule import Levels, NoiseSchedule


class Coefficient:
    """A function of the level, read at one level or at one level an example.

    It is cast and moved once for every dtype and device that it is read in, so that reading it
    waits for no transfer.

    Args:
        values: at every level, (T+1,) float64.
    """

    def __init__(self, values: Levels) -> None:
        self.values = values
        self._moved: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def __call__(self, t: Level, like: Tensor) -> Tensor:
        """The value at t shaped to broadcast against `like`: a scalar, or (B, 1, 1, 1)."""
        # Half precision states still get float32 coefficients.
        key = torch.promote_types(like.dtype, torch.float32), like.device
        values = self._moved.get(key)
        if values is None:
            values = self._moved[key] = self.values.to(key[0]).to(key[1])
        value = values[t]
        return value if isinstance(t, int) else value.view(-1, *[1] * (like.ndim - 1))


class Coefficients:
    """What the formulas of a chain read at a level.

    Attributes:
        step_scale: √α_t, of x_{t-1} in q(x_t|x_{t-1}).
        step_noise: √β_t, its standard deviation.
        signal_scale: √ᾱ_t, of x_0 in q(x_t|x_0).
        noise_scale: √(1 − ᾱ_t), its standard deviation.
        data_weight: of x_0 in the mean of q(x_{t-1}|x_t, x_0).
        latent_weight: of x_t in that mean.
        posterior_stddev: √β̃_t, its standard deviation.
        posterior_log_variance: log β̃_t.
    """

    def __init__(self, schedule: NoiseSchedule) -> None:
        self.step_scale = Coefficient(schedule.alphas.sqrt())
        self.step_noise = Coefficient(schedule.betas.sqrt())
        self.signal_scale = Coefficient(schedule.signal_scale)
        self.noise_scale = Coefficient(schedule.noise_scale)
        self.data_weight = Coefficient(schedule.posterior_data_weight)
        self.latent_weight = Coefficient(schedule.posterior_latent_weight)
        self.posterior_stddev = Coefficient(schedule.posterior_variance.sqrt())
        self.posterior_log_variance = Coefficient(schedule.posterior_variance.log())
        self._network_times = schedule.network_times
        self._times: dict[torch.device, Tensor] = {}

    def network_time(self, t: Level, x_t: Tensor) -> Int[Tensor, " batch"]:
        """The network's time at level t for each example of a batch, (B,) int64."""
        times = self._times.get(x_t.device)
        if times is None:
            times = self._times[x_t.device] = self._network_times.to(x_t.device)
        return times[t].expand(len(x_t))
