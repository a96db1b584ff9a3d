r"""What commands, reports, evaluations, pages and coders ask of a model: they ask, never its type.

A model has data of one shape, gives each example the named costs of its `Evidence`, and samples.
Where it is, or holds, a chain of latents, `chain` is that chain, whose levels are then evaluated
and walked; a model without one is evaluated and sampled in one call.

`nelbo.chain.base_model.BaseModel` answers for a model without chain, classes, prompts or control,
so that a family of models writes `evidence` and `sample` and what else it has.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from nelbo.chain.conditioning import Condition
from nelbo.chain.data_space import DataSpace
from nelbo.chain.distributions import Generators
from nelbo.chain.estimators import Estimator
from nelbo.chain.evidence import Evidence

# Yields log P of each level of the next value, (n, levels), and is sent the value's levels, (n,).
Conditionals = Generator[Tensor, Tensor, None]


@runtime_checkable
class Model(Protocol):
    """A generative model; `BaseModel` documents each member and has the usual answers."""

    @property
    def shape(self) -> tuple[int, ...] | None:
        """(C, H, W) of one example; None where only sampling needs it."""

    @property
    def data(self) -> DataSpace:
        """`Pixels(levels)` or `Continuous()`."""

    @property
    def chain(self) -> Any:
        """The `Diffusion` inside: itself, the prior of a latent model, or None."""

    @property
    def latent_chain(self) -> Any:
        """The `MHVAE` that it is, or holds, whose latents examples are coded by; or None."""

    def conditionals(self, n: int) -> Conditionals | None:
        """P of each value of `n` examples given those before it; None for a model without."""

    @property
    def device(self) -> torch.device:
        """Where its weights are."""

    @property
    def num_classes(self) -> int:
        """How many classes it can be conditioned on; 0 for none."""

    @property
    def reads_text(self) -> bool:
        """Whether it can be conditioned on prompts and captions."""

    @property
    def control_shape(self) -> tuple[int, int, int] | None:
        """(C, H, W) of the spatial control that it reads, as with a ControlNet; None for none."""

    @property
    def few_levels_matter(self) -> bool:
        """Whether its bound varies at few levels of the chain, where these are best drawn."""

    @property
    def lacks_scale(self) -> bool:
        """Whether its likelihood lacks the scale of a decoder, to be fitted to images."""

    @property
    def guidance(self) -> float | None:
        """The scale of the guidance of its chain; None for a chain that is not guided."""

    @property
    def embedded_guidance(self) -> float | None:
        """The guidance that a distilled network receives as an input; None for any other."""

    def evidence(
        self,
        x_0: Tensor,
        condition: Condition | None = None,
        *,
        levels: int | Estimator | None = None,
        generator: torch.Generator | None = None,
    ) -> Evidence:
        """What each example costs, term by term."""

    def bound_map(
        self,
        x_0: Tensor,
        condition: Condition | None = None,
        *,
        levels: int | Estimator | None = None,
        generator: torch.Generator | None = None,
    ) -> Any:
        """Where in each example the nats go; None for a model without such a map."""

    def sample(
        self,
        n: int,
        sampler: Any = None,
        *,
        condition: Condition | None = None,
        generator: Generators | None = None,
    ) -> Tensor:
        """`n` examples, (n, C, H, W)."""

    def check_data(self, x_0: Tensor) -> None:
        """Raise `NelboError` where `x_0` is not data of this model."""

    def condition_for(
        self, n: int, labels: Tensor | None = None, captions: Sequence[str | None] | None = None
    ) -> Condition | None:
        """The condition of `n` examples with these labels and captions."""

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
        """What is walked, with its guidance, and the condition of `n` of its states."""

    def condition_between(self, first: Any, second: Any, frames: int) -> Condition:
        """The conditions on the straight way from one prompt to another, ends included."""

    def encode(self, x: Tensor) -> Distribution:
        """q(z_0|x): of which states of the chain examples are made."""

    def decode(self, z: Tensor) -> Tensor:
        """The examples that states of the chain stand for."""

    def decoder_log_prob(self, x_0: Tensor, z: Tensor) -> Tensor:
        """log p(x_0|z) of examples given states of the chain, nats, (B,)."""

    def identity(self) -> dict[str, Any]:
        """All that decides its evidence beside the weights, by its name in messages."""

    @property
    def title(self) -> str:
        """What kind of model it is, such as "A diffusion model"."""

    def facts(self) -> dict[str, Any]:
        """What it is, name by name, for people."""

    def description(self) -> str:
        """What it is, in a sentence without its full stop."""

    def respace(self, levels: Any) -> Self:
        """The model with a shorter chain, through these levels."""

    def with_profile(self, profile: Any, *, variance: str | None = None) -> Self:
        """The model with a profile of its chain, and another variance where one is named."""

    def with_controlnets(self, *controlnets: Any) -> Self:
        """The model with ControlNets on the network of its chain."""

    def with_network(self, network: Any) -> Self:
        """The model with another network of its chain."""

    def with_embedded_guidance(self, guidance: float) -> Self:
        """The model whose distilled network receives another guidance."""

    def to(self, device: Any) -> Self:
        """The model on a device, as `torch.nn.Module.to`."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Its weights by name, as `torch.nn.Module.named_parameters`."""

    def eval(self) -> Self:
        """The model in evaluation mode, as `torch.nn.Module.eval`."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Its weights, as `torch.nn.Module.parameters`."""

    def state_dict(self) -> dict[str, Any]:
        """Its weights and buffers by name, as `torch.nn.Module.state_dict`."""
