r"""Which levels a sampler of `steps` steps visits.

With ratio r = T / steps, in network times (level − 1), as diffusers counts them
(Lin et al. 2024, table 2):

* ``leading``: 0, ⌊r⌋, 2⌊r⌋, ...
* ``linspace``: `steps` numbers from 0 to T − 1, both ends included;
* ``trailing``: T − 1, T − 1 − r, ... down to but not including −1.
"""

from __future__ import annotations

import numpy as np

from nelbo.errors import NelboError

SPACINGS = ("leading", "linspace", "trailing")


def spaced_levels(T: int, steps: int, spacing: str) -> list[int]:
    """The levels visited, increasing, each in 1..T.

    Raises:
        NelboError: `steps` outside 1..T, or an unknown spacing.
    """
    if not 1 <= steps <= T:
        raise NelboError(f"steps must lie in 1..{T}, the length of the chain, got {steps}")
    times: np.ndarray
    if spacing == "leading":
        times = np.arange(steps) * (T // steps)
    elif spacing == "linspace":
        times = np.linspace(0, T - 1, steps).round()
    elif spacing == "trailing":
        times = np.arange(T, 0, -T / steps).round()[:steps][::-1] - 1
    else:
        raise NelboError(f"unknown spacing {spacing!r}: expected one of {', '.join(SPACINGS)}")
    return [int(time) + 1 for time in times]
