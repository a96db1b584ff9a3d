"""The reading of held-out images while training: paired, and at the levels that cost most."""

from __future__ import annotations

import pytest
import torch

import nelbo
from nelbo import NoiseSchedule
from nelbo.data import ImageData
from nelbo.evidence.reading_levels import unit_normal_costs
from nelbo.training.readings import Readings
from nelbo.training.trainer import Step
from nelbo.training.validation import Validation
from tests.formats import tiny
from tests.oracles.gaussian import expected_terms


@pytest.mark.parametrize(
    "schedule", [NoiseSchedule.linear(40, 0.005, 0.3), NoiseSchedule.cosine(30)]
)
def test_costs_of_a_unit_normal(schedule):
    """Beside the closed form of its exact denoiser, in which the variances are fixed_small."""
    _, _, expected = expected_terms(1.0, schedule.betas[1:], "fixed_small")
    assert torch.allclose(unit_normal_costs(schedule), expected, rtol=1e-6, atol=1e-12)


def test_latent_models_are_read_on_the_same_noise_and_few_images_are_the_first_of_many(tmp_path):
    tiny.unconditional(tmp_path)
    model = nelbo.load(tmp_path)
    model.decoder_scale = 0.5
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (12, 3, 16, 16), dtype=torch.uint8, generator=generator)
    read = Validation(ImageData("made", pixels, 256, tuple("abcdefghijkl")))
    each = read.each(model)
    assert len(each) == 12
    assert torch.equal(each, read.each(model))
    assert len(read.each(model, 5)) == 5


def test_a_reading_is_compared_with_one_of_a_quarter_of_the_run_before(generator):
    bits = [torch.rand(6, generator=generator) for _ in range(5)]
    readings = Readings()
    found = [
        readings.change(Step(10 * i, 1.0, i / 4, 0, 0, 0, 0, 0), each)
        for i, each in enumerate(bits)
    ]
    assert [each.get("since") for each in found] == [None, 0, 10, 20, 30]
    last = readings.change(Step(41, 1.0, 1.0, 0, 0, 0, 0, 0), bits[0])
    assert last["since"] == 30
    differences = (bits[0] - bits[3]).double()
    assert last["change"] == pytest.approx(float(differences.mean()))
    assert last["change_error"] == pytest.approx(float(differences.var() / 6) ** 0.5)
    # Back at an earlier step, what comes after it is not compared with.
    assert readings.change(Step(20, 1.0, 0.5, 0, 0, 0, 0, 0), bits[0])["since"] == 10


def test_the_change_of_a_mean_alone_has_no_error():
    readings = Readings()
    steps = [Step(i, 1.0, i / 2, 0, 0, 0, 0, 0) for i in (1, 2)]
    first, second = (readings.change(step, torch.tensor([3.0 / step.step])) for step in steps)
    assert first == {}
    assert second == {"since": 1, "change": -1.5}
