"""What reading ahead gains where images are streamed: steps a second with it and without.

    python benchmarks/streaming.py [--json FILE] [--steps 8] [--rounds 5] [--batch 32]

Streams a parquet file of 64×64 JPEGs. Two kinds of step: one of a small diffusion model on this
CPU, which competes with decoding, and one that uses none of it, as on an accelerator, and takes as
long as reading and decoding a batch, for which the gain is largest: a ratio of 2 at best. Both ways
take turns in one process; the figures are medians.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import datasets
import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from nelbo.data import ImageData, load_data
from nelbo.data.stream import ImageStream
from nelbo.training.config import TrainingConfig
from nelbo.training.kinds.pixel.build import build_model
from nelbo.training.kinds.pixel.options import ModelConfig
from nelbo.training.kinds.pixel.task import pixel_task
from nelbo.training.trainer import Trainer

SIZE, ROWS, BUFFER = 64, 2000, 500


def write_table(path: Path) -> None:
    """JPEGs as smooth as photographs are."""
    generator = np.random.default_rng(0)

    def jpeg() -> dict[str, bytes]:
        coarse = Image.fromarray(generator.integers(0, 255, (12, 12, 3), dtype=np.uint8))
        file = io.BytesIO()
        coarse.resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        return {"bytes": file.getvalue()}

    rows = {"image": [jpeg() for _ in range(ROWS)]}
    features = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)


def trained(data: ImageData, steps: int, batch: int) -> Callable[[], float]:
    """Steps a second of training on this CPU."""

    def rate() -> float:
        torch.manual_seed(0)
        model = build_model(ModelConfig(widths=(8, 16), levels=100), data)
        config = TrainingConfig(steps=steps + 2, batch_size=batch, precision="fp32")
        marks = [time.perf_counter() for _ in Trainer(pixel_task(model, data, config)).run()]
        return steps / (marks[-1] - marks[1])

    return rate


def waited(data: ImageData, steps: int, batch: int, seconds: float) -> Callable[[], float]:
    """Steps a second if a step takes a fixed time and none of this CPU."""

    def rate() -> float:
        assert data.stream is not None
        stream, part = data.stream.seeded(0), slice(0, batch)
        with stream.reading_ahead([part]):
            marks = []
            for step in range(steps + 2):
                stream.batch(step * batch, batch).images(part)
                time.sleep(seconds)
                marks.append(time.perf_counter())
        return steps / (marks[-1] - marks[1])

    return rate


def without(rate: Callable[[], float]) -> float:
    """The same without reading ahead."""
    with mock.patch.object(ImageStream, "reading_ahead", return_value=nullcontext()):
        return rate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--steps", type=int, default=8, help="of each run")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each kind")
    parser.add_argument("--batch", type=int, default=32, help="images a step")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        os.environ["NELBO_CACHE"] = f"{directory}/cache"
        path = Path(directory) / "photos.parquet"
        write_table(path)
        data = load_data(f"{path}?stream={BUFFER}&max_images=100", size=SIZE)
        size = arguments.steps, arguments.batch
        alone = 1 / statistics.median(without(waited(data, *size, 0.0)) for _ in range(3))
        kinds = {
            "on this CPU": trained(data, *size),
            f"elsewhere, {1e3 * alone:.0f} ms": waited(data, *size, alone),
        }
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        title = f"{SIZE}×{SIZE} JPEGs, {arguments.batch} a step, {cores} core(s), one torch thread"
        table = Table(title=title)
        for column in ("step", "steps/s", "steps/s reading ahead", "ratio"):
            table.add_column(column, justify="left" if column == "step" else "right")
        figures = {"decoding_ms": 1e3 * alone}
        for kind, rate in kinds.items():
            rates: dict[str, list[float]] = {"plain": [], "ahead": []}
            for _ in range(arguments.rounds):
                rates["plain"].append(without(rate))
                rates["ahead"].append(rate())
            plain, ahead = (statistics.median(of) for of in rates.values())
            figures[kind.partition(",")[0]] = ahead / plain
            table.add_row(kind, f"{plain:.2f}", f"{ahead:.2f}", f"{ahead / plain:.2f}")
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
