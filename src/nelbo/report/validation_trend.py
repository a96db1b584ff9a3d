"""Whether the bound of held-out images still fell at the end of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nelbo.report.formatting import number
from nelbo.runs.checkpoints import VALIDATION

# Standard errors of a change from which it is one, 95% of the time.
_APART = 1.96
# Bits/dim that a change of unknown error must exceed.
_CHANGE = 0.005


@dataclass(frozen=True)
class ValidationTrend:
    """How the bound of held-out images changed over the last quarter of training.

    Attributes:
        phrase: of the bound, such as "still falls, by 0.050 ± 0.010 bits/dim since step 30".
        advice: what would suit such a run; "" for nothing.
    """

    phrase: str
    advice: str = ""

    @property
    def sentence(self) -> str:
        """Both, for a line of a terminal."""
        advice = f": {self.advice}" if self.advice else ""
        return f"the validation bound {self.phrase}{advice}"


def validation_trend(rows: Sequence[Mapping[str, Any]]) -> ValidationTrend | None:
    """The trend at the last reading, by the change that it states; None without one.

    All readings are of the same images, levels and noise, so that their change is known better than
    either.

    Args:
        rows: of `RunDirectory.course`.
    """
    read = [row for row in rows if row.get(VALIDATION) is not None]
    if len(read) < 2 or read[-1].get("change") is None:
        return None
    change, error = read[-1]["change"], read[-1].get("change_error")
    spread = "" if error is None else f" ± {number(error, 3)}"
    # Runs of before compare with the reading before the last.
    since = read[-1].get("since", read[-2]["step"])
    about = f"by {number(abs(change), 3)}{spread} bits/dim since step {since:,}"
    if abs(change) <= (_CHANGE if error is None else _APART * error):
        return ValidationTrend(f"no longer falls (it has changed {about})")
    if change < 0:
        return ValidationTrend(f"still falls, {about}", "a longer run would lower it further")
    return ValidationTrend(f"rises, {about}", "a shorter run or more images would suit it")
