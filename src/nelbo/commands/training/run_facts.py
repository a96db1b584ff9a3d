"""What a run was: how long it trained, on what, and how often it saw its images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nelbo.report.formatting import number
from nelbo.training.pace import passes

# Standard errors of a change from which it is one, 95% of the time.
_APART = 1.96


def passes_text(steps: int, batch_size: int, examples: int | None) -> str:
    """How often each image was seen; empty for a stream."""
    if not examples:
        return ""
    count = passes(steps, batch_size, examples)
    return f"{count:,.0f} passes" if count >= 10 else f"{count:.1f} passes"


def verdict(readings: Sequence[Mapping[str, Any]]) -> str:
    """Whether the bound of held-out images still falls, by the last two readings; "" without."""
    if not readings or "change" not in readings[-1]:
        return ""
    last, before = readings[-1], readings[-2] if len(readings) > 1 else None
    change, error = last["change"], last.get("change_error", 0.0)
    since = "" if before is None else f" since step {before['step']:,}"
    spread = f" ± {number(error, 3)}" if error else ""
    about = f"by {number(abs(change), 3)}{spread} bits/dim{since}"
    if abs(change) <= _APART * error or change == 0:
        return f"the validation bound no longer falls (it has changed {about})"
    if change < 0:
        return f"the validation bound still falls, {about}: a longer run would lower it further"
    return f"the validation bound rises, {about}: a shorter run or more images would suit it"
