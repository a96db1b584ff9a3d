"""What multistep samplers share: their levels, the order of a step, derivatives from the past."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

from torch import Tensor

from nelbo.base.arguments import check_count
from nelbo.diffusion import NoiseLevel, NoiseSchedule
from nelbo.samplers.base import DATA, SigmaSampler
from nelbo.samplers.grid import check_steps, spaced_levels
from nelbo.samplers.loop import Walk

Past = Sequence[tuple[NoiseLevel, Tensor]]


@dataclass(frozen=True)
class MultistepSampler(SigmaSampler):
    """A step rule that reads the predictions of earlier steps: one network call a step.

    The network is called with the time of the nearest level of the chain, as in diffusers.

    Args:
        steps: how many.
        order: how many predictions a step reads; the first steps read fewer, and the step to the
            data reads its own only.
        spacing: visit levels of the chain: "leading", "linspace" or "trailing". The first two
            count one more level, which the data take, as in diffusers. None leaves the choice to
            `noise_levels`, which then lie between the ends of the chain.
        lower_orders_below: walks of fewer steps than this end with the orders ..., 2, 1; 15 in
            diffusers.
        euler_at_final: the last step has order 1.
        set_alpha_to_one: the last step goes to the data, ᾱ_0 = 1; else to the noise of level 1,
            whose draw is taken for the data.

    The others are those of `SigmaSampler`.
    """

    steps: int = 20
    order: int = 2
    _: KW_ONLY
    lower_orders_below: int = 0
    euler_at_final: bool = False
    set_alpha_to_one: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("lower_orders_below", self.lower_orders_below, least=0)

    def spaced(self, T: int) -> Sequence[float]:
        """The levels of `spacing`, increasing."""
        spacing = self.kind_of_spacing
        if spacing == "trailing" or not 1 <= self.steps < T:
            return spaced_levels(T, self.steps, spacing, self.steps_offset)
        return spaced_levels(T, self.steps + 1, spacing, self.steps_offset)[1:]

    def ends(self, schedule: NoiseSchedule) -> tuple[float, float]:
        """The largest and smallest σ of noise levels off the chain: the ends of the chain."""
        check_steps(schedule.num_levels, self.steps)
        return schedule.largest_sigma, float(schedule.sigmas[1])

    def at_sigma(self, schedule: NoiseSchedule, sigma: float) -> NoiseLevel:
        """The noise level of a σ, with the time of the nearest level of the chain."""
        return schedule.at_sigma(sigma, nearest=True)

    def end(self, schedule: NoiseSchedule) -> NoiseLevel:
        """Where the last step leads: the data, or level 1 in its place."""
        return DATA if self.set_alpha_to_one else schedule.at_level(1)._replace(t=0)

    def read(self, walk: Walk, s: NoiseLevel, x_0: Tensor, t: NoiseLevel) -> Past:
        """The predictions that a step from s to t reads, the latest first."""
        left = walk.steps - walk.taken
        order = self.order
        if t.noise_scale == 0 or (left == 1 and self.euler_at_final):
            order = 1
        elif walk.steps < self.lower_orders_below:
            order = min(order, left)
        return [(s, x_0), *walk.past][:order]


def derivatives(past: Past, h: float) -> tuple[Tensor, Tensor | None]:
    """h x̂_0' and h² x̂_0'' in λ at the latest of two or three predictions, by differences."""
    (now, x_0), (before, x_1), *older = past
    lambda_0, lambda_1 = now.half_log_snr, before.half_log_snr
    slope = (h / (lambda_0 - lambda_1)) * (x_0 - x_1)
    if not older:
        return slope, None
    [(level, x_2)] = older
    lambda_2 = level.half_log_snr
    previous = (h / (lambda_1 - lambda_2)) * (x_1 - x_2)
    # The slopes belong to the middles of their intervals.
    second = (2 * h / (lambda_0 - lambda_2)) * (slope - previous)
    return slope + ((lambda_0 - lambda_1) / (2 * h)) * second, second
