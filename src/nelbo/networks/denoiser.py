"""What formats and training ask of a network that denoises, whichever it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from nelbo.base.errors import NelboError
from nelbo.networks.config import NetworkConfig
from nelbo.networks.pretrained import Pretrained


@dataclass(frozen=True)
class DenoiserConfig(NetworkConfig):
    """What every denoising network states: what it was made for, and what it reads beside x_t.

    Attributes:
        for_text: whether pipelines hold the network beside a text encoder.
        sample_size: height and width the network was made for, or a side; None where unknown.
        in_channels: channels of x_t.
        out_channels: channels of the output; 2 · in_channels for a learned variance.
    """

    for_text: ClassVar[bool] = False

    sample_size: int | tuple[int, int] | None = None
    in_channels: int = 3
    out_channels: int = 3

    @property
    def shape(self) -> tuple[int, int, int] | None:
        """Channels, height and width that the network was made for; None where unknown."""
        if self.sample_size is None:
            return None
        sides = self.sample_size
        height, width = (sides, sides) if isinstance(sides, int) else sides
        return self.in_channels, height, width

    @property
    def takes_size(self) -> bool:
        """Whether the network reads a pooled prompt and the size of the picture, as SDXL's."""
        return False


class Denoiser(Pretrained):
    """A network called as `(x_t, network_time, condition)`, one of `nelbo.networks.denoisers`.

    Attributes:
        folder: the folder, and name, of the network in a pipeline.
    """

    folder: ClassVar[str]
    config_classes: ClassVar[tuple[type[DenoiserConfig], ...]]
    config: DenoiserConfig

    def with_classes(self, before: Sequence[str], after: Sequence[str]) -> Self:
        """The network for other classes, and every other weight as it is.

        Args:
            before: the names of its classes; empty where it has none, or they are not known.
            after: of those that are wanted; none for a network without.

        Raises:
            NelboError: a network whose labels are no numbers of classes.
        """
        raise NelboError(f"the classes of a {type(self).__name__} cannot be changed")
