r"""The chain of latent diffusion, x ← z_0 ← z_1 ← … ← z_T, and its bound.

Its first encoder step is learned, q(z_0|x) of the autoencoder, and the others are the prior's.
Level t of it is z_{t−1}. See `nelbo.latent.bound` for the terms of its bound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Normal

from nelbo.base.arguments import check_kind, check_number, described
from nelbo.base.errors import NelboError
from nelbo.chain.conditioning import Condition
from nelbo.chain.data_space import DataSpace
from nelbo.chain.distributions import DiscretizedNormal, Generators, draw, narrow, normal
from nelbo.chain.estimators import Estimator, as_estimator
from nelbo.chain.examples import check_examples
from nelbo.chain.level import Level
from nelbo.chain.terms import Drawing, Draws, per_example
from nelbo.chain.variances import variance_of_mean
from nelbo.diffusion import Diffusion, LevelProfile, Pixels
from nelbo.latent.bound import LatentBound, LatentBoundMap
from nelbo.latent.description import DescribedLatents
from nelbo.latent.prior_condition import PriorCondition
from nelbo.networks.encoding import Autoencoder
from nelbo.networks.finite import check_finite
from nelbo.text import PromptEncoder


class LatentChain(DescribedLatents):
    """The two Markov chains and the bound; `LatentDiffusion` documents the arguments."""

    def __init__(
        self,
        autoencoder: Autoencoder,
        prior: Diffusion,
        *,
        text: PromptEncoder | None = None,
        scale: float = 0.18215,
        data: DataSpace = Pixels(256),  # noqa: B008 - frozen
        decoder_scale: float | None = None,
    ) -> None:
        super().__init__()
        if not all(hasattr(autoencoder, name) for name in ("config", "encode", "decode")):
            expected = "an AutoencoderKL, or what has its config, encode and decode"
            raise NelboError(f"autoencoder is {described(autoencoder)}, expected {expected}")
        check_kind("prior", prior, Diffusion, "a Diffusion of latents")
        check_kind("data", data, DataSpace, "Pixels(levels) or Continuous()")
        if text is not None:
            check_kind("text", text, PromptEncoder, "a TextEncoder, which embeds prompts")
        channels = autoencoder.config.latent_channels
        if prior.shape is not None and prior.shape[0] != channels:
            raise NelboError(
                f"the prior is over {prior.shape[0]} channels, the autoencoder's latents have "
                f"{channels} (latent_channels)"
            )
        if not prior.data.is_density:
            raise NelboError("latents are real numbers: make the prior with data=Continuous()")
        for name, value in (("scale", scale), ("decoder_scale", decoder_scale)):
            if value is not None:
                check_number(name, value)
                if not 0 < value < math.inf:
                    raise NelboError(f"{name} must be positive, got {value}")
        self.autoencoder = autoencoder
        self.prior = prior
        self.text = text
        self.scale = scale
        self.data = data
        self.decoder_scale = decoder_scale
        self.num_levels = prior.num_levels + 1
        self.shape = _image_shape(autoencoder, prior)

    def decoder_log_prob(self, x_0: Tensor, z: Tensor) -> Float[Tensor, " batch"]:
        """log p(x|z_0) of each image, nats, (B,); errors as `p_data`."""
        self.check_data(x_0)
        return per_example(self.p_data(z).log_prob(x_0))

    def encode(self, x: Float[Tensor, "batch channels height width"]) -> Normal:
        """q(z_0|x) of images in [−1, 1], over the scaled latents that the prior is of.

        An autoencoder may compute in 16 bits; its answer has the precision of `x`, or more.
        """
        check_examples(x=x)
        q = self.autoencoder.encode(x)
        if not torch.is_grad_enabled():
            check_finite(q.mean, "what the autoencoder encodes")
        dtype = torch.promote_types(q.mean.dtype, x.dtype)
        return normal(self.scale * q.mean.to(dtype), self.scale * q.stddev.to(dtype))

    def decode(
        self, z: Float[Tensor, "batch latent_channels latent_height latent_width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """The image of scaled latents, in about [−1, 1], unclipped; precision as `encode`."""
        check_examples(z=z)
        x = self.autoencoder.decode(z / self.scale)
        if not torch.is_grad_enabled():
            check_finite(x, "what the autoencoder decodes")
        return x.to(torch.promote_types(x.dtype, z.dtype))

    @property
    def profile(self) -> LevelProfile | None:
        """What each level of the prior costs, if it was measured."""
        return self.prior.profile

    def with_profile(self, profile: LevelProfile, *, variance: str | None = None) -> Self:
        """The same model with a profile of its prior, and another variance where one is named."""
        return self.with_prior(self.prior.with_profile(profile, variance=variance))

    def with_embedded_guidance(self, guidance: float) -> Self:
        """The model whose distilled prior receives another guidance; errors as that of it."""
        return self.with_prior(self.prior.with_embedded_guidance(guidance))

    def respace(self, levels: Sequence[int] | Tensor) -> Self:
        """The same model with a shorter chain for its prior, through these levels of it."""
        return self.with_prior(self.prior.respace(levels))

    def with_controlnets(self, *controlnets: Any) -> Self:
        """The same model with ControlNets on the network of its prior, beside any there."""
        return self.with_prior(self.prior.with_controlnets(*controlnets))

    def with_network(self, network: Any) -> Self:
        """The same model with another network of its prior."""
        return self.with_prior(self.prior.with_network(network))

    def with_prior(self, prior: Diffusion) -> Self:
        """A model that shares everything but the prior."""
        model = type(self)(
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

    def scales(
        self,
        x_0: Tensor,
        condition: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, " levels"]:
        """As `MHVAE.scales`; only q(z_0|x) is asked of a network."""
        q = self.encode(x_0)
        z_0 = draw(q, generator)
        found = self.prior.scales(z_0, condition, generator=generator)
        found[0] = torch.minimum(found[0], narrow(q))
        return torch.cat([narrow(self.p_data(z_0))[None], found])

    def sensitivity(self, side: str) -> Float[Tensor, " levels"]:
        """As `MHVAE.sensitivity`: 1 for the autoencoder's two steps."""
        found = torch.cat([torch.ones(1).double(), self.prior.sensitivity(side)])
        if side == "q":
            found[:2] = 1.0
        return found

    # The bound

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
            condition: what the prior is conditioned on for each; without one a model of text is the
                unconditional one.
            levels: how many levels of the prior to evaluate an image, as `TractableMHVAE.elbo`;
                `reconstructions` counts draws of z_0, each with one of z_1.
            generator: the source of all noise.

        Raises:
            NelboError: no `decoder_scale`, or images that are not data of this model.
        """
        return self._evaluate(x_0, condition, Drawing(as_estimator(levels), generator))[0]

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
        drawing = Drawing(as_estimator(levels), generator, by_value=True)
        bound, pixel_map, latent_map = self._evaluate(x_0, condition, drawing)
        return LatentBoundMap(pixel_map, latent_map, bound)

    def _evaluate(
        self, x_0: Tensor, condition: Condition | None, drawing: Drawing
    ) -> tuple[LatentBound, Tensor, Tensor]:
        """The bound of each image and, where drawn, what each value of it and its latent costs."""
        self.check_data(x_0)
        condition = self.condition_of(x_0, condition)
        q = self.encode(x_0)
        pixels, latents = self._draw_reconstructions(x_0, q, condition, drawing)
        entropy = q.entropy()
        # A KL between normals asks for no more than E z_0².
        prior_matching = self.prior.prior_matching_map((q.mean.square() + q.variance).sqrt())
        # Each level has a draw of z_0 of its own, so that the columns are independent.
        score_matching = self.prior.draw_score_matching(q, condition, drawing)
        bound = LatentBound(
            reconstruction=pixels.mean,
            entropy=per_example(entropy),
            latent_reconstruction=latents.mean,
            prior_matching=per_example(prior_matching),
            score_matching=score_matching.values,
            levels=score_matching.levels,
            weights=score_matching.weights,
            dims=x_0[0].numel(),
            reconstruction_variance=pixels.variance,
            latent_reconstruction_variance=latents.variance,
            joint_variance=variance_of_mean((pixels.values + latents.values).detach()),
            reconstruction_calls=latents.calls,
            level_calls=score_matching.calls,
        )
        return bound, -pixels.total, prior_matching - entropy - latents.total + score_matching.total

    def _draw_reconstructions(
        self, x_0: Tensor, q: Normal, condition: Condition | None, drawing: Drawing
    ) -> tuple[Draws, Draws]:
        """log p(x|z_0) and log p(z_0|z_1) of each image, at the same draws of z_0."""
        count = drawing.estimator.reconstructions
        once = drawing._replace(estimator=replace(drawing.estimator, reconstructions=1))
        pixels, latents = Draws.none(x_0), Draws.none(q.mean)
        for _ in range(count):
            z = draw(q, drawing.generator)
            log_p = self.p_data(z).log_prob(x_0)
            pixels = pixels.with_draw(per_example(log_p), log_p, 0, count)
            prior = self.prior.draw_reconstruction(z, condition, once)
            latents = latents.with_draw(prior.mean, prior.total, prior.calls, count)
        return pixels, latents

    def path_elbo(
        self,
        x_0: Float[Tensor, "batch ..."],
        condition: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, " batch"]:
        """The bound by its definition, of one encoder path x, z_0, …, z_T; nats, (B,)."""
        self.check_data(x_0)
        condition = self.condition_of(x_0, condition)
        return super().path_elbo(x_0, condition, generator=generator)

    def condition_of(self, batch: Tensor, condition: Condition | None) -> Condition | None:
        """The condition of the prior for a batch: `condition`, or without one that of no prompt.

        Raises:
            NelboError: a condition of another number of examples.
        """
        return self._conditions.of_batch(len(batch), condition)

    @property
    def _conditions(self) -> PriorCondition:
        return PriorCondition(self.prior, self.text, self.shape)


def _image_shape(autoencoder: Autoencoder, prior: Diffusion) -> tuple[int, int, int] | None:
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
