"""A learned schedule in the training loop: it learns, resumes to the last bit, and is exported."""

from __future__ import annotations

import json
import math

import pytest
import torch

import nelbo
from nelbo import NelboError
from nelbo.cli import main
from nelbo.data import load_data
from nelbo.diffusion.learned_schedule import LearnedSchedule
from nelbo.runs.checkpoints import Checkpoints
from nelbo.training.kinds.pixel.build import build_model
from nelbo.training.kinds.pixel.options import ModelConfig
from nelbo.training.snapshots import load_snapshots, reconstruct_average
from nelbo.training.state import restore, state_of
from tests.conftest import reports
from tests.training.test_trainer import trainer

LEARNED = ModelConfig(widths=(8, 16), layers=1, levels=50, schedule="learned", dropout=0.0)


def test_it_learns_and_its_chain_has_the_bound():
    t = trainer(LEARNED, steps=60, warmup_steps=5, batch_size=64)
    x_0 = nelbo.Pixels(17).to_network(load_data("digits", "test").images[:64])

    def bits():
        chain = t.average.model.chain().eval()
        with torch.no_grad():
            bound = chain.elbo(x_0, levels=10, generator=torch.Generator().manual_seed(0))
        return bound.mean().bits_per_dim.mean

    first = build_model(LEARNED, t.task.images.data).gamma.state_dict()
    before = bits()
    list(t.run())
    assert bits() < before - 0.7
    moved = t.average.model.gamma.state_dict()
    assert all((moved[name] != value).any() for name, value in first.items())


def test_it_resumes_to_the_last_bit(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    broken = trainer(LEARNED, steps=8)
    for step in broken.run():
        if step.step == 3:
            break
    checkpoints.save(state_of(broken))
    again, whole = trainer(LEARNED, steps=8), trainer(LEARNED, steps=8)
    restore(again, checkpoints.newest()[0])
    list(again.run())
    list(whole.run())
    for group in ("model", "average", "optimizer"):
        mine, theirs = state_of(again).tensors[group], state_of(whole).tensors[group]
        assert any("gamma." in name for name in mine)
        for name, value in theirs.items():
            assert torch.equal(mine[name], value)


def test_a_batch_in_parts_is_the_whole_batch():
    options = {"steps": 6, "batch_size": 15, "horizontal_flip": True}
    whole, parts = trainer(LEARNED, **options), trainer(LEARNED, gradient_accumulation=4, **options)
    for a, b in zip(whole.run(), parts.run(), strict=True):
        assert a.loss == pytest.approx(b.loss, rel=1e-4)
        assert a.bits_per_dim == pytest.approx(b.bits_per_dim, rel=1e-4)
        assert a.gradient_norm == pytest.approx(b.gradient_norm, rel=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "simple"}, "needs objective bound; got 'simple'"),
        ({"level_sampler": "importance"}, "level_sampler low_discrepancy or uniform; got 'impor"),
        ({"input_perturbation": 0.1}, "input_perturbation 0.0; got 0.1"),
    ],
)
def test_what_does_not_combine(options, message):
    with pytest.raises(NelboError, match=f"a learned schedule follows the bound.*{message}"):
        trainer(LEARNED, steps=1, **options)


@pytest.fixture(scope="module")
def run_path(tmp_path_factory):
    out = tmp_path_factory.mktemp("learned") / "run"
    arguments = ["--steps", "12", "--widths", "8", "16", "--levels", "20", "--batch-size", "32"]
    arguments += ["--warmup-steps", "2", "--snapshot-every", "4", "--validate-every", "12"]
    arguments += ["--evaluate-images", "4", "--evaluate-levels", "5", "--threads", "1"]
    arguments += ["--precision", "fp32", "--layers", "1"]
    with reports(False):
        main(["train", "digits", "--schedule", "learned", "--out", str(out), *arguments])
    return out


def test_a_finished_run_is_an_ordinary_pipeline(run_path, capsys):
    from diffusers import DDPMPipeline

    pipeline = DDPMPipeline.from_pretrained(run_path)
    model = nelbo.load(run_path)
    kept = Checkpoints(run_path / "training").newest()[0].tensors["average"]
    ends = kept["gamma.first"], kept["gamma.first"] + kept["gamma.raw_span"].exp().log1p()
    assert -model.schedule.log_snr[1].item() == pytest.approx(ends[0].item(), rel=1e-4)
    assert -model.schedule.log_snr[-1].item() == pytest.approx(ends[1].item(), rel=1e-4)
    torch.testing.assert_close(
        pipeline.scheduler.alphas_cumprod.double(),
        model.schedule.alphas_cumprod[1:],
        rtol=1e-5,
        atol=1e-6,
    )
    weight = kept["model.network.conv_in.weight"]
    assert torch.equal(pipeline.unet.conv_in.weight, weight)
    main(["evaluate", str(run_path), "--images", "4", "--levels", "3", "--json"])
    assert math.isfinite(json.loads(capsys.readouterr().out)["bits_per_dim"]["total"]["mean"])


def test_an_average_of_another_length_has_its_schedule(run_path, monkeypatch):
    stored = load_snapshots(run_path / "training")
    monkeypatch.delattr(LearnedSchedule, "like")  # what is fitted to the chain would be overwritten
    averaged = reconstruct_average(run_path, 0.1)
    assert -averaged.schedule.log_snr[1].item() == pytest.approx(
        stored[12]["0.1:gamma.first"].item(), rel=1e-4
    )
    fitted = {n: stored[12][f"0.1:gamma.{n}"].double() for n in ("first", "raw_span")}
    last = fitted["first"] + torch.nn.functional.softplus(fitted["raw_span"])
    assert -averaged.schedule.log_snr[-1].item() == pytest.approx(last.item(), rel=1e-4)
    torch.testing.assert_close(
        averaged.network.conv_in.weight,
        stored[12]["0.1:model.network.conv_in.weight"],
        rtol=1e-4,
        atol=1e-6,
    )
