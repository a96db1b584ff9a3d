"""Folders of pictures to try nelbo on, from packages that npm, pip and apt download by name.

    python benchmarks/folders.py [OUT] [--only icons flags photos icons-32]

OUT is runs/folders by default. Downloads need npm, pip, and apt-get with dpkg-deb of Debian or
Ubuntu; nothing is installed. What is made is the same each time, as far as the packages are.

icons      999 colour icons, 16×16: Silk by Mark James, CC BY 2.5 (npm famfamfam-silk).
icons-32   996 colour icons, 32×32: Oxygen by the Oxygen project, LGPL 3 (apt oxygen-icon-theme).
flags      500 flags at 64×64: of countries, drawn by Panayiotis Lipiridis, MIT (npm flag-icons),
           and of regions of nine countries, Open Flags by RAD Labz, GPL 3 (pip open-flags). A flag
           that two places share is there once.
photos     2,000 square patches at 64×64 of 42 photographs: lomiri-wallpapers, CC BY(-SA) 4.0 and
           CC0; mate-backgrounds, GPL 2; plasma-workspace-wallpapers, LGPL 3 and CC BY-SA 4.0 (apt);
           scikit-image and scikit-learn, public domain, CC0 and CC BY (pip). The authors stand in
           each package. All patches of one photograph are in the same one of train/, validation/
           and test/: what is held out is a place that training has not seen.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import random
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image

MARK = ".made-by-benchmarks"  # in a folder that may be made anew
SIDE = 64  # of flags and patches, from which nelbo makes smaller ones
ICONS, FLAGS, PATCHES = 1000, 500, 2000
FLAG_ICONS, OPEN_FLAGS = "flag-icons@7.5.0", "open-flags==0.0.2"
SILK = "famfamfam-silk@1.0.0"
SMALLEST_PATCH = 96  # pixels of a photograph along a side

# Photographs by package, among pictures that are drawn.
LOMIRI = (
    "Bridge_by_Sander_Klootwijk Dragonfly_by_Bolly Picture_0B_by_freespace Picture_1A_by_freespace "
    "Wine_by_Jakkub_Mede aitzgorri_by_Aitzol_Berasategi friends_by_Aitzol_Berasategi "
    "greentock_by_Peter_Nerlich life_by_Aitzol_Berasategi picosdeeuropa_by_Aitzol_Berasategi "
    "seeding_by_Clements_Engelhardt sunset_by_Aitzol_Berasategi"
)
MATE = (
    "Aqua Blinds Dune FreshFlower Garden GreenMeadow LadyBird RainDrops Storm TwoWings Wood "
    "YellowFlower"
)
PLASMA = (
    "BytheWater ColdRipple ColorfulCups DarkestHour EveningGlow FallenLeaf Grey Kite OneStandsOut "
    "Path summer_1am"
)
PHOTOS = {
    ("apt", "lomiri-wallpapers-16.04"): [f"{name}.jpg" for name in LOMIRI.split()],
    ("apt", "lomiri-wallpapers-20.04"): ["Kleiber_by_Lukas_Baubkus.jpg"],
    ("apt", "mate-backgrounds"): [f"mate/nature/{name}.jpg" for name in MATE.split()],
    ("apt", "plasma-workspace-wallpapers"): [
        f"{name}/contents/images/2560x1600.jpg" for name in PLASMA.split()
    ],
    ("pip", "scikit-image==0.25.2"): [
        f"data/{name}" for name in ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")
    ],
    ("pip", "scikit-learn"): [f"images/{name}.jpg" for name in ("china", "flower")],
}
VALIDATION, TEST = 0.12, 0.18  # of the photographs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, nargs="?", default=Path("runs/folders"))
    parser.add_argument("--only", nargs="*", choices=tuple(FOLDERS), default=list(FOLDERS))
    arguments = parser.parse_args()
    packages = Packages(arguments.out / ".packages")
    for name in arguments.only:
        folder = arguments.out / name
        make_anew(folder)
        count = FOLDERS[name](folder, packages)
        print(f"{name}: {count} pictures in {folder}")


def make_anew(folder: Path) -> None:
    """Empty a folder that was made here before, or make it; never one with files of others."""
    mark = folder / MARK
    if folder.exists() and not mark.exists() and (not folder.is_dir() or any(folder.iterdir())):
        sys.exit(f"{folder} is there, and was not made by this script: remove it, or name another")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    mark.touch()


class Packages:
    """Contents of packages, each downloaded once."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache.absolute()

    def open(self, kind: str, package: str) -> dict[str, Callable[[], bytes]]:
        """The files of a package: name -> what reads it."""
        place = self.cache / kind / package
        if not place.is_dir():
            unfinished = place.with_name(place.name + ".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            {"npm": _npm, "pip": _pip, "apt": _apt}[kind](package, unfinished)
            unfinished.rename(place)
        files = (path for path in sorted(place.rglob("*")) if path.is_file())
        return {path.relative_to(place).as_posix(): path.read_bytes for path in files}


def _npm(package: str, to: Path) -> None:
    subprocess.run(["npm", "pack", "--silent", package], cwd=to, check=True, capture_output=True)
    (file,) = to.glob("*.tgz")
    with tarfile.open(file) as content:
        content.extractall(to, filter="data")
    file.unlink()


def _pip(package: str, to: Path) -> None:
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary"]
    subprocess.run([*download, ":all:", "--dest", str(to), package], check=True)
    (file,) = to.glob("*.whl")
    with zipfile.ZipFile(file) as content:
        content.extractall(to)
    file.unlink()


def _apt(package: str, to: Path) -> None:
    subprocess.run(["apt-get", "download", "-qq", package], cwd=to, check=True)
    (file,) = to.glob("*.deb")
    subprocess.run(["dpkg-deb", "-x", str(file), str(to)], check=True)
    file.unlink()


def icons(folder: Path, packages: Packages) -> int:
    """Silk, as it is."""
    files = packages.open("npm", SILK)
    return _copy(((n, f) for n, f in files.items() if "/png/" in n and n.endswith(".png")), folder)


def icons_32(folder: Path, packages: Packages) -> int:
    """Oxygen at 32×32, one file of each picture."""
    files = packages.open("apt", "oxygen-icon-theme")
    return _copy(
        ((n, f) for n, f in files.items() if "/32x32/" in n and n.endswith(".png")), folder
    )


def _copy(files: Iterator[tuple[str, Callable[[], bytes]]], folder: Path) -> int:
    """The first pictures in the order of a hash, without duplicates."""
    seen: set[bytes] = set()
    for name, read in sorted(files, key=lambda file: _hash(file[0])):
        content = read()
        pixels = hashlib.sha256(Image.open(io.BytesIO(content)).convert("RGBA").tobytes()).digest()
        if pixels not in seen and len(seen) < ICONS:
            seen.add(pixels)
            (folder / Path(name).name).write_bytes(content)
    return len(list(folder.iterdir()))


def flags(folder: Path, packages: Packages) -> int:
    """Country flags, square, then flags of regions, cut to the square in the middle."""
    countries = packages.open("npm", FLAG_ICONS)
    drawings = {
        f"country-{Path(name).stem}": read
        for name, read in countries.items()
        if "/1x1/" in name and name.endswith(".svg")
    }
    regions = {
        f"{Path(name).parent.name}-{Path(name).stem}": read
        for name, read in packages.open("pip", OPEN_FLAGS).items()
        if name.endswith(".svg")
    }
    drawings |= dict(sorted(regions.items(), key=lambda item: _hash(item[0])))
    seen: set[bytes] = set()
    for name, read in drawings.items():
        picture = _drawn(read())
        if picture is None:
            continue
        small = picture.resize((8, 8), Image.Resampling.BOX).point(lambda level: level // 16)
        if small.tobytes() not in seen and len(seen) < FLAGS:
            seen.add(small.tobytes())
            picture.save(folder / f"{name}.png")
    return len(seen)


def _drawn(drawing: bytes) -> Image.Image | None:
    """The square in the middle of a drawing, SIDE × SIDE on white; None if it cannot be drawn."""
    import resvg_py

    try:
        png = resvg_py.svg_to_bytes(svg_string=drawing.decode(), height=4 * SIDE)
    except (ValueError, UnicodeDecodeError):
        return None
    picture = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    on_white = Image.new("RGBA", picture.size, "white")
    on_white.alpha_composite(picture)
    return _square(on_white.convert("RGB"))


def photos(folder: Path, packages: Packages) -> int:
    """Patches of many scales, as many of each photograph."""
    found: dict[str, bytes] = {}
    for (kind, package), endings in PHOTOS.items():
        files = packages.open(kind, package)
        for ending in endings:
            matches = [name for name in files if name.endswith(f"/{ending}")]
            if len(matches) != 1:
                raise SystemExit(f"{package} holds {len(matches)} files .../{ending}, expected 1")
            parts = Path(ending).parts
            name = parts[0] if parts[-1].startswith("2560x") else Path(ending).stem
            found[name] = files[matches[0]]()
    order = sorted(found, key=_hash)
    tested, validated = round(TEST * len(order)), round(VALIDATION * len(order))
    each, more = divmod(PATCHES, len(order))
    count = 0
    for number, name in enumerate(order):
        first = number < tested
        split = "test" if first else "validation" if number < tested + validated else "train"
        (folder / split).mkdir(exist_ok=True)
        photo = Image.open(io.BytesIO(found[name])).convert("RGB")
        for index, patch in enumerate(_patches(photo, each + (number < more), name)):
            patch.save(folder / split / f"{name}-{index:02d}.png")
            count += 1
    return count


def _patches(photo: Image.Image, count: int, seed: str) -> Iterator[Image.Image]:
    """Squares anywhere in a photograph; their sides are spread evenly on a logarithmic scale."""
    draws = random.Random(seed)
    largest = min(photo.size)
    for _ in range(count):
        side = round(SMALLEST_PATCH * (largest / SMALLEST_PATCH) ** draws.random())
        left, top = (draws.randint(0, length - side) for length in photo.size)
        yield _square(photo.crop((left, top, left + side, top + side)))


def _square(picture: Image.Image) -> Image.Image:
    """The largest square in the middle, resized."""
    side = min(picture.size)
    left, top = ((length - side) // 2 for length in picture.size)
    box = (left, top, left + side, top + side)
    return picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS, box)


def _hash(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


FOLDERS: dict[str, Callable[[Path, Packages], int]] = {
    "icons": icons,
    "flags": flags,
    "photos": photos,
    "icons-32": icons_32,
}


if __name__ == "__main__":
    main()
