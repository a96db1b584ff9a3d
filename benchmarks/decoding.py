"""Decoding a folder: threads against processes and against one picture after the other, and what
the second start and a large size cost. `python benchmarks/decoding.py [PICTURES]`
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from nelbo.data import load_data
from nelbo.data.decode import in_threads, read_picture

SIZE = 64
REPETITIONS = 3


def photographs(folder: Path, count: int) -> list[Path]:
    """JPEG files of 768×512 pixels, smooth as photographs are."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    paths = [folder / f"{i:05}.jpg" for i in range(count)]
    for path in paths:
        coarse = Image.fromarray(generator.integers(0, 255, (64, 96, 3), dtype=np.uint8))
        coarse.resize((768, 512), Image.Resampling.BICUBIC).save(path, quality=90)
    return paths


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_processes(read: Callable[[Path], object], paths: list[Path]) -> None:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=spawn) as pool:
        list(pool.map(read, paths, chunksize=16))


def main(count: int) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["NELBO_CACHE"] = f"{temporary}/cache"
        folder = Path(temporary) / "pictures"
        paths = photographs(folder, count)
        read = partial(read_picture, size=SIZE, channels=3)
        ways = {
            "one after the other": lambda: [read(path) for path in paths],
            "threads": lambda: list(in_threads(paths, read, total=0, size=(SIZE, SIZE))),
            "processes": lambda: in_processes(read, paths),
        }
        times: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(REPETITIONS):
            for way, work in ways.items():
                times[way].append(seconds(work))
        alone = statistics.median(times["one after the other"])
        print(f"{count} JPEG files of 768×512 to {SIZE}×{SIZE}, {os.cpu_count()} cores")
        for way, of in times.items():
            median = statistics.median(of)
            print(f"  {way:20} {median:6.2f} s  {median / alone:5.2f} of one after the other")
        first = seconds(lambda: load_data(str(folder), size=SIZE))
        second = seconds(lambda: load_data(str(folder), size=SIZE))
        print(f"load_data: first {first:.2f} s, second {1000 * second:.1f} ms")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        data = load_data(str(folder), size=1024)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        on_disk = data.images.numel() / 1e6
        print(f"at 1024×1024: {on_disk:,.0f} MB on disk, {grown / 1e3:,.0f} MB more memory at most")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 300)
