r"""Which levels a walk of `steps` steps visits.

Levels of the chain, with ratio r = T / steps, in network times (level − 1), as diffusers counts
them (Lin et al. 2024, table 2):

* ``leading``: o, o + ⌊r⌋, o + 2⌊r⌋, ... with an offset o, 1 in Stable Diffusion;
* ``linspace``: `steps` numbers from 0 to T − 1, both ends included;
* ``trailing``: T − 1, T − 1 − r, ... down to but not including −1.

Noise levels that need not be levels of the chain, between a largest and a smallest
:math:`\sigma = \sqrt{1 - \bar\alpha} / \sqrt{\bar\alpha}`:

* ``karras``: even in :math:`\sigma^{1/\rho}` (Karras et al. 2022, eq. 5);
* ``log_snr``: even in :math:`\log\sigma`, so in the log-SNR (Lu et al. 2022, section 4.1);
* ``flow``: even in :math:`w = \sigma / (1 + \sigma)`, then shifted,
  :math:`w \leftarrow k w / (1 + (k - 1) w)` (Esser et al. 2024, eq. 23). Alone of them it may start
  where there is no signal, w = 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from operator import index

import numpy as np

from nelbo.base.arguments import check_choice, check_kind, check_number, is_whole
from nelbo.base.errors import NelboError

SPACINGS = ("leading", "linspace", "trailing")
NOISE_LEVELS = ("spaced", "karras", "log_snr", "flow")


def spaced_levels(T: int, steps: int, spacing: str, offset: int = 0) -> list[int]:
    """The levels visited, increasing, each in 1..T.

    Args:
        T: length of the chain.
        steps: how many levels.
        spacing: one of `SPACINGS`.
        offset: added to the levels of "leading"; the other two have their ends and ignore it.

    Raises:
        NelboError: `steps` outside 1..T, an unknown spacing, or an offset that leaves the chain.
    """
    return [round(time) + 1 for time in spaced_times(T, steps, spacing, offset)]


def spaced_times(T: int, steps: int, spacing: str, offset: int = 0) -> list[float]:
    """The same less one and not rounded: "linspace" falls between levels.

    Raises:
        NelboError: as `spaced_levels`.
    """
    check_steps(T, steps)
    check_choice("spacing", spacing, SPACINGS)
    check_number("steps_offset", offset)
    times: np.ndarray
    if spacing == "leading":
        times = np.arange(steps) * (T // steps) + float(offset)
        if offset < 0 or times[-1] >= T:
            raise NelboError(
                f"steps_offset={offset} takes {steps} leading steps out of the chain of {T} "
                f"levels: it must lie in 0..{T - 1 - (steps - 1) * (T // steps)}"
            )
    elif spacing == "linspace":
        times = np.linspace(0, T - 1, steps)
    else:
        times = np.arange(T, 0, -T / steps).round()[:steps][::-1] - 1
    return times.tolist()


def noise_scales(largest: float, smallest: float, steps: int, kind: str, rho: float) -> list[float]:
    """`steps` values of σ, descending, from `largest` to `smallest`.

    Args:
        largest: the first.
        smallest: the last.
        steps: how many.
        kind: "karras" or "log_snr".
        rho: ρ of "karras".

    Raises:
        NelboError: an unknown kind, or a ρ that is not positive.
    """
    check_choice("noise levels", kind, NOISE_LEVELS)
    ramp = np.linspace(0, 1, steps)
    if kind == "karras":
        check_number("rho", rho)
        if not rho > 0:
            raise NelboError(f"rho must be positive, got {rho}")
        rho = float(rho)
        first, last = largest ** (1 / rho), smallest ** (1 / rho)
        sigmas = (first + ramp * (last - first)) ** rho
    else:
        sigmas = largest * (smallest / largest) ** ramp
    return sigmas.tolist()


def flow_times(largest: float, smallest: float, steps: int, shift: float) -> list[float]:
    """`steps` values of w, descending, even between the two ends and then shifted.

    Raises:
        NelboError: a shift that is not positive.
    """
    check_number("shift", shift)
    if not shift > 0:
        raise NelboError(f"the shift of flow matching must be positive, got {shift}")
    even = np.linspace(largest, smallest, steps)
    return (shift * even / (1 + (shift - 1) * even)).tolist()


def check_steps(T: int, steps: int) -> None:
    """Raise `NelboError` for `steps` outside 1..T."""
    if not is_whole(steps) or not 1 <= steps <= T:
        raise NelboError(f"steps must lie in 1..{T}, the length of the chain, got {steps!r}")


def checked_levels(T: int, levels: Sequence[int]) -> list[int]:
    """Levels of one's own choice.

    Raises:
        NelboError: none, not integers, not increasing, or outside 1..T.
    """
    try:
        given = [index(t) for t in levels]
    except TypeError as error:
        raise NelboError(f"levels must be integers in 1..{T}, got {levels}") from error
    increasing = all(s < t for s, t in pairwise(given))
    if not given or not increasing or not (given[0] >= 1 and given[-1] <= T):
        raise NelboError(f"levels must increase and lie in 1..{T}, the chain, got {given}")
    return given


def checked_times(times: Sequence[float]) -> list[float]:
    """Times of flow matching of one's own choice.

    Raises:
        NelboError: none, not numbers, not decreasing, or outside (0, 1].
    """
    check_kind("times", times, Iterable, "a list of numbers in (0, 1], from noise to data")
    for time in times:
        check_number("each of times", time)
    given = [float(time) for time in times]
    decreasing = all(w > v for w, v in pairwise(given))
    if not given or not decreasing or not (given[0] <= 1 and given[-1] > 0):
        raise NelboError(f"times must decrease and lie in (0, 1], from noise to data, got {given}")
    return given


def remaining_steps(steps: int, skip: int) -> int:
    """How many steps are left where the first `skip` are left out.

    Raises:
        NelboError: `skip` outside 0..steps − 1.
    """
    if not is_whole(skip) or not 0 <= skip < steps:
        raise NelboError(f"skip must lie in 0..{steps - 1} of {steps} steps, got {skip}")
    return steps - skip
