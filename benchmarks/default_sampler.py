"""Which sampler of at most 50 network calls draws best from which chain, on validation data.

    python benchmarks/default_sampler.py --out DIR [--folders DIR] [--steps N] [--samples N]
        [--only icons-geometric ...] [--candidates "DDPM 50, trailing" ...] [--runs RUN ...]

`--folders` holds icons/, flags/ and photos/ as benchmarks/folders.py makes them. For each of these
at 16×16, for the digits, and for the emoji's shipped checkpoint, all candidates draw equally many
samples from the same starting noise. Their distance is the Fréchet distance to validation pictures,
a fifth of the training split that the model was not trained on, in the first 32 principal
components of the others. Of the emoji it is to the validation split, for whose captions they are
drawn with guidance 1.5.

Models are trained here for some hundred steps each and kept in DIR, so that a second call measures
again without training. Results are appended to DIR/results.jsonl, and the table is printed.

With `--runs`, runs of `nelbo train` are measured in their place, each against all pictures but
those of its test split, which stay unseen.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from rich.table import Table
from torch import Tensor

import nelbo
from nelbo.chain.model import Model
from nelbo.data import ImageData, load_data
from nelbo.evidence.feature_spaces import principal_components
from nelbo.evidence.sample_quality import frechet_with_error
from nelbo.samplers import DDIM, DDPM, DPMSolver, Heun, Sampler
from nelbo.training.config import TrainingConfig
from nelbo.training.kinds.pixel.build import build_model
from nelbo.training.kinds.pixel.options import ModelConfig
from nelbo.training.kinds.pixel.task import pixel_task
from nelbo.training.trainer import Trainer

FOLDERS = ("icons", "flags", "photos")
# With the objective that goes with each.
CHAINS = {"mixed": "hybrid", "geometric": "hybrid", "cosine": "min_snr"}
SIZE, COMPONENTS, HELD_OUT = 16, 32, 5
BATCH = 64


def candidates(schedule: nelbo.NoiseSchedule) -> dict[str, Sampler]:
    """The samplers, by what the table calls them."""
    even = schedule.even_in_angle(50)
    log_snr = log_snr_levels(schedule, 50)
    return {
        "DDPM 50, trailing": DDPM(50),
        "DDPM 50, even in angle": DDPM(levels=even),
        "DDPM 50, even in log-SNR": DDPM(levels=log_snr),
        "DDIM 25, trailing": DDIM(25),
        "DDIM 50, trailing": DDIM(50),
        "DDIM 50, even in angle": DDIM(levels=even),
        "Heun 18, Karras": Heun(18),
        "Heun 18, log-SNR": Heun(18, noise_levels="log_snr"),
        "Heun 25, log-SNR": Heun(25, noise_levels="log_snr"),
        "DPM-Solver 25, trailing": DPMSolver(25, spacing="trailing"),
        "DPM-Solver 25, log-SNR": DPMSolver(25),
        "DPM-Solver 50, log-SNR": DPMSolver(50),
        "DPM-Solver 25, even in angle": DPMSolver(levels=schedule.even_in_angle(25)),
        "DPM-Solver SDE 50, log-SNR": DPMSolver(50, stochastic=True),
        "DPM-Solver SDE 50, even in angle": DPMSolver(levels=even, stochastic=True),
    }


def log_snr_levels(schedule: nelbo.NoiseSchedule, count: int) -> list[int]:
    """The levels nearest to ones that are even in the log-SNR, both ends among them."""
    log_snr = -schedule.log_snr[1:]
    wanted = torch.linspace(float(log_snr[0]), float(log_snr[-1]), count, dtype=torch.float64)
    nearest = torch.searchsorted(log_snr, wanted).clamp(max=len(log_snr) - 1)
    return sorted({int(t) + 1 for t in nearest})


def split(data: ImageData) -> tuple[ImageData, ImageData]:
    """Pictures to train on and to validate with."""
    order = torch.randperm(len(data.images), generator=torch.Generator().manual_seed(0))
    count = len(order) // HELD_OUT
    return data.take(order[count:].sort().values), data.take(order[:count].sort().values)


def trained(out: Path, data: ImageData, chain: str, steps: int) -> nelbo.Diffusion:
    """A model of these pictures, trained once."""
    if not (out / "model_index.json").is_file():
        torch.manual_seed(0)
        settings = ModelConfig(schedule=chain, widths=(16, 32, 32))
        training = TrainingConfig(
            steps=steps,
            batch_size=32,
            precision="fp32",
            objective=CHAINS[chain],
            horizontal_flip=data.source != "digits",
        )
        trainer = Trainer(pixel_task(build_model(settings, data), data, training))
        for _ in trainer.run():
            pass
        nelbo.save(trainer.average.model, out)
    model = nelbo.load(out)
    assert isinstance(model, nelbo.Diffusion)
    return model


def pictures_of(run: Path) -> ImageData:
    """The pictures of a run that are not for testing."""
    settings = yaml.safe_load((run / "config.yaml").read_text())
    source, size = settings["data"], settings["size"]
    parts = [load_data(source, part, size=size) for part in ("train", "validation")]
    images = torch.cat([part.images for part in parts])
    names = tuple(name for part in parts for name in part.names)
    return ImageData(source, images, parts[0].levels, names)


def draw(model: Model, sampler: Sampler, count: int, captions: list[str] | None) -> Tensor:
    """Pixel levels, uint8; a model of text is given captions in turn."""
    generator, drawn = torch.Generator().manual_seed(0), []
    for start in range(0, count, BATCH):
        some = min(BATCH, count - start)
        given: dict[str, Any] = {}
        if captions is not None:
            prompt = [captions[i % len(captions)] for i in range(start, start + some)]
            given = {"prompt": prompt, "guidance": 1.5}
        x = model.sample(some, sampler, generator=generator, **given)
        drawn.append(model.data.to_levels(x).byte())
    return torch.cat(drawn)


def measure(name: str, arguments: argparse.Namespace) -> list[dict[str, object]]:
    """The distances of all candidates for one model."""
    if arguments.runs:
        run = Path(name)
        return compared(name, nelbo.load(run), pictures_of(run), None, None, arguments)
    source, _, chain = name.partition("-")
    path = str(arguments.folders / source) if source in FOLDERS else source
    size = SIZE if source in FOLDERS else None
    if source == "emoji":
        validation = captioned(load_data("emoji", "validation"))
        captions = [str(caption) for caption in validation.captions or ()]
        emoji = nelbo.pretrained("emoji")
        return compared(name, emoji, load_data("emoji"), validation, captions, arguments)
    fitted, validation = split(load_data(path, "train", size=size))
    model = trained(arguments.out / name, fitted, chain, arguments.steps)
    return compared(name, model, fitted, validation, None, arguments)


def captioned(data: ImageData) -> ImageData:
    """Those pictures that have a caption."""
    given = [caption is not None for caption in data.captions or ()]
    return data.take(torch.tensor(given).nonzero().flatten())


def compared(
    name: str,
    model: Any,
    fitted: ImageData,
    validation: ImageData | None,
    captions: list[str] | None,
    arguments: argparse.Namespace,
) -> list[dict[str, object]]:
    """The distances of all candidates to the validation pictures, or else to the fitted ones."""
    schedule = model.chain.schedule
    space = principal_components(fitted.images, fitted.levels, COMPONENTS)
    reference = space((validation or fitted).images)
    rows = []
    for label, sampler in candidates(schedule).items():
        if arguments.candidates and label not in arguments.candidates:
            continue
        start = time.process_time()
        drawn = draw(model, sampler, arguments.samples, captions)
        seconds = time.process_time() - start
        distance, error, _ = frechet_with_error(
            space(drawn), reference, torch.Generator().manual_seed(0)
        )
        rows.append(
            {
                "model": name,
                "sampler": label,
                "calls": len(sampler.timesteps(schedule)),
                "frechet": round(distance, 2),
                "error": round(error, 2),
                "cpu_seconds": round(seconds, 1),
                "samples": arguments.samples,
            }
        )
        with (arguments.out / "results.jsonl").open("a") as file:
            file.write(json.dumps(rows[-1]) + "\n")
    rest = space(fitted.images[: arguments.samples])
    floor = frechet_with_error(rest, reference, torch.Generator().manual_seed(0))[0]
    print(f"{name}: {len(rest)} real pictures have {floor:.2f}")
    return rows


def main() -> None:
    names = [f"{folder}-{chain}" for chain in CHAINS for folder in FOLDERS]
    names += ["digits-mixed", "digits-geometric", "emoji"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--folders", type=Path, default=Path("folders"))
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--only", nargs="*", default=names, choices=names)
    parser.add_argument("--runs", nargs="*", help="runs of nelbo train to measure in their place")
    parser.add_argument("--candidates", nargs="*", help="some of the names that the table has")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    models = arguments.runs or arguments.only
    rows = [row for name in models for row in measure(name, arguments)]
    table = Table("sampler", "calls", *models)
    for label in dict.fromkeys(row["sampler"] for row in rows):
        mine = {row["model"]: row for row in rows if row["sampler"] == label}
        cells = [f"{mine[name]['frechet']} ± {mine[name]['error']}" for name in models]
        calls = {row["calls"] for row in mine.values()}
        table.add_row(str(label), ", ".join(map(str, sorted(calls))), *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
