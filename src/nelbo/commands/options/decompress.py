"""What `nelbo decompress` asks for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from nelbo.base.errors import NelboError
from nelbo.commands.groups import AsJson, Device, check_new


@dataclass(frozen=True)
class Decompress:
    """Read back the pictures of an archive that `nelbo compress` wrote."""

    archive: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="ARCHIVE")]
    """The archive."""
    out: Path
    """Directory for the pictures, PNG files; it must be new or empty."""
    run_path: Annotated[str | None, tyro.conf.arg(name="run")] = None
    """The model that compressed them; by default the one that the archive names."""
    caption: str | None = None
    """Caption that a picture which was coded with --bits-per-pixel was conditioned on."""
    recover: bool = False
    """Write the pictures of whole blocks where others are damaged, and name what is lost."""
    device: Device = "auto"
    json: AsJson = False

    def check(self) -> None:
        """Raise `NelboError` for options that make no sense."""
        check_new(self.out)
        if self.archive.is_dir():
            raise NelboError(f"{self.archive} is a folder: give an archive, which is one file")
        if not self.archive.exists():
            raise NelboError(f"there is no archive {self.archive}")
