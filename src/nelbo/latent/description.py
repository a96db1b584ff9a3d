"""What a latent diffusion model is made of, and how it is described: see `nelbo.chain.model`."""

from __future__ import annotations

from typing import Any

from nelbo.base.digest import config_digest
from nelbo.chain.mhvae import MHVAE
from nelbo.diffusion import Diffusion
from nelbo.diffusion.description import with_controls
from nelbo.networks.encoding import Autoencoder
from nelbo.text import PromptEncoder


class DescribedLatents(MHVAE):
    """A model of an autoencoder and a prior; `nelbo.latent.chain` makes a chain of the two.

    Attributes:
        autoencoder: between images and latents.
        prior: the diffusion model of the scaled latents.
        text: what embeds the prompts that the prior attends to, if it does.
        scale: what latents are multiplied by for the prior.
        decoder_scale: the standard deviation of p(x|z_0), if it is known.
    """

    autoencoder: Autoencoder
    prior: Diffusion
    text: PromptEncoder | None
    scale: float
    decoder_scale: float | None

    @property
    def chain(self) -> Diffusion:
        """The prior, whose levels are evaluated and walked."""
        return self.prior

    @property
    def num_classes(self) -> int:
        """How many classes the prior can be conditioned on; 0 for one without labels."""
        return self.prior.num_classes

    @property
    def reads_text(self) -> bool:
        """Whether the model has a text encoder."""
        return self.text is not None

    @property
    def control_channels(self) -> list[int]:
        """The channels of the control that each ControlNet of the prior reads."""
        return self.prior.control_channels

    @property
    def control_shape(self) -> tuple[int, int, int] | None:
        """(C, H, W) of the control that a ControlNet of the prior reads; None without one."""
        return self.prior.control_shape

    @property
    def few_levels_matter(self) -> bool:
        """Yes: the bound of latents varies at few levels of their chain."""
        return True

    @property
    def lacks_scale(self) -> bool:
        """Whether `decoder_scale`, which the bound needs, is still to be fitted."""
        return self.decoder_scale is None

    @property
    def guidance(self) -> float | None:
        """The scale of the guidance of the prior; None for one that is not guided."""
        return self.prior.guidance

    @property
    def embedded_guidance(self) -> float | None:
        """The guidance that a distilled prior receives as an input; None for any other."""
        return self.prior.embedded_guidance

    def identity(self) -> dict[str, Any]:
        """All that decides the bound beside the weights, by its name in messages."""
        return self.prior.identity() | {
            "pixel levels": repr(self.data),
            "autoencoder configuration": config_digest(self.autoencoder),
            "scale of the latents": self.scale,
            "decoder_scale": self.decoder_scale,
            "text encoder": "-" if self.text is None else self.text.identity(),
        }

    def facts(self) -> dict[str, Any]:
        """What the model is, name by name, for people."""
        found: dict[str, Any] = {}
        for name, shape in (("image", self.shape), ("latents", self.prior.shape)):
            if shape is not None:
                found[name] = " × ".join(str(side) for side in (*shape[1:], shape[0]))
        found["chain of the prior"] = f"{self.prior.num_levels:,} levels"
        parts = {"prior": self.prior, "autoencoder": self.autoencoder, "text encoder": self.text}
        counts = {
            name: sum(weight.numel() for weight in part.parameters())
            for name, part in parts.items()
            if part is not None
        }
        if control := self.prior.control_parameters:
            counts |= {"prior": counts["prior"] - control, "ControlNet": control}
        found["parameters"] = ", ".join(
            f"{count / 1e6:.2f}M {name}" for name, count in counts.items()
        )
        if self.decoder_scale is not None:
            found["scale of the decoder"] = f"{self.decoder_scale:.3f}"
        return found

    def description(self) -> str:
        """What the model is made of, in a sentence without its full stop."""
        prior = self.prior
        return (
            f"{self.parts_description()}. Its chain has {prior.num_levels:,} levels, a network of "
            f"{prior.prediction} and {prior.variance} variance"
        )

    def parts_description(self) -> str:
        """What the model is made of, and how large it is."""
        size, latents = (
            "×".join(str(side) for side in sides)
            for sides in ((self.shape or ())[1:], self.prior.shape or ())
        )
        prior = f"a diffusion model of its latents ({latents})"
        prior += with_controls(len(self.control_channels))
        kind, and_text = "Pictures", f" and {prior}"
        if self.num_classes:
            kind = f"Pictures of {self.num_classes} classes"
        if self.text is not None:
            kind = "Text to pictures"
            and_text = f", {prior} and a text encoder of the captions"
        parameters = sum(p.numel() for p in self.parameters())
        return (
            f"{kind} of {size} pixels: an autoencoder{and_text}, {parameters / 1e6:.1f}M parameters"
        )
