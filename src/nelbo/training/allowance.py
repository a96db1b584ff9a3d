"""What may follow training, in time: the bound, the samples and the report of a run.

A time budget is that of training. What follows may take a share of the training time more, and at
least some seconds. What the user has asked for by number is done whatever it takes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from nelbo.base.console import notice
from nelbo.runs.run_directory import RunDirectory

# Evaluation and report take at most this share of the training time, or this many seconds.
SHARE, LEAST = 0.2, 20.0
# A first report is written if the whole takes at least this many seconds; its share of the time.
SOON, EARLY = 5.0, 0.15


def allowed_seconds(trained: float, share_of_least: float = 1.0) -> float:
    """Seconds for evaluation, samples and report after training.

    Args:
        trained: seconds of training.
        share_of_least: the part of `LEAST` for a run that is one of the stages of another.
    """
    return max(SHARE * trained, share_of_least * LEAST)


@contextmanager
def report_where_on_interrupt(run: RunDirectory) -> Iterator[None]:
    """On Ctrl-C after training, report where the model is and how to make its report."""
    try:
        yield
    except KeyboardInterrupt:
        whole = run.whole.path
        command = f"nelbo report {run.path}"
        if run.path != whole:  # the first of two stages
            command = f"nelbo train --resume --out {whole}"
        notice(
            f"stopped while evaluating: the trained model is in {run.path}, and {command} makes "
            "its report"
        )
        raise


@dataclass
class Allowance:
    """Time that runs out.

    Args:
        seconds: how long there is, from now.
        clock: the clock, in seconds.
    """

    seconds: float
    clock: Callable[[], float] = time.perf_counter
    _begun: float = field(init=False)

    def __post_init__(self) -> None:
        self._begun = self.clock()

    @property
    def spent(self) -> float:
        """Seconds since it began."""
        return self.clock() - self._begun

    @property
    def left(self) -> float:
        """Seconds that are left; never less than none."""
        return max(0.0, self.seconds - self.spent)
