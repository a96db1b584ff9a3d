"""A run on disk: going back when training diverges, validation, snapshots, tracking, memory."""

from __future__ import annotations

import json
import math

import pytest
import torch

from nelbo import NelboError
from nelbo.cli import main
from nelbo.data import load_data
from nelbo.training import memory
from nelbo.training.build import build_model
from nelbo.training.checkpoints import VALIDATION, Checkpoints
from nelbo.training.config import ModelConfig
from nelbo.training.memory import check_memory, estimate_memory
from nelbo.training.run_directory import RunDirectory
from nelbo.training.snapshots import reconstruct_average
from nelbo.training.stopping import StopRequest
from nelbo.training.supervisor import Note, Supervisor
from nelbo.training.trainer import DivergedError, ExplosionWatch
from tests.training.test_trainer import trainer


def supervised(tmp_path, **options) -> Supervisor:
    options = {"steps": 30, "save_every": "0.001s", **options}
    run = RunDirectory.create(tmp_path / "run")
    return Supervisor(trainer(**options), run, {}, StopRequest())


def spoil(t) -> None:
    """As an overflow would."""
    t.model.network.conv_in.weight.data[0, 0, 0, 0] = math.nan


def test_training_goes_back_once_with_a_lower_rate(tmp_path):
    s = supervised(tmp_path)
    notes, steps, spoilt = [], [], False
    for event in s.run():
        if isinstance(event, Note):
            notes.append(event.text)
            continue
        steps.append(event)
        # A checkpoint of step 11 is written, that of step 12 would hold the nan.
        if event.step == 11 and not spoilt:
            spoilt = True
            s._save()
            spoil(s.trainer)
            s.trainer.config = s.trainer.config.__class__(
                **{**vars(s.trainer.config), "save_every": "1h"}
            )
            break
    # Leaving the loop is a crash; what follows it is what the supervisor itself would do.
    with pytest.raises(DivergedError) as diverged:
        next(s.trainer.run())
    note = s._go_back(diverged.value)
    assert "diverged at step 12" in note.text
    assert "checkpoint of step 11 with 0.5 of the learning rate" in note.text
    assert s.trainer.step == 11
    after = [e for e in s.run() if not isinstance(e, Note)]
    assert [e.step for e in after] == list(range(12, 31))
    assert s.finished
    whole = list(trainer(steps=30).run())
    assert after[0].learning_rate == pytest.approx(0.5 * whole[11].learning_rate)
    spoil(s.trainer)
    s.trainer.config = s.trainer.config.__class__(**{**vars(s.trainer.config), "steps": 40})
    with pytest.raises(DivergedError, match=r"It was the second time.*of step 30"):
        list(s.run())


def test_an_explosion_is_seen_and_an_outlier_is_not():
    watch = ExplosionWatch()
    for _ in range(50):
        assert not watch.exploded(1.0, 1.0)
    for loss in (1000.0, 1.0, 500.0, 500.0, 1.0):
        assert not watch.exploded(loss, 1.0)
    assert [watch.exploded(50.0, 30.0) for _ in range(20)] == [False] * 19 + [True]


def test_validation_grids_snapshots_and_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "run"
    main(
        [
            *("train", "digits", "--out", str(out), "--steps", "20", "--widths", "8", "16"),
            *("--levels", "6", "--batch-size", "16", "--evaluate-images", "4", "--threads", "1"),
            *("--track", "tensorboard", "--validate-every", "10", "--snapshot-every", "5"),
        ]
    )
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    bits = {row["step"]: row[VALIDATION] for row in rows if VALIDATION in row}
    assert list(bits) == [10, 20]
    assert bits[20] < bits[10]
    checkpoints = Checkpoints(out / "training")
    assert checkpoints.best() == min(bits, key=lambda step: bits[step])
    assert sorted(p.name for p in (out / "samples").iterdir()) == [
        "final.png",
        *(f"step-{step:06d}.png" for step in (10, 20)),
    ]
    events = EventAccumulator(str(out / "tensorboard")).Reload()
    assert [e.step for e in events.Scalars(VALIDATION)] == [10, 20]
    assert len(events.Images("samples")) == 2
    averaged = reconstruct_average(out, 0.12)
    x_0 = averaged.data.to_network(load_data("digits", "test").images[:64])
    with torch.no_grad():
        bound = averaged.elbo(x_0, generator=torch.Generator().manual_seed(0))
    assert bound.mean().bits_per_dim.mean < bits[10] + 0.2


def test_the_estimate_of_memory_grows_as_it_should():
    model = build_model(ModelConfig(widths=(8, 16)), load_data("digits"))
    weights = 4 * sum(p.numel() for p in model.parameters())
    one, many = estimate_memory(model, 1), estimate_memory(model, 64, averages=3)
    assert one.weights == 5 * weights
    assert many.weights == 7 * weights
    assert many.image == one.image
    assert estimate_memory(model, 1, recompute=True).image < 0.6 * one.image
    # What the backward pass really keeps of an image.
    kept: dict[int, int] = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    x = torch.zeros(1, 1, 8, 8)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        y = model.network.train()(x, torch.zeros(1, dtype=torch.int64))
    assert y.requires_grad
    for p in model.parameters():
        kept.pop(p.untyped_storage().data_ptr(), None)
    assert one.image == pytest.approx(sum(kept.values()), rel=0.35)


def test_too_little_memory_is_said_with_numbers(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda device: 10_000_000)
    model = build_model(ModelConfig(widths=(8, 16)), load_data("digits"))
    check_memory(estimate_memory(model, 2), torch.device("cpu"))
    with pytest.raises(NelboError, match=r"needs about \d+\.\d GB.*1000 images.*0.0 GB are free"):
        check_memory(estimate_memory(model, 1000), torch.device("cpu"))
