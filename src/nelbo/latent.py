r"""Latent diffusion: a VAE whose prior is a diffusion model (Rombach et al. 2022).

.. math::
    p(x, z) = p(x|z)\, p(z), \qquad q(z|x) = N(s\,\mu(x), s^2 \sigma^2(x)),

with the decoder and encoder of an autoencoder, and a chain of latents of its own for p(z). The
scale s brings the latents to about unit variance, which is what the chain ends in.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Normal

from nelbo.conditioning import Condition
from nelbo.diffusion import Diffusion
from nelbo.diffusion.model import Sampler
from nelbo.distributions import Generators, normal
from nelbo.editing import Edit
from nelbo.errors import NelboError
from nelbo.networks import AutoencoderKL, ControlledUNet
from nelbo.networks.guidance import Guidance
from nelbo.text import TextEncoder

Prompt = str | Sequence[str]


class LatentDiffusion(nn.Module):
    """An autoencoder and a diffusion model of its latents, which a prompt or control may steer.

    Args:
        autoencoder: between images (B, C, H, W) in [−1, 1] and latents.
        prior: the diffusion model of the scaled latents; it knows their shape.
        text: what embeds the prompts that the prior attends to, if it does.
        scale: s, what latents are multiplied by for the prior.

    Raises:
        NelboError: a prior of latents that are not the autoencoder's, or a scale that is not
            positive.
    """

    def __init__(
        self,
        autoencoder: AutoencoderKL,
        prior: Diffusion,
        *,
        text: TextEncoder | None = None,
        scale: float = 0.18215,
    ) -> None:
        super().__init__()
        channels = autoencoder.config.latent_channels
        if prior.shape is not None and prior.shape[0] != channels:
            raise NelboError(
                f"the prior is over {prior.shape[0]} channels, the autoencoder's latents have "
                f"{channels} (latent_channels)"
            )
        if not scale > 0:
            raise NelboError(f"scale must be positive, got {scale}")
        self.autoencoder = autoencoder
        self.prior = prior
        self.text = text
        self.scale = scale

    def encode(self, x: Float[Tensor, "batch channels height width"]) -> Normal:
        """q(z|x) of images in [−1, 1], over the scaled latents that the prior is of."""
        q = self.autoencoder.encode(x)
        return normal(self.scale * q.mean, self.scale * q.stddev)

    def decode(
        self, z: Float[Tensor, "batch latent_channels latent_height latent_width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """The image of scaled latents, in about [−1, 1], unclipped."""
        return self.autoencoder.decode(z / self.scale)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        sampler: Sampler | None = None,
        *,
        prompt: Prompt | None = None,
        negative_prompt: Prompt | None = None,
        control: Tensor | None = None,
        guidance: float | Guidance = 1.0,
        x_T: Tensor | None = None,
        generator: Generators | None = None,
    ) -> Float[Tensor, "n channels height width"]:
        """`n` images in [−1, 1], (n, C, H, W).

        Args:
            n: how many.
            sampler: how to walk the prior's chain; without one, all of it, ancestrally.
            prompt: one for all, or a list of n; none is the empty prompt.
            negative_prompt: what guidance leads away from, by default the empty prompt.
            control: for a ControlNet, (n, C, H, W) or (1, C, H, W) for all, usually in [0, 1].
            guidance: scale of classifier-free guidance, 1 the conditional model itself, or a
                `Guidance` with an interval and rescale.
            x_T: the latent to start from, (n, C, h, w), drawn from the prior by default.
            generator: the source of all noise, or one an example.

        Raises:
            NelboError: a prompt, control or guidance that this model has no use for, or a list of
                prompts of another length.
        """
        start = self.prior.start(n, x_T, generator)
        prior, condition = self.told(
            n,
            prompt=prompt,
            negative_prompt=negative_prompt,
            control=control,
            guidance=guidance,
        )
        z = prior.sample(n, sampler, condition=condition, x_T=start, generator=generator)
        return self.decode(z).clamp(-1.0, 1.0)

    @torch.no_grad()
    def edit(
        self,
        x: Float[Tensor, "n channels height width"],
        edit: Edit,
        *,
        prompt: Prompt | None = None,
        negative_prompt: Prompt | None = None,
        control: Tensor | None = None,
        guidance: float | Guidance = 1.0,
        generator: Generators | None = None,
    ) -> Float[Tensor, "edited channels height width"]:
        """Images in [−1, 1] edited through their latents; see `nelbo.editing`.

        Args:
            x: the images, (B, C, H, W) in [−1, 1]; the mean of q(z|x) is what is edited.
            edit: what to do with them.
            prompt: as `sample`, for each image that comes out.
            negative_prompt: as `sample`.
            control: as `sample`.
            guidance: as `sample`.
            generator: the source of all noise, or one an example.

        Raises:
            NelboError: as `sample`, or images that do not fit the model or the edit.
        """
        z = self.encode(x).mean
        prior, condition = self.told(
            edit.outputs(len(x)),
            prompt=prompt,
            negative_prompt=negative_prompt,
            control=control,
            guidance=guidance,
        )
        of_latents = edit.of_latents((z.shape[2], z.shape[3]))
        edited = of_latents.edit(prior, z, condition=condition, generator=generator)
        return edit.keep(x, self.decode(edited).clamp(-1.0, 1.0))

    def told(
        self,
        n: int,
        *,
        prompt: Prompt | None = None,
        negative_prompt: Prompt | None = None,
        control: Tensor | None = None,
        guidance: float | Guidance = 1.0,
    ) -> tuple[Diffusion, Condition | None]:
        """The prior with its guidance, and the condition of `n` latents, for any sampler or edit.

        Args and errors as `sample`.
        """
        condition = self._condition(n, prompt, control)
        scale = guidance.scale if isinstance(guidance, Guidance) else guidance
        unconditional = self._unconditional(n, prompt, negative_prompt, scale)
        return self.prior.guided(guidance, unconditional), condition

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """(C, H, W) of an image; None where the prior does not know the shape of its latents."""
        if self.prior.shape is None:
            return None
        factor, (_, height, width) = self.autoencoder.config.downscale, self.prior.shape
        return self.autoencoder.config.in_channels, factor * height, factor * width

    def _condition(self, n: int, prompt: Prompt | None, control: Tensor | None) -> Condition | None:
        if prompt is not None and self.text is None:
            raise NelboError("a prompt was given to a model without a text encoder")
        if control is not None:
            if not isinstance(self.prior.network, ControlledUNet):
                raise NelboError("a control was given to a model without a ControlNet")
            if len(control) not in (1, n):
                raise NelboError(f"control has a batch of {len(control)}, expected {n} or 1")
            control = control.expand(n, *control.shape[1:])
        text = self._embed(n, prompt or "", "prompt")
        return None if text is None and control is None else Condition(text=text, control=control)

    def _unconditional(
        self, n: int, prompt: Prompt | None, negative_prompt: Prompt | None, guidance: float
    ) -> Condition | None:
        if guidance == 1.0:
            if negative_prompt is not None:
                raise NelboError("a negative prompt takes effect with guidance other than 1 only")
            return None
        if prompt is None:
            raise NelboError(f"guidance {guidance} needs a prompt to guide towards")
        return Condition(text=self._embed(n, negative_prompt or "", "negative_prompt"))

    def _embed(self, n: int, prompt: Prompt, name: str) -> Tensor | None:
        if self.text is None:
            return None
        if isinstance(prompt, str):
            return self.text.encode([prompt]).expand(n, -1, -1)
        if len(prompt) != n:
            raise NelboError(f"{name} lists {len(prompt)} prompts for {n} samples")
        return self.text.encode(prompt)
