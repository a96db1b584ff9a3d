"""A run on disk: going back when training diverges, validation, snapshots, tracking, memory."""

from __future__ import annotations

import io
import json
import math
import signal

import pytest
import torch
from PIL import Image

from nelbo import NelboError
from nelbo.cli import main
from nelbo.data import load_data
from nelbo.runs.checkpoints import VALIDATION, Checkpoints
from nelbo.runs.run_directory import RunDirectory
from nelbo.training import memory, rehearsal, supervisor
from nelbo.training.kinds.pixel.options import ModelConfig
from nelbo.training.loss_watch import ExplosionWatch
from nelbo.training.order import DataOrder
from nelbo.training.rehearsal import check_memory, estimate_memory
from nelbo.training.snapshots import load_snapshots, reconstruct_average
from nelbo.training.state import state_of
from nelbo.training.stopping import StopRequest
from nelbo.training.supervisor import Supervisor
from nelbo.training.tracking import TensorBoard
from nelbo.training.trainer import DivergedError, Step
from tests.training.plain import Plain
from tests.training.test_trainer import trainer

FIRST = torch.arange(10)


def supervised(tmp_path, **options) -> Supervisor:
    options = {"steps": 30, "save_every": "0.001s", **options}
    run = RunDirectory(tmp_path / "run").make()
    return Supervisor(trainer(**options), Plain(), run, {}, StopRequest())


def overflows(s: Supervisor, at: set[int], monkeypatch) -> None:
    """The loss of these steps, counted from 0, is not a number, each of them once."""
    terms = s.trainer.task.terms

    def overflowing(module, batch):
        found = terms(module, batch)
        if batch.step in at:
            at.remove(batch.step)
            return found._replace(loss=found.loss * math.nan)
        return found

    monkeypatch.setattr(s.trainer.task, "terms", overflowing)


def test_training_goes_back_once_with_a_lower_rate_then_stops(tmp_path, monkeypatch):
    whole = list(trainer(steps=30).run())
    s = supervised(tmp_path)
    overflows(s, {11}, monkeypatch)
    events = list(s.run())
    (note,) = [event for event in events if isinstance(event, str)]
    assert note.startswith("training diverged at step 12: loss nan")
    assert note.endswith("checkpoint of step 11 with 0.5 of the learning rate")
    assert [e.step for e in events if isinstance(e, Step)] == list(range(1, 31))
    assert s.finished
    # Up to there it is the run that it would have been; from there on with half the rate.
    steps = [event for event in events if isinstance(event, Step)]
    assert [e.loss for e in steps[:12]] == [e.loss for e in whole[:12]]
    assert steps[11].learning_rate == pytest.approx(0.5 * whole[11].learning_rate)
    rows = [row["step"] for row in s.run_directory.metrics.rows()]
    assert rows == [10, 20, 30]

    again = supervised(tmp_path / "again")
    overflows(again, {11, 20}, monkeypatch)
    with pytest.raises(DivergedError, match=r"at step 21.*It was the second time.*of step 20"):
        list(again.run())
    assert again.checkpoints.newest()[0].step == 20


@pytest.mark.parametrize("bounds", [[2.0, 1.5, 1.75], [2.0, 1.5, 1.505]])
def test_a_better_checkpoint_is_told_of(tmp_path, bounds):
    s = supervised(tmp_path, steps=6, validate_every=2, keep_checkpoints=1)
    s.kind.reading = lambda _: torch.tensor([bounds[s.trainer.step // 2 - 1]])
    notes = [event for event in s.run() if isinstance(event, str)]
    assert s.checkpoints.steps() == [4, 6]
    if bounds[-1] < 1.51:
        assert not notes
        return
    (note,) = notes
    assert "lowest after step 4, 1.500 bits/dim, and is 1.750 now" in note
    assert f"nelbo export {s.run_directory.path} --checkpoint best" in note


def steps_of_states(s: Supervisor, monkeypatch) -> list[int]:
    """When the state is asked for, where training is asked to stop after a checkpoint is due."""
    steps = []
    asked = lambda trainer: steps.append(trainer.step) or state_of(trainer)  # noqa: E731
    monkeypatch.setattr(supervisor, "state_of", asked)
    for event in s.run():
        if event.step == 3:
            s.stop.signal = signal.SIGTERM
    return steps


def test_every_process_gives_its_state_as_often(tmp_path, monkeypatch):
    """Of sharded weights all must ask for it, or the others wait for ever."""
    first, other = supervised(tmp_path / "first"), supervised(tmp_path / "other")
    monkeypatch.setattr(other, "_is_main", False)
    assert steps_of_states(first, monkeypatch) == [0, 1, 2, 3, 4]
    assert steps_of_states(other, monkeypatch) == [0, 1, 2, 3, 4]


def explodes(s: Supervisor, after: int, monkeypatch) -> None:
    """The loss of all later steps is far above the others', until the run has gone back."""
    terms = s.trainer.task.terms

    def exploding(module, batch):
        found = terms(module, batch)
        leaves = batch.step >= after and s.trainer.rate_scale == 1.0
        return found._replace(loss=found.loss * 1e3) if leaves else found

    monkeypatch.setattr(s.trainer.task, "terms", exploding)


def test_nothing_of_an_explosion_is_kept(tmp_path, monkeypatch):
    """The last checkpoint is of the step before, and snapshots of later ones are not left."""
    s = supervised(tmp_path, steps=60, snapshot_every=5)
    explodes(s, 31, monkeypatch)
    events = iter(s.run())
    note = next(event for event in events if isinstance(event, str))
    assert note.startswith("training diverged at step 51: the loss is")
    assert "going back to the checkpoint of step 31 " in note
    assert list(load_snapshots(s.run_directory.training)) == list(range(5, 31, 5))


def test_tensorboard_shows_steps_that_are_taken_again_once(tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    s = supervised(tmp_path, steps=60)
    s.tracker = TensorBoard(s.run_directory.tensorboard)
    explodes(s, 31, monkeypatch)
    list(s.run())
    shown = EventAccumulator(str(s.run_directory.tensorboard)).Reload().Scalars("loss")
    rows = s.run_directory.metrics.rows()
    assert [e.step for e in shown] == [row["step"] for row in rows] == [10, 20, 30, 40, 50, 60]
    assert [e.value for e in shown] == pytest.approx([row["loss"] for row in rows])


def test_an_explosion_is_seen_and_an_outlier_is_not():
    watch = ExplosionWatch()
    for _ in range(50):
        assert not watch.exploded(1.0, 1.0)
    for loss in (1000.0, 1.0, 500.0, 500.0, 1.0):
        assert not watch.exploded(loss, 1.0)
    assert [watch.exploded(50.0, 30.0) for _ in range(20)] == [False] * 19 + [True]


def test_validation_grids_snapshots_and_tensorboard(tmp_path, ticking):
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
    assert [e.value for e in events.Scalars(VALIDATION)] == pytest.approx(list(bits.values()))
    loss = {row["step"]: row["loss"] for row in rows}
    assert {e.step: e.value for e in events.Scalars("loss")} == pytest.approx(loss)
    for shown in events.Images("samples"):
        written = Image.open(out / "samples" / f"step-{shown.step:06d}.png").convert("RGB")
        image = Image.open(io.BytesIO(shown.encoded_image_string)).convert("RGB")
        assert image.tobytes() == written.tobytes()
    assert "read from the averaged weights" in (out / "report.html").read_text()
    averaged = reconstruct_average(out, 0.12)
    x_0 = averaged.data.to_network(load_data("digits", "test").images[:64])
    with torch.no_grad():
        bound = averaged.elbo(x_0, generator=torch.Generator().manual_seed(0))
    assert bound.mean().bits_per_dim.mean < bits[10] + 0.2


def test_the_estimate_of_memory_grows_as_it_should():
    t = trainer(ModelConfig(widths=(8, 16)), steps=1, batch_size=4)
    one = estimate_memory(t)
    assert one.weights == 3 * 4 * sum(p.numel() for p in t.model.parameters())
    assert one.images == 4
    many = estimate_memory(trainer(ModelConfig(widths=(8, 16)), steps=1, batch_size=64))
    assert (many.image, many.images) == (pytest.approx(one.image, rel=0.01), 64)
    recomputed = trainer(ModelConfig(widths=(8, 16)), steps=1, checkpoint_activations=True)
    assert estimate_memory(recomputed).image < 0.6 * one.image
    # What the backward pass of the network alone keeps of an image is the most of it.
    kept: dict[int, int] = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        y = t.model.network(torch.zeros(1, 1, 8, 8), torch.zeros(1, dtype=torch.int64))
    assert y.requires_grad
    for p in t.model.parameters():
        kept.pop(p.untyped_storage().data_ptr(), None)
    assert one.image == pytest.approx(sum(kept.values()), rel=0.35)


def test_too_little_memory_is_said_with_numbers(monkeypatch):
    monkeypatch.setattr(rehearsal, "available_memory", lambda device: 10_000_000)
    small = ModelConfig(widths=(8, 16))
    check_memory(trainer(small, steps=1, batch_size=2))
    with pytest.raises(NelboError, match=r"needs about \d+\.\d GB.*1000 images.*0.0 GB are free"):
        check_memory(trainer(small, steps=1, batch_size=1000))
    monkeypatch.setattr(memory, "available_memory", lambda device: 10_000_000)
    for kind in ("unet", "dit"):  # before a network is built whose weights alone are too much
        with pytest.raises(NelboError, match=r"weights of this network take [\d,.]+ GB, and 0\.0"):
            trainer(ModelConfig(network=kind, widths=(100_000,)), steps=1)
    # Before the order of more images than could ever be trained on is drawn.
    drawn = []
    monkeypatch.setattr(DataOrder, "_epoch", lambda order, epoch: drawn.append(epoch) or FIRST)
    with pytest.raises(NelboError, match=r"for 100000000 images"):
        check_memory(trainer(small, steps=1, batch_size=100_000_000))
    assert drawn == [0]
