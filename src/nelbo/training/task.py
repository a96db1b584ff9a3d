"""What a trainer trains: a module, examples, and how a part of a batch becomes an objective.

The loop knows no more than this, so that models of pixels, autoencoders and priors of latents share
it, with its checkpoints, averages, precision and processes.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from nelbo.base.errors import NelboError
from nelbo.chain.conditioning import Condition
from nelbo.chain.distributions import generator_for
from nelbo.data import ImageData
from nelbo.data.stream import ImageStream
from nelbo.diffusion import Diffusion
from nelbo.diffusion.continuous import ContinuousDiffusion
from nelbo.diffusion.level_samplers import LevelSampler, make_level_sampler
from nelbo.diffusion.objectives import (
    BatchPart,
    Objective,
    TrainingTerms,
    default_probabilities,
)
from nelbo.diffusion.weighting import MinSNR, Sigmoid, Weighting
from nelbo.evidence.evaluation import check_fits
from nelbo.training.autoencoder import AutoencoderObjective
from nelbo.training.config import TrainingConfig, option
from nelbo.training.latents import LatentData, PriorObjective

Module = TypeVar("Module", bound=nn.Module)
Wrap = Callable[[nn.Module], nn.Module]


class Terms(Protocol):
    """What the loop reads of a part of a batch."""

    @property
    def loss(self) -> Tensor:
        """What to minimise, the mean over the part, scalar."""

    @property
    def nelbo(self) -> Tensor:
        """The negative bound of each example, nats, without gradient."""


class Task(ABC):
    """A module to train and the examples to train it on.

    Attributes:
        examples: how many there are.
        bits: bits per dimension of a nat of the bound.
        loss_scale: what the loss is multiplied by: a bound is in nats per image, and gradients are
            clipped in bits per dimension, whatever the size of an image.
        level_sampler: what draws the levels of a batch, where the trainer keeps its state.
        keys: `ImageData.keys` of the examples, (N, 2) int64, where they are known.
        stream: what the examples are read from as they are needed, if they are.
    """

    examples: int
    bits: float
    loss_scale: float = 1.0
    level_sampler: LevelSampler | None = None
    keys: Tensor | None = None
    stream: ImageStream | None = None

    @abstractmethod
    def networks(self, module: Any) -> list[nn.Module]:
        """The networks of the module, or of a copy of it, each called as one."""

    @abstractmethod
    def variant(self, wrap: Wrap) -> nn.Module:
        """The module with the same weights, its networks wrapped; itself where they are not."""

    @abstractmethod
    def terms(
        self,
        module: nn.Module,
        step: int,
        index: Tensor,
        part: BatchPart,
        generator: torch.Generator,
    ) -> Terms:
        """The objective of a part of a batch.

        Args:
            module: computes it, in place of the module itself.
            step: number of the step, for draws from streams of their own.
            index: which examples the whole batch has.
            part: which of these to compute.
            generator: the source of all other draws, which are made for the whole batch.
        """


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
        if self.stream is None:
            return None if self.data.labels is None else self.data.labels[index]
        has_labels = self.data.labels is not None
        return self.stream.batch(int(index[0]), len(index)).labels if has_labels else None


class PixelObjective(nn.Module):
    """The objective of a batch of images, as one module of a diffusion model.

    Args:
        model: the model to train.
        objective: what to minimise.
    """

    def __init__(self, model: Diffusion, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(
        self,
        x_0: Tensor,
        condition: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
        part: BatchPart | None = None,
    ) -> TrainingTerms:
        """As `nelbo.diffusion.objectives.Objective`."""
        return self.objective(self.model, x_0, condition, generator=generator, part=part)


class PixelTask(Task):
    """A diffusion model of images, which is told their labels if it takes any."""

    def __init__(self, model: Diffusion, data: ImageData, config: TrainingConfig) -> None:
        check_fits(model, data)
        self.model, self.config = model, config
        self.objective = _objective(config, model.num_levels)
        self.level_sampler = self.objective.level_sampler
        self.options: dict[str, Any] = {}
        self.images = ImageSource(data, config.seed)
        self.stream, self.keys, self.examples = self.images.stream, self.images.keys, len(data)
        self.bits = 1.0 / (math.prod(data.shape) * math.log(2.0))
        if config.objective == "bound":
            self.loss_scale = self.bits

    def networks(self, module: Any) -> list[nn.Module]:
        """The one that denoises."""
        return [module.network]

    def variant(self, wrap: Wrap) -> nn.Module:
        """The objective of the model around its wrapped network."""
        return PixelObjective(_around(self.model, wrap), self.objective)

    def terms(
        self,
        module: nn.Module,
        step: int,
        index: Tensor,
        part: BatchPart,
        generator: torch.Generator,
    ) -> Terms:
        """`PixelObjective`."""
        condition = self._condition(index, generator)
        images = self.images.pixels(index, part)
        if self.config.horizontal_flip:
            flips = _flips(self.config, step, len(index))[part.slice]
            images = torch.where(flips.view(-1, 1, 1, 1), images.flip(-1), images)
        x_0 = self.model.data.to_network(images)
        return module(
            x_0.to(generator.device, non_blocking=True),
            None if condition is None else condition[part.slice],
            generator=generator,
            part=part,
            **self.options,
        )

    def _condition(self, index: Tensor, generator: torch.Generator) -> Condition | None:
        labels = self.images.labels(index) if self.model.num_classes else None
        if labels is None:
            return None
        chance = torch.rand(len(index), generator=generator, device=generator.device)
        withheld = chance < self.config.label_dropout
        return Condition(label=labels.to(generator.device).masked_fill(withheld, -1))


class ContinuousTask(PixelTask):
    """A diffusion model of images whose schedule is learned beside its network."""

    def __init__(
        self, continuous: ContinuousDiffusion, data: ImageData, config: TrainingConfig
    ) -> None:
        expected: dict[str, tuple[Any, ...]] = {
            "objective": ("bound",),
            "level_sampler": ("low_discrepancy", "uniform"),
            "input_perturbation": (0.0,),
        }
        for name, values in expected.items():
            if getattr(config, name) not in values:
                raise NelboError(
                    f"a learned schedule follows the bound and the variance of its estimate, and "
                    f"needs {name} {' or '.join(map(str, values))}; got {getattr(config, name)!r}"
                )
        super().__init__(continuous.model, data, config)
        self.continuous = continuous
        self.options = {"level_sampler": self.level_sampler}

    def networks(self, module: Any) -> list[nn.Module]:
        """The one that denoises; the schedule is a few numbers."""
        return super().networks(module.model)

    def variant(self, wrap: Wrap) -> nn.Module:
        """The model with a wrapped network, and the same schedule."""
        return _sharing(self.continuous, model=_around(self.model, wrap))


class AutoencoderTask(Task):
    """An autoencoder of images; its objective is in nats a dimension already."""

    def __init__(
        self, objective: AutoencoderObjective, data: ImageData, config: TrainingConfig
    ) -> None:
        _refuse(
            config,
            "objective",
            "level_shift",
            "level_sampler",
            "input_perturbation",
            "snr_gamma",
            "sigmoid_bias",
            "label_dropout",
            why="an autoencoder has no levels and is told nothing; its likelihood is its objective",
        )
        _refuse(config, "horizontal_flip", why="an autoencoder is mirrored by --mirrored 0.5")
        if objective.data.levels != data.levels:
            raise NelboError(
                f"{data.source} has {data.levels} pixel levels, the objective has "
                f"{objective.data.levels}"
            )
        self.objective = objective
        self.images = ImageSource(data, config.seed)
        self.stream, self.keys, self.examples = self.images.stream, self.images.keys, len(data)
        self.bits = 1.0 / (math.prod(data.shape) * math.log(2.0))

    def networks(self, module: Any) -> list[nn.Module]:
        """Encoder and decoder; what lies between them is a few numbers."""
        return [module.autoencoder.encoder, module.autoencoder.decoder]

    def variant(self, wrap: Wrap) -> nn.Module:
        """The objective with a wrapped encoder and decoder."""
        autoencoder = self.objective.autoencoder
        parts = {name: getattr(autoencoder, name) for name in ("encoder", "decoder")}
        return _sharing(self.objective, autoencoder=_wrapped(autoencoder, parts, wrap))

    def terms(
        self,
        module: nn.Module,
        step: int,
        index: Tensor,
        part: BatchPart,
        generator: torch.Generator,
    ) -> Terms:
        """`AutoencoderObjective`."""
        x = self.objective.data.to_network(self.images.pixels(index, part))
        return module(x.to(generator.device), generator=generator, part=part)


class PriorTask(Task):
    """The prior of latents, with the text encoder that tells it of captions."""

    def __init__(self, objective: PriorObjective, data: LatentData, config: TrainingConfig) -> None:
        self.objective, self.data = objective, data
        self.options = {"objective": _objective(config, objective.prior.num_levels)}
        self.level_sampler = self.options["objective"].level_sampler
        self.config = config
        self.examples = len(data) // 2 if data.mirrored else len(data)
        if config.horizontal_flip and not data.mirrored:
            raise NelboError(
                "horizontal_flip needs the latents of the mirror images as well: encode the images "
                "with encode_data(..., mirrored=True)"
            )
        self.keys = None if data.keys is None else data.keys.cpu()
        dims = data.mean[0].numel()
        self.bits = 1.0 / ((data.dims or dims) * math.log(2.0))
        if config.objective == "bound":
            self.loss_scale = 1.0 / (dims * math.log(2.0))

    def networks(self, module: Any) -> list[nn.Module]:
        """The UNet and the text encoder that learns, if there is one."""
        return [module.prior.network, *([] if module.text is None else [module.text])]

    def variant(self, wrap: Wrap) -> nn.Module:
        """The objective with a wrapped UNet and text encoder."""
        prior, text = self.objective.prior, self.objective.text
        children: dict[str, nn.Module] = {"prior": _around(prior, wrap)}
        if text is not None:
            children["text"] = wrap(text)
        return _sharing(self.objective, **children)

    def terms(
        self,
        module: nn.Module,
        step: int,
        index: Tensor,
        part: BatchPart,
        generator: torch.Generator,
    ) -> Terms:
        """`PriorObjective`."""
        if self.config.horizontal_flip:
            index = index + self.examples * _flips(self.config, step, len(index))
        latents = self.data.take(index[part.slice].to(self.data.mean.device))
        return module(latents, generator=generator, part=part, **self.options)


_TASKS: tuple[tuple[type[nn.Module], type, Callable[[Any, Any, TrainingConfig], Task]], ...] = (
    (Diffusion, ImageData, PixelTask),
    (ContinuousDiffusion, ImageData, ContinuousTask),
    (AutoencoderObjective, ImageData, AutoencoderTask),
    (PriorObjective, LatentData, PriorTask),
)


def task_for(model: nn.Module, data: ImageData | LatentData, config: TrainingConfig) -> Task:
    """The task of a module on images, or of a `PriorObjective` on latents.

    Raises:
        NelboError: anything else, or data that do not fit.
    """
    for kind, kind_of_data, task in _TASKS:
        if isinstance(model, kind) and isinstance(data, kind_of_data):
            return task(model, data, config)
    known = "; ".join(f"a {kind.__name__} on {of.__name__}" for kind, of, _ in _TASKS)
    raise NelboError(
        f"a {type(model).__name__} cannot be trained on {type(data).__name__}; expected {known}"
    )


def _refuse(config: TrainingConfig, *names: str, why: str) -> None:
    """Raise `NelboError` for a setting that would be passed over in silence."""
    for name in names:
        if getattr(config, name) != getattr(TrainingConfig(), name):
            raise NelboError(f"{option(name)} {getattr(config, name)}: {why}; leave it out")


def _flips(config: TrainingConfig, step: int, batch: int) -> Tensor:
    """Which images of a step are mirrored; from a stream of its own, so no other draw changes."""
    return torch.rand(batch, generator=generator_for(config.seed, 2, step)) < 0.5


def _objective(config: TrainingConfig, levels: int) -> Objective:
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


def _around(model: Diffusion, wrap: Wrap) -> Diffusion:
    """The model around its wrapped network; itself where that is its own."""
    network = model.network
    assert isinstance(network, nn.Module)
    wrapped = wrap(network)
    return model if wrapped is network else model.replace(network=wrapped)


def _wrapped(module: Module, parts: dict[str, nn.Module], wrap: Wrap) -> Module:
    children = {name: wrap(part) for name, part in parts.items()}
    if all(children[name] is part for name, part in parts.items()):
        return module
    return _sharing(module, **children)


def _sharing(module: Module, **children: nn.Module) -> Module:
    """A module that shares everything but these children; itself where they are its own."""
    if all(module._modules[name] is child for name, child in children.items()):
        return module
    twin = copy.copy(module)
    twin._modules = {**module._modules, **children}
    return twin
