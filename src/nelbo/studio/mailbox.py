"""Events from the worker's thread to the client that reads them, however slowly it does."""

from __future__ import annotations

import asyncio
from collections import deque

from nelbo.studio.desk import Event

# Of these only the latest matters: one that was not read yet is replaced.
_REPLACED = ("progress", "place", "estimate")
LAST = ("done", "cancelled", "error")


class Mailbox:
    """Keeps events until they are read; must be made where they are read, in an event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: deque[Event] = deque()
        self._arrived = asyncio.Event()

    def post(self, event: Event) -> None:
        """Put an event in, from any thread."""
        try:
            self._loop.call_soon_threadsafe(self._put, event)
        except RuntimeError:  # the server has ended, and nobody reads
            return

    async def get(self, seconds: float) -> Event | None:
        """The next event; None where there is none for so long."""
        if not self._events:
            try:
                await asyncio.wait_for(self._arrived.wait(), seconds)
            except TimeoutError:
                return None
        event = self._events.popleft()
        if not self._events:
            self._arrived.clear()
        return event

    def _put(self, event: Event) -> None:
        kind = event["type"]
        if self._events and kind in _REPLACED and self._events[-1]["type"] == kind:
            old = self._events.pop()
            # A step without previews does not take the pictures of one that had them.
            if "previews" in old and old.get("first") == event.get("first"):
                event = {"previews": old["previews"], **event}
        self._events.append(event)
        self._arrived.set()
