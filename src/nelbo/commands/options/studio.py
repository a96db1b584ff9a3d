"""What `nelbo studio` asks for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from nelbo.base.errors import NelboError
from nelbo.commands.groups import Device
from nelbo.studio.access import Users, check_address

_LARGEST_PORT = 65535


@dataclass(frozen=True)
class Studio:
    """Open a page in the browser to generate, edit, evaluate and compare (extra `studio`)."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN")] = ()
    """Runs, pipeline directories, Hub ids, or directories of `nelbo compare --budget`; by default
    the checkpoints that come with nelbo and what is under runs/."""
    host: str = "127.0.0.1"
    """The address to listen at; others than those of this machine need --auth-file."""
    port: int = 7860
    """The port to listen at; 0 for one that is free."""
    auth_file: Path | None = None
    """A file with a line name:password for each user, which only its owner may read."""
    device: Device = "auto"

    def check(self) -> None:
        """Raise `NelboError` for an address that others reach without a password."""
        if not 0 <= self.port <= _LARGEST_PORT:
            raise NelboError(f"--port must lie in 0..{_LARGEST_PORT}, got {self.port}")
        check_address(self.host, self.users())

    def users(self) -> Users | None:
        """Who may use the page; None without a file."""
        return None if self.auth_file is None else Users.read(self.auth_file)
