"""What stands before every request: headers for the browser, users, and the size of uploads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, PlainTextResponse, Response

from nelbo.studio.access import Users, host_name, is_loopback, is_own_page

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# The page and nothing else: no other server, no inline script, no frame around it.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data: blob:; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'; object-src 'none'"
    ),
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
# How long a wrong password waits.
_DELAY = 1.0


class TooLarge(Exception):
    """A request has more bytes than are taken."""


class Guard:
    """Refuses what is from elsewhere, and limits what comes in.

    Args:
        app: what answers the others.
        users: who may ask; None for everyone on this machine.
        most_bytes: of one request.
    """

    def __init__(self, app: App, users: Users | None, most_bytes: int) -> None:
        self._app, self._users, self._most = app, users, most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = await self._refusal(Headers(scope=scope), scope["method"])
        app = self._app if refusal is None else refusal
        left = self._most

        async def limited() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise TooLarge
            return message

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await app(scope, limited, with_headers)

    async def _refusal(self, headers: Headers, method: str) -> Response | None:
        host = headers.get("host")
        if self._users is None and not is_loopback(host_name(host)):
            # A name of someone else that leads here would make any page one of this server's.
            return PlainTextResponse("unknown host", 421)
        if self._users is not None and not self._users.admit(headers.get("authorization")):
            if "authorization" in headers:
                await asyncio.sleep(_DELAY)
            challenge = {"WWW-Authenticate": 'Basic realm="nelbo studio", charset="UTF-8"'}
            return PlainTextResponse("a name and a password are needed", 401, challenge)
        own = is_own_page(host, headers.get("origin"), headers.get("sec-fetch-site"))
        if method not in ("GET", "HEAD") and not own:
            return JSONResponse({"error": "requests of other sites are refused"}, 403)
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self._most:
            return too_large(self._most)
        return None


def too_large(most: int) -> Response:
    """The answer to a request with too many bytes."""
    message = f"the pictures are too large: at most {most / 1e6:.0f} MB are taken in all"
    # The rest is not read.
    return JSONResponse({"error": message}, 413, {"Connection": "close"})
