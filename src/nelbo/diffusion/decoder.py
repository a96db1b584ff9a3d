r"""The decoder: the encoder's posterior with a network's prediction in place of the data.

.. math::
    p(x_{t-1}|x_t) = N(\mu_q(x_t, \hat x_0(x_t, t)),\; \Sigma_t),

so that each score matching term is a weighted squared error of :math:`\hat x_0`
(Ho et al. 2020, section 3). One method, `GaussianDecoder.predict`, is the whole reverse process:
sampling and evaluating both read it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Normal

from nelbo.base.arguments import check_choice, check_count, check_kind, described
from nelbo.base.errors import NelboError
from nelbo.chain.conditioning import Condition, check_condition
from nelbo.chain.data_space import DataSpace, Pixels
from nelbo.chain.distributions import DiscretizedNormal, normal
from nelbo.chain.examples import check_examples
from nelbo.chain.level import Level, check_level
from nelbo.chain.terms import per_example
from nelbo.diffusion.description import DescribedChain, Network
from nelbo.diffusion.noise_level import NoiseLevel, NoiseLevels
from nelbo.diffusion.prediction import PARAMETERIZATIONS, Parameterization, Prediction
from nelbo.diffusion.profile import LevelProfile
from nelbo.diffusion.schedule import NoiseSchedule
from nelbo.diffusion.thresholding import StaticThreshold, Threshold
from nelbo.diffusion.variance import VARIANCES, ReverseVariance, profile_levels
from nelbo.networks.finite import check_finite


class GaussianDecoder(DescribedChain):
    """The reverse process of a chain, and the terms of its bound; see `Diffusion`."""

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
        check_kind("network", network, Callable, "a module or function (x_t, time, condition)")
        check_kind("schedule", schedule, NoiseSchedule, "a NoiseSchedule, such as .cosine(1000)")
        check_kind("data", data, DataSpace, "Pixels(levels) or Continuous()")
        check_kind("clip_sample", clip_sample, bool, "True or False")
        if thresholding is not None:
            check_kind("thresholding", thresholding, Threshold, "a Static- or DynamicThreshold")
        if shape is not None:
            check_kind("shape", shape, Sequence, "the sides of one example, such as (3, 32, 32)")
            check_count("the number of sides of shape", len(shape))
            for side in shape:
                check_count("each side of shape", side)
        super().__init__(schedule)
        if not isinstance(prediction, Parameterization):
            check_choice("prediction", prediction, PARAMETERIZATIONS)
            prediction = PARAMETERIZATIONS[prediction]
        self.parameterization = prediction
        self.prediction = prediction.name
        check_choice("variance", variance, VARIANCES)
        self.variance = variance
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
            check_kind("profile", profile, LevelProfile, "what nelbo.level_profile measures")
            profile_levels(schedule, profile)
        self.profile = profile
        self._reverse_variance = VARIANCES[variance](schedule, profile)

    def predict(self, x_t: Tensor, t: Level, condition: Condition | None = None) -> Prediction:
        """The network's prediction at level t: `.x_0`, `.epsilon`, `.v`, and `.variance` of p_step.

        Raises:
            NelboError: a level outside 1..T, or the network's output has the wrong shape.
        """
        check_examples(x_t=x_t)
        check_level(t, self.num_levels, x_t)
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

    def _predict(
        self, x: Tensor, a: Tensor, s: Tensor, time: Tensor, condition: Condition | None
    ) -> Prediction:
        """The one place that calls the network and reads its output, the variance left out."""
        check_condition(condition, len(x))
        output = self.network(*self.parameterization.network_input(x, time, a, s), condition)
        if not isinstance(output, Tensor):
            raise NelboError(
                f"the network returned {described(output)}, expected a tensor: wrap it in a "
                "function that returns one, such as .sample of what a network of diffusers returns"
            )
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
