"""One loop for every network with a likelihood: readings of held-out images, early stopping.

The loss is read on held-out images every second pass. Where they have not improved for some
readings, training goes back to the best weights at a third of the learning rate, and ends where
that does not help either. With a time budget the rate also falls along a cosine to its end. The
best weights that were read are kept.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nelbo.base.errors import NotFiniteError
from nelbo.families.examples import Examples
from nelbo.families.fitting import Budget, FitStep, Steps
from nelbo.families.optimizers import muon_of

# −log p(x) of each image or what stands for it, nats, given the source of noise.
Loss = Callable[[Tensor, torch.Generator], Tensor]

_CLIP = 1.0
_SLOWER = 3.0
# Passes between readings of the held-out images, which so take a fortieth of the time.
_BETWEEN = 2
# A pass over a small set is short: read the held-out images at most once in this many steps.
_LEAST_STEPS = 40
# Held-out images that are read, at most.
_READ = 1024


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        optimizer: makes the optimiser of a network with a learning rate.
        learning_rate: at first.
        batch_size: images a step.
        patience: readings without an improvement before the rate falls.
        decays: how often it falls before the end.
    """

    optimizer: Callable[[nn.Module, float], torch.optim.Optimizer] = muon_of
    learning_rate: float = 2e-3
    batch_size: int = 64
    patience: int = 2
    decays: int = 2


def train(
    network: nn.Module,
    loss: Loss,
    cost: Loss,
    examples: Examples,
    recipe: Recipe,
    budget: Budget,
    generator: torch.Generator,
) -> Steps:
    """Train a network, a step at a time; at the end it has the best weights that were read.

    Args:
        network: whose parameters are trained.
        loss: what is minimised on training images.
        cost: what is read on held-out images.
        examples: the images.
        recipe: how.
        budget: when the time is over.
        generator: of the order of images and of all noise.
    """
    # Convolutions of small images take a tenth less time with the channels last.
    _lay_out(network, torch.channels_last)
    optimizer = recipe.optimizer(network, recipe.learning_rate)
    batches = shuffled(len(examples), recipe.batch_size, generator)
    a_pass = math.ceil(len(examples) / recipe.batch_size)
    every = max(_LEAST_STEPS, _BETWEEN * a_pass)
    best, weights, since, decays = math.inf, copy.deepcopy(network.state_dict()), 0, 0
    try:
        for number in itertools.count(1):
            _slow_down(optimizer, recipe, budget, decays)
            value = step(optimizer, loss(examples.train[next(batches)], generator).mean())
            over, held = budget.is_over, math.nan
            if over or number % every == 0:
                held = read(network, cost, examples.held_out, recipe.batch_size)
                since = 0 if held < best else since + 1
                if held < best:
                    best, weights = held, copy.deepcopy(network.state_dict())
                if since >= recipe.patience:
                    since, decays = 0, decays + 1
                    network.load_state_dict(weights)
            over = over or decays > recipe.decays
            if over:
                network.load_state_dict(weights)
            yield FitStep(number, number / a_pass, value, held)
            if over:
                return
    finally:
        if best < math.inf:
            network.load_state_dict(weights)
        _lay_out(network, torch.contiguous_format)


def _lay_out(network: nn.Module, layout: torch.memory_format) -> None:
    """Store the weights of convolutions in another order of their dimensions."""
    network.to(memory_format=layout)  # type: ignore[call-overload]  # which its stubs lack


def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> float:
    """One update of the weights, its gradient clipped; the value of the loss.

    Raises:
        NotFiniteError: a loss that is not finite, before it spoils the weights.
    """
    if not math.isfinite(loss.item()):
        raise NotFiniteError(
            f"the loss is {loss.item()}: training diverged; use another seed, or a smaller network"
        )
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    nn.utils.clip_grad_norm_(parameters, _CLIP * max(1.0, abs(loss.item())))
    optimizer.step()
    return loss.item()


def shuffled(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """The indices of one batch after another, each pass in an order of its own."""
    while True:
        yield from torch.randperm(count, generator=generator).split(size)


@torch.no_grad()
def read(network: nn.Module, cost: Loss, images: Tensor, size: int) -> float:
    """The mean cost of images, with the same noise every time."""
    was_training = network.training
    network.eval()
    generator = torch.Generator().manual_seed(0)
    total = sum(float(cost(part, generator).sum()) for part in images[:_READ].split(size))
    network.train(was_training)
    return total / len(images[:_READ])


def _slow_down(
    optimizer: torch.optim.Optimizer, recipe: Recipe, budget: Budget, decays: int
) -> None:
    share = 0.5 * (1 + math.cos(math.pi * min(1.0, budget.used)))
    for group in optimizer.param_groups:
        group["lr"] = recipe.learning_rate * share / _SLOWER**decays
