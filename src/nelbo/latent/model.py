r"""Latent diffusion: a VAE whose prior is a diffusion model (Rombach et al. 2022).

.. math::
    p(x, z) = p(x|z)\, p(z), \qquad q(z|x) = N(s\,\mu(x), s^2 \sigma^2(x)),

with the decoder and encoder of an autoencoder, and a chain of latents of its own for p(z). The
scale s brings the latents to about unit variance, which is what the chain ends in.

The whole is one Markovian hierarchical VAE of T + 1 levels,

.. math::
    x \leftarrow z_0 \leftarrow z_1 \leftarrow \dots \leftarrow z_T,

whose first encoder step is learned and whose others are the prior's. Level t of it is z_{t−1}.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.base.arguments import check_kind
from nelbo.chain.conditioning import Condition
from nelbo.chain.distributions import Generators
from nelbo.chain.estimators import Estimator
from nelbo.diffusion import Diffusion
from nelbo.diffusion.model import Sampler
from nelbo.editing import Edit
from nelbo.latent.bound import LatentBound
from nelbo.latent.chain import LatentChain
from nelbo.latent.prior_condition import Prompt
from nelbo.networks.control import AnyControl
from nelbo.networks.guidance import Guidance


class LatentDiffusion(LatentChain):
    """An autoencoder and a diffusion model of its latents, which a prompt or control may steer.

    Args:
        autoencoder: between images (B, C, H, W) in [−1, 1] and latents.
        prior: the diffusion model of the scaled latents; it knows their shape.
        text: what embeds the prompts that the prior attends to, if it does: a `TextEncoder`, or a
            `PairedTextEncoder`.
        scale: s, what latents are multiplied by for the prior.
        data: what the pixels are; `Pixels(levels)` makes p(x|z_0) a probability.
        decoder_scale: σ, the standard deviation of p(x|z_0) around the decoded image, in units of
            x; only the bound needs it. See `nelbo.evidence.calibration.fit_decoder_scale`.

    Raises:
        NelboError: a prior of latents that are not the autoencoder's or not continuous, or a scale
            that is not positive.
    """

    def evidence(
        self,
        x_0: Float[Tensor, "batch channels height width"],
        condition: Condition | None = None,
        *,
        levels: int | Estimator | None = None,
        generator: torch.Generator | None = None,
    ) -> LatentBound:
        """The bound of each image on its pixels, term by term: `elbo`."""
        return self.elbo(x_0, condition, levels=levels, generator=generator)

    def condition_for(
        self, n: int, labels: Tensor | None = None, captions: Sequence[str | None] | None = None
    ) -> Condition | None:
        """The captions for a model of text, else the labels, as `BaseModel.condition_for`."""
        if self.text is None:
            return super().condition_for(n, labels)
        with torch.no_grad():
            return self.condition_on(captions or [None] * n)

    def condition_on(self, prompts: Sequence[str | None]) -> Condition:
        """The condition of a batch with these prompts or captions, one an example.

        None is no prompt, which is the unconditional model.

        Raises:
            NelboError: a model without a text encoder.
        """
        return self._conditions.of_prompts(prompts)

    def condition_between(self, first: str | None, second: str | None, frames: int) -> Condition:
        """The conditions on the straight way from one prompt to another, ends included.

        With the same noise for all of them, `sample` draws one picture turning into another.

        Args:
            first: the prompt of the first frame; None is the unconditional model.
            second: the prompt of the last one.
            frames: how many, at least 2.

        Raises:
            NelboError: fewer frames, or a model without a text encoder.
        """
        return self._conditions.between(first, second, frames)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        sampler: Sampler | None = None,
        *,
        condition: Condition | None = None,
        prompt: Prompt | None = None,
        negative_prompt: Prompt | None = None,
        control: AnyControl | None = None,
        guidance: float | Guidance = 1.0,
        x_T: Tensor | None = None,
        generator: Generators | None = None,
    ) -> Float[Tensor, "n channels height width"]:
        """`n` images in [−1, 1], (n, C, H, W).

        Args:
            n: how many.
            sampler: how to walk the prior's chain; without one, all of it, ancestrally.
            condition: what to sample, one entry an example, where it is embedded already or is a
                label; instead of a prompt.
            prompt: one for all, or a list of n; none is the unconditional model.
            negative_prompt: what guidance leads away from, by default the unconditional model.
            control: for a ControlNet, (n, C, H, W) or (1, C, H, W) for all, usually in [0, 1], or
                a `Control` with its strength; of several, one each. Without one a model with a
                ControlNet is its base.
            guidance: scale of classifier-free guidance, 1 the conditional model itself, or a
                `Guidance` with an interval and rescale.
            x_T: the latent to start from, (n, C, h, w), drawn from the prior by default.
            generator: the source of all noise, or one an example.

        Raises:
            NelboError: a prompt, control or guidance that this model has no use for, or a condition
                or list of prompts of another number than `n`.
        """
        start = self.prior.start(n, x_T, generator)
        prior, condition = self.conditioned(
            n,
            condition=condition,
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
        control: AnyControl | None = None,
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
        check_kind("edit", edit, Edit, "one of nelbo.editing, such as ImageToImage()")
        z = self.encode(x).mean
        prior, condition = self.conditioned(
            edit.outputs(len(x)),
            prompt=prompt,
            negative_prompt=negative_prompt,
            control=control,
            guidance=guidance,
        )
        of_latents = edit.of_latents((z.shape[2], z.shape[3]))
        edited = of_latents.edit(prior, z, condition=condition, generator=generator)
        return edit.keep(x, self.decode(edited).clamp(-1.0, 1.0))

    def conditioned(
        self,
        n: int,
        *,
        condition: Condition | None = None,
        prompt: Prompt | None = None,
        negative_prompt: Prompt | None = None,
        control: AnyControl | None = None,
        guidance: float | Guidance = 1.0,
    ) -> tuple[Diffusion, Condition | None]:
        """The prior with its guidance, and the condition of `n` latents, for any sampler or edit.

        Args and errors as `sample`.
        """
        return self._conditions.guided(
            n,
            condition=condition,
            prompt=prompt,
            negative_prompt=negative_prompt,
            control=control,
            guidance=guidance,
        )
