"""What a run begins with, where that is a trained model; `nelbo.training.start_from` finds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Start:
    """A trained model that a run begins with.

    Attributes:
        path: where it is: what the run names or, on resuming, the run itself.
        model: as its kind reads it to train on.
        origin: what the run records of it: whose images made it, and under which licence it stands.
        resumed: whether it is what has become of it in the run.
    """

    path: str
    model: Any
    origin: dict[str, Any]
    resumed: bool
