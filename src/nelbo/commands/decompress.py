"""nelbo decompress: the pictures of an archive, bit for bit."""

from __future__ import annotations

from nelbo.base.console import notice
from nelbo.base.errors import NelboError
from nelbo.coding import contents, decompress_progressive, is_progressive, read
from nelbo.coding.conditions import captioned
from nelbo.coding.writing import write_picture, write_pictures
from nelbo.commands.common import answer, choose_device
from nelbo.commands.options.decompress import Decompress
from nelbo.commands.pace import Pace
from nelbo.formats import Pipeline
from nelbo.formats.model_directory import resolve


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
    with Pace("Reading back") as pace:
        found = read(model, archive, recover=options.recover, progress=pace)
    speeds = [len(found.images) / seconds for seconds in pace.passes]
    files = write_pictures(found, options.out)
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
    write_picture(image, file)
    answer(
        options.json,
        {"archive": str(options.archive), "out": str(file)},
        f"1 picture of {len(content):,} bytes → {file}",
    )
