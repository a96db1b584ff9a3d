"""Items that a thread produces a little ahead of the consumer, in order."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from queue import Empty, Queue
from threading import Thread
from typing import Generic, TypeVar

Item = TypeVar("Item")

# Seconds that `close` waits for the item in production. Slower items, such as reads from a network
# that does not respond, are left to a daemon thread.
_PATIENCE = 5.0


class ReadAhead(Generic[Item]):
    """Iterates over items in a thread of its own, until it is closed.

    Args:
        items: iterated in the thread only; endless.
        most: largest number of items not yet taken, including the one in production; at least 2.
    """

    def __init__(self, items: Iterable[Item], most: int) -> None:
        self._items = items
        self._made: Queue[Item | _Failure] = Queue(most - 1)
        self._closing = False
        self._thread = Thread(target=self._make, name="nelbo-read-ahead", daemon=True)
        self._thread.start()

    def take(self) -> Item:
        """Wait for the next item; re-raises errors from the producer."""
        item = self._made.get()
        if isinstance(item, _Failure):
            raise item.error
        return item

    def close(self) -> None:
        """End the thread; no more items can be taken."""
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
        except BaseException as error:  # for the consumer
            self._made.put(_Failure(error))


class _Failure:
    def __init__(self, error: BaseException) -> None:
        self.error = error
