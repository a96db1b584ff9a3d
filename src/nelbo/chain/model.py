r"""What commands, reports, evaluations, pages and coders ask of a model: they ask, never its type.

A model has data of one shape, gives each example the named costs of its `Evidence`, and samples.
Where it is, or holds, a chain of latents, `chain` is that chain, whose levels are then evaluated
and walked; a model without one is evaluated and sampled in one call.

Every question has a usual answer, that of a model without chain, classes, prompts or control, so
that a family of models writes `evidence` and `sample` and what else it has.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator, Iterator, Sequence
from typing import Any, Protocol, Self, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributions import Distribution

from nelbo.base.arguments import described
from nelbo.base.errors import NelboError
from nelbo.chain.conditioning import Condition, check_condition
from nelbo.chain.data_space import Continuous, DataSpace
from nelbo.chain.distributions import Generators, Known
from nelbo.chain.estimators import Estimator
from nelbo.chain.evidence import Evidence
from nelbo.chain.examples import check_examples

# Yields log P of each level of the next value, (n, levels), and is sent the value's levels, (n,).
Conditionals = Generator[Tensor, Tensor, None]


@runtime_checkable
class Model(Protocol):
    """A generative model; `BaseModel` is one that is a module."""

    @property
    def shape(self) -> tuple[int, ...] | None:
        """(C, H, W) of one example; None where only sampling needs it."""

    @property
    def data(self) -> DataSpace:
        """What the values of an example are: `Pixels(levels)` or `Continuous()`."""

    @property
    def chain(self) -> Any:
        """The `Diffusion` inside whose levels are evaluated and walked; None without one."""
        return None

    @property
    def latent_chain(self) -> Any:
        """The `MHVAE` that the model is, or holds, whose latents examples are coded by; or None."""
        return None

    def conditionals(self, n: int) -> Conditionals | None:
        """P of each value of `n` examples given those before it, in raster order; None without.

        The channels of a pixel follow one another. The generator yields log P of every pixel level
        of the next value, (n, levels), and is sent the levels of that value, (n,) int64.
        """
        return None

    @property
    def device(self) -> torch.device:
        """Where the weights are; the CPU for a model without any."""
        return next(self.parameters(), torch.empty(0)).device

    @property
    def num_classes(self) -> int:
        """How many classes the model can be conditioned on; 0 for none."""
        return 0

    @property
    def reads_text(self) -> bool:
        """Whether the model can be conditioned on prompts and captions."""
        return False

    @property
    def control_channels(self) -> list[int]:
        """The channels of the control that each ControlNet reads; empty without any."""
        return []

    @property
    def control_shape(self) -> tuple[int, int, int] | None:
        """(C, H, W) of the spatial control that the model reads, as with a ControlNet."""
        return None

    @property
    def few_levels_matter(self) -> bool:
        """Whether the bound varies at few levels of the chain, where these are best drawn."""
        return False

    @property
    def lacks_scale(self) -> bool:
        """Whether the likelihood lacks the scale of a decoder, to be fitted to images."""
        return False

    @property
    def guidance(self) -> float | None:
        """The scale of the guidance of the chain; None for a chain that is not guided."""
        return None

    @property
    def embedded_guidance(self) -> float | None:
        """The guidance that a distilled network receives as an input; None for any other."""
        return None

    @abstractmethod
    def evidence(
        self,
        x_0: Float[Tensor, "batch ..."],
        condition: Condition | None = None,
        *,
        levels: int | Estimator | None = None,
        generator: torch.Generator | None = None,
    ) -> Evidence:
        """What each example costs, term by term, in nats.

        Args:
            x_0: data, (B, C, H, W).
            condition: what the model is conditioned on for each example.
            levels: of the chain, as `TractableMHVAE.elbo`; a model without a chain ignores them.
            generator: the source of all noise.

        Raises:
            NelboError: `x_0` that is not data of this model.
        """

    def bound_map(
        self,
        x_0: Float[Tensor, "batch ..."],
        condition: Condition | None = None,
        *,
        levels: int | Estimator | None = None,
        generator: torch.Generator | None = None,
    ) -> Any:
        """Where in each example the nats go, a `BoundMap`; None for a model without one."""
        return None

    @abstractmethod
    def sample(
        self,
        n: int,
        sampler: Any = None,
        *,
        condition: Condition | None = None,
        generator: Generators | None = None,
    ) -> Float[Tensor, "n ..."]:
        """`n` examples, (n, C, H, W).

        Args:
            n: how many.
            sampler: how to walk the chain, for a model that has one.
            condition: what to sample, one entry an example.
            generator: the source of all noise, or one an example.
        """

    def check_data(self, x_0: Float[Tensor, "batch ..."]) -> None:
        """Raise `NelboError` where `x_0` is not data of this model's shape and space."""
        check_examples(x_0=x_0)
        if self.shape is not None and tuple(x_0.shape[1:]) != self.shape:
            raise NelboError(
                f"images have shape {tuple(x_0.shape[1:])} in a batch of shape {tuple(x_0.shape)}, "
                f"the model takes {self.shape}"
            )
        if not len(x_0):
            raise NelboError("a batch of no images has no bound: give at least one")
        self.data.check(x_0)

    def condition_for(
        self,
        n: int,
        labels: Int[Tensor, " batch"] | None = None,
        captions: Sequence[str | None] | None = None,
    ) -> Condition | None:
        """The condition of `n` examples, on the device of the model; None for none.

        A class-conditional model is conditioned on the labels, one of text on the captions, and
        on no caption where an example has none, which is the unconditional model.

        Args:
            n: how many examples.
            labels: class of each, −1 for no label; or None.
            captions: of each, None for no caption; or None.
        """
        if not self.num_classes or labels is None:
            return None
        return Condition(label=labels).to(self.device)

    def classes_in_turn(self, n: int, labels: Sequence[int] = ()) -> Condition | None:
        """The condition of `n` examples on these classes in turn, or on all; None without any."""
        in_turn = list(labels) or list(range(self.num_classes))
        if not in_turn:
            return None
        chosen = [in_turn[i % len(in_turn)] for i in range(n)]
        return Condition(label=torch.tensor(chosen, device=self.device))

    def conditioned(
        self,
        n: int,
        *,
        condition: Condition | None = None,
        prompt: Any = None,
        negative_prompt: Any = None,
        control: Any = None,
        guidance: Any = 1.0,
    ) -> tuple[Any, Condition | None]:
        """What is walked, with its guidance, and the condition of `n` of its states.

        That is the chain, for any sampler or edit; the model itself where it has none.

        Arguments are as `LatentDiffusion.sample`.

        Raises:
            NelboError: a prompt or control, of which this model reads none, or a condition of
                another number.
        """
        check_condition(condition, n)
        given = {"prompt": prompt, "negative_prompt": negative_prompt, "control": control}
        for name, value in given.items():
            if value is not None:
                raise NelboError(f"{name} was given to a model that reads none")
        if guidance not in (1.0, None) and getattr(guidance, "scale", guidance) != 1.0:
            raise NelboError("guidance was given to a model without a chain, which has none")
        return self, condition

    def start(
        self, n: int, x_T: Tensor | None = None, generator: Generators | None = None
    ) -> Float[Tensor, "n ..."]:
        """The state that sampling starts from; of a model without a chain nothing, (n, 0)."""
        return torch.empty(n, 0)

    def condition_between(self, first: Any, second: Any, frames: int) -> Condition:
        """The conditions on the straight way from one prompt to another, ends included.

        Raises:
            NelboError: a model that reads no prompts.
        """
        raise NelboError("a prompt was given to a model without a text encoder")

    def encode(self, x: Float[Tensor, "batch ..."]) -> Distribution:
        """q(z_0|x): of which states of the chain examples are made, all mass at `x` itself."""
        return Known(x)

    def decode(self, z: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """The examples that states of the chain stand for: the states themselves."""
        return z

    def decoder_log_prob(
        self, x_0: Float[Tensor, "batch ..."], z: Float[Tensor, "batch ..."]
    ) -> Float[Tensor, " batch"]:
        """log p(x_0|z) of examples given states of the chain, nats: 0, for these are the data."""
        return x_0.new_zeros(len(x_0))

    def respace(self, levels: Any) -> Self:
        """The model with a shorter chain, through these levels.

        Raises:
            NelboError: a model without a chain.
        """
        raise NelboError(f"{self.noun} has no chain of levels to shorten")

    def with_profile(self, profile: Any, *, variance: str | None = None) -> Self:
        """The model with a profile of its chain, and another variance where one is named.

        Raises:
            NelboError: a model without a chain.
        """
        raise NelboError(f"{self.noun} has no chain of levels to have a profile of")

    def with_controlnets(self, *controlnets: Any) -> Self:
        """The model with ControlNets on the network of its chain, beside any that are there.

        Args:
            *controlnets: one or more `ControlNet`, trained or fresh; see `ControlNet.from_unet`.

        Raises:
            NelboError: a model without a UNet, or ControlNets for another one.
        """
        raise NelboError(f"{self.noun} has no UNet for a ControlNet to control")

    def with_network(self, network: Any) -> Self:
        """The model with another network of its chain.

        Raises:
            NelboError: a model without a chain.
        """
        raise NelboError(f"{self.noun} has no chain with a network")

    def with_embedded_guidance(self, guidance: float) -> Self:
        """The model whose distilled network receives another guidance, which is another model.

        Raises:
            NelboError: a model whose network takes none.
        """
        raise NelboError(
            "the network of this model takes no embedded guidance, which those distilled from a "
            "guided model do: leave --embedded-guidance out; guidance=... is classifier-free"
        )

    def identity(self) -> dict[str, Any]:
        """All that decides the evidence beside the weights, by its name in messages."""
        return {"model": type(self).__name__, "pixel levels": repr(self.data)}

    @property
    def noun(self) -> str:
        """What kind of model it is, within a sentence: "a diffusion model", "an HMM"."""
        name = type(self).__name__
        # Abbreviations are read letter by letter, as "an aitch em em".
        vowels = "AEFHILMNORSX" if name.isupper() else "AEIO"
        return f"{'an' if name[0] in vowels else 'a'} {name}"

    @property
    def title(self) -> str:
        """What kind of model it is, at the beginning of a sentence: "A diffusion model"."""
        return f"{self.noun[0].upper()}{self.noun[1:]}"

    def facts(self) -> dict[str, Any]:
        """What the model is, name by name, for people."""
        found: dict[str, Any] = {}
        if self.shape is not None:
            found["image"] = " × ".join(str(side) for side in (*self.shape[1:], self.shape[0]))
        if not self.data.is_density:
            found["pixel levels"] = self.data.shown_levels
        parameters = sum(p.numel() for p in self.parameters())
        return found | ({"parameters": f"{parameters:,}"} if parameters else {})

    def description(self) -> str:
        """What the model is, in a sentence without its full stop."""
        if self.shape is None:
            return self.title
        channels, height, width = self.shape
        pixels = "" if self.data.is_density else f" with {self.data.shown_levels} pixel levels"
        return (
            f"{self.title} of {height}×{width} images, {channels} channel{'s' * (channels > 1)}"
            f"{pixels}"
        )

    # What every `torch.nn.Module` has.

    def to(self, device: Any) -> Self:
        """The model on a device."""

    def eval(self) -> Self:
        """The model in evaluation mode."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Its weights."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Its weights by name."""

    def state_dict(self) -> dict[str, Any]:
        """Its weights and buffers by name."""


class BaseModel(nn.Module, Model):
    """A `Model` that is a module.

    Attributes:
        shape: (C, H, W) of one example, or None where only sampling needs it.
        data: what the values of an example are; by default real numbers.
        schedule: the noise levels of a model that is its own chain; else None.
    """

    shape: tuple[int, ...] | None = None
    data: DataSpace = Continuous()
    schedule: Any = None

    def extra_repr(self) -> str:
        """What the model is, above its modules."""
        return ", ".join(f"{name}: {value}" for name, value in self.facts().items())


def check_model(model: Any) -> None:
    """Raise `NelboError` for what is no model."""
    # By its class, since a property may raise before a family is fitted.
    if not hasattr(type(model), "evidence"):
        expected = "a model, such as nelbo.load(path) returns"
        raise NelboError(f"model is {described(model)}, expected {expected}")
