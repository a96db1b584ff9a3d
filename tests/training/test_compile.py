"""Training with --compile: the same steps, the same names of weights."""

from __future__ import annotations

import functools
import shutil

import pytest
import torch

from nelbo.data import load_data
from nelbo.training.config import TrainingConfig
from nelbo.training.kinds.pixel.build import build_model
from nelbo.training.kinds.pixel.options import ModelConfig
from nelbo.training.kinds.pixel.task import pixel_task
from nelbo.training.precision import Autocast
from nelbo.training.state import restore, state_of
from nelbo.training.trainer import Trainer

SMALL = ModelConfig(widths=(8,), layers=1, levels=50, attention=(), dropout=0.0)


def _trained(*, compile: bool, precision: str = "fp32") -> tuple[list[float], Trainer]:
    torch.manual_seed(0)
    data = load_data("digits", "train")
    config = TrainingConfig(
        steps=2, batch_size=8, warmup_steps=0, precision=precision, compile=compile
    )
    trainer = Trainer(pixel_task(build_model(SMALL, data), data, config))
    return [step.loss for step in trainer.run()], trainer


def _check(precision: str) -> None:
    losses, trainer = _trained(compile=True, precision=precision)
    expected, plain = _trained(compile=False, precision=precision)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    tolerance = 1e-5 if precision == "fp32" else 0.02
    assert losses == pytest.approx(expected, rel=tolerance)
    found, right = state_of(trainer), state_of(plain)
    assert {kind: set(t) for kind, t in found.tensors.items()} == {
        kind: set(t) for kind, t in right.tensors.items()
    }
    restore(plain, found)


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_a_compiled_network_takes_the_same_steps(monkeypatch, precision, without_shape_checks):
    # The graphs are captured and run; generating machine code takes a minute.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    _check(precision)


def test_a_compiled_network_in_16_bits_takes_the_place_of_the_network():
    # It has no length, and must not be asked whether it is empty.
    model = build_model(SMALL, load_data("digits", "train"))
    compiled = torch.compile(Autocast(model.network, torch.bfloat16))
    assert model.replace(network=compiled).network is compiled


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
def test_machine_code_takes_the_same_steps(without_shape_checks):
    _check("fp32")
