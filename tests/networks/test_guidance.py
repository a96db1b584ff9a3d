"""Guidance: against diffusers, how often and with what batch the network is called, and where."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

from nelbo import Condition, Diffusion, Guidance, NelboError, NoiseSchedule, UNet
from nelbo.samplers import DDIM, DDPM, Euler
from tests.diffusion.test_model import SHAPE, Network

T = 12
LABELS = Condition(label=torch.tensor([3, 8]))


class Counting(Network):
    """Keeps the batch size of each call; the label scales the output."""

    def __init__(self, multiple: int = 1) -> None:
        super().__init__(multiple)
        self.batches: list[int] = []

    def forward(self, x_t, time, condition=None):
        self.batches.append(len(x_t))
        output = super().forward(x_t, time)
        if condition is None:
            return output
        factor = 1 + 0.1 * condition.label.clamp(min=0).view(-1, 1, 1, 1)
        return torch.cat([output[:, :2] * factor, output[:, 2:]], 1)


def make(network: Network | None = None, **options) -> Diffusion:
    return Diffusion(
        network or Counting(), NoiseSchedule.linear(T, 0.01, 0.4), shape=SHAPE, **options
    )


def sigma(model: Diffusion, t: float) -> float:
    """√((1 − ᾱ)/ᾱ) half way between two levels."""
    low, high = model.schedule.alphas_cumprod[[math.floor(t), math.ceil(t)]].tolist()
    return math.sqrt(2 / (low + high) - 1)


@pytest.mark.parametrize("rescale", [0.3, 1.0])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_rescale_equals_diffusers(rescale, prediction, generator):
    model = make(prediction=prediction)
    x = torch.randn(2, *SHAPE, generator=generator, dtype=torch.float64)
    time = torch.tensor([4, 4])
    conditional = model.network(x, time, LABELS)
    unconditional = model.network(x, time, None)
    guided = unconditional + 4.0 * (conditional - unconditional)
    expected = rescale_noise_cfg(guided, conditional, rescale)
    found = model.guided(Guidance(4.0, rescale=rescale)).predict(x, 5, LABELS)
    torch.testing.assert_close(found.output, expected)
    assert (found.output - guided).abs().max() > 1e-3
    if rescale == 1.0:
        torch.testing.assert_close(found.output.std((1, 2, 3)), conditional.std((1, 2, 3)))


def test_only_the_prediction_is_guided_not_the_variance(generator):
    model = make(Counting(2), variance="learned_range")
    x = torch.randn(2, *SHAPE, generator=generator, dtype=torch.float64)
    guided = model.guided(Guidance(4.0, rescale=0.7)).predict(x, 5, LABELS)
    torch.testing.assert_close(guided.log_variance, model.predict(x, 5, LABELS).log_variance)


@pytest.mark.parametrize("sampler", [None, DDPM(), DDIM(T)])
def test_outside_the_interval_only_the_conditional_half_is_computed(sampler):
    network = Counting()
    model = make(network)
    low, high = sigma(model, 4.5), sigma(model, 9.5)
    model.sample(2, sampler, condition=LABELS, guidance=Guidance(3.0, (low, high)))
    expected = {t: 4 if 4 < t <= 9 else 2 for t in range(1, T + 1)}
    assert dict(zip(range(T, 0, -1), network.batches, strict=True)) == expected


def test_interval_of_a_respaced_chain_and_of_mixed_levels(generator):
    model = make()
    guidance = Guidance(3.0, (sigma(model, 4.5), sigma(model, 9.5)))
    guided, always = model.guided(guidance), model.guided(3.0)
    x = torch.randn(2, *SHAPE, generator=generator, dtype=torch.float64)
    mixed = guided.predict(x, torch.tensor([4, 9]), LABELS).epsilon
    torch.testing.assert_close(mixed[:1], model.predict(x[:1], 4, LABELS[:1]).epsilon)
    torch.testing.assert_close(mixed[1:], always.predict(x[1:], 9, LABELS[1:]).epsilon)
    short = guided.respace([4, 9])
    torch.testing.assert_close(
        short.predict(x, 1, LABELS).epsilon, model.predict(x, 4, LABELS).epsilon
    )
    torch.testing.assert_close(
        short.predict(x, 2, LABELS).epsilon, always.predict(x, 9, LABELS).epsilon
    )


@pytest.mark.parametrize("guidance", [1.0, Guidance(1.0), Guidance(1.0, (0.1, 1.0), 0.5)])
def test_scale_one_costs_one_call_of_the_normal_batch(guidance):
    network = Counting()
    model = make(network)
    plain = model.sample(2, DDIM(6), condition=LABELS, x_T=torch.ones(2, *SHAPE).double())
    network.batches.clear()
    same = model.sample(
        2, DDIM(6), condition=LABELS, guidance=guidance, x_T=torch.ones(2, *SHAPE).double()
    )
    assert network.batches == [2] * 6
    assert torch.equal(plain, same)
    assert model.guided(guidance) is model


@pytest.mark.parametrize("shape", [SHAPE, (1, 1, 1)])
def test_an_output_without_spread_is_not_rescaled(shape):
    def constant(x, time, condition=None):
        return (condition.label.view(-1, 1, 1, 1) >= 0).to(x).expand_as(x)

    model = Diffusion(constant, NoiseSchedule.linear(T, 0.01, 0.4), shape=shape)
    plain, rescaled = (
        model.sample(2, DDIM(6), condition=LABELS, guidance=guidance, x_T=torch.ones(2, *shape))
        for guidance in (Guidance(2.0), Guidance(2.0, rescale=0.7))
    )
    assert torch.equal(plain, rescaled)
    assert plain.isfinite().all()


def test_guiding_doubles_the_batch_of_one_call():
    network = Counting()
    make(network).sample(2, DDIM(6), condition=LABELS, guidance=Guidance(2.0))
    assert network.batches == [4] * 6


def test_an_unconditional_network_cannot_be_guided():
    fields = {
        "sample_size": 8,
        "in_channels": 1,
        "out_channels": 1,
        "block_out_channels": (8, 8),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D",) * 2,
        "up_block_types": ("UpBlock2D",) * 2,
    }
    schedule = NoiseSchedule.linear(5)
    unconditional = Diffusion(UNet(**fields), schedule, shape=(1, 8, 8))
    for condition in (None, LABELS):
        with pytest.raises(NelboError, match="neither labels nor text"):
            unconditional.sample(2, DDIM(2), condition=condition, guidance=2.0)
    conditional = Diffusion(UNet(**fields, num_class_embeds=10), schedule, shape=(1, 8, 8))
    assert conditional.sample(2, DDIM(2), condition=LABELS, guidance=2.0).shape == (2, 1, 8, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((math.nan,), "guidance must be a finite number"),
        # Neither weights that seem to have diverged, nor an error of the arithmetic.
        ((1e30,), r"guidance must lie in ±10,000, got 1e\+30"),
        ((-1e39,), r"guidance must lie in ±10,000"),
        ((2.0, (1.0, 1.0)), "interval must be"),
        ((2.0, (-0.1, 1.0)), "interval must be"),
        ((2.0, "abc"), "interval must be"),
        ((2.0, 1.0), "interval is float 1.0"),
        ((2.0, (0.0, None)), "high must be a number"),
        ((2.0, None, 1.5), r"rescale must lie in 0\.\.1"),
    ],
)
def test_mistakes(arguments, message):
    with pytest.raises(NelboError, match=message):
        Guidance(*arguments)


def test_an_interval_without_levels():
    with pytest.raises(NelboError, match=r"interval \(100.0, 200.0\]: its noise levels lie in"):
        make().guided(Guidance(2.0, (100.0, 200.0)))


def test_a_guided_model_is_not_guided_again():
    guided = make().guided(2.0)
    assert guided.guided(1.0) is guided
    for again in (
        lambda: guided.guided(3.0),
        lambda: guided.sample(1, condition=LABELS[:1], guidance=3.0),
    ):
        with pytest.raises(NelboError, match=r"guidance 3\.0 on top of .* guide model\.unguided"):
            again()
    assert guided.unguided.guided(3.0).network.scale == 3.0


@pytest.mark.parametrize(("first", "last"), [(4, 9), (1, 12), (5, 6)])
def test_an_interval_leaves_out_its_lower_end_and_holds_its_upper_one(first, last):
    """Ends that are noise levels of the chain themselves: (σ_first, σ_last]."""
    network = Counting()
    model = make(network)
    noise = ((1 - model.schedule.alphas_cumprod) / model.schedule.alphas_cumprod).sqrt()
    low, high = (float(model.schedule.sigmas[t]) for t in (first, last))
    assert (low, high) == pytest.approx(noise[[first, last]].tolist())
    model.sample(2, condition=LABELS, guidance=Guidance(3.0, (low, high)))
    expected = {t: 4 if first < t <= last else 2 for t in range(1, T + 1)}
    assert dict(zip(range(T, 0, -1), network.batches, strict=True)) == expected


@pytest.mark.parametrize("interval", [(1.0, 100.0), (0.1, 2.0), (0.0, 0.5), (1.0, 1e9)])
def test_an_interval_holds_between_levels_as_at_them(interval):
    """Noise levels of Karras et al. on a chain of ten: the last two are 6.4 and 204."""
    network = Counting()
    model = Diffusion(network, NoiseSchedule.cosine(10), shape=SHAPE)
    sampler, (low, high) = Euler(10), interval
    model.sample(2, sampler, condition=LABELS, guidance=Guidance(3.0, interval))
    visited = [level.noise_scale / level.signal_scale for level, _ in sampler.path(model.schedule)]
    assert network.batches == [4 if low < noise <= high else 2 for noise in visited]


def test_an_interval_of_one_point_holds_no_level():
    model = make()
    tie = float(model.schedule.sigmas[5])
    with pytest.raises(NelboError, match="no level of the chain has noise"):
        model.guided(Guidance(3.0, (tie, math.nextafter(tie, math.inf))))
    model.guided(Guidance(3.0, (math.nextafter(tie, 0.0), tie)))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_labels_of_any_whole_numbers_are_dropped(dtype, generator):
    """Those without a sign have no −1: 255 would be a class."""
    model = make()
    x = torch.randn(2, *SHAPE, generator=generator, dtype=torch.float64)
    narrow = Condition(label=LABELS.label.to(dtype))
    found = model.guided(Guidance(4.0)).predict(x, 5, narrow)
    expected = model.guided(Guidance(4.0)).predict(x, 5, LABELS)
    assert torch.equal(found.output, expected.output)


def test_a_label_that_is_a_vector_has_no_default_to_lead_away_from(generator):
    """−1 in all its places is no absence of it."""
    model = make()
    x = torch.randn(2, *SHAPE, generator=generator, dtype=torch.float64)
    vector = Condition(label=torch.ones(2, 4))
    with pytest.raises(NelboError, match="a label that is a vector needs the one to lead away"):
        model.guided(Guidance(4.0)).predict(x, 5, vector)
