"""The autoencoder that a run holds, and the end of its training: its figures and its report."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.commands.common import mention_files
from nelbo.commands.training.refinement import Asked
from nelbo.data import ImageData
from nelbo.diffusion import Pixels
from nelbo.evidence.file_sizes import FileSizes, file_sizes, sizes_json
from nelbo.formats import NELBO_FILE
from nelbo.formats.data_space import parse_data_space
from nelbo.formats.files import read_own
from nelbo.networks import AutoencoderKL
from nelbo.report.autoencoder_report import AutoencoderReport, write_autoencoder_report
from nelbo.report.grids import save_grid
from nelbo.report.training_facts import settings_that_apply, training_facts
from nelbo.runs.run_directory import RunDirectory
from nelbo.training.autoencoder_evaluation import (
    FITTED,
    AutoencoderReading,
    evaluate_autoencoder,
    fit_scale,
)

AUTOENCODER = "vae"
# Originals, each beside its reconstruction.
SHOWN, COLUMNS = 32, 8
_LATENTS = 6
# Images of each split that are evaluated where none were asked for; at least, whatever the time.
_MOST_IMAGES, _FEWEST_IMAGES = 300, 8
# How often as long as a reconstruction everything takes, for each image of either split.
_PASSES = 8


@dataclass(frozen=True)
class AutoencoderRun:
    """The autoencoder of a run, with what it is of.

    Attributes:
        autoencoder: the averaged weights.
        shape: (C, H, W) of an image.
        data: what pixels are.
    """

    autoencoder: AutoencoderKL
    shape: tuple[int, int, int]
    data: Pixels

    @classmethod
    def load(cls, path: str | Path, device: torch.device) -> AutoencoderRun:
        """The run at `path`.

        Raises:
            NelboError: a file is missing or damaged.
        """
        autoencoder = AutoencoderKL.from_pretrained(path, AUTOENCODER).to(device).eval()
        data = parse_data_space((read_own(path) or {}).get("pixels"), "pixels")
        if not isinstance(data, Pixels):
            raise NelboError(f"{path}/{NELBO_FILE}: the data of an autoencoder must be pixels")
        size = autoencoder.config.sample_size
        if size is None:
            raise NelboError(f"{path}/{AUTOENCODER}/config.json does not say its sample_size")
        height, width = (size, size) if isinstance(size, int) else size
        return cls(autoencoder, (autoencoder.config.in_channels, height, width), data)


def finish_autoencoder(
    run: RunDirectory,
    *,
    train: ImageData,
    for_fits: ImageData,
    test: ImageData,
    asked: Asked,
    seconds: float,
    seed: int,
    device: torch.device,
    table_to: Console,
) -> dict[str, Any]:
    """Evaluate, and write evaluation.json, samples/final.png and report.html.

    Args:
        run: what was trained, and where to.
        train: the images it was trained on.
        for_fits: the images that the scale of the decoder is fitted to.
        test: the images to report on.
        asked: what of the evaluation was asked for by number: how many images of each split.
        seconds: about how long all of it may take, beside what was asked for by number.
        seed: which images.
        device: where to compute.
        table_to: where to print the figures.
    """
    held = AutoencoderRun.load(run.path, device)
    autoencoder = held.autoencoder
    affordable = int(seconds / (_PASSES * _image_seconds(autoencoder, train)))
    images = asked.images or min(_MOST_IMAGES, max(_FEWEST_IMAGES, affordable))
    scale = fit_scale(autoencoder, for_fits, min(FITTED, max(_FEWEST_IMAGES, affordable)))
    readings: dict[str, AutoencoderReading] = {}
    files: dict[str, FileSizes | None] = {}
    evaluation: dict[str, Any] = {"decoder_scale": scale}
    for split, data in (("train", train), ("test", test)):
        shown = data.subset(images, seed)
        readings[split] = evaluate_autoencoder(autoencoder, shown, scale)
        files[split] = file_sizes(shown.images, shown.levels)
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
    mention_files(files, table_to)
    run.write_evaluation(evaluation)
    few = test.subset(SHOWN, seed)
    pairs = beside_reconstructions(autoencoder, few)
    save_grid(pairs, run.samples / "final.png", test.levels, columns=COLUMNS)
    notes = run.notes
    trained, metrics = notes["trained"], run.course()
    model = notes["settings"]["model"]
    report = AutoencoderReport(
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
        settings=settings_that_apply(
            {"run": {"source": notes["source"], **trained}, **notes["settings"]}
        ),
        files=files["test"],
    )
    write_autoencoder_report(report, run.report)
    return {"evaluation": evaluation, "report": str(run.report)}


def reading_line(reading: AutoencoderReading) -> str:
    """What an evaluation says, in one line."""
    return (
        f"PSNR {reading.psnr:.2f} dB ({reading.psnr_of_mean:.2f} dB of the mean error); as a VAE "
        f"{reading.bits_per_dim:.3f} bits/dim = reconstruction {reading.reconstruction:.3f} + "
        f"divergence {reading.divergence:.3f} ({reading.divergence_nats:.0f} nats)"
    )


@torch.no_grad()
def beside_reconstructions(autoencoder: AutoencoderKL, data: ImageData) -> Tensor:
    """Each image, then its reconstruction from the mean latent, (2N, C, H, W) uint8."""
    pixels = Pixels(data.levels)
    x = pixels.to_network(data.images).to(next(autoencoder.parameters()).device)
    made = pixels.to_levels(autoencoder(x).clamp(-1, 1)).byte().cpu()
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
