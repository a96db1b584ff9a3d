"""Time and peak memory of from_pretrained against diffusers', for the same directory.

    python benchmarks/loading.py [--json FILE] [--small]

The network is Stable Diffusion 1.5's UNet (860M parameters) with random weights in a temporary
directory. Each load runs in a process of its own, nelbo and diffusers in turn; the figures are
those of the fastest of the repeats, since all that others do on the machine is to slow it. Both map
weights from the file where no conversion is asked for, so *load* is what from_pretrained takes and
*use* adds one pass over all weights, which is when they are read. Memory is the process's peak
above what it held before loading, after that pass. The file is in the system's cache.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table

DTYPES = {"float32": torch.float32, "float16": torch.float16}
SMALL = {"block_out_channels": (64, 128, 256, 256), "cross_attention_dim": 256}
FULL = {"cross_attention_dim": 768}
MIB = 2**20


class Load(NamedTuple):
    """Seconds to load, seconds to load and read all weights, and mebibytes that took."""

    load_s: float
    use_s: float
    peak_mib: float


class Comparison(NamedTuple):
    """The least for one precision in the file and one asked for; ratios are nelbo to diffusers."""

    stored: str
    wanted: str
    nelbo: Load
    diffusers: Load
    ratios: Load


def write_checkpoint(directory: Path, fields: dict, dtype: torch.dtype) -> None:
    """A directory with weights of random bits' worth, built tensor by tensor."""
    from safetensors.torch import save_file

    from nelbo.networks import TextUNetConfig, UNet
    from nelbo.networks.weights import WEIGHTS_FILE

    config = TextUNetConfig(**fields)
    with torch.device("meta"):
        shapes = UNet(config).state_dict()
    weights = {name: torch.randn(meta.shape).to(dtype) for name, meta in shapes.items()}
    directory.mkdir()
    save_file(weights, directory / WEIGHTS_FILE, metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(config.to_dict()))


def load_once(library: str, directory: Path, wanted: str) -> Load:
    """Load in this process, once."""
    if library == "nelbo":
        from nelbo.networks import UNet

        def load() -> torch.nn.Module:
            return UNet.from_pretrained(directory, dtype=DTYPES[wanted])
    else:
        from diffusers import UNet2DConditionModel

        def load() -> torch.nn.Module:
            return UNet2DConditionModel.from_pretrained(directory, torch_dtype=DTYPES[wanted])

    torch.set_num_threads(1)
    before = _memory("VmRSS")
    start = time.perf_counter()
    network = load()
    loaded = time.perf_counter()
    for parameter in network.parameters():
        assert parameter.dtype == DTYPES[wanted]
        parameter.detach().view(-1)[:: 4096 // parameter.element_size()].float().sum()
    used = time.perf_counter()
    return Load(loaded - start, used - start, _memory("VmHWM") - before)


def in_a_process(library: str, directory: Path, wanted: str) -> Load:
    """`load_once` in a fresh process."""
    command = [sys.executable, __file__, "--once", library, str(directory), wanted]
    finished = subprocess.run(command, check=True, capture_output=True, text=True)
    return Load(*json.loads(finished.stdout.splitlines()[-1]))


def compare(directory: Path, stored: str, wanted: str, repeats: int) -> Comparison:
    """Both libraries in turn."""
    loads: dict[str, list[Load]] = {"nelbo": [], "diffusers": []}
    for _ in range(repeats):
        for library, found in loads.items():
            found.append(in_a_process(library, directory, wanted))
    own, peer = (Load(*map(min, zip(*found, strict=True))) for found in loads.values())
    ratios = Load(*(a / b for a, b in zip(own, peer, strict=True)))
    return Comparison(stored, wanted, own, peer, ratios)


def measure(fields: dict, repeats: int) -> list[Comparison]:
    """Each precision in the file and asked for."""
    comparisons = []
    with tempfile.TemporaryDirectory() as temporary:
        for stored, wanted in (
            ("float32", "float32"),
            ("float16", "float16"),
            ("float16", "float32"),
        ):
            directory = Path(temporary) / stored
            if not directory.exists():
                write_checkpoint(directory, fields, DTYPES[stored])
            comparisons.append(compare(directory, stored, wanted, repeats))
    return comparisons


def _memory(field: str) -> float:
    """Mebibytes from /proc, so this benchmark runs on Linux only."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024 / MIB
    raise RuntimeError(f"/proc/self/status has no {field}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--repeats", type=int, default=5, help="processes of each (default 5)")
    parser.add_argument("--small", action="store_true", help="a network of 26M parameters")
    parser.add_argument("--once", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.once:
        library, directory, wanted = arguments.once
        print(json.dumps(load_once(library, Path(directory), wanted)))
        return
    comparisons = measure(SMALL if arguments.small else FULL, arguments.repeats)
    table = Table(title="from_pretrained, nelbo / diffusers, fastest")
    for column in ("stored", "wanted", "load s", "ratio", "use s", "ratio", "peak MiB", "ratio"):
        table.add_column(column, justify="right")
    for c in comparisons:
        cells = []
        for field, digits in (("load_s", 2), ("use_s", 2), ("peak_mib", 0)):
            own, peer, ratio = (getattr(x, field) for x in (c.nelbo, c.diffusers, c.ratios))
            cells += [f"{own:.{digits}f} / {peer:.{digits}f}", f"{ratio:.2f}"]
        table.add_row(c.stored, c.wanted, *cells)
    Console(width=120).print(table)
    if arguments.json:
        rows = [
            {key: v._asdict() if isinstance(v, Load) else v for key, v in c._asdict().items()}
            for c in comparisons
        ]
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
