"""nelbo evaluate: the bound of a model on images, term by term."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from nelbo.base.errors import NelboError
from nelbo.commands.common import (
    check_optimal,
    optimal_chain,
    print_json,
    say,
    show,
    warn_of,
)
from nelbo.commands.decoder_scale import fit_missing_scale
from nelbo.commands.evaluation_progress import (
    cost_json,
    cost_line,
    evaluate_to_error_with_progress,
    evaluate_with_progress,
    find_levels,
    stored_proposal,
)
from nelbo.commands.options import Computing, at_least_one, check_out
from nelbo.commands.run_data import check_run, load_with_data
from nelbo.commands.shared_evaluation import join_processes, open_store, stored_bounds
from nelbo.formats.model_directory import holds_autoencoder_alone

if TYPE_CHECKING:
    import torch

    from nelbo.chain.bound import Bound
    from nelbo.data import ImageData
    from nelbo.diffusion import Diffusion
    from nelbo.evidence.bound_store import BoundStore
    from nelbo.latent import LatentDiffusion
    from nelbo.training.processes import Processes

DEFAULT_ERROR = 0.01
# How far bf16 may move the bound, as a share of the Monte Carlo error that is asked for.
PRECISION_SHARE = 0.1
IMAGES_FILE = "images.csv"
# What does not decide the bounds.
_NO_SETTINGS = ("run_path", "computing", "out")
_TRIED_IMAGES = 16


@dataclass(frozen=True)
class Evaluate:
    """Evaluate the bound of a model on images, term by term."""

    run_path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(name="run", metavar="RUN")]
    """A run, a diffusers pipeline directory, or a Hub id; a run of an autoencoder alone is read as
    a plain VAE, with its PSNR."""
    data: str | None = None
    """As in `nelbo train`; by default what the run was trained on."""
    split: str = "test"
    """Which images: train, validation, test or all."""
    keep_duplicates: bool = False
    """Keep test images whose pixels are those of images that the run was trained or chosen on."""
    error: float | None = None
    """Add levels until the Monte Carlo standard error of the mean, in bits/dim, is this small;
    0.01 where neither this nor --levels is given."""
    levels: int | Literal["all", "optimal"] | None = None
    """Instead, levels of the chain an image: all, or a number, drawn where they matter (as a pilot,
    or the profile of `nelbo fit`, finds) and weighted without bias. With --steps, "optimal" keeps
    the levels of the best bound, with the optimal variance."""
    steps: int | None = None
    """Evaluate a shorter chain of so many levels, evenly spaced or optimal."""
    images: int | None = None
    """Evaluate at most so many images, drawn at random by the seed; all by default."""
    resize: bool = False
    """Crop and resize images of another size than the model's."""
    batch_size: int = 64
    """Images at a time."""
    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    """bf16 evaluates the network in mixed precision; auto does where that is faster and, on a few
    images, moves the bound by less than a tenth of --error (of 0.01 without it)."""
    out: Path | None = None
    """Directory for the bound of each image, images.csv, and of each batch: an evaluation that was
    cut short goes on there, and the processes of `accelerate launch` or torchrun share it."""
    computing: Computing = field(default_factory=Computing)

    def run(self) -> None:
        """Print the bound."""
        self.computing.check()
        if self.out is not None:
            check_out(self.out, directory=True)
        at_least_one(images=self.images, steps=self.steps, batch_size=self.batch_size)
        if self.levels not in (None, "optimal") and self.error is not None:
            raise NelboError("--error chooses the number of levels: give it or --levels, not both")
        # The whole of the best short chain is evaluated, in as many calls as that needs.
        levels = None if self.levels == "optimal" else self.levels
        if levels not in (None, "all") and int(levels) < 1:
            raise NelboError(f"--levels must be all, optimal or at least 1, got {levels}")
        if self.error is not None and not self.error > 0:
            raise NelboError(f"--error must be positive, in bits/dim, got {self.error:g}")

        if self._evaluate_autoencoder():
            return
        source = check_run(
            self.run_path, self.data, self.split, keep_duplicates=self.keep_duplicates
        )
        if self.levels == "optimal":
            check_optimal(self.run_path, self.steps)
        processes = join_processes(self.computing.device, self.out, self.precision)
        loaded, data = load_with_data(
            source,
            processes.device,
            resize=self.resize,
            images=self.images,
            seed=self.computing.seed,
            quiet=not processes.is_main,
        )
        description = f"Evaluating {Path(data.source).name}, {self.split}"
        fit_missing_scale(
            self.run_path, loaded, data, self.computing.seed, quiet=not processes.is_main
        )
        model = self._chain(loaded)
        dtype, tried = choose_dtype(
            model,
            data,
            self._stored_precision() or self.precision,
            (self.error or DEFAULT_ERROR) * PRECISION_SHARE,
            self.computing.seed,
        )
        store = self._store(model, data, processes, dtype)
        if levels is None:
            bound, calls = evaluate_to_error_with_progress(
                model,
                data,
                description,
                self.error or DEFAULT_ERROR,
                score_matching_square=stored_proposal(model),
                batch_size=self.batch_size,
                seed=self.computing.seed,
                dtype=dtype,
                store=store,
            )
        else:
            estimator, pilot_calls = None, 0
            if levels != "all":
                batches = -(-len(data) // self.batch_size)
                estimator, pilot_calls = find_levels(
                    int(levels),
                    model,
                    data,
                    self.computing.seed,
                    quiet=not processes.is_main,
                    drawn=store is None or not store.is_complete(0, batches),
                )
            bound = evaluate_with_progress(
                model,
                data,
                description,
                levels=estimator,
                batch_size=self.batch_size,
                seed=self.computing.seed,
                dtype=dtype,
                store=store,
            )
            calls = int(bound.calls.sum()) + pilot_calls
        stored = 0 if store is None else store.stored_calls
        self._show(bound, model, data, calls + tried, stored, dtype, processes)

    def _evaluate_autoencoder(self) -> bool:
        """Evaluate a run of an autoencoder alone as a plain VAE; False where it is another run."""
        if not holds_autoencoder_alone(self.run_path):
            return False
        # Which has the plots of a report with it.
        from nelbo.commands.evaluate_autoencoder import evaluate_autoencoder_run

        for name in ("error", "levels", "steps", "out"):
            if getattr(self, name) is not None:
                raise NelboError(
                    f"--{name} does not apply to an autoencoder, which has no chain of levels"
                )
        if self.precision != "fp32":
            raise NelboError("an autoencoder is evaluated in fp32: leave --precision out")
        content = evaluate_autoencoder_run(
            self.run_path,
            self.data,
            self.split,
            keep_duplicates=self.keep_duplicates,
            images=self.images,
            seed=self.computing.seed,
            resize=self.resize,
            batch_size=self.batch_size,
            device=self.computing.device,
            show_table=not self.computing.json,
        )
        if self.computing.json:
            print_json(content)
        return True

    def _store(
        self,
        model: Diffusion | LatentDiffusion,
        data: ImageData,
        processes: Processes,
        dtype: torch.dtype,
    ) -> BoundStore | None:
        from nelbo.evidence.identity import identify_profile

        if self.out is None:
            return None
        settings = {k: v for k, v in asdict(self).items() if k not in _NO_SETTINGS}
        # What was computed in, whichever way it was chosen.
        settings |= {"seed": self.computing.seed, "precision": _name(dtype)}
        if self.levels != "all":
            # A profile says where to draw levels; every level once is the same without one.
            settings["proposal"] = identify_profile(model)
        return open_store(self.out, model, data, settings, processes)

    def _stored_precision(self) -> str | None:
        """With --precision auto, that of the evaluation that goes on, whatever is faster now."""
        from nelbo.evidence.bound_store import stored_settings

        if self.out is None or self.precision != "auto":
            return None
        stored = stored_settings(stored_bounds(self.out)).get("precision")
        return stored if stored in ("fp32", "bf16") else None

    def _show(
        self,
        bound: Bound,
        model: Diffusion | LatentDiffusion,
        data: ImageData,
        calls: int,
        stored: int,
        dtype: torch.dtype,
        processes: Processes,
    ) -> None:
        from nelbo.diffusion import Pixels
        from nelbo.evidence import write_ranking
        from nelbo.evidence.evaluation import chain_of
        from nelbo.evidence.file_sizes import file_sizes, sizes_json
        from nelbo.evidence.given import given_of
        from nelbo.report.tables import bits_unit, bound_json, bound_table, result_line

        processes.leave()
        if not processes.is_main:
            return
        if self.out is not None:
            write_ranking(self.out / IMAGES_FILE, data, bound, ranked=False)
        summary = bound.mean()
        density = not isinstance(model.data, Pixels)
        given = given_of(model, data)
        files = None if density else file_sizes(data.images, data.levels)
        if self.computing.json:
            content: dict[str, Any] = {
                "run": self.run_path,
                "data": data.source,
                "split": self.split,
                **given.to_json(),
                "duplicates_left_out": data.left_out,
                **cost_json(bound, model, calls),
                "calls_stored": stored,
                "precision": str(dtype).removeprefix("torch."),
                "skipped": list(data.skipped),
                **bound_json(summary, density=density, names=data.names),
                "files": sizes_json(files),
            }
            print_json(content)
        else:
            table = bound_table({self.split: summary}, density=density)
            show(table)
            show(result_line(summary, bits_unit(density) + given.suffix))
            if given.line:
                show(given.line)
            if files is not None:
                show(files.line)
            show(cost_line(len(bound), chain_of(model).num_levels, calls))
            if stored:
                show(f"{stored:,} of them had been made before and were read from {self.out}")
            warn_of(summary.bits_per_dim, data.names)
            if self.out is not None:
                show(f"Each image: {self.out / IMAGES_FILE}")

    def _chain(self, model: Diffusion | LatentDiffusion) -> Diffusion | LatentDiffusion:
        """The chain to evaluate: the whole one, or a shorter one of its own bound."""
        from nelbo.evidence.evaluation import chain_of
        from nelbo.samplers.spacing import spaced_levels

        if self.levels == "optimal":
            return optimal_chain(model, self.steps)
        if self.steps is None:
            return model
        return model.respace(spaced_levels(chain_of(model).num_levels, self.steps, "linspace"))


def choose_dtype(
    model: Diffusion | LatentDiffusion, data: ImageData, precision: str, tolerance: float, seed: int
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
    from nelbo.evidence.evaluation import check_fits, condition_for
    from nelbo.evidence.precision import try_bfloat16

    if precision != "auto":
        return (torch.bfloat16 if precision == "bf16" else torch.float32), 0
    check_fits(model, data)
    if len(data) < 2:
        return torch.float32, 0
    assert isinstance(model.data, Pixels)
    # Not the first ones: folders have one class after the other.
    few = data.subset(_TRIED_IMAGES, seed)
    x_0 = model.data.to_network(few.images).to(next(model.parameters()).device)
    trial = try_bfloat16(model, x_0, condition_for(model, few), seed=seed)
    dtype = trial.dtype(tolerance)
    say(
        f"{_name(dtype)}: bf16 takes 1/{trial.speedup:.2f} of the "
        f"time and moves the bound by {trial.shift:+.5f} ± {trial.shift_error:.5f} bits/dim "
        f"(at most {tolerance:g} is allowed)"
    )
    return dtype, trial.calls


def _name(dtype: torch.dtype) -> str:
    """What --precision calls a type."""
    import torch

    return "bf16" if dtype == torch.bfloat16 else "fp32"
