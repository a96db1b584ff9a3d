"""What `nelbo compress` asks for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from nelbo.base.errors import NelboError
from nelbo.commands.groups import AsJson, Device, RunPath, check_out
from nelbo.training.ranges import at_least_one, refuse

_SUFFIX = ".nelbo"
# What takes effect where an archive is written, and nowhere else.
_OF_ARCHIVES = ("block", "fast", "verify")


@dataclass(frozen=True)
class Compress:
    """Compress pictures without loss, in about as many bits as the bound of a model says."""

    run_path: RunPath
    """A run, a diffusers pipeline directory, or a Hub id."""
    files: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILES")] = ()
    """Pictures of any size; one of another size than the model's is cut into tiles."""
    out: Path = Path(f"pictures{_SUFFIX}")
    """The archive to write."""
    data: str | None = None
    """In place of FILES, the images of a data set, as in `nelbo train`."""
    split: str = "test"
    """Which images of --data: train, validation, test or all."""
    resize: bool = False
    """Crop and resize images of --data of another size than the model's: the archive holds what
    comes of it. FILES are cut into tiles instead."""
    caption: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Caption that a model of text is conditioned on, one for each picture in turn; the archive
    holds them."""
    steps: int | None = None
    """Levels of the chain, and so network calls a picture; by default 30. The best ones are taken,
    by the profile of `nelbo fit` or, without, by one that is measured on some of the pictures."""
    block: int = 512
    """Tiles that are coded together; a smaller block is larger in bytes, and loses less if it is
    damaged."""
    fast: bool = False
    """Compute in float32; such an archive opens on a machine like this one alone."""
    verify: bool = True
    """Read the archive back before it is written; --no-verify trusts it."""
    bits_per_pixel: float | None = None
    """Code one picture of the model's size coarse to fine in at most this number of bits a pixel
    after the 9 bytes at the start, with loss; any prefix of the file is a coarser picture."""
    quality: float | None = None
    """Likewise, down to the level at this percentage of the way through the chain, counted in
    log SNR: 100 is the last level, and from about 60 on emoji are recognised."""
    estimate: bool = False
    """Write nothing, and print what the archive would take by the bound, beside other formats."""
    device: Device = "auto"
    json: AsJson = False

    def check(self) -> None:
        """Raise `NelboError` for options that make no sense."""
        at_least_one(steps=self.steps, block=self.block)
        if bool(self.files) == (self.data is not None):
            raise NelboError("give either pictures to compress, or --data with the name of a set")
        for path in self.files:
            if path.is_dir():
                raise NelboError(f"{path} is a folder: give the pictures in it, such as {path}/*")
        if self.caption and len(self.caption) not in (1, len(self.files)):
            which = f"{len(self.files)} pictures" if self.data is None else "the images of --data"
            each = ", or one for each" if self.data is None else ""
            raise NelboError(
                f"{len(self.caption)} captions were given for {which}: give one for all{each}"
            )
        if self.bits_per_pixel is not None and not self.bits_per_pixel > 0:
            raise NelboError(f"--bits-per-pixel must be positive, got {self.bits_per_pixel:g}")
        if self.quality is not None and not 0 <= self.quality <= 100:
            raise NelboError(f"--quality must lie in 0..100, got {self.quality:g}")
        if self.is_lossy and (len(self.files) != 1 or self.estimate):
            raise NelboError(
                "--bits-per-pixel and --quality code one picture: give one, and no --estimate"
            )
        self._check_effect()
        if not self.estimate:
            check_out(self.out)
            if self.out.resolve() in {path.resolve() for path in self.files}:
                raise NelboError(f"--out {self.out} is one of the pictures: give another file")

    def _check_effect(self) -> None:
        """Raise `NelboError` for options that would have no effect."""
        if self.data is None:
            refuse(self, "split", "resize", why="takes effect with --data only: leave it out")
        if self.estimate:
            why = "has no effect on --estimate, which writes nothing"
            refuse(self, "out", *_OF_ARCHIVES, why=why)
        if self.is_lossy:
            why = (
                "is for archives, which are lossless: leave it out where a picture is coded by "
                "--bits-per-pixel or --quality"
            )
            refuse(self, *_OF_ARCHIVES, why=why)

    @property
    def is_lossy(self) -> bool:
        """Whether a picture is coded coarse to fine."""
        return self.bits_per_pixel is not None or self.quality is not None
