"""Items that a thread makes a little ahead of who takes them, in their order."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from queue import Empty, Queue
from threading import Thread
from typing import Generic, TypeVar

Item = TypeVar("Item")

# Seconds that closing waits for the item that is being made; what takes longer, such as a read from
# a network that does not answer, is left to a thread that does not keep the process alive.
_PATIENCE = 5.0


class ReadAhead(Generic[Item]):
    """Iterates over items in a thread of its own, until it is closed.

    Args:
        items: iterated in the thread alone; endless.
        most: how many are there at most that were not taken, the one in the making included; at
            least 2.
    """

    def __init__(self, items: Iterable[Item], most: int) -> None:
        self._items = items
        self._made: Queue[Item | _Failure] = Queue(most - 1)
        self._closing = False
        self._thread = Thread(target=self._make, name="nelbo-read-ahead", daemon=True)
        self._thread.start()

    def take(self) -> Item:
        """The next item, waited for if need be; what making it raised is raised here."""
        item = self._made.get()
        if isinstance(item, _Failure):
            raise item.error
        return item

    def close(self) -> None:
        """End the thread; nothing can be taken any more."""
        self._closing = True
        # It may be waiting for room.
        with contextlib.suppress(Empty):
            while True:
                self._made.get_nowait()
        self._thread.join(_PATIENCE)

    def _make(self) -> None:
        try:
            for item in self._items:
                self._made.put(item)
                if self._closing:
                    return
            raise RuntimeError("the items have ended")
        except BaseException as error:  # for who takes it to see
            self._made.put(_Failure(error))


class _Failure:
    def __init__(self, error: BaseException) -> None:
        self.error = error
