"""What a trainer trains: a module, examples, and how a part of a batch becomes an objective.

The loop knows no more than this, so that all kinds of models share it, with its checkpoints,
averages, precision and processes.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from nelbo.chain.distributions import generator_for
from nelbo.data import ImageData
from nelbo.data.stream import ImageStream
from nelbo.diffusion.level_samplers import LevelSampler, make_level_sampler
from nelbo.diffusion.objectives import BatchPart, Objective, default_probabilities
from nelbo.diffusion.weighting import MinSNR, Sigmoid, Weighting
from nelbo.training.config import TrainingConfig

Wrap = Callable[[nn.Module], nn.Module]


def unchanged(network: nn.Module) -> nn.Module:
    """The network itself."""
    return network


class Batch(NamedTuple):
    """What a step is taken on.

    Attributes:
        step: number of the step, for draws from streams of their own.
        examples: numbers of the examples of the whole batch.
        part: which of these to compute.
        generator: the source of all other draws, which are made for the whole batch.
    """

    step: int
    examples: Tensor
    part: BatchPart
    generator: torch.Generator


class Terms(Protocol):
    """What the loop reads of a part of a batch."""

    @property
    def loss(self) -> Tensor:
        """What to minimise, the mean over the part, scalar."""

    @property
    def nelbo(self) -> Tensor:
        """The negative bound of each example, nats, without gradient."""


class Task(ABC):
    """A module to train, the examples to train it on, and how.

    Attributes:
        module: what is trained.
        config: how.
        networks: the names of the networks within the module, each called as one.
        examples: how many there are.
        bits: bits per dimension of a nat of the bound.
        loss_scale: what the loss is multiplied by: a bound is in nats per image, and gradients are
            clipped in bits per dimension, whatever the size of an image.
        level_sampler: what draws the levels of a batch.
        images: what the examples are read from, where they are images.
        keys: `ImageData.keys` of the examples, (N, 2) int64, where they are known.
        stream: what the examples are read from as they are needed, if they are.
    """

    module: nn.Module
    config: TrainingConfig
    networks: tuple[str, ...]
    examples: int
    bits: float
    loss_scale: float = 1.0
    level_sampler: LevelSampler | None = None
    images: ImageSource
    keys: Tensor | None = None
    stream: ImageStream | None = None

    @abstractmethod
    def terms(self, module: nn.Module, batch: Batch) -> Terms:
        """The objective of a part of a batch, as `module` computes it in place of its own."""

    @property
    def learning_sampler(self) -> LevelSampler | None:
        """The level sampler, where it learns from the losses and so has a state to keep."""
        sampler = self.level_sampler
        return sampler if sampler is not None and sampler.learns else None

    def learn_from(self, images: ImageSource, config: TrainingConfig) -> None:
        """Take the examples of a source of images."""
        self.images, self.config = images, config
        self.stream, self.keys, self.examples = images.stream, images.keys, len(images.data)
        self.bits = bits_per_nat(images.data.shape)

    def networks_of(self, module: nn.Module) -> list[nn.Module]:
        """The networks of the module, or of a copy of it."""
        return [module.get_submodule(name) for name in self.networks]

    def variant(self, wrap: Wrap = unchanged, module: nn.Module | None = None) -> nn.Module:
        """What computes `terms`: the module, or a copy of it, with its networks wrapped; all
        weights are shared."""
        variant = self.module if module is None else module
        for name in self.networks:
            variant = _with_child(variant, name, wrap(variant.get_submodule(name)))
        return variant

    def reading_ahead(self, parts: list[slice]) -> AbstractContextManager[None]:
        """While this lasts, the examples of the next batches are read, if they come from a stream.

        Args:
            parts: what of each batch will be asked for.
        """
        return nullcontext() if self.stream is None else self.stream.reading_ahead(parts)


class ImageSource:
    """The images of a step, from memory or from a stream.

    Args:
        data: the images.
        seed: decides the order of a stream.
    """

    def __init__(self, data: ImageData, seed: int) -> None:
        self.data = data
        self.stream = None if data.stream is None else data.stream.seeded(seed)

    @property
    def keys(self) -> Tensor | None:
        """`ImageData.keys`; what a stream holds is not known."""
        return self.data.keys if self.stream is None else None

    def pixels(self, index: Tensor, part: BatchPart) -> Tensor:
        """The pixel levels of a part of a batch."""
        if self.stream is None:
            return self.data.images[index[part.slice]]
        return self.stream.batch(int(index[0]), len(index)).images(part.slice)

    def labels(self, index: Tensor) -> Tensor | None:
        """The classes of a batch, if there are any."""
        if self.data.labels is None:
            return None
        if self.stream is None:
            return self.data.labels[index]
        return self.stream.batch(int(index[0]), len(index)).labels


def device_of(module: nn.Module) -> torch.device:
    """The device of the weights."""
    return next(module.parameters()).device


def flips(config: TrainingConfig, step: int, batch: int) -> Tensor:
    """Which images of a step are mirrored, none unless that is asked for; from a stream of its own,
    so no other draw changes."""
    if not config.horizontal_flip:
        return torch.zeros(batch, dtype=torch.bool)
    return torch.rand(batch, generator=generator_for(config.seed, 2, step)) < 0.5


def flipped(images: Tensor, which: Tensor) -> Tensor:
    """The images, some of them mirrored left to right."""
    if not which.any():
        return images
    return torch.where(which.view(-1, 1, 1, 1), images.flip(-1), images)


def bits_per_nat(shape: Sequence[int]) -> float:
    """Bits per dimension of a nat of examples of a shape."""
    return 1.0 / (math.prod(shape) * math.log(2.0))


def objective_of(config: TrainingConfig, levels: int) -> Objective:
    """The objective of a diffusion model with this many levels."""
    kind: str | Weighting = config.objective
    if kind == "min_snr":
        kind = MinSNR(config.snr_gamma)
    elif kind == "sigmoid":
        kind = Sigmoid(config.sigmoid_bias)
    plain = Objective(
        kind, input_perturbation=config.input_perturbation, level_shift=config.level_shift
    )
    probabilities = default_probabilities(config.objective, levels, config.level_shift)
    return replace(plain, level_sampler=make_level_sampler(config.level_sampler, probabilities))


def _with_child(module: nn.Module, name: str, child: nn.Module) -> nn.Module:
    """The module with another descendant of that name, sharing all else; itself where it is its."""
    first, _, rest = name.partition(".")
    own = module.get_submodule(first)
    if rest:
        child = _with_child(own, rest, child)
    if child is own:
        return module
    twin = copy.copy(module)
    twin._modules = {**module._modules, first: child}
    return twin
