"""nelbo evaluate: the bound of a model on images, term by term."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from nelbo.commands.common import (
    choose_device,
    counting_progress,
    load_pixel_model,
    mention_skipped,
    optimal_chain,
    print_json,
    show,
)
from nelbo.errors import NelboError

if TYPE_CHECKING:
    import torch

    from nelbo.bound import Bound
    from nelbo.data import ImageData
    from nelbo.diffusion import Diffusion

_NO_LATENT_BOUND = (
    "its bound on pixels is not available yet; in Python, model.prior.elbo(z) of latents "
    "z = model.encode(x).rsample() is the bound of its prior"
)


@dataclass(frozen=True)
class Evaluate:
    """Evaluate the bound of a model on images, term by term."""

    run_path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(name="run", metavar="RUN")]
    """A run, a diffusers pipeline directory, or a Hub id."""
    data: str | None = None
    """As in `nelbo train`; by default what the run was trained on."""
    split: str = "test"
    """Which images: train, test or all."""
    levels: int | Literal["all", "optimal"] = "all"
    """Levels of the chain an image: all, or a number, drawn and weighted without bias. With
    --steps, "optimal" keeps the levels of the best bound, with the optimal variance."""
    steps: int | None = None
    """Evaluate a shorter chain of so many levels, evenly spaced or optimal."""
    images: int | None = None
    """Evaluate only the first so many images."""
    batch_size: int = 64
    """Images at a time."""
    seed: int = 0
    """Source of all noise."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, mps."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> None:
        """Print the bound."""
        from nelbo.diffusion import Pixels
        from nelbo.report.tables import bound_json, bound_table

        if self.images is not None and self.images < 1:
            raise NelboError(f"--images must be at least 1, got {self.images}")
        if self.batch_size < 1:
            raise NelboError(f"--batch-size must be at least 1, got {self.batch_size}")
        model = load_pixel_model(self.run_path, _NO_LATENT_BOUND).to(choose_device(self.device))
        data = data_for_run(self.run_path, model, self.data, self.split)
        model = self._chain(model)
        mention_skipped(data)
        if self.images is not None:
            data = data.take(slice(self.images))
        bound = evaluate_with_progress(
            model,
            data,
            f"Evaluating {data.source}, {self.split}",
            levels=levels_to_evaluate("all" if self.levels == "optimal" else self.levels, model),
            batch_size=self.batch_size,
            seed=self.seed,
        )
        summary = bound.mean()
        density = not isinstance(model.data, Pixels)
        if self.json:
            content: dict[str, Any] = {
                "run": self.run_path,
                "data": data.source,
                "split": self.split,
                "levels": bound.levels.shape[1] + 1,
                "skipped": list(data.skipped),
                **bound_json(summary, density=density),
            }
            print_json(content)
        else:
            table = bound_table({self.split: summary}, density=density)
            show(table)

    def _chain(self, model: Diffusion) -> Diffusion:
        """The chain to evaluate: the whole one, or a shorter one of its own bound."""
        from nelbo.samplers.spacing import spaced_levels

        if self.levels == "optimal":
            return optimal_chain(self.run_path, model, self.steps)
        if self.steps is None:
            return model
        return model.respace(spaced_levels(model.num_levels, self.steps, "linspace"))


def data_for_run(run_path: str, model: Diffusion, source: str | None, split: str) -> ImageData:
    """The images to evaluate a model on, in its size: `source`, or what the run was trained on."""
    from nelbo.data import load_data
    from nelbo.data.sources import FIXED_SIZE, is_local, is_path
    from nelbo.training.run_directory import RunDirectory

    remembered = RunDirectory(run_path).notes().get("source")
    source = source or remembered
    if source is None:
        raise NelboError(f"{run_path} does not say what it was trained on: give --data")
    if source == remembered and is_path(source) and not is_local(source):
        raise NelboError(
            f"{run_path} was trained on {source}, which is not there any more: give --data"
        )
    assert model.shape is not None
    channels, height, width = model.shape
    if source in FIXED_SIZE and not is_local(source):
        return load_data(source, split)
    if height != width:
        raise NelboError(f"the model takes images of {height}×{width}; pictures are cut to squares")
    return load_data(source, split, size=height, channels=channels)


def levels_to_evaluate(asked: int | Literal["all"], model: Diffusion) -> int | None:
    """How many levels to draw; None, each once, where as many are asked for as there are."""
    return None if asked == "all" or asked >= model.num_levels - 1 else asked


def evaluate_with_progress(
    model: Diffusion,
    data: ImageData,
    description: str,
    *,
    levels: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> Bound:
    """The bound of every image, behind a progress bar that shows the mean so far."""
    from nelbo.bound import Bound
    from nelbo.evaluation import evaluate

    generator = _generator(seed)
    bounds: list[Bound] = []
    with counting_progress() as progress:
        task = progress.add_task(description, total=len(data), status="")
        for bound in evaluate(
            model, data, levels=levels, batch_size=batch_size, generator=generator
        ):
            bounds.append(bound)
            done = Bound.cat(bounds).mean().bits_per_dim.mean
            progress.update(task, advance=len(bound), status=f"{done:.3f} bits/dim")
    return Bound.cat(bounds)


def _generator(seed: int) -> torch.Generator:
    import torch

    return torch.Generator().manual_seed(seed)
