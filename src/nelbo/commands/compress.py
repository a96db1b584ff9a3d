"""nelbo compress: pictures as bytes of about the number that the bound says."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.base.files import new_file
from nelbo.chain.model import Model
from nelbo.coding import (
    Estimated,
    compress,
    compress_progressive,
    decompress_progressive,
    estimate,
    is_progressive,
)
from nelbo.coding.conditions import captioned
from nelbo.coding.container import MAGIC
from nelbo.coding.rate_distortion import psnr_of
from nelbo.commands.common import answer, choose_device
from nelbo.commands.options.compress import Compress
from nelbo.commands.pace import Pace
from nelbo.data import ImageData
from nelbo.data.image_file import read_levels
from nelbo.data.sources import check_not_among
from nelbo.evidence.file_sizes import TITLES, raw_size, total_sizes
from nelbo.formats import Pipeline
from nelbo.formats.model_directory import ships
from nelbo.report.formatting import with_error
from nelbo.runs.run_data import check_data, check_not_data, data_for_run

# Of a file, by which an archive is known.
_KNOWN = 8


def run(options: Compress) -> None:
    """Write the archive, or print what it would take."""
    pipeline = Pipeline.open(options.run_path)
    if not options.estimate:
        _check_out(options.out)
        check_not_data(pipeline, options.out)
        if options.data is not None:
            check_not_among(options.data, options.out, "--out")
    model = pipeline.model().to(choose_device(options.device)).eval()
    images, names = _pictures(options, pipeline, model)
    pixels = list(images.images) if isinstance(images, ImageData) else images
    if options.is_lossy:
        _coarse_to_fine(options, model, pixels[0])
        return
    captions = options.caption * len(pixels) if len(options.caption) == 1 else options.caption
    given: dict[str, Any] = {"captions": captions or None, "steps": options.steps}
    if options.estimate:
        _answer(options, pixels, model, *_expected(estimate(model, images, **given), pixels))
        return
    with Pace("Compressing") as pace:
        archive = compress(
            model,
            images,
            names=names,
            block=options.block,
            fast=options.fast,
            verify=options.verify,
            notes={"run": _name(options.run_path)},
            progress=pace,
            **given,
        )
    with new_file(options.out) as temporary:
        temporary.write_bytes(archive)
    speeds = [len(pixels) / seconds for seconds in pace.passes]
    _answer(options, pixels, model, *_written(options, len(archive), pixels, speeds))


def _check_out(out: Path) -> None:
    """Raise `NelboError` for a file that is there already and that this command did not write."""
    if not out.is_file():
        return
    with out.open("rb") as file:
        start = file.read(_KNOWN)
    if start and not (start.startswith(MAGIC) or is_progressive(start)):
        raise NelboError(f"--out {out} is there already and is no archive: give another file")


def _coarse_to_fine(options: Compress, model: Model, image: Tensor) -> None:
    """Write one picture with loss, and print how near to it what is read back is."""
    dims = image[0].numel()
    if image.shape != model.shape:
        given, size = ("×".join(map(str, shape[1:])) for shape in (image.shape, model.shape or ()))
        raise NelboError(
            f"{options.files[0]} is {given}, and a picture is coded coarse to fine in the size of "
            f"the model alone, {size}: crop or resize it first"
        )
    condition = captioned(model, next(iter(options.caption), None))
    rate = options.bits_per_pixel
    content = compress_progressive(
        model,
        image,
        None if rate is None else rate * dims,
        quality=options.quality,
        steps=options.steps,
        condition=condition,
    )
    with new_file(options.out) as temporary:
        temporary.write_bytes(content)
    back = decompress_progressive(model, content, condition=condition)
    psnr = float(psnr_of(back[None], image[None], model.data.shown_levels))
    found, bits = {"run": options.run_path, "out": str(options.out)}, 8 * len(content) / dims
    answer(
        options.json,
        found | {"bytes": len(content), "bits_per_pixel": bits, "psnr": psnr},
        f"{len(content):,} bytes, {bits:.3f} bits/pixel, PSNR {psnr:.1f} dB → {options.out}",
    )


def _pictures(options: Compress, pipeline: Pipeline, model: Model) -> tuple[Any, list[str] | None]:
    """The pictures and their names; of a data set, with all that is beside them."""
    if options.data is not None:
        source = check_data(pipeline, options.data, options.split, resize=options.resize)
        return data_for_run(source, model), None
    shape = model.shape
    assert shape is not None
    images = [read_levels(path, shape[0], model.data.shown_levels) for path in options.files]
    return images, _names(options.files)


def _names(files: Sequence[Path]) -> list[str]:
    """What the pictures will be called; where some have one name, with the folders they are in."""
    names = [f"{file.stem}.png" for file in files]
    if len({*names}) == len({file.absolute() for file in files}):
        return names
    folders = [Path(os.path.abspath(file)).parent for file in files]
    if len({folder.anchor for folder in folders}) > 1:  # drives
        return names
    top = os.path.commonpath(folders)
    return [
        (folder.relative_to(top) / name).as_posix()
        for folder, name in zip(folders, names, strict=True)
    ]


def _name(run_path: str) -> str:
    """What a model is called where it is looked for again."""
    return Path(run_path).name if ships(run_path) else run_path


def _expected(estimated: Estimated, pixels: Sequence[Tensor]) -> tuple[dict[str, Any], str]:
    """What the archive would take, for a program and as a line."""
    # One tile has no spread.
    size = with_error(estimated.bytes.mean, estimated.bytes.standard_error, 0)
    levels_kept = f" with {estimated.steps} levels" if estimated.steps else ""
    content = {
        "estimated_bytes": estimated.bytes.mean,
        "standard_error": estimated.bytes.standard_error,
        "bits_per_dim": estimated.bits_per_dim,
        "first_draws_bytes": estimated.first_draws,
        "steps": estimated.steps,
    }
    return content, (
        f"about {size} bytes by the bound, {estimated.bits_per_dim:.3f} bits/dim, for "
        f"{_count(pixels)}{levels_kept}; beside them a header of some 150 bytes, and in each block "
        f"{estimated.first_draws:,} for the draws of the first pictures, or their names where "
        "these take more"
    )


def _written(
    options: Compress, size: int, pixels: Sequence[Tensor], speeds: Sequence[float]
) -> tuple[dict[str, Any], str, str]:
    """What the archive takes, and how many pictures a second were coded and then read back."""
    bits, back = 8 * size / _dims(pixels), ", read back the same" if options.verify else ""
    named = zip(("encode_per_second", "decode_per_second"), speeds, strict=False)
    done = zip(("encoded", "decoded"), speeds, strict=False)
    return (
        {"out": str(options.out), "bytes": size, **dict(named)},
        f"{_count(pixels)} in {size:,} bytes, {bits:.3f} bits/dim{back} → {options.out}",
        ", ".join(f"{what} {speed:.3g} images/s" for what, speed in done),
    )


def _answer(
    options: Compress, pixels: Sequence[Tensor], model: Model, found: dict[str, Any], *lines: str
) -> None:
    """Print what was found, beside other formats."""
    dims, levels = _dims(pixels), model.data.shown_levels
    others = total_sizes(pixels, levels) | {"raw": raw_size(dims, levels)}
    titles = TITLES | {"zstd": "zstd -19 of all", "raw": "the pixels as they are"}
    beside = ", ".join(f"{titles[name]} {count:,}" for name, count in others.items())
    content = {"run": options.run_path, "pictures": len(pixels), "dims": dims, **found}
    answer(
        options.json,
        content | {"other_formats": others},
        *lines,
        f"the same pictures in bytes: {beside}",
    )


def _dims(pixels: Sequence[Tensor]) -> int:
    return sum(image.numel() for image in pixels)


def _count(pixels: Sequence[Tensor]) -> str:
    return f"{len(pixels):,} picture{'s' * (len(pixels) > 1)}"
