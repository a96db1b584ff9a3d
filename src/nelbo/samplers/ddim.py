r"""Denoising diffusion implicit models (Song et al. 2021).

Any process with the encoder's marginals :math:`q(x_t|x_0)` can be sampled with the same network.
From level t to a lower level s, with :math:`\hat x_0` and :math:`\hat\epsilon` predicted at t
(eqs. 12 and 16),

.. math::
    x_s &= \sqrt{\bar\alpha_s}\, \hat x_0 + \sqrt{1 - \bar\alpha_s - \sigma^2}\, \hat\epsilon
        + \sigma z, \qquad z \sim N(0, I), \\
    \sigma^2 &= \eta^2\, \frac{1 - \bar\alpha_s}{1 - \bar\alpha_t}
        \left(1 - \frac{\bar\alpha_t}{\bar\alpha_s}\right).

η = 0 is deterministic, an integrator of the probability-flow ODE; η = 1 is the ancestral chain
through the same levels with the variance `fixed_small`. Where the model clips :math:`\hat x_0`,
:math:`\hat\epsilon` stays that of the network, as in diffusers, and neither holds exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

from torch import Tensor

from nelbo.base.arguments import check_number
from nelbo.base.errors import NelboError
from nelbo.diffusion import NoiseLevel, NoiseSchedule
from nelbo.samplers.base import DATA, GridSampler
from nelbo.samplers.loop import Walk


@dataclass(frozen=True)
class DDIM(GridSampler):
    """Steps along the line through the predicted data and noise.

    Args:
        steps: number of network calls.
        eta: η in 0..1, from deterministic to ancestral.
        set_alpha_to_one: the last step goes to the data; else to the noise of level 1, whose draw
            is taken for the data, as in Stable Diffusion.
        even_stride: each step goes T // steps levels down, as in diffusers, even where another
            level is visited next ("linspace", or a chain that the steps do not divide). Where that
            leaves the last step above the data, the noise of its end is taken for them.

    The other options are those of `GridSampler`.
    """

    steps: int = 50
    eta: float = 0.0
    _: KW_ONLY
    set_alpha_to_one: bool = True
    even_stride: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("eta", self.eta)
        if not 0 <= self.eta <= 1:
            raise NelboError(f"eta must lie in 0..1, got {self.eta}")

    def step(self, walk: Walk, x: Tensor, t: NoiseLevel, s: NoiseLevel) -> tuple[Tensor, Tensor]:
        """x_s of eq. 12 from what is predicted at level t."""
        prediction = walk.predict(x, t)
        ratio = s.noise_scale / t.noise_scale, t.signal_scale / s.signal_scale
        variance = self.eta**2 * ratio[0] ** 2 * (1 - ratio[1] ** 2)
        direction = math.sqrt(max(0.0, s.noise_scale**2 - variance))
        x = s.signal_scale * prediction.x_0 + direction * prediction.epsilon
        if variance > 0:
            x = x + math.sqrt(variance) * walk.noise(x)
        return x, prediction.x_0

    def targets(self, schedule: NoiseSchedule, grid: Sequence[NoiseLevel]) -> list[NoiseLevel]:
        """The noise level that each step leads to."""
        if not self.even_stride or self.levels is not None:
            return super().targets(schedule, grid)
        stride = schedule.num_levels // len(grid)
        *others, last = (t.t - stride for t in grid)
        end = self.end(schedule) if last < 1 else schedule.noise_level(last)._replace(t=0)
        return [*(schedule.noise_level(t) for t in others), end]

    def end(self, schedule: NoiseSchedule) -> NoiseLevel:
        """Where the last step leads: the data, or level 1 in its place."""
        return DATA if self.set_alpha_to_one else schedule.noise_level(1)._replace(t=0)
