"""What a diffusion model is made of, and how it is described: see `nelbo.chain.model`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from nelbo.base.digest import config_digest, digest
from nelbo.chain.conditioning import Condition
from nelbo.diffusion.encoder import GaussianEncoder
from nelbo.diffusion.prediction import Parameterization
from nelbo.diffusion.profile import LevelProfile
from nelbo.diffusion.thresholding import StaticThreshold, Threshold
from nelbo.networks.guidance import GuidedNetwork

Network = Callable[[Tensor, Tensor, Condition | None], Tensor]

# Stable Diffusion's, where a config does not hold the size of latents.
_UNKNOWN_SHAPE = (4, 64, 64)


class DescribedChain(GaussianEncoder):
    """A chain with a network; `nelbo.diffusion.decoder` makes its decoder of it.

    Attributes:
        network: predicts what `prediction` names.
        prediction: name of what the network predicts.
        parameterization: how its output is read.
        variance: name of the reverse variance Σ_t.
        threshold: what keeps the predicted x_0 in range, or None.
        profile: what each level costs on data, if it was measured.
    """

    network: Network
    prediction: str
    parameterization: Parameterization
    variance: str
    threshold: Threshold | None
    profile: LevelProfile | None

    @property
    def num_classes(self) -> int:
        """How many classes the network is conditioned on; 0 for an unconditional one."""
        return getattr(getattr(self.network, "config", None), "num_class_embeds", None) or 0

    @property
    def is_conditional(self) -> bool:
        """Whether the network takes a label or text; a callable without a config may."""
        config = getattr(self.network, "config", None)
        return config is None or bool(
            self.num_classes
            or getattr(config, "class_embed_type", None)
            or getattr(config, "for_text", hasattr(config, "cross_attention_dim"))
        )

    @property
    def control_channels(self) -> list[int]:
        """The channels of the control that each ControlNet reads; empty without any."""
        return list(getattr(self.network, "control_channels", ()))

    @property
    def control_shape(self) -> tuple[int, int, int] | None:
        """(C, H, W) of the control that ControlNets read, one after the other along its channels;
        None without any."""
        if not self.control_channels:
            return None
        factor: int = self.network.downscale  # type: ignore[attr-defined]
        _, height, width = self.shape or _UNKNOWN_SHAPE
        return sum(self.control_channels), factor * height, factor * width

    @property
    def control_parameters(self) -> int:
        """How many weights the ControlNets have; 0 without any."""
        nets = getattr(self.network, "nets", ())
        return sum(weight.numel() for net in nets for weight in net.parameters())

    @property
    def guesses(self) -> bool:
        """Whether the network has a ControlNet in guess mode; see `nelbo.networks.control`."""
        return getattr(self.network, "guesses", False)

    @property
    def guidance(self) -> float | None:
        """The scale of the guidance of the network; None for one that is not guided."""
        return self.network.scale if isinstance(self.network, GuidedNetwork) else None

    @property
    def embedded_guidance(self) -> float | None:
        """The guidance that a distilled network receives as an input; None for any other."""
        return getattr(self.network, "embedded_guidance", None)

    def identity(self) -> dict[str, Any]:
        """All that decides the bound beside the weights, by its name in messages."""
        schedule, network = self.schedule, self.network
        controlled: Any = network
        clips = self.threshold == StaticThreshold()
        found: dict[str, Any] = {
            "network configuration": config_digest(network),
            "noise levels": (
                f"{schedule.num_levels}, with alphas_cumprod from "
                f"{float(schedule.alphas_cumprod[1]):.6g} to "
                f"{float(schedule.alphas_cumprod[-1]):.6g}, "
                + digest([schedule.alphas_cumprod, schedule.network_times])
            ),
            "prediction": str(self.parameterization),
            "variance": self.variance,
            "clip_sample": clips,
            "thresholding": "-" if clips or self.threshold is None else repr(self.threshold),
            "pixel levels": repr(self.data),
            "guidance": network.identity() if isinstance(network, GuidedNetwork) else "-",
            "ControlNets": controlled.identity() if self.control_shape is not None else "-",
        }
        if self.variance == "analytic" and self.profile is not None:
            found["level profile"] = self.profile.digest()
        return found

    @property
    def noun(self) -> str:
        """What kind of model it is."""
        return "a diffusion model"

    def facts(self) -> dict[str, Any]:
        """What the model is, name by name, for people."""
        found = super().facts()
        parameters = found.pop("parameters", None)
        found["chain"] = f"{self.num_levels:,} levels"
        if parameters:
            found["parameters"] = parameters
        if self.control_parameters:
            found["parameters"] = f"{parameters}, {self.control_parameters:,} of them ControlNet"
        names = {"prediction": self.prediction, "variance": self.variance}
        return found | {name: value.replace("_", " ") for name, value in names.items()}

    def description(self) -> str:
        """What the model is, in a sentence without its full stop."""
        kind = "An unconditional diffusion model"
        if self.num_classes:
            kind = f"{self.title} of {self.num_classes} classes"
        elif self.control_channels:
            kind = self.title
        kind += with_controls(len(self.control_channels))
        return (
            f"{super().description().replace(self.title, kind, 1)}: a chain of "
            f"{self.num_levels:,} levels, {self.prediction} network, {self.variance} variance"
        )


def with_controls(count: int) -> str:
    """What a description adds for this number of ControlNets."""
    return ("", " with a ControlNet")[count] if count < 2 else f" with {count} ControlNets"
