"""bfloat16 is used only where it is faster and leaves the bound alone."""

from __future__ import annotations

import json
from functools import partial
from types import SimpleNamespace

import pytest
import torch

import nelbo
from nelbo import NelboError, NoiseSchedule
from nelbo.cli import main
from nelbo.data import load_data
from nelbo.diffusion import Diffusion, Pixels
from nelbo.evidence.precision import Trial, choose_dtype, precision_of, try_bfloat16


class Network(torch.nn.Module):
    """Off by `bias` in mixed precision, and by its own clock three times as slow in one of the two.

    A real clock would measure what else the machine does.
    """

    def __init__(self, bias: float, slow: torch.dtype) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.5))
        self.bias, self.slow = bias, slow
        self.seconds = 0.0

    def forward(self, x_t, time, condition=None):
        mixed = torch.is_autocast_enabled("cpu")
        self.seconds += 3.0 if mixed == (self.slow == torch.bfloat16) else 1.0
        return self.weight * x_t + (self.bias if mixed else 0.0)


@pytest.fixture
def trial(monkeypatch):
    return partial(_trial, monkeypatch)


def _trial(monkeypatch, bias: float, slow: torch.dtype) -> Trial:
    network = Network(bias, slow)
    clock = SimpleNamespace(perf_counter=lambda: network.seconds)
    monkeypatch.setattr("nelbo.evidence.precision.time", clock)
    model = Diffusion(
        network,
        NoiseSchedule.linear(30, 0.01, 0.3),
        variance="fixed_large",
        data=Pixels(17),
        shape=(1, 4, 4),
    )
    x_0 = torch.randint(0, 17, (6, 1, 4, 4), generator=torch.Generator().manual_seed(0)) / 8 - 1
    return try_bfloat16(model, x_0)


def test_the_same_and_faster_is_taken(trial):
    found = trial(0.0, torch.float32)
    assert found.speedup == 3
    assert found.shift == found.shift_error == 0.0
    assert found.dtype(1e-6) == torch.bfloat16
    assert found.calls == 2 * 2 * 6 * (2 + 8)


def test_slower_is_not(trial):
    assert trial(0.0, torch.bfloat16).dtype(1.0) == torch.float32


def test_what_moves_the_bound_is_not(trial):
    found = trial(0.1, torch.float32)
    assert abs(found.shift) > 0.001
    assert found.dtype(0.001) == torch.float32
    assert found.dtype(abs(found.shift) + 3 * found.shift_error) == torch.bfloat16


def test_what_cannot_be_told_from_moving_it_is_not():
    assert Trial(3.0, 0.0, 0.001, 1).dtype(0.001) == torch.float32


def test_one_image_tells_no_error():
    model = Diffusion(torch.nn.Identity(), NoiseSchedule.linear(3, 0.1, 0.5), data=Pixels(17))
    with pytest.raises(NelboError, match="at least 2 images, got 1"):
        try_bfloat16(model, torch.zeros(1, 1, 2, 2))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_overflows_in_sixteen_bits_is_not(bad, trial):
    assert trial(bad, torch.float32).dtype(1.0) == torch.float32


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        (["--levels", "2"], 0.001),
        (["--error", "0.5"], 0.05),
        ([], 0.001),
    ],
)
@pytest.mark.parametrize(("factor", "taken"), [(0.99, "bfloat16"), (1.01, "float32")])
def test_evaluate_allows_a_tenth_of_the_error(
    options, tolerance, factor, taken, capsys, monkeypatch, tmp_path
):
    """And counts the network evaluations of the trial."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nelbo.UNet(
            sample_size=8,
            in_channels=1,
            out_channels=1,
            block_out_channels=(8,),
            layers_per_block=1,
            norm_num_groups=4,
            down_block_types=("DownBlock2D",),
            up_block_types=("UpBlock2D",),
        )
    schedule = NoiseSchedule.linear(4, 0.1, 0.6)
    model = Diffusion(network, schedule, data=Pixels(17), shape=(1, 8, 8), clip_sample=True)
    nelbo.save(model, tmp_path / "model")

    def read(*more: str) -> dict:
        command = ["evaluate", str(tmp_path / "model"), "--data", "digits", "--images", "20"]
        capsys.readouterr()
        main([*command, *options, "--json", *more])
        return json.loads(capsys.readouterr().out)

    def found(*_, **__):
        return Trial(3.0, -factor * tolerance, 0.0, 77)

    monkeypatch.setattr("nelbo.evidence.precision.try_bfloat16", found)
    alone = read("--precision", {"bfloat16": "bf16", "float32": "fp32"}[taken])
    tried = read("--precision", "auto")
    assert tried["precision"] == taken
    assert tried["bits_per_dim"] == alone["bits_per_dim"]
    assert tried["calls"] == alone["calls"] + 77


@pytest.mark.parametrize(
    ("images", "dtype"), [(2, torch.float32), (3, torch.bfloat16), (0, torch.bfloat16)]
)
def test_few_images_are_less_sure_of_the_shift(images, dtype):
    """12.7 standard errors of two images are 95%, 4.3 of three, 1.96 of many."""
    assert Trial(3.0, 0.0, 0.001, 1, images).dtype(0.005) == dtype


@pytest.mark.parametrize(("speedup", "dtype"), [(1.11, torch.float32), (1.12, torch.bfloat16)])
def test_a_tenth_of_the_time_is_worthwhile(speedup, dtype):
    assert Trial(speedup, 0.0, 0.0, 1).dtype(0.001) == dtype


def test_some_images_are_tried_where_there_are_two(monkeypatch):
    tried = []

    def found(model, x_0, condition, *, seed):
        tried.append((len(x_0), seed))
        return Trial(3.0, 0.0, 0.0, 77)

    monkeypatch.setattr("nelbo.evidence.precision.try_bfloat16", found)
    model = Diffusion(
        torch.nn.Identity(), NoiseSchedule.linear(3, 0.1, 0.5), data=Pixels(17), shape=(1, 8, 8)
    )
    digits = load_data("digits", "test")
    for n, expected in ((1, (torch.float32, 0)), (2, (torch.bfloat16, 77))):
        assert choose_dtype(model, digits.take(slice(n)), "auto", 0.001, 5) == expected
    assert choose_dtype(model, digits, "auto", 0.001, 6) == (torch.bfloat16, 77)
    assert choose_dtype(model, digits, "bf16", 0.001, 5) == (torch.bfloat16, 0)
    assert choose_dtype(model, digits, "fp32", 0.001, 5) == (torch.float32, 0)
    assert tried == [(2, 5), (16, 6)]
    assert [precision_of(dtype) for dtype in (torch.float32, torch.bfloat16)] == ["fp32", "bf16"]
