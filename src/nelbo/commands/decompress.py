"""nelbo decompress: the pictures of an archive, bit for bit."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from nelbo.base.console import notice
from nelbo.base.errors import NelboError
from nelbo.coding import Decoded, contents, decompress_progressive, is_progressive, read
from nelbo.coding.conditions import captioned
from nelbo.commands.common import answer, choose_device
from nelbo.commands.options.decompress import Decompress
from nelbo.commands.pace import Pace
from nelbo.data.names import printable
from nelbo.evidence.file_sizes import picture
from nelbo.formats import Pipeline
from nelbo.formats.model_directory import resolve

# Bytes of a name in an archive that are kept; file systems take 255.
_LONGEST = 240


def run(options: Decompress) -> None:
    """Write the pictures."""
    archive = options.archive.read_bytes()
    if is_progressive(archive):
        _coarse(options, archive)
        return
    named = contents(archive).get("run")
    if options.caption is not None:
        raise NelboError(
            f"--caption is for pictures that were coded coarse to fine; {options.archive} is an "
            "archive, which holds its captions"
        )
    run_path = options.run_path or named
    if run_path is None:
        raise NelboError(f"{options.archive} does not name its model: give --run")
    try:
        model = Pipeline.open(str(resolve(run_path))).model().to(choose_device(options.device))
    except NelboError as error:
        if options.run_path is not None:
            raise
        raise NelboError(
            f"{options.archive} was made with {run_path}, which is not here: give --run ({error})"
        ) from error
    with Pace("Decompressing") as pace:
        found = read(model, archive, recover=options.recover, progress=pace)
    speeds = [len(found.images) / seconds for seconds in pace.passes(1)]
    files = _write(found, options.out)
    for line in found.damage:
        notice(f"lost: {line}")
    of = "" if len(files) == found.total else f" of {found.total:,}"
    pace_shown = "".join(f", {speed:.3g} images/s" for speed in speeds)
    answer(
        options.json,
        {
            "archive": str(options.archive),
            "out": str(options.out),
            "run": run_path,
            "pictures": len(files),
            "of": found.total,
            "damage": found.damage,
            "decode_per_second": speeds[0] if speeds else None,
        },
        f"{len(files):,}{of} picture{'s' * (found.total > 1)}{pace_shown} → {options.out}",
    )


def _coarse(options: Decompress, content: bytes) -> None:
    """Write the picture of a file that was coded coarse to fine, or of a part of it."""
    if options.recover:
        raise NelboError(
            f"--recover is for archives; {options.archive} is one picture coded coarse to fine, of "
            "which every beginning is read as it is"
        )
    if options.run_path is None:
        raise NelboError(f"{options.archive} does not name its model: give --run")
    model = Pipeline.open(options.run_path).model().to(choose_device(options.device)).eval()
    condition = captioned(model, options.caption)
    image = decompress_progressive(model, content, condition=condition)
    file = options.out / f"{options.archive.stem}.png"
    _save(image, file)
    answer(
        options.json,
        {"archive": str(options.archive), "out": str(file)},
        f"1 picture of {len(content):,} bytes → {file}",
    )


def _write(found: Decoded, out: Path) -> list[Path]:
    """A PNG file for each picture, in the folders that their names have."""
    files: list[Path] = []
    for i, image in enumerate(found.images):
        number = f"{found.index[i]:05d}"
        file = out / (number if found.names is None else _inside(found.names[i]) or number)
        if file.suffix != ".png":
            file = file.with_name(f"{file.name}.png")
        while file.exists():  # other names lead to the same file, here or in other letters
            file = file.with_stem(f"{file.stem}-{number}")
        _save(image, file)
        files.append(file)
    return files


def _inside(name: str) -> str:
    """A name as a path below a folder: it is somebody else's, and leads nowhere out of it."""
    parts = PurePosixPath(name.replace("\\", "/").replace(":", "_")).parts
    kept = (printable(part) for part in parts if part not in ("/", "//", ".."))
    return "/".join(_shortened(part.replace("\\", "_")) for part in kept)


def _shortened(name: str) -> str:
    """The beginning of a name that a file system takes, with room for a number and .png."""
    return name.encode()[:_LONGEST].decode(errors="ignore")


def _save(image: Tensor, file: Path) -> None:
    """Write a PNG file whole or not at all."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        picture(image.to("cpu", torch.uint8)).save(file)
    except OSError as error:
        file.unlink(missing_ok=True)
        raise NelboError(f"cannot write {file}: {error.strerror or error}") from error
