"""Stored averages of the weights, and the model of an average of any length made from them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from nelbo.base.files import atomic_file, writing
from nelbo.chain.model import Model
from nelbo.runs.run_directory import RunDirectory
from nelbo.training.moving_average import combine
from nelbo.training.run_model import with_weights

FOLDER = "snapshots"


def save_snapshot(training: Path, step: int, averages: Mapping[str, Tensor]) -> None:
    """Store what `PowerAverages.named` gave at a step; whole or not at all.

    Raises:
        UnwritableError: it cannot be written.
    """
    directory = training / FOLDER
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
        with atomic_file(directory / f"step-{step:06d}.safetensors") as temporary:
            save_file({k: v.contiguous() for k, v in averages.items()}, temporary)


def snapshot_files(training: Path) -> dict[int, Path]:
    """Where those that were stored are, by step."""
    files = sorted((training / FOLDER).glob("step-*.safetensors"))
    return {int(file.stem.removeprefix("step-")): file for file in files}


def load_snapshots(training: Path) -> dict[int, dict[str, Tensor]]:
    """All that were stored, by step."""
    return {step: load_file(file) for step, file in snapshot_files(training).items()}


def forget_snapshots_after(training: Path, step: int) -> None:
    """Remove those of steps that are taken again."""
    for later, file in snapshot_files(training).items():
        if later > step:
            file.unlink()


def reconstruct_average(run: str | Path, sigma_rel: float, *, step: int | None = None) -> Model:
    """The model of a run with its weights averaged over another length of the training.

    Args:
        run: the run directory, trained with `snapshot_every`.
        sigma_rel: standard deviation of the average's profile relative to the time of training;
            0.05 to 0.2 are usual. See `nelbo.training.moving_average`.
        step: as of which step; the last snapshot by default.

    Raises:
        NelboError: no run, no snapshots, or a length outside (0, 0.2887).
    """
    training = RunDirectory.open(run).training
    return with_weights(run, combine(load_snapshots(training), sigma_rel, step))
