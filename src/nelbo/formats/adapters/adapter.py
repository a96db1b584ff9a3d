"""What an adapter of a pipeline of diffusers states: its network, its prompts and its autoencoder.

The chain, its bound and its samplers are nelbo's. An adapter answers four questions about a
pipeline: how latents are packed and scaled, what a prompt becomes, what time its network receives,
and which way the velocity points.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from nelbo.chain.conditioning import Condition
from nelbo.formats.adapters.autoencoders import kl_autoencoder
from nelbo.formats.adapters.prompts import AdaptedPrompts
from nelbo.formats.pipeline import Pipeline
from nelbo.networks.encoding import Autoencoder

# How many levels networks were trained with, that of noise without signal the last.
LEVELS = 1000


@dataclass(frozen=True)
class AdaptedConfig:
    """What nelbo asks of the configuration of a network, and the rest of it.

    Attributes:
        class_name: the class of the network in diffusers.
        shape: channels, height and width of the latents that it was made for.
        out_channels: of its answer; twice the latents' with a learned variance.
        fields: its own configuration, and what else decides its answer.
    """

    class_name: str
    shape: tuple[int, int, int]
    out_channels: int
    fields: Mapping[str, Any]

    for_text: ClassVar[bool] = True
    takes_size: ClassVar[bool] = False

    @property
    def in_channels(self) -> int:
        """Channels of the latents."""
        return self.shape[0]

    def to_dict(self) -> dict[str, Any]:
        """All that decides the answer of the network beside its weights."""
        return {"_class_name": self.class_name, **self.fields}


class AdaptedNetwork(nn.Module, ABC):
    """A network of diffusers as a chain calls it; subclasses write `answer`.

    Args:
        transformer: the network.
        whole_times: count its time in whole numbers, as schedulers that hold such times do.
        guidance: the scale that a guidance-distilled network receives; None is its usual one.

    Attributes:
        folder: the folder of the network in a pipeline.
        class_name: its class in diffusers.
        patch: the side of the patches of latents that are its tokens.
        usual_guidance: what a guidance-distilled network is called with where nothing is asked for.
    """

    folder: ClassVar[str] = "transformer"
    class_name: ClassVar[str]
    patch: ClassVar[int] = 2
    usual_guidance: ClassVar[float] = 3.5

    def __init__(
        self,
        transformer: Any,
        *,
        whole_times: bool = False,
        guidance: float | None = None,
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.whole_times = whole_times
        self.embedded_guidance: float | None = None
        if self.is_distilled(transformer.config):
            self.embedded_guidance = self.usual_guidance if guidance is None else guidance
        channels = self.latent_channels(transformer.config)
        more = {"whole_times": whole_times, "guidance": self.embedded_guidance}
        self.config = AdaptedConfig(
            self.class_name,
            self.latent_shape(transformer.config),
            channels * self.output_multiple(transformer.config),
            {name: v for name, v in transformer.config.items() if name[0] != "_"} | more,
        )

    @classmethod
    def latent_channels(cls, config: Mapping[str, Any]) -> int:
        """C of the latents, from the configuration of the network."""
        return config["in_channels"]

    @classmethod
    def latent_shape(cls, config: Mapping[str, Any]) -> tuple[int, int, int]:
        """(C, H, W) of the latents that the network was made for."""
        side = config.get("sample_size") or 128
        return cls.latent_channels(config), side, side

    @staticmethod
    def output_multiple(config: Mapping[str, Any]) -> int:
        """How many channels it answers for each of the latents."""
        return 1

    @staticmethod
    def is_distilled(config: Mapping[str, Any]) -> bool:
        """Whether its guidance is one of its inputs."""
        return bool(config.get("guidance_embeds"))

    def with_guidance(self, guidance: float) -> AdaptedNetwork:
        """The same network at another embedded guidance."""
        return type(self)(self.transformer, whole_times=self.whole_times, guidance=guidance)

    def forward(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """The answer at a state (B, C, H, W) and time (B,), in the precision of the state.

        The time counts the levels that the network was trained with, from 0 to 1,000.
        """
        dtype = next(self.transformer.parameters()).dtype
        if self.whole_times:  # float32 may lie just below what float64 has
            time = (time + 1e-3).floor()
        return self.answer(x.to(dtype), time, condition.float_to(dtype)).to(x.dtype)

    @abstractmethod
    def answer(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """What the network answers, in the coordinates of the chain."""

    def rescale_guided(self, guided: Tensor, conditional: Tensor) -> Tensor:
        """What a pipeline makes of a guided answer; here nothing."""
        return guided

    def guidance_input(self, x: Tensor) -> Tensor | None:
        """The embedded guidance of each example, (B,) float32; None for a network without."""
        if self.embedded_guidance is None:
            return None
        return x.new_full((len(x),), self.embedded_guidance).float()


@dataclass(frozen=True)
class Adapter:
    """How one class of pipelines is read.

    Attributes:
        pipeline: the class, as the index of a pipeline names it.
        network: calls its network.
        prompts: embeds its prompts.
        autoencoder: reads the autoencoder of a pipeline: q(z|x) and the image of z.
        spacing: how the pipeline spreads the times of flow matching before their shift:
            "trailing" from 1 to 1/n, "linspace" between the ends of the chain.
    """

    pipeline: str
    network: type[AdaptedNetwork]
    prompts: type[AdaptedPrompts]
    autoencoder: Callable[[Pipeline], Autoencoder] = kl_autoencoder
    spacing: str = "linspace"
