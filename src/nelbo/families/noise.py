"""Devices, and draws: made where their generator is, whichever device the model is on, or by a
global state where they know no generator."""

from __future__ import annotations

from types import TracebackType

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.chain.distributions import drawn_on


def choose(
    p: Float[Tensor, "batch choices"], generator: torch.Generator | None
) -> Int[Tensor, " batch"]:
    """One of the choices for each row, with the probabilities of the row."""
    at = p.to(drawn_on(generator, p.device))
    return torch.multinomial(at, 1, generator=generator)[:, 0].to(p.device)


def device_for(device: torch.device | str | None) -> torch.device:
    """A device that families can be fitted on; without a name a GPU that CUDA sees, else the CPU.

    Raises:
        NelboError: no such device here, or one without float64.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros(1, dtype=torch.float64, device=device).device
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise NelboError(
            f"families are fitted in float64 and cannot be on device {str(device)!r}: {reason}; "
            "use cpu, or cuda where there is a GPU"
        ) from error


class GlobalRandomness:
    """A global random state that is entered time and again, apart from that of the caller.

    Args:
        seed: what it begins with.
        device: where, beside the CPU.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(self._devices):
            torch.manual_seed(seed)
            self._states = self._current()

    def __enter__(self) -> None:
        self._outside = self._current()
        self._go_on(self._states)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._states = self._current()
        self._go_on(self._outside)

    def _current(self) -> list[Tensor]:
        return [torch.get_rng_state(), *map(torch.cuda.get_rng_state, self._devices)]

    def _go_on(self, states: list[Tensor]) -> None:
        torch.set_rng_state(states[0])
        for state, device in zip(states[1:], self._devices, strict=True):
            torch.cuda.set_rng_state(state, device)
