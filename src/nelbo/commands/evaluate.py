"""nelbo evaluate: the bound of a model on images, term by term."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from nelbo.commands.common import (
    choose_device,
    counting_progress,
    mention_skipped,
    optimal_chain,
    print_json,
    say,
    show,
)
from nelbo.errors import NelboError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from nelbo.bound import Bound
    from nelbo.bound_store import BoundStore
    from nelbo.data import ImageData
    from nelbo.diffusion import Diffusion
    from nelbo.latent import LatentDiffusion
    from nelbo.training.processes import Processes

DEFAULT_ERROR = 0.01
IMAGES_FILE = "images.csv"
_PICTURE_LEVELS = 256
# What does not decide the bounds.
_NO_SETTINGS = ("run_path", "device", "out", "json")
_TRIED_IMAGES = 16
# Levels an image for a latent model, whose error is not known beforehand.
_LATENT_LEVELS = 50


@dataclass(frozen=True)
class Evaluate:
    """Evaluate the bound of a model on images, term by term."""

    run_path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(name="run", metavar="RUN")]
    """A run, a diffusers pipeline directory, or a Hub id."""
    data: str | None = None
    """As in `nelbo train`; by default what the run was trained on."""
    split: str = "test"
    """Which images: train, test or all."""
    error: float | None = None
    """Add levels until the Monte Carlo standard error of the mean, in bits/dim, is this small;
    0.01 where neither this nor --levels is given. For models of pixels."""
    levels: int | Literal["all", "optimal"] | None = None
    """Instead, levels of the chain an image: all, or a number, drawn and weighted without bias.
    With --steps, "optimal" keeps the levels of the best bound, with the optimal variance. 50 for a
    latent model."""
    steps: int | None = None
    """Evaluate a shorter chain of so many levels, evenly spaced or optimal."""
    images: int | None = None
    """Evaluate only the first so many images."""
    resize: bool = False
    """Crop and resize images of another size than the model's."""
    batch_size: int = 64
    """Images at a time."""
    seed: int = 0
    """Source of all noise."""
    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    """bf16 evaluates the network in mixed precision; auto does where that is faster and, on a few
    images, moves the bound by less than a tenth of --error (of 0.01 without it)."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, mps."""
    out: Path | None = None
    """Directory for the bound of each image, images.csv, and of each batch: an evaluation that was
    cut short goes on there, and the processes of `accelerate launch` or torchrun share it."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> None:
        """Print the bound."""
        from nelbo.diffusers_format import load
        from nelbo.latent import LatentDiffusion

        if self.images is not None and self.images < 1:
            raise NelboError(f"--images must be at least 1, got {self.images}")
        if self.batch_size < 1:
            raise NelboError(f"--batch-size must be at least 1, got {self.batch_size}")
        if self.levels not in (None, "optimal") and self.error is not None:
            raise NelboError("--error chooses the number of levels: give it or --levels, not both")
        # The whole of the best short chain is evaluated, in as many calls as that needs.
        levels = None if self.levels == "optimal" else self.levels
        if levels not in (None, "all") and int(levels) < 1:
            raise NelboError(f"--levels must be all, optimal or at least 1, got {levels}")
        if self.error is not None and not self.error > 0:
            raise NelboError(f"--error must be positive, in bits/dim, got {self.error:g}")
        processes = join_processes(self.device, self.out, self.precision)
        loaded = load(self.run_path).to(processes.device)
        data = data_for_run(self.run_path, loaded, self.data, self.split, resize=self.resize)
        if processes.is_main:
            mention_skipped(data)
        if self.images is not None:
            data = data.take(slice(self.images))
        description = f"Evaluating {data.source}, {self.split}"
        if isinstance(loaded, LatentDiffusion):
            self._evaluate_latent(loaded, data, description, processes)
            return
        model = self._chain(loaded)
        store = self._store(model, data, processes)
        dtype, tried = choose_dtype(
            model, data, self.precision, (self.error or DEFAULT_ERROR) / 10, self.seed
        )
        if levels is None:
            bound, calls = evaluate_to_error_with_progress(
                model,
                data,
                description,
                self.error or DEFAULT_ERROR,
                score_matching_square=_stored_proposal(model),
                batch_size=self.batch_size,
                seed=self.seed,
                dtype=dtype,
                store=store,
            )
        else:
            bound = evaluate_with_progress(
                model,
                data,
                description,
                levels=levels_to_evaluate(levels, model),
                batch_size=self.batch_size,
                seed=self.seed,
                dtype=dtype,
                store=store,
            )
            calls = int(bound.calls.sum())
        self._show(bound, model, data, calls + tried, dtype, processes)

    def _store(
        self, model: Diffusion | LatentDiffusion, data: ImageData, processes: Processes
    ) -> BoundStore | None:
        if self.out is None:
            return None
        settings = {k: v for k, v in asdict(self).items() if k not in _NO_SETTINGS}
        return open_store(self.out, model, data, settings, processes)

    def _evaluate_latent(
        self, model: LatentDiffusion, data: ImageData, description: str, processes: Processes
    ) -> None:
        """The bound on pixels of a latent model, told the captions or labels of the images."""
        import torch

        from nelbo.calibration import fit_decoder_scale

        for name in ("error", "steps"):
            if getattr(self, name) is not None:
                raise NelboError(f"--{name} is for models of pixels: give --levels")
        if self.levels == "optimal":
            raise NelboError("--levels optimal is for models of pixels: give a number, or all")
        if self.precision == "auto":
            raise NelboError("--precision auto is for models of pixels: give fp32 or bf16")
        if model.decoder_scale is None:
            # A pipeline from elsewhere says nothing of it.
            model.decoder_scale = fit_decoder_scale(
                model, data, generator=torch.Generator().manual_seed(self.seed)
            )
            say(
                f"{self.run_path} has no scale of its decoder; the one that suits these images "
                f"best, {model.decoder_scale:.4f}, flatters the bound a little"
            )
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        bound = evaluate_with_progress(
            model,
            data,
            description,
            levels=levels_to_evaluate(self.levels or _LATENT_LEVELS, model.prior),
            batch_size=self.batch_size,
            seed=self.seed,
            dtype=dtype,
            store=self._store(model, data, processes),
        )
        calls = int(bound.calls.sum())
        self._show(bound, model.prior, data, calls, dtype, processes, density=False)

    def _show(
        self,
        bound: Bound,
        model: Diffusion,
        data: ImageData,
        calls: int,
        dtype: torch.dtype,
        processes: Processes,
        *,
        density: bool | None = None,
    ) -> None:
        """Print the result; by default it is a density where `model` is not of pixels."""
        from nelbo.diffusion import Pixels
        from nelbo.evidence import write_ranking
        from nelbo.report.tables import bits_unit, bound_json, bound_table, result_line

        processes.leave()
        if not processes.is_main:
            return
        if self.out is not None:
            write_ranking(self.out / IMAGES_FILE, data, bound, ranked=False)
        summary = bound.mean()
        if density is None:
            density = not isinstance(model.data, Pixels)
        if self.json:
            content: dict[str, Any] = {
                "run": self.run_path,
                "data": data.source,
                "split": self.split,
                **cost_json(bound, model, calls),
                "precision": str(dtype).removeprefix("torch."),
                "skipped": list(data.skipped),
                **bound_json(summary, density=density),
            }
            print_json(content)
        else:
            table = bound_table({self.split: summary}, density=density)
            show(table)
            show(result_line(summary, bits_unit(density)))
            show(cost_line(len(bound), model.num_levels, calls))
            if self.out is not None:
                show(f"Each image: {self.out / IMAGES_FILE}")

    def _chain(self, model: Diffusion) -> Diffusion:
        """The chain to evaluate: the whole one, or a shorter one of its own bound."""
        from nelbo.samplers.spacing import spaced_levels

        if self.levels == "optimal":
            return optimal_chain(self.run_path, model, self.steps)
        if self.steps is None:
            return model
        return model.respace(spaced_levels(model.num_levels, self.steps, "linspace"))


def join_processes(device: str, out: Path | None, precision: str = "fp32") -> Processes:
    """This process alone, or as one of those that a launcher started to evaluate together.

    Raises:
        NelboError: several processes without a directory to share, or that might each choose
            another precision.
    """
    from nelbo.training.processes import Processes

    if Processes.launched():
        if out is None:
            raise NelboError("several processes need a directory to share their bounds in: --out")
        if precision == "auto":
            raise NelboError("several processes need one precision: give --precision fp32 or bf16")
    return Processes.join(choose_device(device))


def open_store(
    out: Path, model: nn.Module, data: ImageData, settings: dict[str, Any], processes: Processes
) -> BoundStore:
    """Where the bounds of batches are kept, for this model, these images and these settings."""
    from nelbo.bound_store import BoundStore, fingerprint

    decisive = {
        **settings,
        "data": data.source,
        "images": len(data),
        "image_names": hashlib.sha256("\n".join(data.names).encode()).hexdigest(),
        "weights": fingerprint(model),
    }
    # As JSON will give them back.
    decisive = json.loads(json.dumps(decisive, default=str))
    return BoundStore(out / "bounds", decisive, rank=processes.rank, count=processes.count)


def cost_json(bound: Bound, model: Diffusion, calls: int | None = None) -> dict[str, Any]:
    """What a bound took: levels of the score matching term an image, and network evaluations.

    Args:
        bound: the bound.
        model: the model it is of.
        calls: network evaluations, where a pilot took more than the bound tells.
    """
    calls = int(bound.calls.sum()) if calls is None else calls
    return {
        "levels_per_image": bound.levels.shape[1],
        "levels_of_chain": model.num_levels - 1,
        "calls": calls,
        "calls_per_image": calls / len(bound),
        "calls_for_all_levels": model.num_levels * len(bound),
    }


def cost_line(images: int, T: int, calls: int) -> str:
    """How many network evaluations were made, beside what all levels take."""
    made = f"{calls:,} network evaluations, {calls / images:,.1f} an image"
    if calls >= T * images:
        return made
    return f"{made}; one for every level of the chain is {T:,} an image, {T * images:,} in all"


def data_for_run(
    run_path: str,
    model: Diffusion | LatentDiffusion,
    source: str | None,
    split: str,
    *,
    resize: bool = False,
) -> ImageData:
    """The images to evaluate a model on, in its size: `source`, or what the run was trained on.

    The pictures that a run was trained on are cropped and resized as they were then; others only
    with `resize`.

    Raises:
        NelboError: images of another size than the model's without `resize`.
    """
    from nelbo.data import load_data
    from nelbo.data.folder import check_sizes
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
    levels = getattr(model.data, "levels", _PICTURE_LEVELS)
    if levels != _PICTURE_LEVELS and is_path(source) and source != remembered:
        raise NelboError(
            f"pictures have {_PICTURE_LEVELS} levels a pixel, the model of {run_path} has "
            f"{levels}: it gives them no probability"
        )
    if source in FIXED_SIZE and not is_local(source):
        data = load_data(source, split)
        if data.shape[1:] == (height, width):
            return data
        if not resize:
            raise NelboError(
                f"{source} has images of {data.shape[1]}×{data.shape[2]}, the model takes "
                f"{height}×{width}: give --resize to resize them"
            )
        return data.resize(height, width)
    if height != width:
        raise NelboError(f"the model takes images of {height}×{width}; pictures are cut to squares")
    if not resize and source != remembered:
        check_sizes(source, height)
    return load_data(source, split, size=height, channels=channels)


def choose_dtype(
    model: Diffusion, data: ImageData, precision: str, tolerance: float, seed: int
) -> tuple[torch.dtype, int]:
    """The type to compute the network in, and the network evaluations that finding it took.

    Args:
        model: the model.
        data: images, of which a few are tried.
        precision: "fp32", "bf16", or "auto" to try both.
        tolerance: how far bfloat16 may move the bound, bits per dimension.
        seed: of the noise of the trial.
    """
    import torch

    from nelbo.diffusion import Pixels
    from nelbo.evaluation import check_fits, labels_for
    from nelbo.precision import try_bfloat16

    if precision != "auto":
        return (torch.bfloat16 if precision == "bf16" else torch.float32), 0
    check_fits(model, data)
    if len(data) < 2:
        return torch.float32, 0
    assert isinstance(model.data, Pixels)
    few = data.take(slice(_TRIED_IMAGES))
    x_0 = model.data.to_network(few.images).to(next(model.parameters()).device)
    trial = try_bfloat16(model, x_0, labels_for(model, few), seed=seed)
    dtype = trial.dtype(tolerance)
    say(
        f"{'bf16' if dtype == torch.bfloat16 else 'fp32'}: bf16 takes 1/{trial.speedup:.2f} of the "
        f"time and moves the bound by {trial.shift:+.5f} ± {trial.shift_error:.5f} bits/dim "
        f"(at most {tolerance:g} is allowed)"
    )
    return dtype, trial.calls


def levels_to_evaluate(asked: int | Literal["all"], model: Diffusion) -> int | None:
    """How many levels to draw; None, each once, where as many are asked for as there are."""
    return None if asked == "all" or asked >= model.num_levels - 1 else asked


def evaluate_with_progress(
    model: Diffusion | LatentDiffusion,
    data: ImageData,
    description: str,
    *,
    levels: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    store: BoundStore | None = None,
) -> Bound:
    """The bound of every image, behind a progress bar that shows the mean so far."""
    from nelbo.bound import Bound
    from nelbo.evaluation import calls_per_image, evaluate

    generator = _generator(seed)
    bounds: list[Bound] = []
    bits, images = 0.0, 0
    with counting_progress(disable=store is not None and store.rank > 0) as progress:
        total = len(data) * calls_per_image(model, levels)
        task = progress.add_task(description, total=total, status="")
        for bound in evaluate(
            model,
            data,
            levels=levels,
            batch_size=batch_size,
            generator=generator,
            dtype=dtype,
            store=store,
        ):
            bounds.append(bound)
            bits, images = bits + float(bound.bits_per_dim.sum()), images + len(bound)
            calls = int(bound.calls.sum())
            progress.update(task, advance=calls, status=f"calls · {bits / images:.3f} bits/dim")
    return Bound.cat(bounds)


def evaluate_to_error_with_progress(
    model: Diffusion,
    data: ImageData,
    description: str,
    error: float,
    *,
    score_matching_square: torch.Tensor | None = None,
    batch_size: int = 64,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    store: BoundStore | None = None,
) -> tuple[Bound, int]:
    """The bound to a Monte Carlo error, behind a progress bar, and its network evaluations."""
    from nelbo.evaluation import evaluate_to_error

    bound, calls, status = None, 0, ""
    with counting_progress(disable=store is not None and store.rank > 0) as progress:
        task = progress.add_task(description, total=None, status="calls")
        for reading in evaluate_to_error(
            model,
            data,
            error,
            score_matching_square=score_matching_square,
            batch_size=batch_size,
            generator=_generator(seed),
            dtype=dtype,
            store=store,
        ):
            if reading.bound is not None and reading.bound is not bound:
                bits = reading.bound.mean().bits_per_dim
                status = f" · {bits.mean:.3f} ± {bits.monte_carlo_error:.3f} bits/dim"
            bound, calls = reading.bound, reading.calls
            progress.update(task, completed=calls, total=reading.planned, status=f"calls{status}")
    assert bound is not None
    return bound, calls


def _stored_proposal(model: Diffusion) -> torch.Tensor | None:
    """E KL² at each level from the model's level profile, if it has one of this very chain."""
    profile = model.profile
    if profile is None or profile.num_levels != model.num_levels:
        return None
    return profile.score_matching_square


def _generator(seed: int) -> torch.Generator:
    import torch

    return torch.Generator().manual_seed(seed)
