r"""The diffusion model: an MHVAE whose encoder is linear, Gaussian and fixed.

The encoder :math:`q(x_t|x_{t-1}) = N(\sqrt{\alpha_t} x_{t-1}, \beta_t I)` has nothing to learn and
ends near the prior :math:`p(x_T) = N(0, I)`. What it is evaluated by is in
`nelbo.diffusion.decoder`; here is how it is drawn from, and what other models its parts make.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.chain.conditioning import Condition, check_condition
from nelbo.chain.distributions import Generators
from nelbo.diffusion.control import under_control
from nelbo.diffusion.decoder import GaussianDecoder
from nelbo.diffusion.description import Network
from nelbo.diffusion.prediction import Parameterization
from nelbo.diffusion.profile import LevelProfile
from nelbo.diffusion.sampler import Sampler, check_sampler
from nelbo.diffusion.schedule import NoiseSchedule
from nelbo.diffusion.start import warn_of_signal
from nelbo.diffusion.variance import difference
from nelbo.networks.control import AnyControl, Strength
from nelbo.networks.controlnet import ControlledUNet, ControlNet
from nelbo.networks.guidance import Guidance, GuidedNetwork
from nelbo.networks.unet import UNet


class Diffusion(GaussianDecoder):
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
                its shape, one that is guided already, or an interval without a level of the chain.
        """
        guidance = guidance if isinstance(guidance, Guidance) else Guidance(guidance)
        if guidance.scale == 1.0:
            return self
        if not (self.is_conditional or self.guesses):
            raise NelboError(
                f"guidance {guidance.scale} needs a conditional model, this one takes neither "
                "labels nor text: leave guidance at 1"
            )
        if self.unguided is not self:
            raise NelboError(
                f"guidance {guidance.scale} on top of that of a guided model, which would multiply "
                "the scales: guide model.unguided"
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
        check_sampler(sampler)
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
        prediction: Parameterization | None = None,
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
            prediction=prediction or self.parameterization,
            variance=variance or self.variance,
            data=self.data,
            shape=self.shape,
            thresholding=self.threshold,
            profile=profile,
        )
        model.train(self.training)
        return model

    def _times_within(self, low: float, high: float) -> tuple[float, float]:
        """The first and last time to guide at, of those that the network is called with.

        Samplers in σ call it between levels too, up to the ends of the interval.
        """
        schedule = self.schedule
        times, sigma = schedule.times_within(low, high), schedule.sigmas
        if times is None:
            raise NelboError(
                f"no level of the chain has noise in the guidance interval ({low}, {high}]: its "
                f"noise levels lie in {sigma[1]:.4g}..{sigma[-1]:.4g}"
            )
        within = [self.call_time(schedule.noise_level(schedule.level_of(t))) for t in times]
        ends = [
            schedule.at_sigma(min(max(s, float(sigma[1])), float(sigma[-1]))) for s in (low, high)
        ]
        first, last = (self.call_time(schedule.noise_level(t)) for t in (1, self.num_levels))
        way = 1 if first <= last else -1
        least = 1.0 if isinstance(first, int) else 0.0

        def beside(time: float, side: int) -> float:
            """A little before or after a time, which is rounded: in float32, or as a logarithm."""
            return way * time + side * 1e-6 * max(abs(time), least)

        low_end, high_end = (self.call_time(end) for end in ends)
        start = min(beside(low_end, 1), beside(within[0], -1))
        stop = max(beside(high_end, -1), beside(within[1], 1))
        first, last = sorted((way * start, way * stop))
        return first, last
