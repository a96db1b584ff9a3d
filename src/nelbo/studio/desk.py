"""One worker and a bounded queue: tasks are done one at a time, in turn, and can be given up.

A task is a generator of events. It is cancelled between two events, and, where a model calls
`Desk.check` from its layers, in the middle of a step.
"""

from __future__ import annotations

import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from nelbo.base.errors import NelboError

Event = dict[str, Any]
Work = Callable[[], Iterator[Event]]


class Busy(Exception):
    """The queue is full."""


class Cancelled(BaseException):
    """The task was given up; not an `Exception`, so that nothing on the way handles it."""


@dataclass(eq=False)
class Task:
    """Work in the queue.

    Attributes:
        work: makes the events.
        post: takes each of them, and is called from other threads.
        size: bytes that it holds while it waits.
        cancelled: whether nobody waits for it any more.
    """

    work: Work
    post: Callable[[Event], None]
    size: int = 0
    cancelled: bool = False


class Desk:
    """Does tasks one at a time.

    Args:
        waiting: the largest number of tasks in the queue.
        queued_bytes: what they may hold together.
    """

    def __init__(self, waiting: int, queued_bytes: int) -> None:
        self._most, self._most_bytes = waiting, queued_bytes
        self._changed = threading.Condition()
        self._queue: deque[Task] = deque()
        self._running: Task | None = None
        self._closed = False
        # A daemon: a network call that does not end must not keep the process alive.
        self._worker = threading.Thread(target=self._serve, name="nelbo-studio", daemon=True)
        self._worker.start()

    def submit(self, task: Task) -> None:
        """Put a task into the queue; it posts its place whenever that changes.

        Raises:
            Busy: the queue is full, or closed.
        """
        with self._changed:
            held = sum(each.size for each in self._queue) + task.size
            full = len(self._queue) >= self._most or (self._queue and held > self._most_bytes)
            if self._closed or full:
                raise Busy
            self._queue.append(task)
            self._post_places()
            self._changed.notify()

    def cancel(self, task: Task) -> None:
        """Give a task up, whether it waits or runs; one that has ended is left alone."""
        with self._changed:
            task.cancelled = True
            if task in self._queue:
                self._queue.remove(task)
                self._post_places()

    def check(self) -> None:
        """End the running task here if it was cancelled; for the worker's thread.

        Raises:
            Cancelled: it was.
        """
        task = self._running
        if task is not None and task.cancelled and threading.current_thread() is self._worker:
            raise Cancelled

    @property
    def busy(self) -> int:
        """How many tasks wait or run."""
        with self._changed:
            return len(self._queue) + (self._running is not None)

    def close(self) -> None:
        """Give up everything, and take nothing more."""
        # Called from a signal handler as well, which may have interrupted a holder of the lock.
        self._closed = True
        for task in (self._running, *self._queue):
            if task is not None:
                task.cancelled = True

    def join(self, seconds: float) -> None:
        """Wait for the worker to end after `close`."""
        with self._changed:
            self._changed.notify()
        self._worker.join(seconds)

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._running = None
                while not self._queue:
                    if self._closed:
                        return
                    self._changed.wait()
                task = self._running = self._queue.popleft()
                self._post_places()
            self._do(task)

    def _do(self, task: Task) -> None:
        """All events of a task, and one at its end: done, cancelled or an error."""
        try:
            self.check()
            task.post({"type": "started"})
            for event in task.work():
                self.check()
                task.post(event)
            self.check()
            task.post({"type": "done"})
        except Cancelled:
            task.post({"type": "cancelled"})
        except NelboError as error:
            task.post({"type": "error", "message": str(error)})
        except Exception as error:  # whatever one request meets, the next is served
            task.post({"type": "error", "message": _shown(error)})

    def _post_places(self) -> None:
        ahead = 0 if self._running is None else 1
        for place, task in enumerate(self._queue):
            task.post({"type": "place", "place": place + ahead})


def _shown(error: Exception) -> str:
    """What to show of an error that is no mistake of the user; the terminal has all of it."""
    text = str(error)
    if isinstance(error, MemoryError) or "out of memory" in text or "alloc" in text:
        return "The memory does not suffice for this: ask for fewer or smaller images."
    traceback.print_exception(error, file=sys.stderr)
    return f"{type(error).__name__}: {text or 'no reason given'}. The terminal shows where."
