"""What a network predicts, and which network: bits/dim of the digits after the same time.

    python benchmarks/predictions.py --out DIR [--time-budget 120s | --steps N] [--seeds 3]
        [--networks unet dit] [--predictions epsilon v_prediction velocity denoiser]

Every cell is `nelbo train digits --network N --prediction P --time-budget T --seed S`, all else as
by default, so that the width is that which nelbo chooses for the time. With --steps, for a machine
whose processors are shared, each takes as many steps with the width that suits the image size. The
bound is of the test split, at every level an image. A run that is there is read and one that was
broken off is resumed: the benchmark goes on where it was interrupted, and the table is of what is
there. Its standard errors are of the mean over seeds where there are several, otherwise over images
alone.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
from pathlib import Path

from nelbo.cli import main as nelbo

NETWORKS = ("unet", "dit")
PREDICTIONS = ("epsilon", "v_prediction", "velocity")
ALL = (*PREDICTIONS, "sample", "denoiser")


def bits(run: Path) -> tuple[float, float] | None:
    """Bits/dim of the test split with its standard error over images, once a run has it."""
    file = run / "evaluation.json"
    if not file.exists():
        return None
    total = json.loads(file.read_text())["test"]["bits_per_dim"]["total"]
    return float(total["mean"]), float(total["standard_error"])


def train(run: Path, network: str, prediction: str, length: list[str], seed: int) -> None:
    """Train a run, or go on with it; the report comes with it."""
    if (run / "training").exists():
        nelbo(["train", "--resume", "--out", str(run)])
        return
    options = ["--network", network, "--prediction", prediction, "--seed", str(seed)]
    exact = ["--evaluate-levels", "all", "--threads", "1"]
    nelbo(["train", "digits", "--out", str(run), *length, *options, *exact])


def cell(found: list[tuple[float, float]]) -> str:
    """Mean and standard error over seeds, or over the images of a single run."""
    if not found:
        return "-"
    means = [mean for mean, _ in found]
    error = found[0][1]
    if len(found) > 1:
        error = statistics.stdev(means) / math.sqrt(len(means))
    return f"{statistics.mean(means):.3f} ± {error:.3f} ({len(found)})"


def main() -> None:
    """Train what is missing, and print the table after each run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--time-budget", default="120s")
    parser.add_argument("--steps", type=int, help="in place of the time")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--predictions", nargs="+", choices=ALL, default=PREDICTIONS)
    arguments = parser.parse_args()
    length = ["--time-budget", arguments.time_budget]
    if arguments.steps is not None:
        length = ["--steps", str(arguments.steps)]
    cells = list(itertools.product(arguments.networks, arguments.predictions))
    runs = {
        (network, prediction, seed): arguments.out / f"{network}-{prediction}-{seed}"
        for seed in range(arguments.seeds)
        for network, prediction in cells
    }
    for (network, prediction, seed), run in runs.items():
        if bits(run) is None:
            train(run, network, prediction, length, seed)
        print(f"\n{'':8s}" + "".join(f"{name:>24s}" for name in arguments.predictions))
        for name in arguments.networks:
            row = [
                cell([b for key, r in runs.items() if key[:2] == (name, p) and (b := bits(r))])
                for p in arguments.predictions
            ]
            print(f"{name:8s}" + "".join(f"{text:>24s}" for text in row), flush=True)


if __name__ == "__main__":
    main()
