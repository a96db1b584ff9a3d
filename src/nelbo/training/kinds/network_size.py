r"""The width of a network that suits the machine, the pictures and the time to train.

A network too wide for its time sees too few examples, a narrow one has learned what it can long
before the end. For a given amount of computation, the number of weights P and of examples E that
serve best grow alike (Hoffmann et al. 2022, "Training compute-optimal large language models", found
:math:`E \propto P` for text). The widest network is chosen for which

.. math:: E = \frac{\text{time}}{\text{time an image}} \ge r P,

with the time an image measured here and now. As the time an image grows with P, a budget sixteen
times as long doubles the width. docs/decisions/0014-a-size-that-fits.md derives r.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch

from nelbo.base.console import notice
from nelbo.data import ImageData
from nelbo.training.config import TrainingConfig
from nelbo.training.options import TrainOptions
from nelbo.training.processes import Processes
from nelbo.training.task import Task
from nelbo.training.threads import least_seconds, use_fastest_threads
from nelbo.training.trainer import Trainer

# r: how many examples a weight is to see.
EXAMPLES_PER_WEIGHT = 0.05
# Images of a step that is timed: enough to fill a CPU, and quick on it.
_IMAGES = {"cpu": 16, "cuda": 64, "mps": 64}
# Resolutions of a network, at most.
_MOST_WIDTHS = 16


# Channels of a network at each resolution.
Widths = tuple[int, ...]
# The training of a network of some widths, by a configuration.
TaskOf = Callable[[Widths, TrainingConfig], Task]


@dataclass(frozen=True)
class FittingNetwork:
    """A network that was chosen, and what is expected of it.

    Attributes:
        widths: its channels at each resolution.
        weights: how many it has.
        seconds_per_image: what an example of training takes, forward and backward.
        examples: how many the time is enough for.
    """

    widths: Widths
    weights: int
    seconds_per_image: float
    examples: float


def fitting_network(
    choices: Sequence[Widths],
    task_of: TaskOf,
    options: TrainOptions,
    data: ImageData,
    seconds: float,
    processes: Processes,
) -> FittingNetwork:
    """What the first process measures, and reports where there was a choice; every process goes by
    it.

    Args:
        choices: from the narrowest on.
        task_of: the training of each.
        options: what is asked for.
        data: the images to train on.
        seconds: the time to train.
        processes: who trains.
    """
    found = FittingNetwork((), 0, 0.0, 0.0)
    if processes.is_main:
        device = processes.device
        most = options.training.batch_size // processes.count
        # As it will train, on as many images at once as show it.
        training = replace(
            options.training,
            batch_size=max(1, min(_IMAGES.get(device.type, 16), most)),
            gradient_accumulation=1,
            precision="fp32",
            compile=False,
            horizontal_flip=False,
            snapshot_every=0,
        )
        found = choose_network(
            choices,
            task_of,
            training,
            seconds,
            device,
            count=processes.count,
            threads=options.threads,
        )
        if len(choices) > 1:
            passes = ""
            if data.stream is None:
                passes = f", {found.examples / len(data):,.0f} passes over {len(data):,}"
            notice(
                f"Network: {' '.join(map(str, found.widths))} channels, {found.weights / 1e6:.2f}M "
                f"weights, as the time is enough for about {found.examples:,.0f} images{passes} "
                "(--widths chooses another)"
            )
    widths = found.widths + (0,) * (_MOST_WIDTHS - len(found.widths))
    numbers = found.weights, found.seconds_per_image, found.examples
    every = processes.sum([float(number) for number in (*numbers, *widths)])
    return FittingNetwork(tuple(int(w) for w in every[3:] if w), int(every[0]), every[1], every[2])


def choose_network(
    choices: Iterable[Widths],
    task_of: TaskOf,
    training: TrainingConfig,
    seconds: float,
    device: torch.device,
    *,
    count: int = 1,
    threads: int | None = None,
) -> FittingNetwork:
    """The widest network that sees enough examples in the time; else the narrowest of all.

    They are built and timed from the narrowest on, each for about a second.

    Args:
        choices: from the narrowest on.
        task_of: the training of each.
        training: how each is timed, its images a step among it.
        seconds: the time to train.
        device: where to.
        count: how many processes train together.
        threads: CPU threads, where they are fixed; otherwise the faster of one and all is timed.
    """
    chosen: FittingNetwork | None = None
    for widths in choices:
        with torch.random.fork_rng([]):
            task = task_of(widths, training)
        each = _seconds_of_step(task, device, threads) / (training.batch_size * count)
        found = FittingNetwork(widths, weights_of(task), each, seconds / each)
        if chosen is not None and found.examples < EXAMPLES_PER_WEIGHT * found.weights:
            break
        chosen = found
    assert chosen is not None
    return chosen


def weights_of(task: Task) -> int:
    """How many weights the network of a task has."""
    return sum(weight.numel() for weight in task.networks_of(task.module)[0].parameters())


def _seconds_of_step(task: Task, device: torch.device, threads: int | None) -> float:
    """The least time that forward and backward of a step took."""
    trainer = Trainer(task, device)

    def step() -> None:
        trainer.rehearse()
        if device.type == "cuda":
            torch.cuda.synchronize()

    if device.type != "cpu" or threads is not None:
        return least_seconds(step)
    most = torch.get_num_threads()
    try:
        return use_fastest_threads(step)
    finally:
        torch.set_num_threads(most)
