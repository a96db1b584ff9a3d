r"""The frame of every family: fit, evidence, sample, save.

A family's author writes `build`, `fitting`, `costs` and `draws`; checks of shapes, values and
arguments, seeds, time and files are here.
"""

from __future__ import annotations

import inspect
import itertools
import math
import operator
import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.base.arguments import check_count
from nelbo.base.errors import NelboError, explained
from nelbo.base.files import read_json
from nelbo.base.memory import available_memory
from nelbo.base.suggestions import unknown
from nelbo.chain.conditioning import Condition
from nelbo.chain.data_space import Continuous, DataSpace, Pixels
from nelbo.chain.distributions import Generators
from nelbo.chain.estimators import Estimator
from nelbo.chain.evidence import Evidence
from nelbo.chain.examples import check_examples
from nelbo.chain.model import BaseModel
from nelbo.data import ImageData
from nelbo.families.arguments import check_positive
from nelbo.families.examples import Examples, check_space, prepare
from nelbo.families.fitting import Budget, FitStep, Steps
from nelbo.families.noise import GlobalRandomness, device_for
from nelbo.networks.files import CONFIG_FILE, locate
from nelbo.networks.finite import check_finite_weights
from nelbo.networks.weights import check_weights, read_weights, write_network

WEIGHTS_FILE = "model.safetensors"
# What torch takes.
_LEAST_SEED = -(2**63)

# Every family by the name of its class.
FAMILIES: dict[str, type[Family]] = {}


class NotFittedError(NelboError, AttributeError):
    """A family is asked for what it has once it is fitted."""


class Family(BaseModel):
    """A model of images that is fitted in one call.

    Subclasses pass every argument of their own constructor on to this one by name: they are what
    config.json holds.

    Args:
        data: what the values are, where that is known before `fit`.
        **options: the arguments of the subclass.

    Attributes:
        shape: (C, H, W) of one image; None until the model is fitted.
        data: what the values are; until the model is fitted those given, or `Continuous()`.
        options: the arguments of the constructor, by name.
        last_step: the last step of the last fit, or None.
        spaces: the data spaces that the family has a likelihood for.
    """

    shape: tuple[int, ...] | None
    data: DataSpace
    spaces: ClassVar[tuple[type, ...]] = (Pixels, Continuous)

    def __init__(self, data: DataSpace | None = None, **options: Any) -> None:
        super().__init__()
        check_space(data)
        self.options = options
        self.last_step: FitStep | None = None
        self.shape = None
        self.data = Continuous() if data is None else data
        self._given_space = data

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not inspect.isabstract(cls) and not cls.__name__.startswith("_"):
            FAMILIES[cls.__name__] = cls

    # What an author writes.

    @abstractmethod
    def build(self) -> None:
        """Register the parameters and buffers, whose shapes follow from shape, data and options.

        Raises:
            NelboError: images too large for this family, or of an unsupported kind.
        """

    @abstractmethod
    def fitting(self, examples: Examples, budget: Budget, generator: torch.Generator) -> Steps:
        """Fit to the examples; after each yielded step the model can be used."""

    @abstractmethod
    def costs(self, x_0: Tensor, generator: torch.Generator | None) -> Evidence:
        """The evidence of images that were checked."""

    @abstractmethod
    def draws(self, n: int, generator: torch.Generator | None) -> Tensor:
        """`n` images in network space; of pixels, on their levels."""

    # What follows for every family.

    def __getattr__(self, name: str) -> Tensor | torch.nn.Module:
        """What `build` registers; of a model that is not fitted it is not there yet."""
        try:
            return super().__getattr__(name)
        except AttributeError as error:
            if self.shape is not None or name.startswith("_"):
                raise
            raise NotFittedError(f"{self._not_fitted}; it has no {name} before") from error

    def extra_repr(self) -> str:
        """The arguments, and what the model is once it is fitted."""
        options = [f"{name}={value!r}" for name, value in self.options.items()]
        return ", ".join(filter(None, [*options, super().extra_repr()]))

    @property
    def name(self) -> str:
        """The name of the family."""
        return type(self).__name__

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image.

        Raises:
            NelboError: the model is not fitted.
        """
        if self.shape is None:
            # No AttributeError, on which Python would ask `__getattr__` for this very name.
            raise NelboError(self._not_fitted)
        channels, height, width = self.shape
        return channels, height, width

    @property
    def _not_fitted(self) -> str:
        return f"{self.name} is not fitted yet: call fit first, or nelbo.load one"

    @property
    def dims(self) -> int:
        """The number of values of one image."""
        return math.prod(self.image_shape)

    @property
    def device(self) -> torch.device:
        """Where the parameters and buffers are; the CPU before the model is fitted."""
        return next(itertools.chain(self.parameters(), self.buffers()), torch.empty(0)).device

    @property
    def allows_missing(self) -> bool:
        """Whether `fit` takes nan for values that are not known."""
        return False

    def fit(
        self,
        images: ImageData | Tensor,
        /,
        *,
        data: DataSpace | None = None,
        time_budget: float | None = None,
        seed: int = 0,
        device: torch.device | str | None = None,
    ) -> Self:
        """Fit the model, from the beginning if it was fitted before.

        Args:
            images: `ImageData`, or a tensor (N, C, H, W) in [−1, 1].
            data: what the values of a tensor are, by default what the constructor was given, else
                `Continuous()`.
            time_budget: seconds of wall-clock time after which no step is begun; at least one step
                is made. None fits until the held-out images no longer improve.
            seed: of everything that is drawn.
            device: where to compute, and where the model is then; by default a GPU where CUDA sees
                one, else the CPU.

        Raises:
            NelboError: unsupported images, a device that is not there or has no float64, or a fit
                that became singular or diverged.
        """
        steps = self.fit_steps(images, data=data, time_budget=time_budget, seed=seed, device=device)
        for _ in steps:
            pass
        return self

    def fit_steps(
        self,
        images: ImageData | Tensor,
        /,
        *,
        data: DataSpace | None = None,
        time_budget: float | None = None,
        seed: int = 0,
        device: torch.device | str | None = None,
    ) -> Steps:
        """`fit` one step at a time, for a progress bar; the model can be used after each."""
        if time_budget is not None:
            check_positive(time_budget=time_budget)
        check_count("seed", seed, least=_LEAST_SEED)
        seed = operator.index(seed)
        at, budget = device_for(device), Budget(time_budget)
        examples = prepare(images, data or self._given_space, seed, missing=self.allows_missing).to(
            at
        )
        steps = self.fitting(examples, budget, torch.Generator().manual_seed(seed))
        # Initial weights and dropout know no generator: they have a global state of their own.
        apart = GlobalRandomness(seed, at)
        self.last_step = None
        try:
            with apart:
                self.allocate(examples.shape, examples.space)
            self.to(at).train()
            while True:
                with apart:
                    step = next(steps, None)
                if step is None:
                    return
                self.last_step = step
                yield step
        except Exception as error:
            self.shape = None  # what is half fitted is no model
            if not isinstance(error, torch.linalg.LinAlgError):
                raise
            raise NelboError(
                f"the fit of {self.name} to {examples.source} became singular: use fewer latents, "
                f"or more images ({error})"
            ) from error
        finally:
            steps.close()
            self.eval()

    def allocate(self, shape: tuple[int, int, int], space: DataSpace) -> None:
        """Make room for the parameters of images of this shape.

        Raises:
            NelboError: images of an unsupported kind or size, or parameters beyond the memory.
        """
        if not isinstance(space, self.spaces):
            names = " or ".join(kind.__name__ for kind in self.spaces)
            raise NelboError(
                f"{self.name} models {names} data, not {type(space).__name__}: give an ImageData, "
                "or a tensor with data=Pixels(levels)"
            )
        self.shape, self.data = shape, space
        with torch.device("meta"):
            needed = self._rebuilt()
        if needed > (free := available_memory(torch.device("cpu"))):
            given = ", ".join(f"{name}={value}" for name, value in self.options.items())
            raise NelboError(
                f"the parameters of {self.name}({given}) for images {shape} take "
                f"{needed / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free: choose a smaller model"
            )
        self._rebuilt()

    def _rebuilt(self) -> float:
        """Build the model anew, and return the bytes of its parameters; beyond counting inf."""
        self._parameters.clear()
        self._buffers.clear()
        self._modules.clear()
        try:
            self.build()
        except RuntimeError as error:
            if "overflow" not in str(error):
                raise
            return math.inf
        return sum(each.nbytes for each in itertools.chain(self.parameters(), self.buffers()))

    def check_data(self, x_0: Tensor) -> None:
        """Raise `NelboError` where `x_0` is no data of this model, or the model is not fitted."""
        _ = self.image_shape
        super().check_data(x_0)

    def check_shape(self, x: Tensor) -> None:
        """Raise `NelboError` unless `x` is a batch of tensors of the shape of images."""
        shape = self.image_shape
        check_examples(x=x)
        if tuple(x.shape[1:]) != shape:
            raise NelboError(f"x has shape {tuple(x.shape)}, expected {(len(x), *shape)}")

    def evidence(
        self,
        x_0: Float[Tensor, "batch ..."],
        condition: Condition | None = None,
        *,
        levels: int | Estimator | None = None,
        generator: torch.Generator | None = None,
    ) -> Evidence:
        """What each image costs, term by term, in nats.

        Args:
            x_0: images in network space, (B, C, H, W).
            condition: must be None: families are not conditional.
            levels: of a chain, which this model has not; ignored.
            generator: the source of noise where the evidence is estimated.

        Raises:
            NelboError: the model is not fitted, no images, or images that are not data of this
                model.
        """
        self.check_data(x_0)
        self._refuse({"condition": condition})
        return self.costs(x_0, generator)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        sampler: Any = None,
        *,
        generator: Generators | None = None,
        **options: Any,
    ) -> Float[Tensor, "n channels height width"]:
        """`n` images in network space, float32.

        Args:
            n: how many.
            sampler: must be None: there is no chain to walk.
            generator: the source of noise, or one an image.
            options: those of models with a chain, left at their defaults.

        Raises:
            NelboError: the model is not fitted, n below one, or an option that it has not.
        """
        shape = self.image_shape
        check_count("the number of samples", n)
        self._refuse({"sampler": sampler} | options)
        if isinstance(generator, Sequence):
            if len(generator) != n:
                raise NelboError(f"{len(generator)} generators for {n} images: give one an image")
            images = torch.cat([self.draws(1, each) for each in generator])
        else:
            images = self.draws(n, generator)
        return images.reshape(n, *shape).float()

    def _refuse(self, options: Mapping[str, Any]) -> None:
        """Raise `NelboError` for options of models with a chain or a condition."""
        for option, value in options.items():
            if value is not None and not (option == "guidance" and value == 1.0):
                raise NelboError(
                    f"{self.name} has neither a chain nor a condition: leave {option} out"
                )

    # On disk: config.json and model.safetensors.

    def config(self) -> dict[str, Any]:
        """What config.json holds: the class, its arguments, the shape and the data space."""
        levels = None if self.data.is_density else self.data.shown_levels
        return {
            "_class_name": self.name,
            "options": self.options,
            "shape": list(self.image_shape),
            "pixel_levels": levels,
        }

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Write config.json and model.safetensors; each appears whole or not at all.

        Raises:
            NelboError: the model is not fitted, its numbers are not finite, or the directory cannot
                be written.
        """
        config = self.config()
        check_finite_weights(self.state_dict(), f"the {self.name} to save")
        write_network(Path(path), WEIGHTS_FILE, self.state_dict(), config)

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> Family:
        """A model with room for its parameters, from the contents of a config.json.

        Raises:
            NelboError: a field that is missing, unknown or damaged, by name.
        """
        name = config.get("_class_name")
        if name not in FAMILIES:
            raise NelboError(f"_class_name: {unknown('family', str(name), FAMILIES)}")
        family, options = FAMILIES[name], config.get("options")
        known = inspect.signature(family).parameters
        if not isinstance(options, dict) or not options.keys() <= known.keys():
            raise NelboError(f"options is {options!r}, expected arguments of {name}")
        shape, levels = config.get("shape"), config.get("pixel_levels")
        if not (
            isinstance(shape, list)
            and len(shape) == 3
            and all(type(size) is int and size > 0 for size in shape)
        ):
            raise NelboError(f"shape is {shape!r}, expected [channels, height, width]")
        if not (levels is None or type(levels) is int):
            raise NelboError(f"pixel_levels is {levels!r}, expected a number or null")
        model = family(**options)
        channels, height, width = shape
        model.allocate(
            (channels, height, width), Continuous() if levels is None else Pixels(levels)
        )
        return model

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str]) -> Self:
        """The model that `save_pretrained` wrote into a directory, or on the Hub.

        Raises:
            NelboError: a file is missing or damaged, or is of another family than this class.
        """
        file = locate(path, None, CONFIG_FILE)
        content = read_json(file)
        with explained(file, NelboError, TypeError):
            model = cls.from_config(content)
        if not isinstance(model, cls):
            raise NelboError(f"{file} is of a {model.name}, not of a {cls.__name__}")
        weights_file = locate(path, None, WEIGHTS_FILE)
        weights = read_weights(path, None, weights_file)
        check_weights(weights, model.state_dict(), weights_file)
        check_finite_weights(weights, weights_file)
        model.load_state_dict(weights)
        return model.eval()
