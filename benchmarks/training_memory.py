"""Peak memory of a training step, per parameter and per image, beside diffusers and its peer.

    python benchmarks/training_memory.py [--json FILE]

Every row is measured by two processes, with 4 and with 12 images of 32×32. Their difference, over
8, is the memory of an image; the rest, over the parameters, is that of a parameter: its value,
gradient and two moments, 16 bytes in float32; 4 more for a moving average; and a share of the
libraries.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from _training_steps import (
    Step,
    bare_step,
    denoising_diffusion_step,
    diffusers_step,
    parameters,
    whole_step,
)
from rich.console import Console
from rich.table import Table

BATCHES = (4, 12)
MEASURED: dict[str, Callable[[int], tuple[Step, int] | None]] = {
    "diffusers, float32": lambda batch: (diffusers_step(batch), parameters()),
    "denoising-diffusion-pytorch, float32": denoising_diffusion_step,
    "nelbo, bare step, fp32": lambda batch: (bare_step(batch, "fp32"), parameters()),
    "nelbo, bare step, bf16": lambda batch: (bare_step(batch, "bf16"), parameters()),
    "nelbo, whole loop, bf16": lambda batch: (whole_step(batch, "bf16"), parameters()),
}


def peak() -> int:
    """The most memory that this process has had, bytes."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would count the parent's as well
        line = next(r for r in status.read_text().splitlines() if r.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure(kind: str, batch: int) -> None:
    """In a process of its own: print the parameters and the rise of the peak of its memory."""
    torch.set_num_threads(1)
    before = peak()
    made = MEASURED[kind](batch)
    if made is None:
        print(json.dumps(None))
        return
    step, count = made
    for _ in range(2):
        step()
    print(json.dumps({"parameters": count, "bytes": peak() - before}))


def measured(kind: str, batch: int) -> dict[str, int] | None:
    """Run `measure` in a process and read what it prints."""
    command = [sys.executable, __file__, "--measure", kind, "--batch", str(batch)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure, arguments.batch)
        return
    table = Table(title="Peak memory of a training step at 32×32")
    for column in ("what", "parameters", "bytes a parameter", "MB an image"):
        table.add_column(column, justify="left" if column == "what" else "right")
    figures = {}
    few, many = BATCHES
    for kind in MEASURED:
        found = [measured(kind, batch) for batch in BATCHES]
        if found[0] is None or found[1] is None:
            continue
        count = found[0]["parameters"]
        image = (found[1]["bytes"] - found[0]["bytes"]) / (many - few)
        parameter = (found[0]["bytes"] - few * image) / count
        figures[kind] = {"bytes_per_parameter": parameter, "bytes_per_image": image}
        table.add_row(kind, f"{count / 1e6:.1f}M", f"{parameter:.1f}", f"{image / 1e6:.1f}")
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
