"""nelbo's defaults on folders of pictures beside two other packages, with the same time.

    python benchmarks/folders.py runs/folders
    python benchmarks/own_pictures.py [OUT] [--data runs/folders] [--folders icons flags photos]
        [--sizes 16 32] [--systems nelbo diffusers denoising-diffusion] [--time-budget 10m]
        [--processor-time] [--many N]

Every folder is learned by one command, `nelbo train FOLDER --size S --time-budget T`, and by the
training loops of diffusers' unconditional example and of denoising-diffusion-pytorch, see
_own_picture_peers.py. The systems `nelbo-likelihood` and `nelbo-pictures` are the same command
with that `--preset`. On a machine that does other work, `--processor-time` gives the peers T of
processor time a thread; nelbo has no more than T by the clock. Each model is read with the best of
the samplers below and, for the others, the better of their two usual variances. The Fréchet
distance is that of 128 pictures to all real ones, in 32 principal components of these; bits/dim is
the bound of at most 200 test pictures. What is measured stands in OUT, one file for each folder,
size and system, beside the runs of nelbo and sheets of samples; what is there already is neither
trained nor measured again.

With few pictures the distance is too large, by as much as that of 128 real ones, and choosing the
sampler on it makes it smaller. With `--many`, the best sampler draws N others, whose distance is
free of the choice and nearly so of the number.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from _own_picture_peers import diffusers_example, lucidrains
from rich.console import Console
from rich.table import Table

import nelbo
from nelbo import Diffusion
from nelbo.data import ImageData, load_data
from nelbo.diffusion import Pixels
from nelbo.evidence.feature_spaces import principal_components
from nelbo.evidence.file_sizes import sizes_of_each
from nelbo.evidence.sample_quality import frechet_distance, frechet_with_error
from nelbo.formats import Pipeline
from nelbo.report.grids import save_grid
from nelbo.samplers import DDIM, DDPM, DPMSolver
from nelbo.training.config import parse_duration

FOLDERS = ("icons", "flags", "photos")
# What follows the command, for each way of training by nelbo.
PRESETS: dict[str, list[str]] = {
    "nelbo": [],
    "nelbo-likelihood": ["--preset", "likelihood"],
    "nelbo-pictures": ["--preset", "pictures"],
}
PEERS = {"diffusers": diffusers_example, "denoising-diffusion": lucidrains}
# At most 50 network calls.
SAMPLERS = {
    "DDPM 50 trailing": DDPM(50, spacing="trailing"),
    "DDIM 25 trailing": DDIM(25, spacing="trailing"),
    "DPM-Solver 25 log-SNR": DPMSolver(25, noise_levels="log_snr"),
}
DRAWN, SHEET, BATCH = 128, 64, 64
# Test pictures at most, and levels of the chain to read each at; before, some for the variance.
TESTED, LEVELS = 200, 25
TRIED, TRIED_LEVELS = 32, 10
REAL_SETS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, nargs="?", default=Path("runs/own-pictures"))
    parser.add_argument("--data", type=Path, default=Path("runs/folders"))
    parser.add_argument("--folders", nargs="*", default=list(FOLDERS))
    parser.add_argument("--sizes", nargs="*", type=int, default=[16, 32])
    systems = [*PRESETS, *PEERS]
    parser.add_argument("--systems", nargs="*", choices=systems, default=["nelbo", *PEERS])
    parser.add_argument("--time-budget", default="10m")
    parser.add_argument("--threads", type=int, help="CPU threads; by default all there are")
    parser.add_argument(
        "--processor-time", action="store_true", help="give the peers processor time"
    )
    parser.add_argument("--many", type=int, help="also the distance of this number of pictures")
    parser.add_argument("--table", action="store_true", help="measure nothing, print what is there")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    cases = [(folder, size) for size in arguments.sizes for folder in arguments.folders]
    for folder, size in cases if not arguments.table else []:
        source = str(arguments.data / folder)
        for system in arguments.systems:
            file = arguments.out / f"{folder}-{size}-{system}.json"
            if not file.exists():
                found = measure(system, source, size, file.with_suffix(""), arguments)
                if found is not None:
                    file.write_text(json.dumps(found, indent=2) + "\n")
                    print(f"{file.stem}: {json.dumps(found)}", flush=True)
        scale = arguments.out / f"{folder}-{size}-real.json"
        if not scale.exists():
            scale.write_text(json.dumps(of_real(source, size, arguments.many), indent=2) + "\n")
    show(arguments.out, cases)


def measure(
    system: str, source: str, size: int, out: Path, arguments: argparse.Namespace
) -> dict[str, Any] | None:
    """Train one system and read its figures; None where it is not installed."""
    torch.manual_seed(0)
    train, test = (load_data(source, split, size=size) for split in ("train", "test"))
    real = load_data(source, "all", size=size)
    seconds = parse_duration(arguments.time_budget)
    clock = _processor_time if arguments.processor_time else time.perf_counter
    begun, worked = time.perf_counter(), _all_processor_time()
    if system in PRESETS:
        threads = ["--threads", str(arguments.threads)] if arguments.threads else []
        command = ["train", source, "--size", str(size), "--time-budget", arguments.time_budget]
        run = ["--out", str(out), "--overwrite", *threads, *PRESETS[system]]
        made = not (out / "evaluation.json").exists()
        if made:
            subprocess.run([sys.executable, "-m", "nelbo", *command, *run], check=True)
        model = nelbo.load(out)
        assert isinstance(model, Diffusion)
        models = {"learned": model}
        steps = json.loads((out / "nelbo.json").read_text())["trained"]["steps"]
    else:
        learned, made = PEERS[system](train, seconds, clock), True
        if learned is None:
            return None
        models, steps = learned
    worked = _all_processor_time() - worked
    times = {"seconds": time.perf_counter() - begun, "processor_seconds": worked} if made else {}
    variance = next(iter(models))
    if len(models) > 1:
        some = train.subset(TRIED, 0)
        tried = {name: bound(model, some, TRIED_LEVELS)[0] for name, model in models.items()}
        variance = min(tried, key=lambda name: tried[name])
    model = models[variance]
    bits, error = bound(model, test.subset(TESTED, 0), LEVELS)
    samplers: dict[str, Any] = dict(SAMPLERS)
    if system in PRESETS:
        samplers["default"] = Pipeline.open(out).usual_sampler()
    pictures = {name: drawn(model, sampler) for name, sampler in samplers.items()}
    distances = {name: distance(some, real) for name, some in pictures.items()}
    best = min(distances, key=lambda name: distances[name])
    save_grid(pictures[best][:SHEET], out.with_name(f"{out.name}.png"), real.levels)
    others: dict[str, float] = {}
    if arguments.many:
        many = drawn(model, samplers[best], arguments.many, seed=1)
        others = of_many(many, real)
    return {
        "steps": steps,
        **times,
        "weights": sum(w.numel() for w in _weights(model)),
        "bits_per_dim": bits,
        "standard_error": error,
        "variance": variance,
        "frechet": distances[best],
        "sampler": best,
        "all_frechet": distances,
        **others,
    }


def _processor_time() -> float:
    """Processor time of this process a thread, in seconds."""
    return time.process_time() / torch.get_num_threads()


def _all_processor_time() -> float:
    """Processor time of this process and of its children that have ended, in seconds."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


@torch.no_grad()
def bound(model: Diffusion, data: ImageData, levels: int) -> tuple[float, float]:
    """Bits/dim of the pictures and its standard error over them, at a number of levels each."""
    assert isinstance(model.data, Pixels)
    generator = torch.Generator().manual_seed(0)
    bits = torch.cat(
        [
            model.elbo(
                model.data.to_network(images), levels=levels, generator=generator
            ).bits_per_dim
            for images in data.images.split(BATCH)
        ]
    )
    return bits.mean().item(), (bits.std() / len(bits) ** 0.5).item()


def drawn(model: Diffusion, sampler: Any, count: int = DRAWN, seed: int = 0) -> torch.Tensor:
    """Samples as pixel levels."""
    assert isinstance(model.data, Pixels)
    generator = torch.Generator().manual_seed(seed)
    samples = [model.sample(BATCH, sampler, generator=generator) for _ in range(count // BATCH)]
    return model.data.to_levels(torch.cat(samples)).byte()


def distance(pictures: torch.Tensor, real: ImageData) -> float:
    """Their Fréchet distance to all real pictures."""
    space = principal_components(real.images, real.levels)
    return frechet_distance(space(pictures), space(real.images))


def of_many(pictures: torch.Tensor, real: ImageData) -> dict[str, float]:
    """Their distance to all real pictures, its standard error, and that of any number of either."""
    space = principal_components(real.images, real.levels)
    value, error, extrapolated = frechet_with_error(
        space(pictures), space(real.images), torch.Generator().manual_seed(0)
    )
    return {
        "frechet_of_many": value,
        "error_of_many": error,
        "frechet_extrapolated": extrapolated,
    }


def of_real(source: str, size: int, many: int | None = None) -> dict[str, float]:
    """What the figures are to be compared with: real pictures, and lossless WebP."""
    real, test = load_data(source, "all", size=size), load_data(source, "test", size=size)
    found = [distance(real.subset(DRAWN, seed).images, real) for seed in range(REAL_SETS)]
    whole, pixels = sizes_of_each(test.images, test.levels)
    dims = test.images[0].numel()
    others = {}
    if many and many < len(real):
        others = {"frechet_of_many": distance(real.subset(many, 0).images, real)}
    return {
        **others,
        "frechet": sum(found) / len(found),
        "webp": 8 * whole.mean().item() / dims,
        "webp_pixels": 8 * pixels.mean().item() / dims,
    }


def _weights(model: Diffusion) -> list[torch.Tensor]:
    network: Any = model.network
    if isinstance(network, torch.nn.Module):
        return list(network.parameters())
    cells = [cell.cell_contents for cell in network.__closure__]
    return [w for cell in cells if isinstance(cell, torch.nn.Module) for w in cell.parameters()]


def show(out: Path, cases: list[tuple[str, int]]) -> None:
    """All that has been measured, and what it is to be compared with."""
    table = Table(
        title="Fréchet distance in 32 principal components, and bits/dim of the test split"
    )
    for column in (
        "folder",
        "size",
        "system",
        "weights",
        "steps",
        "Fréchet",
        "sampler",
        "bits/dim",
    ):
        left = column in ("folder", "system", "sampler")
        table.add_column(column, justify="left" if left else "right")
    for folder, size in cases:
        where = (folder, f"{size}×{size}")
        for system in (*PRESETS, *PEERS):
            file = out / f"{folder}-{size}-{system}.json"
            if not file.exists():
                continue
            found = json.loads(file.read_text())
            table.add_row(
                *where,
                system,
                f"{found['weights'] / 1e6:.2f}M",
                f"{found['steps']:,}",
                f"{found['frechet']:.1f}",
                found["sampler"],
                f"{found['bits_per_dim']:.3f} ± {found['standard_error']:.3f}",
            )
        file = out / f"{folder}-{size}-real.json"
        if file.exists():
            found = json.loads(file.read_text())
            files = f"{found['webp']:.2f}, {found['webp_pixels']:.2f} without headers"
            table.add_row(
                *where, "real, lossless WebP", "", "", f"{found['frechet']:.1f}", "", files
            )
            table.add_section()
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
