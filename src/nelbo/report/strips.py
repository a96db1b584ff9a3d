r"""The two chains as film: data dissolving into noise, and samples coming out of it.

Frames are shown at levels evenly spaced in the angle :math:`\phi_t = \arcsin\sqrt{1-\bar\alpha_t}`.
As :math:`x_t = \cos\phi_t\, x_0 + \sin\phi_t\, \epsilon`, the picture then changes by about the
same amount from each frame to the next, whatever the schedule.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from nelbo.base.arguments import check_count
from nelbo.chain.conditioning import Condition
from nelbo.chain.distributions import draw, to_levels
from nelbo.diffusion.model import Diffusion
from nelbo.diffusion.schedule import NoiseSchedule

FRAMES = 12


@dataclass(frozen=True)
class Strip:
    """Rows of frames along the chain.

    Attributes:
        images: x_t clamped to [−1, 1] as 0..255, (rows, frames, C, H, W).
        levels: the level t of each frame.
        noise_scales: √(1 − ᾱ_t) of each frame.
        predictions: the model's x̂_0 given each frame, as `images`, or None.
    """

    images: UInt8[Tensor, "rows frames channels height width"]
    levels: tuple[int, ...]
    noise_scales: tuple[float, ...]
    predictions: UInt8[Tensor, "rows frames channels height width"] | None = None


def forward_strip(
    model: Diffusion,
    x_0: Float[Tensor, "rows channels height width"],
    frames: int = FRAMES,
    generator: torch.Generator | None = None,
) -> Strip:
    """One path of the encoder an image, from x_0 to x_T.

    Args:
        model: whose encoder.
        x_0: data in network space, one image a row, (rows, C, H, W).
        frames: how many levels to show, at most T + 1.
        generator: the source of all noise.

    Raises:
        NelboError: fewer than two frames.
    """
    levels = shown_levels(model.schedule, frames)
    # The encoder of a respaced chain steps from one shown level to the next.
    chain = model.respace(levels[1:])
    states = [x_0]
    with torch.no_grad():
        for k in range(1, len(levels)):
            states.append(draw(chain.q_step(states[-1], k), generator))
    return _strip(model.schedule, levels, states)


@torch.no_grad()
def reverse_strip(
    model: Diffusion,
    n: int,
    frames: int = FRAMES,
    generator: torch.Generator | None = None,
    condition: Condition | None = None,
) -> Strip:
    """`n` paths of the decoder, from x_T to the sample x_0, with the model's x̂_0 on the way.

    Args:
        model: what to sample from, by its whole ancestral chain.
        n: how many samples, one a row.
        frames: how many levels to show, at most T + 1.
        generator: the source of all noise.
        condition: what to sample, one entry a row.

    Raises:
        NelboError: fewer than two frames, or a model without a shape.
    """
    T = model.num_levels
    levels = shown_levels(model.schedule, frames)
    x_T = model.start(n, None, generator)
    states = {T: x_T}
    states |= {t: x for t, x in model.walk(x_T, condition, generator=generator) if t in levels}
    # The last step puts out its x̂_0, so at level 0 the two are the same.
    predictions = {0: states[0]}
    predictions |= {t: model.predict(states[t], t, condition).x_0 for t in levels if t > 0}
    order = levels[::-1]
    return _strip(
        model.schedule, order, [states[t] for t in order], [predictions[t] for t in order]
    )


def shown_levels(schedule: NoiseSchedule, frames: int) -> list[int]:
    """Levels from 0 to T, evenly spaced in angle; fewer than `frames` where T + 1 is less.

    Raises:
        NelboError: fewer than two frames.
    """
    check_count("frames", frames, least=2)
    T = schedule.num_levels
    frames = min(frames, T + 1)
    targets = torch.linspace(0.0, float(schedule.angles[-1]), frames, dtype=torch.float64)
    levels = [0]
    for k, target in enumerate(targets[1:].tolist(), start=1):
        nearest = int((schedule.angles - target).abs().argmin())
        # Levels must differ, with one left for each frame still to come.
        levels.append(min(max(nearest, levels[-1] + 1), T - (frames - 1 - k)))
    return levels


def to_picture(x: Float[Tensor, "..."]) -> UInt8[Tensor, "..."]:
    """Values clamped to [−1, 1] as 0..255; what is not a number becomes grey."""
    return to_levels(torch.nan_to_num(x, nan=0.0), 256).to(torch.uint8)


def _strip(
    schedule: NoiseSchedule,
    levels: list[int],
    states: list[Tensor],
    predictions: list[Tensor] | None = None,
) -> Strip:
    return Strip(
        images=to_picture(torch.stack(states, 1)).cpu(),
        levels=tuple(levels),
        noise_scales=tuple(schedule.noise_scale[levels].tolist()),
        predictions=None if predictions is None else to_picture(torch.stack(predictions, 1)).cpu(),
    )
