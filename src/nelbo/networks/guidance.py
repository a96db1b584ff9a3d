r"""Classifier-free guidance: a network made of a conditional network.

.. math::
    \hat\epsilon(x_t, c) = \epsilon(x_t) + s\,(\epsilon(x_t, c) - \epsilon(x_t))

(Ho & Salimans 2022, eq. 6, with s = 1 + w). The prediction of x_0 or v is guided alike, since all
are linear in one another at a given x_t.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from nelbo.conditioning import Condition
from nelbo.errors import NelboError


class GuidedNetwork:
    """Calls `network` once on the conditional and unconditional halves and extrapolates.

    Args:
        network: (x_t, network_time, condition) -> output.
        scale: the guidance scale s; 1 is the conditional network itself.
        channels: how many leading output channels to guide; the rest (a learned variance) are the
            conditional half's.
        unconditional: the condition of the unconditional half, for each example or, with batch
            size 1, for all. By default the labels are dropped; text has no such default.
    """

    def __init__(
        self,
        network: Callable[..., Tensor],
        scale: float,
        channels: int,
        unconditional: Condition | None = None,
    ) -> None:
        self.network = network
        self.scale = scale
        self.channels = channels
        self.unconditional = unconditional

    def __call__(self, x_t: Tensor, time: Tensor, condition: Condition | None = None) -> Tensor:
        """The guided output for a batch."""
        if condition is None or (condition.label is None and condition.text is None):
            raise NelboError(
                f"guidance {self.scale} needs a condition to guide towards: pass a label or text, "
                "or guidance=1"
            )
        both = condition.cat(self._unconditional_half(condition))
        output = self.network(x_t.repeat(2, 1, 1, 1), time.repeat(2), both)
        conditional, unconditional = output.chunk(2)
        c = self.channels
        guided = torch.lerp(unconditional[:, :c], conditional[:, :c], self.scale)
        return torch.cat([guided, conditional[:, c:]], 1)

    def _unconditional_half(self, condition: Condition) -> Condition:
        if self.unconditional is not None:
            given, batch = self.unconditional, condition.batch_size
            if given.batch_size == 1:
                given = given.repeat(batch)
            elif given.batch_size != batch:
                raise NelboError(
                    f"the unconditional half has a batch of {given.batch_size}, expected {batch} "
                    "as the condition, or 1"
                )
            # Where and how large the picture is does not depend on what it shows.
            size = condition.size if given.size is None else given.size
            return replace(given, control=condition.control, size=size)
        if condition.text is not None:
            raise NelboError("guidance on text needs the embedding of a negative or empty prompt")
        assert condition.label is not None
        return replace(condition, label=torch.full_like(condition.label, -1))
