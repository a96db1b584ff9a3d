"""What a control explains, against the mutual information of normals."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from nelbo import Bound, Diffusion, NoiseSchedule, Pixels
from nelbo.base.errors import NelboError
from nelbo.chain.estimate import Estimate
from nelbo.data import ImageData
from nelbo.evidence import explained
from nelbo.evidence.explained import (
    CONTROL,
    NOTHING,
    SHUFFLED,
    Explained,
    explained_by_control,
)
from nelbo.networks.control import Strength
from nelbo.report.explained import bits_text, explained_table, warning

SHAPE = (3, 4, 4)
# Standard deviations of c, and of x given c, of which each value is drawn.
OF_CONTROL, OF_REST = 0.2, 0.1
T = 1000


class Posterior(nn.Module):
    """E[ε|x_t] where x_0 ~ N(c, σ²) given the control, and N(0, σ² + σ_c²) without."""

    control_channels = (3,)
    downscale = 1
    strengths = (Strength(),)
    guesses = False

    def __init__(self, schedule: NoiseSchedule, follows: bool) -> None:
        super().__init__()
        self.schedule, self.follows = schedule, follows

    def identity(self) -> str:
        return "exact"

    def forward(self, x_t, time, condition=None):
        signal = self.schedule.alphas_cumprod[1:][time].to(x_t).view(-1, 1, 1, 1)
        mean, variance = torch.zeros_like(x_t), OF_REST**2 + OF_CONTROL**2
        if self.follows and condition is not None and condition.control is not None:
            mean, variance = 2 * condition.control - 1, OF_REST**2
        gain = variance * signal.sqrt() / (signal * variance + 1 - signal)
        x_0 = mean + gain * (x_t - signal.sqrt() * mean)
        return (x_t - signal.sqrt() * x_0) / (1 - signal).sqrt()


def example(follows: bool, n: int = 32):
    generator = torch.Generator().manual_seed(0)

    def levels(x):
        return ((x + 1) * 127.5).round().clamp(0, 255).byte()

    c = OF_CONTROL * torch.randn(n, *SHAPE, generator=generator)
    controls = levels(c)
    x = controls / 127.5 - 1 + OF_REST * torch.randn(n, *SHAPE, generator=generator)
    names = tuple(map(str, range(n)))
    schedule = NoiseSchedule.geometric(T, 0.01)
    # Whose p(x_0|x_1) is as wide as what level 1 leaves open.
    chain = {"variance": "fixed_large", "data": Pixels(256), "shape": SHAPE}
    model = Diffusion(Posterior(schedule, follows), schedule, **chain)
    return model, ImageData("normal", levels(x), 256, names, controls=controls)


def test_it_is_the_mutual_information_and_another_images_control_explains_nothing():
    found = explained_by_control(*example(follows=True), levels=T)  # every level
    dims = math.prod(SHAPE)
    ratio = (OF_CONTROL**2 + OF_REST**2) / OF_REST**2
    information = 0.5 * dims * math.log2(ratio)
    estimate = found.estimate(NOTHING, CONTROL)
    assert estimate.mean == pytest.approx(information, abs=3 * estimate.standard_error + 2)
    assert estimate.mean > 20 * estimate.standard_error
    # −log p(x|c') of an independent c' has (x − c')² / 2σ², of mean (2 σ_c² + σ²) / 2σ².
    excess = 0.5 * math.log(ratio) + 0.5 - (2 * OF_CONTROL**2 + OF_REST**2) / (2 * OF_REST**2)
    shuffled = found.estimate(NOTHING, SHUFFLED)
    expected = dims * excess / math.log(2)
    assert shuffled.mean == pytest.approx(expected, abs=3 * shuffled.standard_error + 6)
    assert shuffled.mean < 0
    assert warning(found) == ""
    # Of the same images, so that the difference of both is known to the last bit.
    own = found.estimate(SHUFFLED, CONTROL)
    assert own.mean == pytest.approx(estimate.mean - shuffled.mean, rel=1e-9)
    bands = found.by_level()
    assert sum(band.bits.mean for band in bands) == pytest.approx(estimate.mean, rel=1e-6)
    assert (bands[0].low, bands[-1].high) == (1, T)
    assert bands[-1].bits.mean < estimate.mean / 10  # next to nothing is seen through the noise
    assert explained_table(found).row_count == 3


@pytest.mark.parametrize("levels", [1, 2, 5, 12])
def test_bands_divide_the_levels_of_a_chain_of_any_length(levels):
    chain = NoiseSchedule.cosine(levels)
    model = Diffusion(lambda x, time, condition: 0 * x, chain, shape=(1, 2, 2))
    x = Pixels(256).to_network(torch.arange(12).view(3, 1, 2, 2))
    one, two = (model.elbo(x, generator=torch.Generator().manual_seed(k)) for k in (0, 1))
    bands = Explained({NOTHING: one, CONTROL: two, SHUFFLED: one}, levels).by_level()
    parts = [t for band in bands for t in range(band.low, band.high + 1)]
    assert parts == list(range(1, levels + 1))
    assert all(band.low <= band.high for band in bands)
    bits = (two.elbo - one.elbo).double().mean().item() / math.log(2)
    assert sum(band.bits.mean for band in bands) == pytest.approx(bits, rel=1e-5)


def test_a_network_that_ignores_its_control_explains_exactly_nothing():
    """The levels and the noise are the same."""
    found = explained_by_control(*example(follows=False, n=4), levels=4)
    for given in (CONTROL, SHUFFLED):
        assert torch.equal(found.bits(NOTHING, given), torch.zeros(4, dtype=torch.float64))


def test_a_gain_from_another_images_control_is_reported():
    """Of a network that learned, whatever the control, what its base does not know."""
    model, data = example(follows=True)
    alike = replace(data, controls=data.controls[:1].expand_as(data.controls))
    level = alike.controls[:1] / 127.5 - 1
    near = (level + OF_REST * torch.randn(len(data), *SHAPE)).clamp(-1, 1)
    alike = replace(alike, images=((near + 1) * 127.5).round().byte())
    assert "so much of what is explained is not the control's" in warning(
        explained_by_control(model, alike, levels=16)
    )


def test_a_small_error_is_shown():
    """Of 0.02 ± 0.003 bits neither figure is zero; nor is the sign of what is."""
    assert bits_text(Estimate.of(torch.tensor([0.017, 0.023]), 0.0)) == "2×10⁻² ± 3×10⁻³"
    assert bits_text(Estimate.of(torch.tensor([-0.017, -0.023]), 0.0)) == "−2×10⁻² ± 3×10⁻³"
    assert bits_text(Estimate.of(torch.tensor([11.0, 13.0]), 0.0)) == "12.0 ± 1.0"


def test_mistakes():
    model, data = example(follows=True, n=2)
    with pytest.raises(NelboError, match="on images with one"):
        explained_by_control(model, replace(data, controls=None))
    with pytest.raises(NelboError, match="two images or more"):
        explained_by_control(model, data.take(slice(1)))


def constant_bound(nats: float, n: int) -> Bound:
    """A bound of n images and six dimensions, of one level, which costs as much."""
    one = torch.ones(n, 1)
    return Bound(torch.zeros(n), torch.zeros(n), nats * one, 2 * one.long(), one, dims=6)


@pytest.mark.parametrize(
    ("beside", "other"),
    [({}, None), ({"captions": ("x", "y", None)}, "text"), ({"labels": [2, 0, 1]}, "class"),
     ({"captions": ("x", "y", None), "labels": [2, 0, 1]}, "class")],
)  # fmt: skip
def test_the_control_is_measured_beside_all_else_that_a_model_reads(beside, other, monkeypatch):
    """Of a model that reads classes, or texts alone; both with and without the control."""
    asked = []

    def evaluate(model, some, *, levels, generator):
        control = None if some.controls is None else some.controls[:, 0, 0, 0].tolist()
        labels = None if some.labels is None else some.labels.tolist()
        asked.append((control, labels, some.captions, levels, generator.initial_seed()))
        return iter([constant_bound(len(asked), len(some))])

    monkeypatch.setattr(explained, "evaluate", evaluate)
    given = {**beside}
    if "labels" in given:
        given["labels"] = torch.tensor(given["labels"])
    data = ImageData(
        "made",
        torch.zeros(3, 1, 2, 3, dtype=torch.uint8),
        256,
        ("a", "b", "c"),
        controls=torch.tensor([10, 20, 30]).byte().view(3, 1, 1, 1).expand(3, 1, 2, 3),
        **given,
    )
    model = SimpleNamespace(
        control_shape=(1, 2, 3),
        reads_text="captions" in beside,
        num_classes=3 if "labels" in beside else None,
        chain=SimpleNamespace(num_levels=9, data=Pixels(256)),
    )
    found = explained_by_control(model, data, levels=4, seed=5)
    texts = beside.get("captions")
    both = [(None, beside.get("labels"), texts), ([10, 20, 30], beside.get("labels"), texts)]
    expected = [(None, None, None), ([10, 20, 30], None, None), *(both if other else [])]
    expected.append(([30, 10, 20], beside.get("labels"), texts))
    assert [each[:3] for each in asked] == expected
    assert {each[3] for each in asked} == {4}
    assert len({each[4] for each in asked}) == 1  # the same noise
    # Each evaluation costs one nat more than the one before it.
    names = [NOTHING, CONTROL, *([other, f"{other} and control"] if other else []), SHUFFLED]
    costs = {name: k for k, name in enumerate(names, 1)}
    assert (list(found.bounds), found.num_levels, found.dims) == (names, 9, 6)
    for a, b in found.pairs:
        assert found.estimate(a, b).mean == pytest.approx((costs[a] - costs[b]) / math.log(2))
    base = other or NOTHING
    assert found.base == base
    assert found.headline.mean == pytest.approx(-1 / math.log(2))
    assert found.shuffled.mean == pytest.approx((costs[base] - costs[SHUFFLED]) / math.log(2))
    content = found.to_json()
    assert content["images"] == 3
    rows = [(row["without"], row["given"]) for row in content["explained"]]
    assert rows == found.pairs
    assert content["explained"][0]["bits"] == pytest.approx(-1 / math.log(2))
    assert content["explained"][0]["standard_error"] == pytest.approx(0, abs=1e-9)
    assert sum(row["bits"] for row in content["by_level"]) == pytest.approx(-1 / math.log(2))


def test_a_model_that_reads_nothing_is_given_nothing():
    """Captions and labels of the data are no condition of a model without words and classes."""
    model, data = example(follows=True, n=2)
    told = replace(data, captions=("x", "y"), labels=torch.tensor([0, 1]))
    found = explained_by_control(model, told, levels=3)
    assert list(found.bounds) == [NOTHING, CONTROL, SHUFFLED]
