"""The studio as a process of its own, as its users start it, or in a thread of this one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import uvicorn

from nelbo.studio.server import Studio

_STARTING = 600.0


class Running(NamedTuple):
    """A server, its address and what it prints."""

    address: str
    process: subprocess.Popen
    log: Path


@contextmanager
def running(log: Path, *runs: Path | str) -> Iterator[Running]:
    """Serve these runs at a free port until the end of the block."""
    command = [sys.executable, "-m", "nelbo", "studio", "--port", "0", *map(str, runs)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "1000"}
    with log.open("w") as written:
        process = subprocess.Popen(
            command, stderr=written, stdout=subprocess.DEVNULL, env=environment, cwd=log.parent
        )
    try:
        end = time.monotonic() + _STARTING
        while not (found := re.search(r"http://[\d.]+:\d+", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, "the server does not start"
            time.sleep(0.05)
        yield Running(found[0], process, log)
    finally:
        process.kill()
        process.wait()


@contextmanager
def in_thread(studio: Studio) -> Iterator[str]:
    """Serve at a free port from a thread of this process; the address."""
    config = uvicorn.Config(
        studio.application(), port=0, log_level="warning", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        end = time.monotonic() + _STARTING
        while not server.started:
            assert thread.is_alive(), "the server does not start"
            assert time.monotonic() < end, "the server does not start"
            time.sleep(0.02)
        host, port = server.servers[0].sockets[0].getsockname()[:2]
        yield f"http://{host}:{port}"
    finally:
        server.should_exit = True
        thread.join(10)
