"""Seconds until a prompt is 16 images, beside diffusers' StableDiffusionPipeline of the same run.

    python benchmarks/prompting.py RUN [-n 16] [--steps 25] [--guidance 4] [--threads 2]

RUN is a latent model with text. Each library loads it in processes of its own, in turn; the fastest
of the repeats is shown, since other load can only slow it. *import* is the time of a process before
it can load. *first* is the first call, *later* the median of the following. Both start from the
same latents and walk with the run's own scheduler, and the largest difference of a pixel is
printed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

CALLS = 4
PROMPT = "red apple"


class Seconds(NamedTuple):
    """Of one process."""

    imports: float
    load: float
    first: float
    later: float


def measure(library: str, arguments: argparse.Namespace, images: Path) -> Seconds:
    """Load and sample in this process; the images of the first call are kept as a tensor."""
    start = time.perf_counter()
    import torch

    if library == "nelbo":
        import nelbo

        imported = time.perf_counter()
        model, sampler = (
            nelbo.load(arguments.run),
            nelbo.load_sampler(arguments.run, arguments.steps),
        )
        assert isinstance(model, nelbo.LatentDiffusion)

        def sample(latents: torch.Tensor) -> torch.Tensor:
            n, guidance = len(latents), arguments.guidance
            return model.sample(n, sampler, prompt=PROMPT, guidance=guidance, x_T=latents)
    else:
        import diffusers

        diffusers.utils.logging.set_verbosity_error()
        imported = time.perf_counter()
        pipeline = diffusers.StableDiffusionPipeline.from_pretrained(arguments.run)
        pipeline.set_progress_bar_config(disable=True)

        def sample(latents: torch.Tensor) -> torch.Tensor:
            drawn = pipeline(
                [PROMPT] * len(latents),
                latents=latents,
                num_inference_steps=arguments.steps,
                guidance_scale=arguments.guidance,
                output_type="pt",
            )
            return 2 * drawn.images - 1

    loaded = time.perf_counter()
    torch.set_num_threads(arguments.threads)
    config = json.loads((Path(arguments.run) / "unet" / "config.json").read_text())
    size = config["sample_size"]
    shape = (config["in_channels"], *((size, size) if isinstance(size, int) else size))
    generator = torch.Generator().manual_seed(0)
    times = []
    for _ in range(CALLS):
        latents = torch.randn((arguments.n, *shape), generator=generator)
        begin = time.perf_counter()
        result = sample(latents)
        times.append(time.perf_counter() - begin)
        if len(times) == 1:
            torch.save(result, images)
    return Seconds(imported - start, loaded - imported, times[0], statistics.median(times[1:]))


def in_a_process(library: str, options: list[str], images: Path) -> Seconds:
    """`measure` in a fresh process."""
    command = [sys.executable, __file__, *options, "--once", library, str(images)]
    quiet = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    finished = subprocess.run(command, capture_output=True, text=True, env=quiet, check=False)
    if finished.returncode:
        raise RuntimeError(finished.stderr)
    return Seconds(*json.loads(finished.stdout.splitlines()[-1]))


def compare(arguments: argparse.Namespace) -> tuple[dict[str, Seconds], float]:
    """The fastest of each library, and the largest difference of a pixel in [−1, 1]."""
    import torch

    options = [
        arguments.run,
        *("-n", str(arguments.n), "--steps", str(arguments.steps)),
        *("--guidance", str(arguments.guidance), "--threads", str(arguments.threads)),
    ]
    found: dict[str, list[Seconds]] = {"nelbo": [], "diffusers": []}
    with tempfile.TemporaryDirectory() as temporary:
        files = {library: Path(temporary) / library for library in found}
        for _ in range(arguments.repeats):
            for library, times in found.items():
                times.append(in_a_process(library, options, files[library]))
        own, peer = (torch.load(file, weights_only=True) for file in files.values())
    fastest = {
        library: Seconds(*map(min, zip(*times, strict=True))) for library, times in found.items()
    }
    return fastest, float((own - peer).abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument(
        "run",
        nargs="?",
        default="emoji",
        help="a latent model with text (default: the one that ships)",
    )
    parser.add_argument("-n", type=int, default=16, help="images a call")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--repeats", type=int, default=3, help="processes of each (default 3)")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--once", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not Path(arguments.run).exists():
        from nelbo.formats.model_directory import resolve  # the name of a checkpoint that ships

        arguments.run = str(resolve(arguments.run))
    if arguments.once:
        library, images = arguments.once
        print(json.dumps(measure(library, arguments, Path(images))))
        return
    found, difference = compare(arguments)

    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=f"{arguments.n} images, {arguments.steps} steps, guidance {arguments.guidance:g}, "
        f"{arguments.threads} thread(s), seconds"
    )
    for column in ("", *Seconds._fields):
        table.add_column(column, justify="right" if column else "left")
    for library, seconds in found.items():
        table.add_row(library, *(f"{value:.2f}" for value in seconds))
    ratios = [a / b for a, b in zip(found["nelbo"], found["diffusers"], strict=True)]
    table.add_row("ratio", *(f"{ratio:.2f}" for ratio in ratios))
    console = Console()
    console.print(table)
    console.print(f"largest difference of a pixel: {difference:.1e} of a range of 2")
    if arguments.json:
        results = {library: seconds._asdict() for library, seconds in found.items()}
        arguments.json.write_text(
            json.dumps({**results, "difference": difference}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
