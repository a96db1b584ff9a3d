"""Checkpoints: exact resumption, damage that is seen, what is kept, and a disk that is full."""

from __future__ import annotations

import json
import math
import resource
import shutil

import pytest
import torch

from nelbo import NelboError
from nelbo.runs.checkpoints import (
    MANIFEST,
    VALIDATION,
    Checkpoint,
    Checkpoints,
    DamagedCheckpointError,
)
from nelbo.training import trainer as trainer_module
from nelbo.training.kinds.pixel.options import ModelConfig
from nelbo.training.state import restore, state_of
from nelbo.training.trainer import DivergedError
from tests.training.test_trainer import trainer


def everything(t) -> list[torch.Tensor]:
    moments = [v for p in t.model.parameters() for v in t.optimizer.state[p].values()]
    averages = [] if t.power_averages is None else list(t.power_averages.named().values())
    models = (t.model, t.average.model)
    return [*(p for m in models for p in m.state_dict().values()), *moments, *averages]


@pytest.mark.parametrize(
    ("precision", "optimizer"),
    [("fp32", "adamw"), ("fp32", "muon"), ("bf16", "adamw"), ("fp16", "muon")],
)
def test_a_restored_run_takes_the_very_same_steps(tmp_path, precision, optimizer):
    options = {"steps": 8, "snapshot_every": 100, "precision": precision, "warmup_steps": 3}
    options |= {"batch_size": 4, "optimizer": optimizer}
    unbroken = trainer(**options)
    expected = list(unbroken.run())

    broken = trainer(**options)
    for step in broken.run():
        if step.step == 3:
            break
    checkpoints = Checkpoints(tmp_path / "training")
    checkpoints.save(state_of(broken))
    resumed = trainer(**options)
    next(resumed.run())  # whatever it did before is forgotten
    restore(resumed, checkpoints.newest()[0])
    steps = list(resumed.run())
    assert [s.step for s in steps] == [4, 5, 6, 7, 8]
    for mine, theirs in zip(steps, expected[3:], strict=True):
        for name in ("loss", "running_loss", "bits_per_dim", "learning_rate", "gradient_norm"):
            assert getattr(mine, name) == getattr(theirs, name)
    for a, b in zip(everything(unbroken), everything(resumed), strict=True):
        assert torch.equal(a, b)
    assert resumed.average.updates == unbroken.average.updates


def test_a_restored_run_draws_the_levels_that_losses_call_for(tmp_path):
    model = ModelConfig(widths=(8, 16), levels=4)
    options = {"steps": 9, "level_sampler": "importance", "horizontal_flip": True}
    options |= {"objective": "min_snr", "input_perturbation": 0.1, "batch_size": 24}
    unbroken = trainer(model, **options)
    expected = list(unbroken.run())
    broken = trainer(model, **options)
    for step in broken.run():
        if step.step == 6:
            break
    checkpoints = Checkpoints(tmp_path / "training")
    checkpoints.save(state_of(broken))
    checkpoint = checkpoints.newest()[0]
    assert checkpoint.tensors["level_sampler"]["seen"].min() >= 10
    resumed = trainer(model, **options)
    restore(resumed, checkpoint)
    for mine, theirs in zip(resumed.run(), expected[6:], strict=True):
        assert mine.loss == theirs.loss
        assert mine.bits_per_dim == theirs.bits_per_dim
    for a, b in zip(everything(unbroken), everything(resumed), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(NelboError, match="of a run with another level_sampler than 'importance'"):
        restore(resumed, state_of(trainer(model, steps=1)))


def test_used_time_counts_after_resuming():
    t = trainer(time_budget="100s")
    next(t.run())
    t.seconds = 99.0
    u = trainer(time_budget="100s")
    restore(u, state_of(t))
    assert u.fraction == pytest.approx(0.99)
    assert next(u.run()).seconds > 99.0


def a_checkpoint(step: int, bits: float | None = None) -> Checkpoint:
    tensors = {"model": {"w": torch.arange(6.0).view(2, 3) + step}, "optimizer": {}}
    return Checkpoint(step, tensors, {VALIDATION: bits, "seconds": 0.1})


def test_a_checkpoint_reads_back_as_written(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(a_checkpoint(7, 1.25))
    read = checkpoints.load(7)
    assert torch.equal(read.tensors["model"]["w"], a_checkpoint(7).tensors["model"]["w"])
    assert read.progress == {VALIDATION: 1.25, "seconds": 0.1}
    assert [p.name for p in tmp_path.iterdir()] == ["step-000007"]


def test_the_last_ones_and_the_best_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step, bits in enumerate([None, 3.0, 1.0, 2.0, None, 1.5, 4.0]):
        checkpoints.save(a_checkpoint(step, bits))
    assert checkpoints.steps() == [2, 5, 6]
    assert checkpoints.best() == 2


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", MANIFEST])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damage_is_seen_and_the_previous_one_used(tmp_path, name, damage):
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(a_checkpoint(step))
    file = checkpoints.path(2) / name
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 4
        file.write_bytes(content)
    elif damage == "truncate":
        file.write_bytes(content[: len(content) // 2])
    else:
        file.unlink()
    with pytest.raises(DamagedCheckpointError, match=name):
        checkpoints.load(2)
    found, problems = checkpoints.newest()
    assert found.step == 1
    assert len(problems) == 1
    assert name in problems[0]


def test_a_manifest_of_another_format_is_no_damage(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(a_checkpoint(1))
    file = checkpoints.path(1) / MANIFEST
    from nelbo.runs.checkpoints import _digest

    content = json.loads(file.read_text()) | {"format": 9}
    del content["sha256"]
    file.write_text(json.dumps(content | {"sha256": _digest(content)}))
    with pytest.raises(NelboError, match="format 9, this version of nelbo reads 1"):
        checkpoints.newest()


def test_what_a_killed_process_left_is_no_checkpoint(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(a_checkpoint(1))
    shutil.copytree(checkpoints.path(1), tmp_path / ".writing-step-000002")
    assert checkpoints.steps() == [1]
    checkpoints.save(a_checkpoint(3))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000001", "step-000003"]


def test_a_checkpoint_is_discarded_after_a_kill_while_another_was(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(a_checkpoint(step))
    shutil.copytree(checkpoints.path(1), tmp_path / ".writing-removed")
    checkpoints.discard_after(1)
    assert [p.name for p in tmp_path.iterdir()] == ["step-000001"]


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(a_checkpoint(1))
    big = Checkpoint(2, {"model": {"w": torch.zeros(1 << 18)}}, {})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, before[1]))
    try:
        with pytest.raises(NelboError, match=r"cannot write.*step 1 is intact"):
            checkpoints.save(big)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert checkpoints.steps() == [1]
    assert checkpoints.newest()[0].step == 1
    assert [p.name for p in tmp_path.iterdir()] == ["step-000001"]


def test_the_state_of_another_model_is_refused():
    from nelbo.training.kinds.pixel.options import ModelConfig

    other = trainer(ModelConfig(widths=(8, 24), levels=50), steps=1)
    with pytest.raises(NelboError, match="of another model"):
        restore(trainer(steps=1), state_of(other))


def test_sixteen_bits_that_no_loss_scale_helps_are_noticed(monkeypatch):
    """One step that overflows is skipped with a lower scale; thirty-three are not of the scale."""
    real = trainer_module.clip_gradients
    norms = [math.inf] * 3 + [None] + [math.nan] * 40

    def clip(model, largest):
        norm = norms.pop(0)
        return real(model, largest) if norm is None else norm

    monkeypatch.setattr(trainer_module, "clip_gradients", clip)
    steps = []
    with pytest.raises(DivergedError, match="of 33 steps in a row were not finite in fp16"):
        steps += trainer(steps=60, precision="fp16", batch_size=2).run()
    assert len(norms) == 7
