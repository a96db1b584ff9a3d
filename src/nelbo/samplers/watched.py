"""A sampler whose states are seen as they come: by a progress bar, or for a film."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nelbo.diffusion.sampler import Sampler, State


class Watched:
    """Walks as another sampler does, for `model.sample`, and calls `watch` with each state.

    Args:
        sampler: the other sampler; what else is asked of this one, it answers.
        watch: called with the number of the state from 0, and the state.
    """

    def __init__(self, sampler: Sampler, watch: Callable[[int, State], None]) -> None:
        self._sampler, self._watch = sampler, watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sampler, name)

    @torch.no_grad()
    def sample(self, model: Any, x_T: Tensor, **options: Any) -> Tensor:
        """As `Sampler.sample`."""
        x = x_T
        for k, state in enumerate(self._sampler.iterate(model, x_T, **options)):
            self._watch(k, state)
            x = state.x
        return x
