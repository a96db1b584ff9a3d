r"""Classifier-free guidance: a guided network from a conditional one.

.. math::
    \hat\epsilon(x_t, c) = \epsilon(x_t) + s\,(\epsilon(x_t, c) - \epsilon(x_t))

(Ho & Salimans 2022, eq. 6, with s = 1 + w). The prediction of x_0 or v is guided alike, since all
are linear in one another at a given x_t.

Two refinements. Guidance harms where noise is high and is wasted where it is low, so it may act in
an interval of noise levels :math:`\sigma_t = \sqrt{(1 - \bar\alpha_t) / \bar\alpha_t}` only
(Kynkäänniemi et al. 2024, eq. 5). And it widens the output, which shows as overexposure; a share φ
of what has the standard deviation of the conditional output brings it back
(Lin et al. 2024, eqs. 15 and 16),

.. math::
    \phi\, \hat\epsilon\, \frac{\mathrm{std}(\epsilon(x_t, c))}{\mathrm{std}(\hat\epsilon)}
    + (1 - \phi)\, \hat\epsilon.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from nelbo.base.arguments import check_kind, check_number, check_numbers
from nelbo.base.digest import digest
from nelbo.base.errors import NelboError
from nelbo.chain.conditioning import Condition, check_condition

# Far beyond any use; much larger, and a guided output overflows, which a diverged one would do.
_LARGEST = 10_000


@dataclass(frozen=True)
class Guidance:
    """The strength of guidance, and the noise levels at which it acts.

    Args:
        scale: the guidance scale s; 1 is the conditional model itself.
        interval: the noise levels (low, high] to guide at, in σ_t = √((1 − ᾱ_t) / ᾱ_t); elsewhere
            only the conditional network is called. None guides everywhere.
        rescale: the share φ in 0..1 of the output brought back to its standard deviation.

    Raises:
        NelboError: a scale that is not finite or enormous, an interval that is empty or starts
            below zero, or a share outside 0..1.
    """

    scale: float
    interval: tuple[float, float] | None = None
    rescale: float = 0.0

    def __post_init__(self) -> None:
        check_number("guidance", self.scale)
        if not math.isfinite(self.scale):
            raise NelboError(f"guidance must be a finite number, got {self.scale!r}")
        if abs(self.scale) > _LARGEST:
            raise NelboError(f"guidance must lie in ±{_LARGEST:,}, got {self.scale:g}")
        if self.interval is not None:
            check_kind("the guidance interval", self.interval, Sequence, "(low, high]")
            if len(self.interval) != 2:
                raise NelboError(f"the guidance interval must be (low, high], got {self.interval}")
            low, high = self.interval
            check_numbers(low=low, high=high)
            if not 0 <= low < high:
                raise NelboError(
                    "the guidance interval must be (low, high] of noise levels with "
                    f"0 <= low < high, got {low}, {high}"
                )
        check_number("the guidance rescale", self.rescale)
        if not 0 <= self.rescale <= 1:
            raise NelboError(f"the guidance rescale must lie in 0..1, got {self.rescale}")


class GuidedNetwork(nn.Module):
    """Calls `network` once on the conditional and unconditional halves and extrapolates.

    Args:
        network: (x_t, network_time, condition) -> output; if it has `rescale_guided`, that has the
            last word on a guided output, given the conditional one.
        scale: the guidance scale s; 1 is the conditional network itself.
        channels: how many leading output channels to guide; the rest (a learned variance) are the
            conditional half's.
        unconditional: the condition of the unconditional half, for each example or, with batch
            size 1, for all. By default the labels are dropped; text, and a label that is a vector,
            have no such default.
        times: the first and last of the times that the network is called with to guide at; None
            guides at all.
        rescale: the share φ of the output brought back to its standard deviation.
    """

    def __init__(
        self,
        network: Callable[..., Tensor],
        scale: float,
        channels: int,
        unconditional: Condition | None = None,
        *,
        times: tuple[float, float] | None = None,
        rescale: float = 0.0,
    ) -> None:
        super().__init__()
        self.network = network
        self.scale = scale
        self.channels = channels
        self.unconditional = unconditional
        self.times = times
        self.rescale = rescale

    @property
    def config(self) -> Any:
        """That of the network, if it has one."""
        return getattr(self.network, "config", None)

    @property
    def guesses(self) -> bool:
        """Whether the network has a ControlNet in guess mode, whose control is withheld from the
        unconditional half."""
        return getattr(self.network, "guesses", False)

    @property
    def embedded_guidance(self) -> float | None:
        """That of the network, if it has one."""
        return getattr(self.network, "embedded_guidance", None)

    def identity(self) -> str:
        """Scale, interval, rescale and a hash of the unconditional half, in a line."""
        away = self.unconditional
        parts = [] if away is None else [v for v in vars(away).values() if v is not None]
        times = self.times and "({:.6g}, {:.6g})".format(*self.times)
        return f"{self.scale:g}, {times}, {self.rescale:g}, {digest(parts)}"

    def forward(self, x_t: Tensor, time: Tensor, condition: Condition | None = None) -> Tensor:
        """The guided output for a batch."""
        check_condition(condition)
        goal = condition is not None and (condition.label is not None or condition.text is not None)
        if condition is None or not (goal or (self.guesses and condition.control is not None)):
            raise NelboError(
                f"guidance {self.scale} needs a condition to guide towards: pass a label or text, "
                "or guidance=1"
            )
        guides = None
        if self.times is not None:  # without an interval no device waits for the answer
            guides = (time >= self.times[0]) & (time <= self.times[1])
        if guides is not None and not guides.any():
            return self.network(x_t, time, condition)
        conditional, unconditional = self._halves(x_t, time, condition)
        c = self.channels
        guided = torch.lerp(unconditional[:, :c], conditional[:, :c], self.scale)
        if (own := getattr(self.network, "rescale_guided", None)) is not None:
            guided = own(guided, conditional[:, :c])
        if self.rescale > 0:
            own_spread, spread = _spread(conditional[:, :c]), _spread(guided)
            # A constant output, as of an untrained network, and one value have none to bring back.
            ratio = torch.where(spread > 0, own_spread / spread, 1.0)
            guided = torch.lerp(guided, guided * ratio, self.rescale)
        if guides is not None:
            guided = torch.where(guides.view(-1, 1, 1, 1), guided, conditional[:, :c])
        return torch.cat([guided, conditional[:, c:]], 1)

    def _halves(self, x_t: Tensor, time: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """The conditional and the unconditional output."""
        away = self._unconditional_half(condition)
        if self.guesses and condition.control is not None:  # two networks, one without the control
            return self.network(x_t, time, condition), self.network(x_t, time, away)
        output = self.network(x_t.repeat(2, 1, 1, 1), time.repeat(2), condition.cat(away))
        conditional, unconditional = output.chunk(2)
        return conditional, unconditional

    def _unconditional_half(self, condition: Condition) -> Condition:
        control = None if self.guesses else condition.control
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
            return replace(given, control=control, size=size)
        if condition.text is not None:
            raise NelboError("guidance on text needs the embedding of a negative or empty prompt")
        if condition.label is not None and condition.label.ndim > 1:
            raise NelboError(
                "guidance on a label that is a vector needs the one to lead away from: pass "
                "model.guided(guidance, nelbo.Condition(label=...)), such as of zeros"
            )
        return replace(condition, label=_no_label(condition.label), control=control)


def _no_label(label: Tensor | None) -> Tensor | None:
    """−1 in place of each label, which those of 8 bits without a sign do not have."""
    if label is None:
        return None
    whole = not label.is_floating_point()  # a class that is told as a time is not
    return torch.full_like(label, -1, dtype=torch.int64 if whole else label.dtype)


def _spread(output: Tensor) -> Tensor:
    """The standard deviation over each example, (B, 1, 1, 1)."""
    return output.std(dim=(1, 2, 3), keepdim=True)
