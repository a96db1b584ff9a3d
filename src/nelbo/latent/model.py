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

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Normal

from nelbo.base.digest import config_digest
from nelbo.base.errors import NelboError
from nelbo.chain.bound import variance_of_mean
from nelbo.chain.conditioning import Condition
from nelbo.chain.data_space import DataSpace
from nelbo.chain.distributions import DiscretizedNormal, Generators, draw, normal
from nelbo.chain.estimators import Estimator, as_estimator
from nelbo.chain.mhvae import MHVAE, Level
from nelbo.chain.terms import per_example
from nelbo.diffusion import Diffusion, LevelProfile, Pixels
from nelbo.diffusion.model import Sampler
from nelbo.editing import Edit
from nelbo.latent.bound import LatentBound, LatentBoundMap
from nelbo.latent.prior_condition import PriorCondition, Prompt
from nelbo.networks import AutoencoderKL
from nelbo.networks.finite import check_finite
from nelbo.networks.guidance import Guidance
from nelbo.text import PromptEncoder


class LatentDiffusion(MHVAE):
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

    def __init__(
        self,
        autoencoder: AutoencoderKL,
        prior: Diffusion,
        *,
        text: PromptEncoder | None = None,
        scale: float = 0.18215,
        data: DataSpace = Pixels(256),  # noqa: B008 - frozen
        decoder_scale: float | None = None,
    ) -> None:
        super().__init__()
        channels = autoencoder.config.latent_channels
        if prior.shape is not None and prior.shape[0] != channels:
            raise NelboError(
                f"the prior is over {prior.shape[0]} channels, the autoencoder's latents have "
                f"{channels} (latent_channels)"
            )
        if not prior.data.is_density:
            raise NelboError("latents are real numbers: make the prior with data=Continuous()")
        for name, value in (("scale", scale), ("decoder_scale", decoder_scale)):
            if value is not None and not value > 0:
                raise NelboError(f"{name} must be positive, got {value}")
        self.autoencoder = autoencoder
        self.prior = prior
        self.text = text
        self.scale = scale
        self.data = data
        self.decoder_scale = decoder_scale
        self.num_levels = prior.num_levels + 1
        self.shape = _image_shape(autoencoder, prior)

    # What is asked of any model; see `nelbo.chain.model`

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

    def decoder_log_prob(self, x_0: Tensor, z: Tensor) -> Float[Tensor, " batch"]:
        """log p(x|z_0) of each image, nats, (B,); errors as `p_data`."""
        return per_example(self.p_data(z).log_prob(x_0))

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
        found["parameters"] = ", ".join(
            f"{sum(p.numel() for p in part.parameters()) / 1e6:.2f}M {name}"
            for name, part in parts.items()
            if part is not None
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
        kind, and_text = "Pictures", f" and a diffusion model of its latents ({latents})"
        if self.num_classes:
            kind = f"Pictures of {self.num_classes} classes"
        if self.text is not None:
            kind = "Text to pictures"
            and_text = (
                f", a diffusion model of its latents ({latents}) and a text encoder of the captions"
            )
        parameters = sum(p.numel() for p in self.parameters())
        return (
            f"{kind} of {size} pixels: an autoencoder{and_text}, {parameters / 1e6:.1f}M parameters"
        )

    def encode(self, x: Float[Tensor, "batch channels height width"]) -> Normal:
        """q(z_0|x) of images in [−1, 1], over the scaled latents that the prior is of."""
        q = self.autoencoder.encode(x)
        if not torch.is_grad_enabled():
            check_finite(q.mean, "what the autoencoder encodes")
        return normal(self.scale * q.mean, self.scale * q.stddev)

    def decode(
        self, z: Float[Tensor, "batch latent_channels latent_height latent_width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """The image of scaled latents, in about [−1, 1], unclipped."""
        x = self.autoencoder.decode(z / self.scale)
        if not torch.is_grad_enabled():
            check_finite(x, "what the autoencoder decodes")
        return x

    @property
    def profile(self) -> LevelProfile | None:
        """What each level of the prior costs, if it was measured."""
        return self.prior.profile

    def with_profile(
        self, profile: LevelProfile, *, variance: str | None = None
    ) -> LatentDiffusion:
        """The same model with a profile of its prior, and another variance where one is named."""
        return self.with_prior(self.prior.with_profile(profile, variance=variance))

    def respace(self, levels: Sequence[int] | Tensor) -> LatentDiffusion:
        """The same model with a shorter chain for its prior, through these levels of it."""
        return self.with_prior(self.prior.respace(levels))

    def with_prior(self, prior: Diffusion) -> LatentDiffusion:
        """A model that shares everything but the prior."""
        model = LatentDiffusion(
            self.autoencoder,
            prior,
            text=self.text,
            scale=self.scale,
            data=self.data,
            decoder_scale=self.decoder_scale,
        )
        model.training = self.training  # the shared parts stay in the mode that they are in
        return model

    # The chain x ← z_0 ← … ← z_T

    def q_step(self, x_prev: Tensor, t: Level) -> Normal:
        """The encoder's step: q(z_0|x) at level 1, q(z_{t−1}|z_{t−2}) of the prior above."""
        if _is_first(t, 1):
            return self.encode(x_prev)
        return self.prior.q_step(x_prev, t - 1)

    def p_prior(self, shape: Sequence[int]) -> Normal:
        """The prior p(z_T) = N(0, I) for latents of this shape."""
        return self.prior.p_prior(shape)

    def p_step(
        self, x_t: Tensor, t: Level, condition: Condition | None = None
    ) -> Normal | DiscretizedNormal:
        """The decoder's step: p(z_0|z_1) at level 2, p(z_{t−2}|z_{t−1}) of the prior above."""
        if _is_first(t, 2):
            return self.prior.p_data(x_t, condition)
        return self.prior.p_step(x_t, t - 1, condition)

    def p_data(self, x_1: Tensor, condition: Condition | None = None) -> Normal | DiscretizedNormal:
        """The likelihood p(x|z_0): a normal around the decoded image, rounded for pixels.

        Raises:
            NelboError: no `decoder_scale`.
        """
        if self.decoder_scale is None:
            raise NelboError(
                "the likelihood of pixels needs the scale of the decoder: set model.decoder_scale "
                "= nelbo.evidence.calibration.fit_decoder_scale(model, data) on training images"
            )
        mean = self.decode(x_1)
        return self.data.likelihood(mean, mean.new_tensor(self.decoder_scale))

    def autoencoder_cost(
        self, x_0: Tensor, q: Normal, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Float[Tensor, " batch"]]:
        """A draw z_0 of q(z_0|x), and what each image then costs beside the prior of its latent.

        That is −log p(x|z_0) − H[q(z_0|x)], nats, (B,); errors as `p_data`.
        """
        z = draw(q, generator)
        return z, -per_example(self.p_data(z).log_prob(x_0)) - per_example(q.entropy())

    def start(
        self, n: int, x_T: Tensor | None = None, generator: Generators | None = None
    ) -> Float[Tensor, "n ..."]:
        """The latent that sampling starts from: `x_T` checked, or `n` draws from the prior."""
        return self.prior.start(n, x_T, generator)

    # The bound

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

    def elbo(
        self,
        x_0: Float[Tensor, "batch channels height width"],
        condition: Condition | None = None,
        *,
        levels: int | Estimator | None = None,
        generator: torch.Generator | None = None,
    ) -> LatentBound:
        """The bound of each image on its pixels, term by term.

        Args:
            x_0: images on the levels of `data`, (B, C, H, W).
            condition: what the prior is told of each; without one a model of text is the
                unconditional one.
            levels: how many levels of the prior to evaluate an image, as `TractableMHVAE.elbo`;
                `reconstructions` counts draws of z_0, each with one of z_1.
            generator: the source of all noise.

        Raises:
            NelboError: no `decoder_scale`, or images that are not data of this model.
        """
        return self._evaluate(x_0, condition, levels, generator, map_values=False)[0]

    def bound_map(
        self,
        x_0: Float[Tensor, "batch channels height width"],
        condition: Condition | None = None,
        *,
        levels: int | Estimator | None = None,
        generator: torch.Generator | None = None,
    ) -> LatentBoundMap:
        """Where in each image and in its latent the nats go, beside the bound of the same draws.

        Arguments and errors are those of `elbo`; memory is bounded by the batch.
        """
        bound, maps = self._evaluate(x_0, condition, levels, generator, map_values=True)
        assert maps is not None
        return LatentBoundMap(*maps, bound)

    def _evaluate(
        self,
        x_0: Tensor,
        condition: Condition | None,
        levels: int | Estimator | None,
        generator: torch.Generator | None,
        *,
        map_values: bool,
    ) -> tuple[LatentBound, tuple[Tensor, Tensor] | None]:
        """The bound of each image and, on request, what each value of it and its latent costs."""
        self.check_data(x_0)
        condition = self.condition_of(x_0, condition)
        estimator, prior = as_estimator(levels), self.prior
        q = self.encode(x_0)
        entropy = q.entropy()
        # A KL between normals asks for no more than E z_0².
        prior_matching = prior.prior_matching_map((q.mean.square() + q.variance).sqrt())
        pixel_map, latent_map = torch.zeros_like(x_0), prior_matching - entropy

        def draws(term: Callable[..., Tensor], z: Tensor | Normal, t: Tensor, w: Tensor) -> Tensor:
            nonlocal latent_map
            found = prior.draw_term(
                term,
                z,
                t,
                condition,
                weights=w if map_values else None,
                antithetic=estimator.antithetic,
                generator=generator,
            )
            if found.total is not None:
                latent_map = latent_map + found.total
            return found.values

        count = estimator.reconstructions
        first = torch.ones(len(x_0), 1, dtype=torch.int64, device=x_0.device)
        none = x_0.new_zeros(len(x_0), 0)
        pixels, latents = [none], [none]
        for _ in range(count):
            z = draw(q, generator)
            log_p = self.p_data(z).log_prob(x_0)
            pixel_map = pixel_map - log_p / count
            pixels.append(per_example(log_p)[:, None])
            latents.append(draws(prior.first_map, z, first, x_0.new_full(first.shape, -1 / count)))
        reconstruction, latent_reconstruction = torch.cat(pixels, 1), torch.cat(latents, 1)
        chosen, weights = estimator.choose(len(x_0), prior.num_levels, generator)
        chosen, weights = chosen.to(x_0.device), weights.to(x_0)
        # Each level has a draw of z_0 of its own, so that the columns are independent.
        score_matching = draws(prior.score_matching_map, q, chosen, weights)
        calls = torch.full_like(first[:, 0], 2 if estimator.antithetic else 1)
        bound = LatentBound(
            reconstruction=reconstruction.mean(1),
            entropy=per_example(entropy),
            latent_reconstruction=latent_reconstruction.mean(1),
            prior_matching=per_example(prior_matching),
            score_matching=score_matching,
            levels=chosen,
            weights=weights,
            dims=x_0[0].numel(),
            reconstruction_variance=variance_of_mean(reconstruction.detach()),
            latent_reconstruction_variance=variance_of_mean(latent_reconstruction.detach()),
            joint_variance=variance_of_mean((reconstruction + latent_reconstruction).detach()),
            reconstruction_calls=calls * count,
            level_calls=calls * chosen.shape[1],
        )
        return bound, (pixel_map, latent_map) if map_values else None

    def path_elbo(
        self,
        x_0: Float[Tensor, "batch ..."],
        condition: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, " batch"]:
        """The bound by its definition, of one encoder path x, z_0, …, z_T; nats, (B,)."""
        condition = self.condition_of(x_0, condition)
        return super().path_elbo(x_0, condition, generator=generator)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        sampler: Sampler | None = None,
        *,
        condition: Condition | None = None,
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
            condition: what to sample, one entry an example, where it is embedded already or is a
                label; instead of a prompt and control.
            prompt: one for all, or a list of n; none is the unconditional model.
            negative_prompt: what guidance leads away from, by default the unconditional model.
            control: for a ControlNet, (n, C, H, W) or (1, C, H, W) for all, usually in [0, 1].
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
        control: Tensor | None = None,
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

    def condition_of(self, batch: Tensor, condition: Condition | None) -> Condition | None:
        """What the prior is told of a batch: `condition`, or without one nothing.

        Raises:
            NelboError: a condition of another number of examples.
        """
        return self._conditions.of_batch(len(batch), condition)

    @property
    def _conditions(self) -> PriorCondition:
        return PriorCondition(self.prior, self.text, self.shape)


def _image_shape(autoencoder: AutoencoderKL, prior: Diffusion) -> tuple[int, int, int] | None:
    if prior.shape is None:
        return None
    factor, (_, height, width) = autoencoder.config.downscale, prior.shape
    return autoencoder.config.in_channels, factor * height, factor * width


def _is_first(t: Level, first: int) -> bool:
    """Whether level `t`, of one example or of all of them, is `first`.

    Raises:
        NelboError: some examples at the first level and some above, whose states differ in kind.
    """
    if isinstance(t, int):
        return t == first
    at_first = t == first
    if at_first.any() and not at_first.all():
        raise NelboError(f"one batch has level {first} and others; they differ in shape or kind")
    return bool(at_first.all())
