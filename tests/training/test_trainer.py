"""The training loop: it learns, repeats itself exactly, keeps to its budget, stops on nan."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch

from nelbo import NelboError
from nelbo.data import load_data
from nelbo.training.config import TrainingConfig, parse_duration
from nelbo.training.kinds.pixel.build import build_model
from nelbo.training.kinds.pixel.options import ModelConfig
from nelbo.training.kinds.pixel.task import pixel_task
from nelbo.training.moving_average import ExponentialMovingAverage
from nelbo.training.order import DataOrder
from nelbo.training.trainer import DivergedError, Trainer

SMALL = ModelConfig(widths=(8, 16), layers=1, levels=50)


def trainer(model_config=SMALL, **options) -> Trainer:
    torch.manual_seed(0)
    data = load_data("digits", "train")
    options.setdefault("batch_size", 16)
    return Trainer(pixel_task(build_model(model_config, data), data, TrainingConfig(**options)))


@pytest.mark.parametrize("objective", ["simple", "hybrid", "bound"])
def test_training_improves_the_bound(objective):
    t = trainer(objective=objective, steps=40, warmup_steps=5, batch_size=64)
    test = load_data("digits", "test").take(slice(64))
    x_0 = t.model.data.to_network(test.images)

    def bits(model):
        with torch.no_grad():
            bound = model.elbo(x_0, levels=10, generator=torch.Generator().manual_seed(0))
        return bound.mean().bits_per_dim.mean

    before = bits(t.average.model)
    steps = list(t.run())
    assert [s.step for s in steps] == list(range(1, 41))
    assert steps[-1].fraction == 1.0
    assert bits(t.average.model) < before - 0.7


@pytest.mark.parametrize("objective", ["min_snr", "edm"])
def test_weighted_objectives_learn(objective):
    steps = list(trainer(objective=objective, steps=40, warmup_steps=5, batch_size=32).run())
    assert sum(step.loss for step in steps[-10:]) / 10 < 0.85 * steps[0].loss
    assert steps[-1].bits_per_dim < steps[0].bits_per_dim


def test_settings_of_the_weightings_reach_the_loss():
    def first_loss(**options):
        return next(trainer(steps=1, **options).run()).loss

    assert first_loss(objective="min_snr", snr_gamma=0.01) < first_loss(objective="min_snr")
    assert first_loss(objective="sigmoid", sigmoid_bias=-3.0) < first_loss(objective="sigmoid")


def test_half_of_the_images_are_mirrored_and_nothing_else_changes():
    plain, mirrored = trainer(steps=1), trainer(steps=1, horizontal_flip=True)
    seen = []
    for t in (plain, mirrored):
        x_0 = []

        class Watching(torch.nn.Module):
            def __init__(self, inner, x_0):
                super().__init__()
                self.inner, self.x_0 = inner, x_0

            def forward(self, x, *rest, **options):
                self.x_0.append(x)
                return self.inner(x, *rest, **options)

        for step in range(40):
            t.step = step
            t.terms(t.parts[0], Watching(t.task.variant(), x_0))
        seen.append(torch.cat(x_0))
    same = (seen[0] == seen[1]).flatten(1).all(1)
    flipped = (seen[0].flip(-1) == seen[1]).flatten(1).all(1)
    assert (same | flipped).all()
    assert 0.4 < flipped.float().mean() < 0.6


def test_running_bits_read_the_bound_whatever_the_objective():
    """At a tiny learning rate the model stands still and the reading has a known mean."""
    t = trainer(objective="simple", steps=60, learning_rate=1e-12, batch_size=64)
    x_0 = t.model.data.to_network(t.task.images.data.images[:300])
    with torch.no_grad():
        exact = t.model.eval().elbo(x_0, levels=5, generator=torch.Generator().manual_seed(0))
    readings = [s.bits_per_dim for s in t.run()]
    expected = exact.mean().bits_per_dim.mean
    assert readings[-1] == pytest.approx(expected, rel=0.1)


def test_same_seed_same_weights_and_another_seed_others():
    def weights(seed):
        t = trainer(steps=4, seed=seed)
        list(t.run())
        return torch.cat([p.flatten() for p in t.model.parameters()])

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_learning_rate_warms_up_and_falls_to_zero():
    rates = [s.learning_rate for s in trainer(steps=20, warmup_steps=4, learning_rate=1.0).run()]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) < 1.0
    assert rates[3] > rates[1] > rates[0]
    assert all(a > b for a, b in itertools.pairwise(rates[5:]))
    assert rates[-1] < 0.01


def test_time_budget_ends_the_run(ticking):
    steps = list(trainer(time_budget="1s").run())
    assert [step.seconds for step in steps] == [0.125 * n for n in range(1, 9)]
    assert [step.fraction for step in steps] == [step.seconds for step in steps]
    # It falls with the time, however few steps there are.
    assert steps[-1].learning_rate < 0.5 * max(step.learning_rate for step in steps)


def test_divergence_stops_before_the_weights_are_spoilt():
    t = trainer(steps=50, learning_rate=1e18, gradient_clip=1e30, warmup_steps=0)
    with pytest.raises(DivergedError, match=r"at step \d+.*lower learning rate"):
        list(t.run())
    good = trainer(steps=50)
    good.model.network.conv_in.weight.data[0, 0, 0, 0] = math.nan
    before = copy.deepcopy(good.average.model.state_dict())
    with pytest.raises(DivergedError, match="at step 1"):
        list(good.run())
    for name, value in good.average.model.state_dict().items():
        assert torch.equal(value.nan_to_num(), before[name].nan_to_num())


def test_moving_average_by_hand():
    model = torch.nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1.0)
    average = ExponentialMovingAverage(model, 0.5)
    expected = 1.0
    for n, value in enumerate((3.0, 5.0, -2.0), start=1):
        model.weight.data.fill_(value)
        average.update(model)
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * value
        assert average.model.weight.item() == pytest.approx(expected, rel=1e-5)


def test_every_epoch_sees_every_image_once_in_a_new_order():
    order = DataOrder(10, 4, seed=3)
    seen = torch.cat([order.batch(step) for step in range(5)])
    assert sorted(seen[:10].tolist()) == sorted(seen[10:].tolist()) == list(range(10))
    assert seen[:10].tolist() != seen[10:].tolist()
    assert torch.equal(DataOrder(10, 4, seed=3).batch(3), order.batch(3))
    assert sorted(DataOrder(3, 7, seed=0).batch(0)[:3].tolist()) == [0, 1, 2]
    assert torch.equal(order.batch(3, most=2), order.batch(3)[:2])


def test_class_conditional_training_withholds_some_labels():
    t = trainer(ModelConfig(widths=(8, 16), levels=50, class_conditional=True), steps=1)
    labels = t.task._condition(torch.arange(1000), torch.Generator().manual_seed(0)).label
    withheld = labels == -1
    assert 0.05 < withheld.float().mean() < 0.15
    assert torch.equal(labels[~withheld], t.task.images.data.labels[:1000][~withheld])
    assert trainer(steps=1).task._condition(torch.arange(4), torch.Generator()) is None


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("1.5h", 5400), ("2 d", 172800)]
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "soon", "-5s", "5 weeks"])
def test_bad_durations(text):
    with pytest.raises(NelboError, match="not a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "--steps must be at least 1"),
        ({"learning_rate": -1.0}, "--learning-rate must be positive"),
        ({"ema_decay": 1.0}, r"--ema-decay must lie in \[0, 1\)"),
        ({"warmup_steps": -1}, "must not be negative"),
        ({"input_perturbation": -0.1}, "--input-perturbation must not be negative"),
        ({"snr_gamma": 0.0}, "--snr-gamma must be positive"),
    ],
)
def test_settings_are_checked(options, message):
    with pytest.raises(NelboError, match=message):
        TrainingConfig(**options).check()


def test_model_settings_are_checked():
    data = load_data("digits", "train")
    with pytest.raises(NelboError, match="unknown schedule"):
        build_model(ModelConfig(schedule="quadratic"), data)
    with pytest.raises(NelboError, match="unknown variance"):
        build_model(ModelConfig(variance="none"), data)


def test_data_must_fit_the_model():
    t = trainer(steps=1)
    other = load_data("digits", "train")
    wider = build_model(ModelConfig(widths=(8, 16)), other)
    wider.shape = (1, 16, 16)
    with pytest.raises(NelboError, match=r"\(1, 8, 8\), the model \(1, 16, 16\)"):
        pixel_task(wider, other, t.config)
