r"""The diffusion model: an MHVAE whose encoder is linear, Gaussian and fixed.

The encoder :math:`q(x_t|x_{t-1}) = N(\sqrt{\alpha_t} x_{t-1}, \beta_t I)` has nothing to learn and
ends near the prior :math:`p(x_T) = N(0, I)`. The decoder takes the encoder's posterior with the
network's prediction in place of the data,

.. math::
    p(x_{t-1}|x_t) = N(\mu_q(x_t, \hat x_0(x_t, t)),\; \Sigma_t),

so that each score matching term is a weighted squared error of :math:`\hat x_0`
(Ho et al. 2020, section 3). One method, `Diffusion.predict`, is the whole reverse process:
sampling and evaluating both read it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Normal

from nelbo.base.errors import NelboError
from nelbo.base.suggestions import unknown
from nelbo.chain.conditioning import Condition, check_condition
from nelbo.chain.data_space import DataSpace, Pixels
from nelbo.chain.distributions import DiscretizedNormal, Generators, normal
from nelbo.chain.mhvae import Level
from nelbo.chain.terms import per_example
from nelbo.diffusion.control import under_control
from nelbo.diffusion.description import DescribedChain, Network
from nelbo.diffusion.noise_level import NoiseLevel, NoiseLevels
from nelbo.diffusion.prediction import PARAMETERIZATIONS, Parameterization, Prediction
from nelbo.diffusion.profile import LevelProfile
from nelbo.diffusion.sampler import Sampler
from nelbo.diffusion.schedule import NoiseSchedule
from nelbo.diffusion.start import warn_of_signal
from nelbo.diffusion.thresholding import StaticThreshold, Threshold
from nelbo.diffusion.variance import VARIANCES, ReverseVariance, difference, profile_levels
from nelbo.networks.control import AnyControl, Strength
from nelbo.networks.controlnet import ControlledUNet, ControlNet
from nelbo.networks.finite import check_finite
from nelbo.networks.guidance import Guidance, GuidedNetwork
from nelbo.networks.unet import UNet


class Diffusion(DescribedChain):
    """A diffusion model over data of shape (C, H, W).

    Args:
        network: any callable (x_t (B,C,H,W), network time (B,), condition or None) -> (B,C,H,W),
            or (B,2C,H,W) for a learned variance.
        schedule: the noise levels 0..T.
        prediction: what the network predicts: "epsilon", "sample" (x_0), "v_prediction",
            "velocity" (flow matching: ε − x_0 at the state (1 − s) x_0 + s ε and time s),
            "denoiser" (EDM: x_0 at the state x_0 + σ ε and time σ), or a `Parameterization`.
        variance: Σ_t: "fixed_small" (β̃_t), "fixed_large" (β_t), "learned_range", or "analytic",
            the best for one number a level, which needs a profile.
        data: `Pixels(levels)` for a probability of integer pixels, `Continuous()` for a density.
        shape: (C, H, W) of one example, needed to sample without x_T.
        clip_sample: clip the predicted x_0 to [−1, 1] wherever the reverse process uses it.
        thresholding: `StaticThreshold` or `DynamicThreshold`, in place of `clip_sample`.
        profile: what each level costs on data; it stays with respaced and saved models.

    Raises:
        NelboError: an unknown prediction or variance, a schedule that the prediction cannot be
            used with, or a profile that is missing or of another chain.
    """

    learns_schedule = False  # as `nelbo.diffusion.continuous.ContinuousDiffusion` does

    def __init__(
        self,
        network: Network,
        schedule: NoiseSchedule,
        *,
        prediction: str | Parameterization = "epsilon",
        variance: str = "fixed_small",
        data: DataSpace = Pixels(256),  # noqa: B008 - frozen
        shape: Sequence[int] | None = None,
        clip_sample: bool = False,
        thresholding: Threshold | None = None,
        profile: LevelProfile | None = None,
    ) -> None:
        super().__init__(schedule)
        if isinstance(prediction, str):
            prediction = PARAMETERIZATIONS[_one_of(prediction, PARAMETERIZATIONS, "prediction")]
        self.parameterization = prediction
        self.prediction = prediction.name
        self.variance = _one_of(variance, VARIANCES, "variance")
        if prediction.needs_signal and schedule.alphas_cumprod[-1] == 0:
            raise NelboError(
                "a chain that ends without signal leaves x_0 undetermined by the noise: "
                "use prediction='v_prediction', 'sample' or 'velocity'"
            )
        self.network = network
        self.data = data
        self.shape = None if shape is None else tuple(shape)
        self.threshold = thresholding or (StaticThreshold() if clip_sample else None)
        if profile is not None:
            profile_levels(schedule, profile)
        self.profile = profile
        self._reverse_variance = VARIANCES[variance](schedule, profile)

    # The decoder

    def predict(self, x_t: Tensor, t: Level, condition: Condition | None = None) -> Prediction:
        """The network's prediction at level t: `.x_0`, `.epsilon`, `.v`, and `.variance` of p_step.

        Raises:
            NelboError: the network's output has the wrong shape.
        """
        at = self.coefficients
        scales = at.signal_scale(t, x_t), at.noise_scale(t, x_t)
        prediction = self._predict(x_t, *scales, at.network_time(t, x_t), condition)
        log_variance = self._reverse_variance.log(t, x_t, prediction.variance_output)
        return dataclasses.replace(prediction, log_variance=log_variance)

    def predict_at(
        self, x: Tensor, level: NoiseLevel | NoiseLevels, condition: Condition | None = None
    ) -> Prediction:
        """The network's prediction at noise levels that may lie between those of the chain.

        No step of the chain leads from there, so `.variance` is nan.

        Raises:
            NelboError: the network's output has the wrong shape.
        """
        return self._predict(x, *level.on(x), condition)

    @property
    def output_multiple(self) -> int:
        """How many output channels the network has for each channel of the data."""
        return 2 if self._reverse_variance.is_learned else 1

    @property
    def reverse_variance(self) -> ReverseVariance:
        """Σ_t of p(x_{t-1}|x_t), or between what it is learned."""
        return self._reverse_variance

    @property
    def learns_variance(self) -> bool:
        """Whether the network predicts the reverse variance."""
        return self._reverse_variance.is_learned

    def conditioned(
        self,
        n: int,
        *,
        guidance: float | Guidance = 1.0,
        control: AnyControl | None = None,
        **given: Any,
    ) -> tuple[Diffusion, Condition | None]:
        """The model with its guidance and control, and the condition of `n` examples, for any
        sampler or edit.

        Arguments are as `BaseModel.conditioned`.
        """
        _, condition = super().conditioned(n, **given)
        model, condition = under_control(self, n, control, condition)
        return model.guided(guidance), condition

    def p_step(self, x_t: Tensor, t: Level, condition: Condition | None = None) -> Normal:
        """The reverse step p(x_{t-1}|x_t) = N(μ_q(x_t, x̂_0), Σ_t)."""
        return self.step_from(self.predict(x_t, t, condition), t)

    def step_from(self, prediction: Prediction, t: Level) -> Normal:
        """p(x_{t-1}|x_t) from a prediction already made; at t = 1, p(x_0|x_1) before rounding."""
        mean = self.posterior_mean(prediction.x_t, prediction.x_0, t)
        return normal(mean, prediction.stddev)

    def p_data(self, x_1: Tensor, condition: Condition | None = None) -> DiscretizedNormal | Normal:
        """The last step p(x_0|x_1): a normal around x̂_0 of variance Σ_1, rounded for pixels."""
        return self.likelihood(self.predict(x_1, 1, condition))

    def likelihood(self, prediction: Prediction) -> DiscretizedNormal | Normal:
        """p(x_0|x_1) from a prediction already made."""
        return self.data.likelihood(prediction.x_0, prediction.stddev)

    def scales(
        self,
        x_0: Tensor,
        condition: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, " levels"]:
        """As `MHVAE.scales`, from the schedule and the least reverse variances alone."""
        p = self._reverse_variance.least.sqrt()[1:]
        q = self.schedule.betas.sqrt()[1:]
        return torch.cat([p[:1], torch.minimum(q[:-1], p[1:]), q[-1:]])

    def sensitivity(self, side: str) -> Float[Tensor, " levels"]:
        """As `MHVAE.sensitivity`; no network gives q."""
        found = torch.zeros(self.num_levels + 1, dtype=torch.float64)
        if side == "p":
            weight = self.schedule.posterior_data_weight[1:]
            error = self.parameterization.data_error(self.schedule.log_snr[1:])
            found[:-1] = weight * error.sqrt()
        return found

    # The bound

    def score_matching_map(
        self, x_0: Tensor, x_t: Tensor, t: Level, condition: Condition | None = None
    ) -> Float[Tensor, "batch ..."]:
        """KL(q(x_{t-1}|x_t,x_0) || p(x_{t-1}|x_t)) of each value at t ≥ 2, nats, (B, ...)."""
        return self._divergence(self.predict(x_t, t, condition), x_0, t)

    def level_term(self, prediction: Prediction, x_0: Tensor, t: Tensor) -> Float[Tensor, " batch"]:
        """What level t costs: −log p(x_0|x_1) at t = 1, score matching above; nats, (B,)."""
        at = t.clamp(min=min(2, self.num_levels))
        term = per_example(self._divergence(prediction, x_0, at))
        first = (t == 1).nonzero().flatten()
        if len(first) == 0:
            return term
        log_likelihood = self.likelihood(prediction[first]).log_prob(x_0[first])
        return term.index_copy(0, first, -per_example(log_likelihood).to(term.dtype))

    # Uses

    def respace(self, levels: Sequence[int] | Tensor) -> Diffusion:
        """A shorter chain through `levels` with the same network: a valid MHVAE of its own."""
        return self.replace(schedule=self.schedule.respace(levels))

    def guided(
        self, guidance: float | Guidance, unconditional: Condition | None = None
    ) -> Diffusion:
        """The model with classifier-free guidance; itself where the scale is 1.

        Its bound is that of the guided chain, a valid MHVAE whose decoder is the guided network,
        and not that of the model which was trained: guidance sharpens samples and costs bits.

        Args:
            guidance: the guidance scale, or a `Guidance` with an interval and rescale.
            unconditional: what to guide away from, for each example or, with batch size 1, for
                all: needed for text, and by default no label.

        Raises:
            NelboError: a network that takes neither labels nor text, a model that does not know
                its shape, or an interval without a level of the chain.
        """
        guidance = guidance if isinstance(guidance, Guidance) else Guidance(guidance)
        if guidance.scale == 1.0:
            return self
        if not (self.is_conditional or self.guesses):
            raise NelboError(
                f"guidance {guidance.scale} needs a conditional model, this one takes neither "
                "labels nor text: leave guidance at 1"
            )
        if self.shape is None:
            raise NelboError("guidance needs a model that knows its shape: pass shape=(C, H, W)")
        guided = GuidedNetwork(
            self.network,
            guidance.scale,
            self.shape[0],
            unconditional,
            times=None if guidance.interval is None else self._times_within(*guidance.interval),
            rescale=guidance.rescale,
        )
        return self.replace(network=guided)

    def with_embedded_guidance(self, guidance: float) -> Diffusion:
        """The model whose distilled network receives another guidance, which is another model.

        Raises:
            NelboError: a network that takes none.
        """
        network: Any = self.network
        if self.embedded_guidance is None:
            return super().with_embedded_guidance(guidance)
        return self.replace(network=network.with_guidance(guidance))

    @property
    def unguided(self) -> Diffusion:
        """The model without guidance; itself where it has none."""
        network = self.network
        return self.replace(network=network.network) if isinstance(network, GuidedNetwork) else self

    @torch.no_grad()
    def sample(
        self,
        n: int,
        sampler: Sampler | None = None,
        *,
        condition: Condition | None = None,
        control: AnyControl | None = None,
        guidance: float | Guidance = 1.0,
        x_T: Tensor | None = None,
        generator: Generators | None = None,
    ) -> Float[Tensor, "n channels height width"]:
        """`n` examples, (n, C, H, W); without a sampler, by the whole ancestral chain.

        Args:
            n: how many.
            sampler: how to walk the chain; see `nelbo.samplers`.
            condition: what to sample, one entry an example.
            control: for a ControlNet, (n, C, H, W) or (1, C, H, W) for all, usually in [0, 1], or
                a `Control` with its strength; of several, one each.
            guidance: scale of classifier-free guidance, 1 the conditional model itself, or a
                `Guidance` with an interval and rescale.
            x_T: the state to start from, (n, C, H, W), drawn from the prior by default.
            generator: the source of all noise, or one an example.

        Raises:
            NelboError: a condition of another number of examples, an `x_T` of another shape, a
                control for a model without ControlNet, or guidance of an unconditional model.
        """
        check_condition(condition, n)
        if control is not None:
            model, condition = under_control(self, n, control, condition)
            return model.sample(
                n, sampler, condition=condition, guidance=guidance, x_T=x_T, generator=generator
            )
        if sampler is None:
            if x_T is None:
                last = self.schedule.noise_level(self.num_levels)
                warn_of_signal(self.schedule, last, "Ancestral sampling")
            return super(Diffusion, self.guided(guidance)).sample(
                n, condition=condition, x_T=x_T, generator=generator
            )
        if x_T is None and sampler.skip:
            within = sampler.start_level(self.schedule)
            warn_of_signal(self.schedule, within, type(sampler).__name__)
        start = self.start(n, x_T, generator)
        return sampler.sample(
            self, start, condition=condition, guidance=guidance, generator=generator
        )

    def with_profile(self, profile: LevelProfile, *, variance: str | None = None) -> Diffusion:
        """The same model with a profile, and with another variance where one is named."""
        return self.replace(profile=profile, variance=variance)

    def with_network(self, network: Network) -> Diffusion:
        """The same model with another network."""
        return self.replace(network=network)

    def with_controlnets(self, *controlnets: ControlNet) -> Diffusion:
        """The same model with ControlNets on its UNet, beside any; see `BaseModel`."""
        network = self.unguided.network
        strengths: list[Strength] = []
        if isinstance(network, ControlledUNet):
            strengths, controlnets = [*network.strengths], (*network.nets, *controlnets)
            network = network.unet
        if not isinstance(network, UNet):
            raise NelboError(
                f"a ControlNet controls a UNet, and the network here is a {type(network).__name__}"
            )
        strengths += [Strength()] * (len(controlnets) - len(strengths))
        controlled = ControlledUNet(network, controlnets, strengths=strengths)
        return self.replace(network=controlled.train(self.training))

    def replace(
        self,
        *,
        network: Network | None = None,
        schedule: NoiseSchedule | None = None,
        variance: str | None = None,
        profile: LevelProfile | None = None,
    ) -> Diffusion:
        """A model with these parts in place of its own; it shares everything else.

        Without a profile it keeps its own, unless that is of another schedule.

        Raises:
            NelboError: parts that do not fit together, as in the constructor.
        """
        if profile is None and self.profile is not None:
            # The analytic variance cannot do without, and explains itself.
            needs = (variance or self.variance) == "analytic"
            if schedule is None or needs or difference(schedule, self.profile) is None:
                profile = self.profile
        model = Diffusion(
            self.network if network is None else network,
            schedule or self.schedule,
            prediction=self.parameterization,
            variance=variance or self.variance,
            data=self.data,
            shape=self.shape,
            thresholding=self.threshold,
            profile=profile,
        )
        model.train(self.training)
        return model

    def _predict(
        self, x: Tensor, a: Tensor, s: Tensor, time: Tensor, condition: Condition | None
    ) -> Prediction:
        """The one place that calls the network and reads its output, the variance left out."""
        check_condition(condition, len(x))
        output = self.network(*self.parameterization.network_input(x, time, a, s), condition)
        channels = x.shape[1]
        if self.variance == "analytic" and output.shape[1] == 2 * channels:
            output = output[:, :channels]  # a learned variance that the analytic one replaces
        expected = (len(x), channels * self.output_multiple, *x.shape[2:])
        if tuple(output.shape) != expected:
            raise NelboError(
                f"the network returned shape {tuple(output.shape)} for {tuple(x.shape)}, "
                f"expected {expected} with variance={self.variance!r}"
            )
        # In a step of training the loss is watched instead, which waits for no device.
        if not (self.training and torch.is_grad_enabled()):
            check_finite(output, "the prediction of the network", time)
        return Prediction(
            self.parameterization,
            output[:, :channels],
            x,
            a,
            s,
            self.threshold,
            variance_output=output[:, channels:] if self.learns_variance else None,
            log_variance=torch.tensor(torch.nan, dtype=a.dtype),
        )

    def call_time(self, level: NoiseLevel) -> float:
        """The time that the network is called with at a noise level."""
        x = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
        a, s, at = level.on(x)
        return self.parameterization.network_input(x, at, a, s)[1].item()

    def _times_within(self, low: float, high: float) -> tuple[float, float]:
        """The first and last time to guide at, of those that the network is called with."""
        times = self.schedule.times_within(low, high)
        if times is None:
            sigma = self.schedule.sigmas
            raise NelboError(
                f"no level of the chain has noise in the guidance interval ({low}, {high}]: its "
                f"noise levels lie in {sigma[1]:.4g}..{sigma[-1]:.4g}"
            )
        ends = (self.call_time(self.schedule.noise_level(self.schedule.level_of(t))) for t in times)
        first, last = sorted(ends)
        # A time that is computed, not counted, differs by rounding in float32.
        slack = 1e-6 if isinstance(last, float) else 0
        return first - slack * abs(first), last + slack * abs(last)

    def _divergence(
        self, prediction: Prediction, x_0: Tensor, t: Level
    ) -> Float[Tensor, "batch ..."]:
        # The two means differ by weight · (x_0 − x̂_0); the difference of the means as computed
        # would cancel in float32 where steps are small.
        at = self.coefficients
        error = at.data_weight(t, x_0) * (x_0 - prediction.x_0)
        log_ratio = at.posterior_log_variance(t, x_0) - prediction.log_variance
        precision = (-prediction.log_variance).exp()
        return 0.5 * (error.square() * precision + (torch.expm1(log_ratio) - log_ratio))


def _one_of(value: str, allowed: Collection[str], name: str) -> str:
    if value not in allowed:
        raise NelboError(unknown(name, value, allowed))
    return value
