"""The server: the page, and one address a task that answers with server-sent events."""

from __future__ import annotations

import asyncio
import importlib
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from nelbo.base.errors import NelboError
from nelbo.base.files import to_json
from nelbo.studio.access import Users
from nelbo.studio.desk import Busy, Desk, Event, Task
from nelbo.studio.form import Form
from nelbo.studio.guard import Guard, TooLarge, too_large
from nelbo.studio.limits import Limits
from nelbo.studio.mailbox import LAST, Mailbox
from nelbo.studio.tasks import TASKS
from nelbo.studio.uploads import Upload, read_uploads
from nelbo.version import __version__

# The smallest picture there is.
_PIXEL = b"P5 1 1 255 0"
STATIC = Path(__file__).parent / "static"
_FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")
# How often a comment is sent where nothing happens, for those between to keep the connection.
_SILENCE = 10.0
# How long a request may take to arrive, and a server to end.
_PATIENCE, _ENDING = 60.0, 2


@dataclass
class Studio:
    """What is served, to whom, and within which limits.

    Attributes:
        models: what the command line calls each model, by its name on the page.
        device: where models compute.
        comparisons: what reads each comparison of families, by its name.
        users: who may ask; None for everyone on this machine.
        limits: on requests.
        preload: load the first model at once.
    """

    models: Mapping[str, str]
    device: Callable[[], Any]
    comparisons: Mapping[str, Callable[[], Any]] = field(default_factory=dict)
    users: Users | None = None
    limits: Limits = field(default_factory=Limits)
    preload: bool = True

    @cached_property
    def desk(self) -> Desk:
        """Where tasks wait and are done."""
        return Desk(self.limits.waiting, self.limits.queued_bytes)

    def application(self) -> Starlette:
        """The ASGI application."""
        routes = [
            Route("/", self._page),
            Route("/api/studio", self._overview),
            Route("/api/{task}", self._task, methods=["POST"]),
            Mount("/static", StaticFiles(directory=STATIC)),
        ]
        guard = Middleware(Guard, users=self.users, most_bytes=self.limits.upload_bytes)
        return Starlette(
            routes=routes,
            middleware=[guard],
            lifespan=self._lifespan,
            exception_handlers={HTTPException: _refusal, Exception: _failure},
        )

    def serve(self, host: str, port: int, ready: Callable[[str], None]) -> None:
        """Serve until SIGINT or SIGTERM.

        Args:
            host: the address to listen at.
            port: 0 for a free one.
            ready: called with the address of the page once it answers.

        Raises:
            NelboError: the port is taken.
        """
        config = uvicorn.Config(
            self.application(),
            host=host,
            port=port,
            log_level="warning",
            timeout_graceful_shutdown=_ENDING,
            timeout_keep_alive=30,
            server_header=False,
            limit_concurrency=200,
        )
        server = _Server(config, self, ready)
        # At its end uvicorn raises again what ended it, which is to end nothing else.
        signals = (signal.SIGTERM, signal.SIGINT)
        before = [signal.signal(each, lambda *_: None) for each in signals]
        try:
            server.run()
        except SystemExit as error:  # uvicorn has named the reason
            raise NelboError(f"cannot listen at {host}:{port}: give another --port") from error
        finally:
            for each, handler in zip(signals, before, strict=True):
                signal.signal(each, handler)

    @cached_property
    def _shelf(self) -> Any:
        """The models; made in the worker's thread, for it imports torch."""
        import torch

        from nelbo.studio.shelf import Shelf

        torch.set_grad_enabled(False)  # of this thread
        check = self.desk.check
        return Shelf(self.models, self.device(), check, self.comparisons)

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        if self.preload and self.models:
            self.desk.submit(Task(self._warm, lambda event: None))
        yield
        self.desk.close()
        await run_in_threadpool(self.desk.join, 1.0)

    def _warm(self) -> Iterator[Event]:
        """Load the first model, and walk a step of it: first calls of a network are slow.

        So are first imports, and the first picture that is read.
        """
        for task in TASKS:
            _module(task)
        Upload("", _PIXEL).pixels((3, 1, 1))
        name = next(iter(self.models))
        form = Form({"model": name, "steps": 1}, limits=self.limits)
        for task in ("open", "generate"):
            yield from _module(task).read(form).run(self._shelf)

    async def _page(self, request: Request) -> Response:
        return FileResponse(STATIC / "index.html", headers={"Cache-Control": "no-cache"})

    async def _overview(self, request: Request) -> Response:
        content = {
            "version": __version__,
            "models": list(self.models),
            "comparisons": list(self.comparisons),
            "limits": {
                "images": self.limits.images,
                "pictures": self.limits.pictures,
                "bytes": self.limits.upload_bytes,
            },
        }
        return JSONResponse(content, headers={"Cache-Control": "no-store"})

    async def _task(self, request: Request) -> Response:
        name = request.path_params["task"]
        if name not in TASKS:
            raise HTTPException(404, f"there is no task {name}")
        try:
            form = await asyncio.wait_for(self._form(request), _PATIENCE)
            asked = await run_in_threadpool(_read, name, form)
        except TooLarge:
            return too_large(self.limits.upload_bytes)
        except TimeoutError as error:
            raise HTTPException(408, "the request took too long to arrive") from error
        except NelboError as error:
            raise HTTPException(400, str(error)) from error
        mailbox = Mailbox()
        task = Task(lambda: asked.run(self._shelf), mailbox.post, form.size)
        try:
            self.desk.submit(task)
        except Busy as error:
            message = f"{self.desk.busy} tasks are waiting already: try again in a while"
            raise HTTPException(503, message, {"Retry-After": "10"}) from error
        return StreamingResponse(
            self._events(task, mailbox),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    async def _events(self, task: Task, mailbox: Mailbox) -> AsyncIterator[str]:
        """The events of a task, which is cancelled where its client leaves."""
        try:
            while True:
                event = await mailbox.get(_SILENCE)
                if event is None:
                    yield ":\n\n"
                    continue
                yield f"data: {to_json(event)}\n\n"
                if event["type"] in LAST:
                    return
        finally:
            self.desk.cancel(task)

    async def _form(self, request: Request) -> Form:
        """What a request asks for; its pictures in memory, not decoded.

        Raises:
            NelboError: settings that are no JSON, or too many pictures.
        """
        if not request.headers.get("content-type", "").startswith(_FORMS):
            raise NelboError("send a form: a field settings, of JSON, and a file for each picture")
        most = self.limits.pictures
        async with request.form(max_files=most + 3, max_fields=8, max_part_size=2**18) as fields:
            settings = fields.get("settings", "{}")
            if isinstance(settings, UploadFile):
                raise NelboError("the settings must be a field, not a file")
            files = [(key, each) for key, each in fields.multi_items() if key != "settings"]
            return Form.parse(settings, await read_uploads(files), self.limits)


class _Server(uvicorn.Server):
    """Reports its address, and gives up all tasks at the first signal."""

    def __init__(
        self, config: uvicorn.Config, studio: Studio, ready: Callable[[str], None]
    ) -> None:
        super().__init__(config)
        self._studio, self._ready = studio, ready

    async def startup(self, sockets: Any = None) -> None:
        """Listen, and report where."""
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")

    def handle_exit(self, sig: int, frame: Any) -> None:
        """End at a signal."""
        self._studio.desk.close()
        super().handle_exit(sig, frame)


def _module(name: str) -> Any:
    return importlib.import_module(f"nelbo.studio.tasks.{name}")


def _read(name: str, form: Form) -> Any:
    """The task of a form; the first one waits for torch to be imported."""
    return _module(name).read(form)


async def _refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _failure(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "the request failed; the terminal shows why"}, 500)
