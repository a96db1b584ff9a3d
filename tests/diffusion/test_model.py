"""The diffusion model against float64 brute force written from the definitions."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch.distributions import Normal, kl_divergence

import nelbo
from nelbo import Condition, Continuous, Diffusion, NelboError, NoiseSchedule, Pixels
from nelbo.chain.mhvae import MHVAE
from nelbo.diffusion import DynamicThreshold, LevelProfile
from nelbo.diffusion.continuous import ContinuousDiffusion

T = 12
SHAPE = (2, 3, 3)
PREDICTIONS = ("epsilon", "sample", "v_prediction")
VARIANCES = ("fixed_small", "fixed_large", "learned_range")


class Network(torch.nn.Module):
    """A smooth function of the state and the time, with channels for a learned variance."""

    def __init__(self, multiple: int = 1, dtype=torch.float64):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(0.7, dtype=dtype))
        self.multiple = multiple
        self.times: list[torch.Tensor] = []

    def forward(self, x_t, time, condition=None):
        self.times.append(time)
        phase = time.to(x_t.dtype).view(-1, 1, 1, 1) / 3
        output = torch.tanh(self.scale * x_t + torch.sin(phase))
        if condition is not None and condition.label is not None:
            output = output + 0.1 * condition.label.view(-1, 1, 1, 1).clamp(min=0)
        extra = [torch.sin(3 * x_t + phase)] * (self.multiple - 1)
        return torch.cat([output, *extra], 1)


class MixingNetwork(Network):
    """The same of a state whose pixels and channels see one another, each pair in its own way.

    A pointwise function hides what is wrong in other pixels, and a transposed picture.
    """

    def forward(self, x_t, time, condition=None):
        weight = torch.linspace(0.2, 0.6, x_t[0].numel(), dtype=x_t.dtype).view(x_t[0].shape)
        left, above = x_t.roll(1, -1), x_t.roll(1, -2)
        mixed = x_t + weight * left - 0.5 * weight * above + 0.1 * x_t.roll(1, 1)
        return super().forward(mixed, time, condition)


def make(prediction="epsilon", variance="fixed_small", data=None, dtype=torch.float64, **options):
    network = Network(2 if variance == "learned_range" else 1, dtype)
    return Diffusion(
        network,
        NoiseSchedule.linear(T, 0.01, 0.4),
        prediction=prediction,
        variance=variance,
        data=data or Pixels(17),
        shape=SHAPE,
        **options,
    )


def pixels(n: int, seed: int = 0, levels: int = 17) -> torch.Tensor:
    k = torch.randint(0, levels, (n, *SHAPE), generator=torch.Generator().manual_seed(seed))
    return 2 * k.double() / (levels - 1) - 1


class BruteForce:
    """Every quantity from β alone, one example at a time, Python floats and scipy."""

    def __init__(self, model: Diffusion):
        self.model = model
        self.beta = [0.0] + [0.01 + (0.4 - 0.01) * i / (T - 1) for i in range(T)]
        self.signal = [1.0]
        for b in self.beta[1:]:
            self.signal.append(self.signal[-1] * (1 - b))

    def posterior_variance(self, t):
        return (1 - self.signal[t - 1]) / (1 - self.signal[t]) * self.beta[t]

    def predicted_x_0_and_variance(self, x_t, t):
        out = self.model.network(x_t, torch.full((len(x_t),), t - 1), None)
        a, s = math.sqrt(self.signal[t]), math.sqrt(1 - self.signal[t])
        mean = out[:, :2]
        x_0 = {
            "epsilon": (x_t - s * mean) / a,
            "sample": mean,
            "v_prediction": a * x_t - s * mean,
        }[self.model.prediction]
        if self.model.threshold is not None:
            x_0 = x_0.clamp(-1, 1)
        small = self.posterior_variance(max(t, 2))
        large = self.beta[t]
        if self.model.variance == "fixed_small":
            variance = torch.full_like(x_0, small)
        elif self.model.variance == "fixed_large":
            variance = torch.full_like(x_0, large)
        else:
            f = (out[:, 2:] + 1) / 2
            variance = torch.exp(f * math.log(large) + (1 - f) * math.log(small))
        return x_0, variance

    def step_mean(self, x_t, x_0, t):
        c = 1 - self.signal[t]
        return (
            math.sqrt(self.signal[t - 1]) * self.beta[t] / c * x_0
            + math.sqrt(1 - self.beta[t]) * (1 - self.signal[t - 1]) / c * x_t
        )

    def score_matching(self, x_0, x_t, t):
        predicted, variance = self.predicted_x_0_and_variance(x_t, t)
        q = Normal(self.step_mean(x_t, x_0, t), math.sqrt(self.posterior_variance(t)))
        p = Normal(self.step_mean(x_t, predicted, t), variance.sqrt())
        return kl_divergence(q, p).flatten(1).sum(1)

    def reconstruction(self, x_0, x_1, levels):
        mean, variance = self.predicted_x_0_and_variance(x_1, 1)
        h = 1 / (levels - 1)
        total = torch.zeros(len(x_0), dtype=torch.float64)
        flat = zip(
            x_0.flatten(1).tolist(),
            mean.flatten(1).tolist(),
            variance.sqrt().flatten(1).tolist(),
            strict=True,
        )
        for i, (xs, ms, ss) in enumerate(flat):
            for x, m, s in zip(xs, ms, ss, strict=True):
                normal = stats.norm(m, s)
                low = 0.0 if x < -1 + h else normal.cdf(x - h)
                high = 1.0 if x > 1 - h else normal.cdf(x + h)
                if low > 0.5:
                    low, high = normal.sf(x + h) if x <= 1 - h else 0.0, normal.sf(x - h)
                total[i] += math.log(high - low)
        return total

    def prior_matching(self, x_0):
        q = Normal(math.sqrt(self.signal[T]) * x_0, math.sqrt(1 - self.signal[T]))
        return kl_divergence(q, Normal(0.0, 1.0)).flatten(1).sum(1)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_terms_equal_brute_force(prediction, variance, clip):
    model = make(prediction, variance, clip_sample=clip)
    brute = BruteForce(model)
    x_0 = pixels(3)
    noise = torch.randn(3, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(
            model.prior_matching(x_0), brute.prior_matching(x_0), rtol=1e-9, atol=0
        )
        for t in range(2, T + 1):
            x_t = math.sqrt(brute.signal[t]) * x_0 + math.sqrt(1 - brute.signal[t]) * noise
            expected = brute.score_matching(x_0, x_t, t)
            each = torch.full((3,), t)
            for level in (t, each):
                torch.testing.assert_close(
                    model.score_matching(x_0, x_t, level), expected, rtol=1e-8, atol=1e-12
                )
            generic = super(Diffusion, model).score_matching(x_0, x_t, t)
            torch.testing.assert_close(generic, expected, rtol=1e-8, atol=1e-12)
        x_1 = math.sqrt(brute.signal[1]) * x_0 + math.sqrt(1 - brute.signal[1]) * noise
        if not (prediction == "sample" or clip):  # there scipy's tails underflow
            torch.testing.assert_close(
                model.reconstruction(x_0, x_1),
                brute.reconstruction(x_0, x_1, 17),
                rtol=1e-6,
                atol=1e-9,
            )


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_float32_terms_stay_close_to_float64(prediction, variance):
    single, double = make(prediction, variance, dtype=torch.float32), make(prediction, variance)
    x_0 = pixels(8)
    noise = torch.randn(8, *SHAPE, dtype=torch.float64)
    for t in range(2, T + 1):
        x_t = double.diffuse(x_0, noise, t)
        expected = double.score_matching(x_0, x_t, t)
        actual = single.score_matching(x_0.float(), x_t.float(), t)
        assert actual.dtype == torch.float32
        torch.testing.assert_close(actual.double(), expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_terms_of_data_in_half_precision_are_those_of_float32(dtype, generator):
    """In bfloat16 eight weights of 999 / 8 would sum to 1000."""
    schedule = NoiseSchedule.linear(1000, 1e-4, 2e-3)
    model = Diffusion(lambda x, time, condition: 0.9 * x, schedule, data=Continuous())
    learned = ContinuousDiffusion(Diffusion(model.network, schedule, variance="fixed_large"))
    x_0 = torch.randn(3, *SHAPE, generator=generator).to(dtype)
    for each, last in ((model, schedule), (learned, learned.gamma.discretize(1000))):
        signal = last.alphas_cumprod[-1]
        q = Normal(signal.sqrt() * x_0.double(), (1 - signal).sqrt().expand(x_0.shape))
        expected = kl_divergence(q, Normal(torch.zeros_like(q.mean), 1.0)).flatten(1).sum(1)
        torch.testing.assert_close(
            each.prior_matching(x_0).double(), expected, rtol=1e-5, atol=1e-5
        )
    weights = model.elbo(x_0, levels=8, generator=generator).weights
    assert weights.double().sum(1).tolist() == [999.0] * 3


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_three_readings_of_a_prediction_agree(prediction):
    model = make(prediction)
    x_t = torch.randn(4, *SHAPE, dtype=torch.float64)
    t = torch.tensor([1, 3, 7, T])
    p = model.predict(x_t, t)
    a = model.schedule.alphas_cumprod[t].sqrt().view(-1, 1, 1, 1)
    s = (1 - model.schedule.alphas_cumprod[t]).sqrt().view(-1, 1, 1, 1)
    torch.testing.assert_close(a * p.x_0 + s * p.epsilon, x_t)
    torch.testing.assert_close(a * p.epsilon - s * p.x_0, p.v)
    reading = {"epsilon": p.epsilon, "sample": p.x_0, "v_prediction": p.v}[prediction]
    torch.testing.assert_close(reading, model.network(x_t, t - 1))


def test_forward_process_composes_to_its_marginal():
    model = make()
    x_0 = pixels(2)
    mean, variance = x_0, torch.zeros(())
    for t in range(1, T + 1):
        step = model.q_step(mean, t)
        variance = (1 - model.schedule.betas[t]) * variance + step.variance
        mean = step.mean
        marginal = model.q_marginal(x_0, t)
        torch.testing.assert_close(marginal.mean, mean)
        torch.testing.assert_close(marginal.variance, variance.expand_as(mean))


def test_level_can_be_an_int_or_one_for_each_example():
    model = make(variance="learned_range")
    x = torch.randn(3, *SHAPE, dtype=torch.float64)
    levels = torch.tensor([2, 5, T])
    batched = model.p_step(x, levels)
    for i, t in enumerate(levels.tolist()):
        single = model.p_step(x[i : i + 1], t)
        torch.testing.assert_close(batched.mean[i : i + 1], single.mean)
        torch.testing.assert_close(batched.variance[i : i + 1], single.variance)


def test_network_is_told_level_minus_one_and_the_parents_time_when_respaced():
    model = make()
    x = torch.randn(2, *SHAPE, dtype=torch.float64)
    model.predict(x, 5)
    assert model.network.times.pop().tolist() == [4, 4]
    child = model.respace([1, 4, 9])
    child.predict(x, torch.tensor([2, 3]))
    assert model.network.times.pop().tolist() == [3, 8]


def test_elbo_is_made_of_its_public_terms():
    model = make(variance="learned_range")
    x_0 = pixels(3)
    bound = model.elbo(x_0, generator=torch.Generator().manual_seed(5))
    g = torch.Generator().manual_seed(5)

    def noise():
        return torch.randn(3, *SHAPE, generator=g, dtype=torch.float64)

    draws = [model.reconstruction(x_0, model.diffuse(x_0, noise(), 1)) for _ in range(2)]
    torch.testing.assert_close(bound.reconstruction, (draws[0] + draws[1]) / 2)
    torch.testing.assert_close(bound.reconstruction_variance, (draws[0] - draws[1]) ** 2 / 4)
    for column, t in enumerate(range(2, T + 1)):
        x_t = model.diffuse(x_0, noise(), t)
        torch.testing.assert_close(
            bound.score_matching[:, column], model.score_matching(x_0, x_t, t)
        )
    assert bound.dims == 18
    assert (bound.weights == 1).all()


@pytest.mark.parametrize("K", [1, 3, 5])
def test_elbo_at_some_levels_is_unbiased(K, generator):
    model = make()
    x_0 = pixels(2)
    repeated = x_0.repeat_interleave(2000, 0)
    with torch.no_grad():
        exact = model.elbo(repeated, generator=generator).elbo.view(2, 2000)
        some = model.elbo(repeated, levels=K, generator=generator)
    assert some.levels.shape == (4000, K)
    assert some.levels.min() == 2
    assert some.levels.max() == T
    estimates = some.elbo.view(2, 2000)
    error = (exact.var(1) / 2000 + estimates.var(1) / 2000).sqrt()
    assert ((exact.mean(1) - estimates.mean(1)).abs() < 3 * error).all()


def test_as_many_levels_as_there_are_still_have_the_right_weight(generator):
    model = make()
    bound = model.elbo(pixels(50), levels=T - 1, generator=generator)
    assert bound.levels.tolist() == [list(range(2, T + 1))] * 50
    assert (bound.weights == 1).all()


def test_chain_of_one_level_has_no_score_matching():
    model = make().respace([T])
    bound = model.elbo(pixels(2), generator=torch.Generator().manual_seed(0))
    assert bound.score_matching.shape == (2, 0)
    assert bound.elbo.isfinite().all()
    assert model.path_elbo(pixels(2)).isfinite().all()
    assert model.sample(2).shape == (2, *SHAPE)
    assert nelbo.loss(model, pixels(2), objective="bound").isfinite()


def test_conditions_reach_every_level():
    model = make()
    x_0 = pixels(3)
    labels = Condition(label=torch.tensor([0, 4, 9]))
    together = model.elbo(x_0, labels, generator=torch.Generator().manual_seed(0))
    plain = model.elbo(x_0, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(together.elbo[0], plain.elbo[0])
    assert (together.elbo[1:] - plain.elbo[1:]).abs().min() > 0.01


def test_data_is_checked():
    with pytest.raises(NelboError, match="17 pixel levels"):
        make().elbo(pixels(2) + 0.03)
    with pytest.raises(NelboError, match="17 pixel levels"):
        make().path_elbo(2 * pixels(2))
    with pytest.raises(NelboError, match=r"\(1, 3, 3\).*\(2, 3, 3\)"):
        make().elbo(pixels(2)[:, :1])
    with pytest.raises(NelboError, match="not finite"):
        make(data=Continuous()).elbo(pixels(1) / 0)
    with pytest.raises(NelboError, match=r"0\.\.16"):
        Pixels(17).to_network(torch.tensor([3, 17]))


def test_settings_are_checked():
    with pytest.raises(NelboError, match="unknown prediction 'x'"):
        make("x")
    with pytest.raises(NelboError, match="unknown variance 'x'"):
        make(variance="x")
    with pytest.raises(NelboError, match="without signal"):
        Diffusion(Network(), NoiseSchedule.from_betas([0.5, 1.0]))
    with pytest.raises(NelboError, match=r"expected \(2, 4, 3, 3\)"):
        Diffusion(Network(), NoiseSchedule.linear(), variance="learned_range").predict(
            torch.zeros(2, *SHAPE), 3
        )
    with pytest.raises(NelboError, match="unknown objective"):
        nelbo.loss(make(), pixels(1), objective="x")
    with pytest.raises(NelboError, match="shape"):
        Diffusion(Network(), NoiseSchedule.linear()).sample(1)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_the_scales_of_its_levels_are_those_of_any_chain(variance):
    """Read off the schedule they are what a path of the chain shows."""
    model = make(variance=variance)
    torch.testing.assert_close(model.scales(pixels(2)), MHVAE.scales(model, pixels(2)))


def test_a_learned_variance_is_as_narrow_as_it_may_be():
    model, least = make(variance="learned_range"), make(variance="fixed_small")
    torch.testing.assert_close(model.scales(pixels(2)), least.scales(pixels(2)))


@pytest.mark.parametrize("prediction", [*PREDICTIONS, "velocity"])
def test_the_sensitivity_of_a_level_is_what_one_more_of_the_output_moves(prediction):
    def means(output: float) -> torch.Tensor:
        model = Diffusion(
            lambda x, time, condition: torch.full_like(x, output),
            NoiseSchedule.linear(T, 0.01, 0.4),
            prediction=prediction,
            data=Continuous(),
        )
        x = torch.full((1, 1, 1, 1), 0.3, dtype=torch.float64)
        found = [model.p_below(x, t).mean.item() for t in range(1, T + 1)]
        return torch.tensor([*found, 0.0], dtype=torch.float64)  # the prior reads no network

    moved = (means(1.0) - means(0.0)).abs()
    model = make(prediction)
    torch.testing.assert_close(model.sensitivity("p"), moved)
    assert model.sensitivity("q").tolist() == [0.0] * (T + 1)


LOWEST = {
    "q_marginal": (0, lambda m, x, t: m.q_marginal(x, t)),
    "q_step": (1, lambda m, x, t: m.q_step(x, t)),
    "q_posterior": (1, lambda m, x, t: m.q_posterior(x, x, t)),
    "predict": (1, lambda m, x, t: m.predict(x, t)),
    "p_step": (1, lambda m, x, t: m.p_step(x, t)),
    "score_matching": (2, lambda m, x, t: m.score_matching(x, x, t)),
}


@pytest.mark.parametrize("name", LOWEST)
def test_levels_end_where_the_chain_does(name):
    """Level −1 would be read as level T."""
    model, x = make(), pixels(3)
    least, call = LOWEST[name]
    for t in (least, T):
        call(model, x, t)
        call(model, x, torch.tensor([t, T, 5]))
    for t in (least - 1, T + 1):
        for level in (t, torch.tensor([5, t, 5])):
            with pytest.raises(NelboError, match=rf"{least}\.\.{T}"):
                call(model, x, level)


@pytest.mark.usefixtures("without_shape_checks")
def test_one_level_for_all_examples_may_be_a_tensor():
    """A level is an int, a tensor without a dimension, of one, or of one for each example."""
    model, x_0 = make(), pixels(3)
    with torch.no_grad():
        expected = model.p_step(x_0, 4).mean
        for t in (torch.tensor(4), torch.tensor([4]), torch.tensor([4, 4, 4])):
            assert torch.equal(model.p_step(x_0, t).mean, expected)
    odd = [[4, 4], [[4]], [4.0, 4.0, 4.0], [True, True, True]]
    for t in (*map(torch.tensor, odd), torch.tensor([], dtype=torch.int64)):
        with pytest.raises(NelboError, match="one for each example"):
            model.p_step(x_0, t)


def test_a_profile_stays_where_it_fits():
    schedule = NoiseSchedule.linear(6, 0.1, 0.5)
    profile = LevelProfile.of_variances(schedule, schedule.posterior_variance)
    model = Diffusion(torch.nn.Identity(), schedule, shape=(1, 2, 2)).with_profile(profile)
    assert model.profile is profile
    for same in (model.with_network(torch.nn.Flatten(0)), model.replace(variance="fixed_large")):
        assert same.profile is profile
    assert model.replace(schedule=NoiseSchedule.linear(6, 0.1, 0.5)).profile is profile
    assert model.replace(schedule=NoiseSchedule.linear(6, 0.1, 0.4)).profile is None


def test_what_decides_the_bound_is_named():
    schedule = NoiseSchedule.linear(6, 0.1, 0.5)
    profile = LevelProfile.of_variances(schedule, schedule.posterior_variance)

    def identity(**options):
        return Diffusion(torch.nn.Identity(), schedule, **options).identity()

    plain, clipped = identity(), identity(clip_sample=True)
    dynamic = identity(thresholding=DynamicThreshold())
    read = [(each["clip_sample"], each["thresholding"]) for each in (plain, clipped, dynamic)]
    assert read == [(False, "-"), (True, "-"), (False, repr(DynamicThreshold()))]
    assert "level profile" not in plain
    assert "level profile" not in identity(profile=profile)
    analytic = identity(profile=profile, variance="analytic")
    assert analytic["level profile"] == profile.digest()
