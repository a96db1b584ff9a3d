"""The state of a training run: what another process needs to take the very steps to come."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nelbo.base.errors import NelboError
from nelbo.networks.sharding import assign, whole
from nelbo.runs.checkpoints import Checkpoint
from nelbo.training.trainer import Trainer


def state_of(trainer: Trainer) -> Checkpoint:
    """All that a run needs to go on; every process must ask for it."""
    moments: dict[str, Tensor] = {}
    updates = 0.0
    for name, parameter in trainer.model.named_parameters():
        for key, value in trainer.optimizer.state.get(parameter, {}).items():
            if key == "step":
                updates = float(value)
            else:
                moments[f"{key}.{name}"] = whole(value)
    tensors = {
        "model": _whole_state(trainer.model),
        "average": _whole_state(trainer.average.model),
        "optimizer": moments,
    }
    task = trainer.task
    if task.keys is not None:
        tensors["data"] = {"keys": task.keys}
    if trainer.power_averages is not None:
        tensors["power_averages"] = trainer.power_averages.named()
    if task.learning_sampler is not None:
        tensors["level_sampler"] = task.learning_sampler.state()
    progress: dict[str, Any] = {
        "seconds": trainer.seconds,
        "rate_scale": trainer.rate_scale,
        "average_updates": trainer.average.updates,
        "optimizer_updates": updates,
        "running_loss": vars(trainer.running_loss),
        "running_bits": vars(trainer.running_bits),
        "watch": vars(trainer.watch),
        "precision": trainer.precision,
        "loss_scaler": trainer.scaler.state_dict(),
        "threads": torch.get_num_threads(),
        "processes": trainer.processes.count,
    }
    if task.stream is not None:
        progress["stream"] = [task.stream.epoch, task.stream.first]
    return Checkpoint(trainer.step, tensors, progress)


def restore(trainer: Trainer, checkpoint: Checkpoint) -> None:
    """Go on from a state, as if training had never stopped.

    Raises:
        NelboError: a state of another model or of other settings.
    """
    tensors, progress, task = checkpoint.tensors, checkpoint.progress, trainer.task
    _load(trainer.model.state_dict(), tensors["model"])
    _load(trainer.average.model.state_dict(), tensors["average"])
    trainer.optimizer.state.clear()
    parameters = dict(trainer.model.named_parameters())
    for key, value in tensors["optimizer"].items():
        moment, _, name = key.partition(".")
        parameter = parameters[name]
        state = trainer.optimizer.state[parameter]
        if moment == "exp_avg":  # AdamW counts its steps
            state["step"] = torch.tensor(progress["optimizer_updates"], device=parameter.device)
        state[moment] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        assign(state[moment], value)
    if trainer.power_averages is not None:
        if "power_averages" not in tensors:
            raise NelboError(
                "the run has kept no averages to take snapshots of: leave snapshot_every out"
            )
        trainer.power_averages.load(tensors["power_averages"], checkpoint.step)
    if task.learning_sampler is not None:
        if "level_sampler" not in tensors:
            raise NelboError(
                "the checkpoint holds no losses of levels: it is of a run with another "
                f"level_sampler than {trainer.config.level_sampler!r}"
            )
        task.learning_sampler.restore(tensors["level_sampler"])
    trainer.step = checkpoint.step
    trainer.seconds = progress["seconds"]
    trainer.rate_scale = progress["rate_scale"]
    trainer.average.updates = progress["average_updates"]
    for name in ("running_loss", "running_bits", "watch"):
        vars(getattr(trainer, name)).update(progress[name])
    if trainer.config.precision == "auto" and progress["precision"] != trainer.precision:
        trainer.use_precision(progress["precision"])
    trainer.scaler.load_state_dict(progress["loss_scaler"])
    if task.stream is not None:
        task.stream.seek(*progress.get("stream", (0, 0)))


def averaged(trainer: Trainer) -> nn.Module:
    """The averaged module as a whole; every process must ask for it."""
    if not trainer.processes.sharded:
        return trainer.average.model
    module = copy.deepcopy(trainer.skeleton)
    weights = {k: v.cpu() for k, v in _whole_state(trainer.average.model).items()}
    module.load_state_dict(weights, assign=True)
    # Those that are not part of the state have no values yet.
    for mine, kept in zip(module.modules(), trainer.average.model.modules(), strict=True):
        buffers = {k: b.cpu() for k, b in kept._buffers.items() if b is not None}
        mine._buffers.update(buffers)
    return module


def _whole_state(module: nn.Module) -> dict[str, Tensor]:
    return {name: whole(value) for name, value in module.state_dict().items()}


def _load(state: dict[str, Tensor], kept: Mapping[str, Tensor]) -> None:
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    found = {name: tuple(value.shape) for name, value in kept.items()}
    if shapes != found:
        differ = sorted(name for name in shapes | found if shapes.get(name) != found.get(name))
        raise NelboError(
            f"the checkpoint is of another model: {len(differ)} tensors differ, such as "
            f"{differ[0]} (found {found.get(differ[0])}, expected {shapes.get(differ[0])})"
        )
    for name, value in state.items():
        assign(value, kept[name])
