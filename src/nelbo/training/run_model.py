"""The model of a run with other weights than its last, such as those of its best checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nelbo.base.errors import NelboError
from nelbo.chain.model import Model
from nelbo.diffusion.continuous import ContinuousDiffusion
from nelbo.diffusion.learned_schedule import LearnedSchedule
from nelbo.formats import load
from nelbo.latent import LatentDiffusion
from nelbo.networks.finite import check_finite_weights
from nelbo.runs.checkpoints import Checkpoint, Checkpoints
from nelbo.runs.run_directory import RunDirectory
from nelbo.training.latents import PriorObjective


def kept_checkpoint(run: str | Path, step: int | None = None) -> Checkpoint:
    """A checkpoint that a run has kept.

    Args:
        run: the run directory.
        step: of which step; None for the one of the best validation bound.

    Raises:
        NelboError: no run, no such checkpoint or a damaged one; or none with a validation bound.
    """
    kept = Checkpoints(RunDirectory.open(run).training)
    steps = kept.steps()
    if step is None:
        step = kept.best()
        if step is None:
            raise NelboError(
                f"no checkpoint of {run} has a validation bound to choose the best by: train with "
                "--validate-every"
            )
    elif step not in steps:
        there = f"the steps {', '.join(map(str, steps))}" if steps else "no step"
        raise NelboError(f"{run} has kept checkpoints of {there}, none of step {step}")
    return kept.load(step)


def checkpoint_model(run: str | Path, step: int | None = None) -> Model:
    """The averaged model of a run as of a checkpoint, by default the best.

    Arguments and errors are those of `kept_checkpoint`.
    """
    return with_weights(run, kept_checkpoint(run, step).tensors["average"])


@torch.no_grad()
def with_weights(run: str | Path, weights: Mapping[str, Tensor]) -> Model:
    """The model of a run with other values of the weights that it trained.

    Args:
        run: the run directory, of a diffusion model of pixels or latents.
        weights: by their names in training.

    Raises:
        NelboError: no such run, or weights of another model.
    """
    model: Any = load(run)
    if isinstance(model, LatentDiffusion):
        if model.text is not None:  # one that was frozen is no part of what was trained
            model.text.requires_grad_(any(name.startswith("text.") for name in weights))
        _replace(PriorObjective(model), weights, run)
        return model
    if not any(name.startswith("gamma.") for name in weights):
        _replace(model, weights, run)
        return model
    # Of any shape: the weights have their own.
    gamma = LearnedSchedule(0.0, 1.0, hidden=len(weights["gamma.center"]))
    continuous = ContinuousDiffusion(model, gamma)
    _replace(continuous, weights, run)
    return continuous.chain()


def _replace(module: nn.Module, weights: Mapping[str, Tensor], run: str | Path) -> None:
    """Every parameter takes its new value; buffers do where they have one."""
    shapes = {name: parameter.shape for name, parameter in module.named_parameters()}
    differ = [n for n, shape in shapes.items() if n not in weights or weights[n].shape != shape]
    if differ:
        raise NelboError(f"these weights are not of the model of {run}: {differ[0]} differs")
    check_finite_weights({name: weights[name] for name in shapes}, f"the checkpoint of {run}")
    module.load_state_dict(dict(weights), strict=False)
