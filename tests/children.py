"""Processes that a test may kill: forked from the test's own, so that they start at once."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nelbo.cli import main

_FORK = multiprocessing.get_context("fork")
# Seconds after which a test is given up: on a busy machine what takes one may take a hundred.
PATIENCE = 600.0


class Child:
    """A function in a process of its own, whose messages go to a file.

    Args:
        function: what it runs.
        arguments: of the function.
        log: the file for standard output and standard error.
        env: environment variables to set.
    """

    def __init__(
        self, function: Callable[..., Any], *arguments: Any, log: Path, **env: object
    ) -> None:
        def run() -> None:
            os.environ.update({name: str(value) for name, value in env.items()})
            # pytest has put files of its own in the place of both.
            sys.stdout = sys.stderr = log.open("a", buffering=1)
            function(*arguments)

        log.write_text("")
        self.log = log
        self.process = _FORK.Process(target=run, daemon=True)
        self.process.start()

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self.process.is_alive()

    def send(self, number: int) -> None:
        """A signal."""
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.process.kill()
        self.process.join()

    def join(self, seconds: float = PATIENCE) -> int:
        """The exit code; after so many seconds it is killed and the test fails."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.kill()
            raise AssertionError(f"still running after {seconds:g} s: {self.message}")
        return self.process.exitcode

    @property
    def message(self) -> str:
        """What it said, in one line."""
        return " ".join(self.log.read_text().split())


def group(count: int, function: Callable[..., Any], *arguments: Any, logs: Path) -> list[Child]:
    """The function in processes that can join into a group, without a launcher above them."""
    import accelerate  # noqa: F401 - here, for all at once

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {"WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        Child(function, *arguments, log=logs / f"{rank}.log", RANK=rank, LOCAL_RANK=rank, **env)
        for rank in range(count)
    ]


def wait_until(happened: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Until something has happened."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def command(*arguments: object, log: Path, **env: object) -> Child:
    """`nelbo` with these arguments."""
    return Child(main, [str(argument) for argument in arguments], log=log, **env)
