"""The model of a run with other weights than its last, such as those of its best checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nelbo.base.errors import NelboError
from nelbo.formats import load
from nelbo.networks.finite import check_finite_weights
from nelbo.runs.checkpoints import Checkpoint, Checkpoints
from nelbo.runs.run_directory import RunDirectory
from nelbo.training.start_from import kind_of_run


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


@torch.no_grad()
def with_weights(run: str | Path, weights: Mapping[str, Tensor]) -> Any:
    """The model of a run with other values of the weights that it trained.

    Args:
        run: the run directory, of a model that `nelbo export` knows.
        weights: by their names in training.

    Raises:
        NelboError: no such run, or weights of another model.
    """
    model = load(run)
    return kind_of_run(run).with_weights(model, weights, str(run))


@torch.no_grad()
def assign_weights(module: nn.Module, weights: Mapping[str, Tensor], run: str) -> None:
    """Give every parameter its new value, and buffers where they have one.

    Raises:
        NelboError: weights of another module, or that are not finite.
    """
    shapes = {name: parameter.shape for name, parameter in module.named_parameters()}
    differ = [n for n, shape in shapes.items() if n not in weights or weights[n].shape != shape]
    if differ:
        raise NelboError(f"these weights are not of the model of {run}: {differ[0]} differs")
    check_finite_weights({name: weights[name] for name in shapes}, f"the checkpoint of {run}")
    module.load_state_dict(dict(weights), strict=False)
