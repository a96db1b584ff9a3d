"""Resolve the name of a data set, a path, or a data set of the Hub to images."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from nelbo.base.arguments import check_choice, check_path
from nelbo.base.errors import NelboError
from nelbo.base.suggestions import did_you_mean, directories_near
from nelbo.data.digits import load_digits
from nelbo.data.emoji import load_emoji
from nelbo.data.folder import load_folder
from nelbo.data.formats import is_picture
from nelbo.data.hub import load_table
from nelbo.data.image_data import ImageData
from nelbo.data.listing import would_be_listed
from nelbo.data.mixture import load_mixture
from nelbo.data.mnist5k import load_mnist5k
from nelbo.data.reader import CONTRAST, WHITE
from nelbo.data.size import Size, parse_size
from nelbo.data.splits import SPLITS
from nelbo.data.table import Table

# The Hub ids of data sets with a name of their own, with the channels and the side of their images.
HUB_NAMES = {
    "mnist": ("ylecun/mnist", 1, 28),
    "fashion_mnist": ("zalando-datasets/fashion_mnist", 1, 28),
    "cifar10": ("uoft-cs/cifar10", 3, 32),
}
# The channels of data sets that are not converted to others.
OWN_CHANNELS = {"digits": 1, "mnist5k": 1, "mixture": 1, "emoji": 3}
FIXED_SIZE = {"digits": load_digits, "mnist5k": load_mnist5k, "mixture": load_mixture}
NAMES = (*FIXED_SIZE, "emoji", *HUB_NAMES)
DEFAULT_SIZE = (32, 32)
HUB = "hub:"
# What lies in the directory of a run and in no folder of pictures.
_OF_RUNS = ("config.yaml", "nelbo.json")
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")
_ARRAYS = (".npy", ".npz", ".pt", ".pth", ".h5", ".hdf5", ".mat", ".pkl", ".csv", ".safetensors")
KINDS = f"a data set ({', '.join(NAMES)}), a folder of pictures, a .parquet file, or hub:USER/NAME"


def load_data(
    source: str | os.PathLike[str],
    split: str = "train",
    *,
    size: int | str | Size | None = None,
    channels: int | None = None,
    strict: bool = True,
    validation: bool = True,
    resize: bool = True,
    background: str = WHITE,
) -> ImageData:
    """The images of one split of a source.

    Args:
        source: the name of a data set (`NAMES`), the path of a folder of pictures or of parquet
            files, or "hub:user/name"; tables take options, see `hub`.
        split: "train", "validation", "test" or "all".
        size: the size to crop and resize pictures to, 32 or "16x24" or (16, 24), height × width; by
            default that of the data set, or 32. The images of digits and mnist5k have a fixed size.
        channels: 1 for grey or 3 for RGB; by default those of the data set, grey for a folder of
            grey pictures only, RGB for other tables.
        strict: raise an error for captions and labels without a picture; otherwise list them in
            `unmatched`.
        validation: False for runs that predate the validation split: its images are then training
            images, and declared ones test images.
        resize: False refuses pictures of another size instead of cropping and resizing them.
        background: what transparent areas of a folder's or a table's pictures become: "white", or
            "contrast", which is black for a picture of light colours alone, as of a light sketch.

    Raises:
        EmptySplitError: the split holds no image.
        NelboError: an unknown source or split, a size or channels that the source does not have,
            or nothing that can be read.
        MissingExtraError: the source needs an optional extra that is not installed.
    """
    check_path("source", source)
    source = os.fspath(source)
    check_source(source, split)
    if channels not in (None, 1, 3):
        raise NelboError(f"channels must be 1 (grey) or 3 (RGB), got {channels}")
    check_choice("background", background, (WHITE, CONTRAST))
    asked = None if size is None else parse_size(size)
    shown: Any = {"validation": validation, "resize": resize, "background": background}
    if is_local(source):
        path, options = _local(source)
        if path.is_dir() and not _holds_parquet(path):
            return load_folder(
                path,
                split,
                asked or DEFAULT_SIZE,
                channels,
                strict=strict,
                crops=_crops(source, options),
                **shown,
            )
        if path.is_file() and path.suffix.lower() != ".parquet":
            raise NelboError(f"{source} is a file; expected {KINDS}{_remedy(path)}")
        table = Table(source, str(path), options)
        return load_table(table, split, asked or DEFAULT_SIZE, channels or 3, **shown)
    name, _, query = source.partition("?")
    if name in FIXED_SIZE and not query:
        data = FIXED_SIZE[name](split, validation=validation)
        if asked not in (None, data.shape[1:]) or channels not in (None, data.shape[0]):
            raise NelboError(
                f"{source} has images of shape {data.shape}; size and channels are for other data"
            )
        return data
    if name == "emoji" and not query:
        if channels == 1:
            raise NelboError("emoji are RGB: channels must be 3")
        return load_emoji(split, asked or DEFAULT_SIZE, validation=validation)
    if name in HUB_NAMES:
        hub_id, own_channels, side = HUB_NAMES[name]
        table = Table(source, hub_id, _options(source, query))
        return load_table(table, split, asked or (side, side), channels or own_channels, **shown)
    if name.startswith(HUB) and name != HUB:
        table = Table(source, name.removeprefix(HUB), _options(source, query))
        return load_table(table, split, asked or DEFAULT_SIZE, channels or 3, **shown)
    raise _unknown(source)


def check_source(source: str, split: str) -> None:
    """Raise `NelboError` for an unknown source or split, without reading anything."""
    check_choice("split", split, SPLITS)
    if not _typed_path(source):  # a path without a name would be that of the working directory
        raise _unknown(source)
    if not is_local(source):
        name = source.partition("?")[0]
        if name == HUB or not (name in NAMES or name.startswith(HUB)):
            raise _unknown(source)


def is_local(source: str) -> bool:
    """Whether a source is a path that exists; a folder called "digits" comes before the digits.

    A run directory named like a data set is ignored: `nelbo train emoji --out emoji` reads the
    emoji.
    """
    path = _local(source)[0]
    return path.exists() and not (source in NAMES and any((path / f).is_file() for f in _OF_RUNS))


def is_path(source: str) -> bool:
    """Whether a source is a path, there or not, rather than the name of a data set."""
    name = source.partition("?")[0]
    return is_local(source) or not (name in NAMES or name.startswith(HUB))


def absolute(source: str) -> str:
    """The source as it can be found again from another directory."""
    if not is_local(source):
        return source
    path, _ = _local(source)
    return str(path.resolve()) + source[len(str(_typed_path(source))) :]


def check_not_among(source: str, path: Path, option: str) -> None:
    """Raise `NelboError` for the path of a new picture that would be one of the data itself."""
    folder = _local(source)[0]
    if is_local(source) and folder.is_dir() and would_be_listed(folder, path):
        raise NelboError(
            f"{option} {path} lies among the pictures of {folder} and would become one of them: "
            "give a path outside of the data"
        )


def with_crops(source: str, crops: int | None) -> str:
    """The source with a number of crops of each picture; None leaves it unchanged.

    Raises:
        NelboError: the source already has another number of crops, or takes none.
    """
    if crops is None:
        return source
    typed = _typed_path(source)
    options = _options(source, source[len(typed) + 1 :])
    if options.get("crops", str(crops)) != str(crops):
        raise NelboError(f"--crops {crops}: {source} already has another number")
    if typed in (*FIXED_SIZE, "emoji") and not is_local(source):
        raise NelboError(f"--crops is for folders and tables of photographs, not for {source}")
    if crops < 1:
        raise NelboError(f"--crops must be at least 1, got {crops}")
    if "crops" in options:
        return source
    return f"{source}{'&' if options else '?'}crops={crops}"


def has_crops(source: str) -> bool:
    """Whether a source gives several crops of each picture."""
    return _local(source)[1].get("crops", "1") != "1"


def with_column(source: str, column: str) -> str | None:
    """The source with another column of pictures, in the same rows; None where it is no table."""
    typed = _typed_path(source)
    path = Path(typed).expanduser()
    is_file = path.suffix.lower() == ".parquet"
    if is_local(source) and not (is_file or (path.is_dir() and _holds_parquet(path))):
        return None
    if not is_local(source) and not (typed in HUB_NAMES or typed.startswith(HUB)):
        return None
    options = _options(source, source[len(typed) + 1 :]) | {"image": column}
    return f"{typed}?{urlencode(options, quote_via=quote)}"


def _crops(source: str, options: Mapping[str, str]) -> int:
    """The number of crops of each picture in the options of a folder."""
    for name in options:
        if name != "crops":
            raise NelboError(
                f"{source}: unknown option {name!r}; a folder of pictures takes crops alone"
            )
    text = options.get("crops", "1")
    if not text.isdecimal() or int(text) < 1:
        raise NelboError(f"{source}: crops is {text!r}; expected a whole number from 1")
    return int(text)


def _local(source: str) -> tuple[Path, dict[str, str]]:
    typed = _typed_path(source)
    return Path(typed).expanduser(), _options(source, source[len(typed) + 1 :])


def _typed_path(source: str) -> str:
    """The part before the options; a question mark may also be part of a path."""
    parts = source.split("?")
    longest_first = ("?".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((path for path in longest_first if Path(path).expanduser().exists()), parts[0])


def _options(source: str, query: str) -> dict[str, str]:
    try:
        return dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    except ValueError as error:
        raise NelboError(
            f"{source}: options are written ?name=value&name=value, found {query!r}"
        ) from error


def _remedy(file: Path) -> str:
    """What to do with a file that holds pictures, but is neither a folder nor a table."""
    suffix = file.suffix.lower()
    if is_picture(file.name):
        return ". Give the folder that it lies in"
    if suffix in _ARCHIVES:
        return ". Unpack it, and give the folder"
    return ". Save its pictures as image files in a folder" if suffix in _ARRAYS else ""


def _unknown(source: str) -> NelboError:
    name = source.partition("?")[0]
    near = did_you_mean(name, NAMES) or directories_near(Path(_typed_path(source)))
    return NelboError(f"unknown data {source!r}{near}: expected {KINDS}")


def _holds_parquet(folder: Path) -> bool:
    """Whether a folder holds tables and no pictures."""
    found = False
    for _, _, names in os.walk(folder):
        if any(map(is_picture, names)):
            return False
        found = found or any(name.lower().endswith(".parquet") for name in names)
    return found
