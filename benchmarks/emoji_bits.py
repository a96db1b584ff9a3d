"""What the emoji cost in bits per dimension: a latent model, a model of pixels, image files.

    python benchmarks/emoji_bits.py RUN [--pixel RUN2 | --budget 20m] [--levels 20] [--json FILE]

RUN is a latent model of the emoji, RUN2 a diffusion model of their pixels; without RUN2 one is
trained for the budget. All figures are of the held-out pictures. The bound of the latent model is
on pixels, so all of them compare; its terms are those of docs/latent-diffusion.md. A
text-conditional model is given the name of each picture, the pixel model and the files are not; the
row *unconditional* is the same model without the names.

A file holds more than pixels. *Pixels only* counts the compressed data of each file and none of its
headers. *In one file* packs all test pictures into one, so that headers cost nothing and common
content is written once, which no model of single pictures can do.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
import yaml
from rich.console import Console
from rich.table import Table

import nelbo
from nelbo.chain.bound import BoundSummary
from nelbo.chain.estimate import Estimate
from nelbo.chain.evidence import joined
from nelbo.cli import main as nelbo_main
from nelbo.data import ImageData, load_data
from nelbo.evidence.autoencoder import AutoencoderReading, evaluate_autoencoder
from nelbo.evidence.evaluation import evaluate
from nelbo.evidence.file_sizes import PNG, WEBP, bits_per_dim, file_size, packed, picture
from nelbo.report.tables import BITS_DECIMALS, bound_json, bound_table, estimate_text

Model = nelbo.Diffusion | nelbo.LatentDiffusion


def bound_of(model: Model, data: ImageData, levels: int, seed: int) -> BoundSummary:
    """The bound of all images, from `levels` levels each."""
    generator = torch.Generator().manual_seed(seed)
    return joined(evaluate(model, data, levels=levels, generator=generator)).mean()


def file_sizes(data: ImageData) -> dict[str, dict[str, Estimate | float]]:
    """Bits per dimension of the images as files, by format."""
    dims = data.images[0].numel()
    sizes: dict[str, dict[str, Estimate | float]] = {}
    for kind in (PNG, WEBP):
        files = [file_size(picture(image, data.levels), kind) for image in data.images]
        whole, pixels = (
            Estimate.of(torch.tensor([bits_per_dim(size, dims) for size in some]))
            for some in zip(*files, strict=True)
        )
        one = bits_per_dim(file_size(packed(data.images), kind).whole, data.images.numel())
        sizes[kind] = {"a file each": whole, "pixels only": pixels, "in one file": one}
    return sizes


def training_seconds(run: str) -> float | None:
    """Training seconds in the run's record, with those of what it began with; None if unknown.

    A latent run keeps in config.yaml where its autoencoder was, or the model that it goes on from.
    """
    metrics, config = Path(run) / "metrics.jsonl", Path(run) / "config.yaml"
    if not metrics.exists():
        return None
    seconds = json.loads(metrics.read_text().splitlines()[-1])["seconds"]
    settings = yaml.safe_load(config.read_text()) if config.exists() else {}
    if before := settings.get("autoencoder") or settings.get("start_from"):
        first = training_seconds(before)
        return None if first is None else first + seconds
    return seconds


def pixel_run(budget: str, threads: int) -> str:
    """A diffusion model of pixels, trained for the budget and kept in runs/."""
    run = Path("runs") / f"benchmark-emoji-pixels-{budget}"
    if not (run / "report.html").exists():
        options = ["--time-budget", budget, "--threads", str(threads), "--overwrite"]
        nelbo_main(["train", "emoji", "--model", "pixel", "--out", str(run), *options])
    return str(run)


def minutes(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds / 60:.0f} min"


def summary_table(
    bounds: dict[str, tuple[BoundSummary, str]], sizes: dict[str, dict], count: int
) -> Table:
    table = Table(title=f"{count} test emoji, bits/dim ± standard error over images")
    for column in ("", "bits/dim", "trained"):
        table.add_column(column, justify="left" if not column else "right")
    for name, (bound, trained) in bounds.items():
        table.add_row(name, estimate_text(bound.bits_per_dim, BITS_DECIMALS), trained)
    table.add_section()
    for kind, row in sizes.items():
        for what, size in row.items():
            shown = (
                estimate_text(size, BITS_DECIMALS)
                if isinstance(size, Estimate)
                else f"{size:.{BITS_DECIMALS}f}"
            )
            table.add_row(f"{kind}, {what}", shown)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument(
        "run",
        nargs="?",
        default="emoji",
        help="a latent model of the emoji (default: the one that ships)",
    )
    parser.add_argument("--pixel", help="a model of their pixels; else trains one")
    parser.add_argument("--budget", default="20m", help="how long to train it (default 20m)")
    parser.add_argument("--no-pixel", action="store_true", help="leave the pixel model out")
    parser.add_argument("--levels", type=int, default=20, help="levels an image (default 20)")
    parser.add_argument("--images", type=int, help="largest number of test images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = nelbo.load(arguments.run)
    if not isinstance(model, nelbo.LatentDiffusion) or model.decoder_scale is None:
        parser.error(f"{arguments.run} is not a latent model with a decoder scale")
    data = load_data("emoji", "test", size=model.shape[1])
    if arguments.images:
        data = data.subset(arguments.images, arguments.seed)

    runs: dict[str, tuple[Model, ImageData, str | None]] = {"latent": (model, data, arguments.run)}
    if model.text is not None:
        bare = ImageData(data.source, data.images, data.levels, data.names)
        runs = {
            "latent, given names": runs["latent"],
            "latent, unconditional": (model, bare, None),
        }
    if not arguments.no_pixel:
        run = arguments.pixel or pixel_run(arguments.budget, arguments.threads)
        runs["pixel"] = (nelbo.load(run), data, run)
    bounds = {}
    for name, (its, images, run) in runs.items():
        trained = minutes(training_seconds(run)) if run else ""
        bounds[name] = (bound_of(its, images, arguments.levels, arguments.seed), trained)
    reading: AutoencoderReading = evaluate_autoencoder(model.autoencoder, data, model.decoder_scale)
    sizes = file_sizes(data)

    console = Console(width=110)
    for name, (bound, _) in bounds.items():
        console.print(f"\n{name}")
        console.print(bound_table({"test": bound}))
    console.print(summary_table(bounds, sizes, len(data)))
    console.print(
        f"autoencoder: {reading.psnr:.2f} dB, mean of the images' PSNR; {reading.psnr_of_mean:.2f} "
        "dB, PSNR of the mean squared error"
    )
    if arguments.json:
        results = {
            "bounds": {name: bound_json(bound) for name, (bound, _) in bounds.items()},
            "files": {
                kind: {
                    what: size.mean if isinstance(size, Estimate) else size
                    for what, size in row.items()
                }
                for kind, row in sizes.items()
            },
            "autoencoder": vars(reading),
        }
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
