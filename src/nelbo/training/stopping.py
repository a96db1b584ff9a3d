"""Asked to stop: Ctrl-C or a termination signal ends training after the step that is under way."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Catches the first SIGINT or SIGTERM while entered; a call returns whether there was one.

    A step is never cut in half, so that what is saved is a state of the run. A second Ctrl-C does
    not wait and raises `KeyboardInterrupt` at once.

    Attributes:
        signal: which one there was.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __call__(self) -> bool:
        """Whether there was one."""
        return self.signal is not None

    def __enter__(self) -> Self:
        # Only the main thread may set handlers; elsewhere signals do what they did.
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._note) for s in _SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for s, handler in self._before.items():
            signal.signal(s, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)
