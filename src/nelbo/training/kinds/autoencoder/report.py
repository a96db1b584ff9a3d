"""The end of the training of an autoencoder: its figures and its report."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import torch
from torch import Tensor

from nelbo.data import ImageData
from nelbo.diffusion import Pixels
from nelbo.evidence.autoencoder import FITTED, AutoencoderReading, evaluate_autoencoder, fit_scale
from nelbo.evidence.file_sizes import FileSizes, file_sizes, sizes_json
from nelbo.networks import AutoencoderKL
from nelbo.networks.encoding import Autoencoder
from nelbo.report.autoencoder_report import AutoencoderReport, reading_line, render_autoencoder
from nelbo.report.grids import save_grid
from nelbo.report.page import write_html
from nelbo.report.training_facts import run_settings, training_facts
from nelbo.runs.run_directory import RunDirectory
from nelbo.training.kinds.kind import Ending
from nelbo.training.kinds.refinement import OF_FILES, print_files

# Originals, each beside its reconstruction.
SHOWN, COLUMNS = 32, 8
_LATENTS = 6
# Images of each split that are evaluated where none were asked for; at least, whatever the time.
_MOST_IMAGES, _FEWEST_IMAGES = 300, 8
# How often as long as a reconstruction everything takes, for each image of either split.
_PASSES = 8


def report(run: RunDirectory, autoencoder: AutoencoderKL, ending: Ending) -> dict[str, Any]:
    """Evaluate, and write evaluation.json, samples/final.png and report.html; see `Kind.report`."""
    train, test, seed, table_to = ending.train, ending.test, ending.seed, ending.table_to
    affordable = int(ending.seconds / (_PASSES * _image_seconds(autoencoder, train)))
    images = ending.asked.images or min(_MOST_IMAGES, max(_FEWEST_IMAGES, affordable))
    scale = fit_scale(autoencoder, ending.for_fits, min(FITTED, max(_FEWEST_IMAGES, affordable)))
    readings: dict[str, AutoencoderReading] = {}
    files: dict[str, FileSizes | None] = {}
    evaluation: dict[str, Any] = {"decoder_scale": scale}
    for split, data in (("train", train), ("test", test)):
        shown = data.subset(images, seed)
        readings[split] = evaluate_autoencoder(autoencoder, shown, scale)
        files[split] = file_sizes(shown.images, shown.levels, seconds=OF_FILES / 2 * ending.seconds)
        evaluation[split] = {
            "examples": len(shown),
            "images_of_split": len(data),
            **dataclasses.asdict(readings[split]),
            "files": sizes_json(files[split]),
        }
        table_to.print(
            f"{split}, {len(shown):,} of {len(data):,} images: {reading_line(readings[split])}",
            soft_wrap=True,
        )
    table_to.print(f"scale of the decoder: {scale:.4f}, in images from −1 to 1", soft_wrap=True)
    print_files(files, table_to)
    run.write_evaluation(evaluation)
    few = test.subset(SHOWN, seed)
    pairs = beside_reconstructions(autoencoder, few)
    save_grid(pairs, run.samples / "final.png", test.levels, columns=COLUMNS)
    notes = run.notes
    metrics = run.course()
    model = notes["settings"]["model"]
    page = AutoencoderReport(
        title=f"nelbo · {run.path.resolve().name}",
        subtitle=f"An autoencoder of {test.source}",
        autoencoder=autoencoder,
        pairs=pairs,
        latents=_mean_latents(autoencoder, few.take(slice(_LATENTS))),
        readings=readings,
        levels=test.levels,
        facts={
            "likelihood": model["likelihood"],
            "weight of the divergence": model["kl_weight"],
            "scale of the decoder": f"{scale:.4f}",
            "evaluated": f"{len(test.subset(images, seed)):,} of {len(test):,} test images",
            **training_facts(notes, metrics),
        },
        metrics=metrics,
        settings=run_settings(notes, channels=test.images.shape[1]),
        files=files["test"],
    )
    write_html(render_autoencoder(page), run.report)
    return {"evaluation": evaluation, "report": str(run.report)}


@torch.no_grad()
def beside_reconstructions(autoencoder: Autoencoder, data: ImageData) -> Tensor:
    """Each image, then its reconstruction from the mean latent, (2N, C, H, W) uint8."""
    pixels = Pixels(data.levels)
    x = pixels.to_network(data.images).to(next(autoencoder.parameters()).device)
    made = pixels.shown(autoencoder.decode(autoencoder.encode(x).mean))
    return torch.stack([data.images, made], 1).flatten(0, 1)


def _image_seconds(autoencoder: AutoencoderKL, data: ImageData) -> float:
    """Seconds that the reconstruction of an image takes, measured on a few."""
    few = data.take(slice(_FEWEST_IMAGES))
    beside_reconstructions(autoencoder, few)
    start = time.perf_counter()
    beside_reconstructions(autoencoder, few)
    return (time.perf_counter() - start) / len(few)


@torch.no_grad()
def _mean_latents(autoencoder: AutoencoderKL, data: ImageData) -> Tensor:
    x = Pixels(data.levels).to_network(data.images).to(next(autoencoder.parameters()).device)
    return autoencoder.encode(x).mean.cpu()
