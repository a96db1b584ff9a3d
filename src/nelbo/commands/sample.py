"""nelbo sample: images from a model."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from nelbo.commands.common import (
    choose_device,
    counting_progress,
    load_pixel_model,
    optimal_chain,
    print_json,
    say,
)
from nelbo.errors import NelboError

if TYPE_CHECKING:
    from torch import Tensor

    from nelbo.conditioning import Condition
    from nelbo.diffusion import Diffusion
    from nelbo.samplers import Sampler

_LATENT_IN_PYTHON = (
    "sample it in Python, nelbo.load(PATH).sample(n, nelbo.load_sampler(PATH), prompt=...)"
)


@dataclass(frozen=True)
class Sample:
    """Sample images from a model into a grid."""

    run_path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(name="run", metavar="RUN")]
    """A run, a diffusers pipeline directory, or a Hub id."""
    out: Path = Path("samples.png")
    """The grid to write, PNG."""
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 16
    """How many images."""
    steps: int | None = None
    """Network calls an image; by default every level of the chain."""
    spacing: str = "leading"
    """Which levels fewer steps visit: leading, linspace or trailing."""
    levels: Literal["spaced", "optimal"] = "spaced"
    """Which levels fewer steps visit: by `spacing`, or those of the best bound with the optimal
    variance, once `nelbo fit` has measured the run."""
    label: int | None = None
    """Class to sample, for a class-conditional model; by default all classes in turn."""
    guidance: float = 1.0
    """Scale of classifier-free guidance."""
    batch_size: int = 64
    """Images at a time."""
    seed: int = 0
    """Source of all noise."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, mps."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> None:
        """Write the grid."""
        from nelbo.diffusion import Pixels
        from nelbo.report.grids import image_grid, save_image
        from nelbo.samplers import DDPM

        if self.n < 1 or self.batch_size < 1:
            raise NelboError("-n and --batch-size must be at least 1")
        if self.out.suffix.lower() != ".png":
            raise NelboError(f"--out must name a .png file, got {self.out}")
        model = load_pixel_model(self.run_path, _LATENT_IN_PYTHON).to(choose_device(self.device))
        if not isinstance(model.data, Pixels):
            raise NelboError(f"{self.run_path} is a model of numbers, not of pixels")
        chain, sampler = model, DDPM(self.steps, spacing=self.spacing)
        if self.levels == "optimal":
            chain, sampler = optimal_chain(self.run_path, model, self.steps), DDPM()
        start = time.perf_counter()
        samples = sample_with_progress(
            chain,
            sampler,
            self.n,
            condition=self._condition(model),
            guidance=self.guidance,
            batch_size=self.batch_size,
            seed=self.seed,
        )
        seconds = time.perf_counter() - start
        levels = model.data.to_levels(samples).byte()
        self.out.parent.mkdir(parents=True, exist_ok=True)
        save_image(image_grid(levels, model.data.levels), self.out)
        if self.json:
            print_json(
                {
                    "run": self.run_path,
                    "out": str(self.out),
                    "images": self.n,
                    "seconds": round(seconds, 3),
                    "images_per_second": round(self.n / seconds, 3),
                }
            )
        else:
            say(f"{self.n} images in {seconds:.1f} s → {self.out}")

    def _condition(self, model: Diffusion) -> Condition | None:
        if self.label is None:
            return all_classes(model, self.n)
        import torch

        from nelbo.conditioning import Condition

        if not model.num_classes:
            raise NelboError(f"--label {self.label}: {self.run_path} is not class-conditional")
        if not 0 <= self.label < model.num_classes:
            raise NelboError(f"--label must lie in 0..{model.num_classes - 1}, got {self.label}")
        return Condition(label=torch.full((self.n,), self.label))


def all_classes(model: Diffusion, n: int) -> Condition | None:
    """Every class in turn for a class-conditional model; else None."""
    import torch

    from nelbo.conditioning import Condition

    return Condition(label=torch.arange(n) % model.num_classes) if model.num_classes else None


def sample_with_progress(
    model: Diffusion,
    sampler: Sampler,
    n: int,
    *,
    condition: Condition | None = None,
    guidance: float = 1.0,
    batch_size: int = 64,
    seed: int = 0,
) -> Tensor:
    """`n` samples in batches behind a progress bar, on the CPU."""
    import torch

    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    steps = len(sampler.timesteps(model.schedule))
    batches: list[Tensor] = []
    with counting_progress() as progress:
        calls = steps * -(-n // batch_size)
        task = progress.add_task(f"Sampling {n} images", total=calls, status="")
        for start in range(0, n, batch_size):
            count = min(batch_size, n - start)
            some = None if condition is None else condition[start : start + count].to(device)
            x = model.start(count, None, generator).to(device)
            for state in sampler.iterate(
                model, x, condition=some, guidance=guidance, generator=generator
            ):
                x = state.x
                progress.advance(task)
            batches.append(x.cpu())
    return torch.cat(batches)
