"""The width that suits machine, pictures and time: the rule by hand, on costs that are given."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from nelbo.data import ImageData
from nelbo.training import threads
from nelbo.training.config import TrainingConfig
from nelbo.training.kinds import network_size
from nelbo.training.kinds.autoencoder.build import build_autoencoder
from nelbo.training.kinds.latent import choices as latent
from nelbo.training.kinds.latent.options import LatentSettings
from nelbo.training.kinds.network_size import (
    EXAMPLES_PER_WEIGHT,
    FittingNetwork,
    choose_network,
    weights_of,
)
from nelbo.training.kinds.pixel import choices as pixel
from nelbo.training.kinds.pixel.build import build_model, halving_note
from nelbo.training.kinds.pixel.options import ModelConfig

CPU = torch.device("cpu")
CONFIG = ModelConfig(levels=4)


def images(side: int = 8, count: int = 10) -> ImageData:
    pixels = torch.zeros(count, 3, side, side, dtype=torch.uint8)
    return ImageData("nothing", pixels, 256, tuple(map(str, range(count))))


def expected_weights(base: int, depth: int, data: ImageData) -> int:
    model = build_model(ModelConfig(levels=4, widths=(base, *[2 * base] * (depth - 1))), data)
    return sum(p.numel() for p in model.parameters())


def choose(
    config: ModelConfig,
    data: ImageData,
    seconds: float,
    images: int,
    *,
    count: int = 1,
    threads: int | None = None,
) -> FittingNetwork:
    choices, task_of = pixel.width_choices(config, data), partial(pixel.timed_task, config, data)
    training = TrainingConfig(batch_size=images)
    return choose_network(choices, task_of, training, seconds, CPU, count=count, threads=threads)


@pytest.fixture
def timed(monkeypatch) -> list[int]:
    """A machine that takes a microsecond for each thousand weights, and what it timed."""
    seen: list[int] = []

    def seconds(task, device, threads):
        seen.append(weights_of(task))
        return 64 * 1e-9 * seen[-1]

    monkeypatch.setattr(network_size, "_seconds_of_step", seconds)
    return seen


@pytest.mark.parametrize("base", [24, 48])
def test_the_widest_that_sees_enough_examples(timed, base):
    # Time / (1e-9 P) >= r P holds up to P = sqrt(time / (1e-9 r)).
    data = images()
    P = expected_weights(base, 3, data)
    seconds = 1e-9 * EXAMPLES_PER_WEIGHT * P**2
    found = choose(CONFIG, data, seconds * 1.001, 64)
    assert found.widths == (base, 2 * base, 2 * base)
    assert found.weights == P
    assert found.examples == pytest.approx(seconds * 1.001 / (1e-9 * P))
    narrower = choose(CONFIG, data, seconds * 0.999, 64)
    assert narrower.widths[0] == pixel.BASES[pixel.BASES.index(base) - 1]


def test_no_wider_one_is_timed_than_the_first_that_sees_too_few(timed):
    data = images()
    choose(CONFIG, data, 1e-9 * EXAMPLES_PER_WEIGHT * expected_weights(24, 3, data) ** 2 * 1.01, 64)
    assert timed == [expected_weights(base, 3, data) for base in (16, 24, 32)]


def test_the_narrowest_where_none_sees_enough(timed):
    assert choose(CONFIG, images(), 1e-9, 64).widths[0] == pixel.BASES[0]


def test_the_widest_of_all_where_time_is_no_matter(timed, monkeypatch):
    monkeypatch.setattr(pixel, "BASES", (16, 24))
    assert choose(CONFIG, images(), 1e9, 64).widths[0] == 24


def test_two_processes_see_twice_the_examples(timed):
    data = images()
    one = choose(CONFIG, data, 1e-4, 64)
    two = choose(CONFIG, data, 1e-4, 64, count=2)
    assert (one.widths, two.examples) == (two.widths, pytest.approx(2 * one.examples))


@pytest.mark.parametrize(("side", "depth"), [(2, 1), (3, 1), (4, 2), (8, 3), (12, 3), (32, 4)])
def test_as_many_resolutions_as_by_default(timed, side, depth):
    found = choose(CONFIG, images(side), 1e-9, 64)
    assert found.widths == (16, *[32] * (depth - 1))


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (
            (33, 33),
            ("33×33 pixels cannot be halved", "1 resolution w", "--size 32 or --size 40"),
        ),
        ((30, 64), ("can be halved once", "2 resolutions", "--size 24x64 or --size 32x64")),
        ((32, 32), None),
        ((28, 28), None),
        ((8, 8), None),
        ((5, 5), None),
    ],
)
def test_sizes_that_cannot_be_halved_are_noted(size, words):
    note = halving_note(*size)
    assert all(word in note for word in words) if words else note == ""


def test_timing_is_real_and_draws_nothing_from_the_global_generator(monkeypatch):
    monkeypatch.setattr(threads, "_SECONDS", 0.01)
    monkeypatch.setattr(pixel, "BASES", (8, 16))
    before, count = torch.get_rng_state(), torch.get_num_threads()
    found = choose(CONFIG, images(), 60.0, 4)
    assert 0 < found.seconds_per_image < 10
    assert found.examples == pytest.approx(60.0 / found.seconds_per_image)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.get_num_threads() == count


def test_a_learned_schedule_is_timed_as_well(monkeypatch):
    monkeypatch.setattr(threads, "_SECONDS", 0.01)
    monkeypatch.setattr(pixel, "BASES", (8,))
    config = ModelConfig(levels=4, schedule="learned")
    assert choose(config, images(), 1.0, 4, threads=1).widths == (8, 16, 16)


def test_a_prior_of_latents_is_timed_with_the_text_encoder_of_its_captions(monkeypatch):
    monkeypatch.setattr(threads, "_SECONDS", 0.01)
    monkeypatch.setattr(latent, "BASES", (16, 32))
    captions = ("a red square", "", "a blue one", "a red one", "") * 2
    data = replace(images(16), captions=captions)
    settings = LatentSettings(levels=4, text_width=16, text_layers=1, text_heads=2, vocabulary=520)
    task_of = partial(latent.timed_task, settings, build_autoencoder(data), data)
    choices = latent.width_choices(settings)
    assert choices == [(16, 20), (32, 40)]
    training = TrainingConfig(batch_size=4, objective="simple")
    weights = [weights_of(task_of(widths, training)) for widths in choices]
    assert weights[0] < weights[1]
    before = torch.get_rng_state()
    chosen = choose_network(choices, task_of, training, 1e9, CPU, threads=1)
    assert (chosen.widths, chosen.weights) == ((32, 40), weights[1])
    assert 0 < chosen.seconds_per_image < 10
    assert torch.equal(before, torch.get_rng_state())
