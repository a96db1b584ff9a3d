"""Two processes, or a batch in parts, take the steps of one process on the whole batch."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nelbo import NelboError
from nelbo.cli import MISTAKE, main
from nelbo.data import load_data
from nelbo.data.controls import controls_of
from nelbo.formats import load
from nelbo.networks.discriminator import PatchDiscriminator
from nelbo.runs.checkpoints import VALIDATION, Checkpoint, Checkpoints
from nelbo.samplers import DDIM
from nelbo.training.config import TrainingConfig
from nelbo.training.kinds.autoencoder.objective import AutoencoderObjective
from nelbo.training.kinds.autoencoder.task import AutoencoderTask
from nelbo.training.kinds.controlnet.base import fresh_controlnet, frozen
from nelbo.training.kinds.controlnet.examples import PixelExamples
from nelbo.training.kinds.controlnet.objective import ControlObjective
from nelbo.training.kinds.controlnet.task import ControlTask
from nelbo.training.kinds.latent.latents import encode_data
from nelbo.training.kinds.latent.objective import PriorObjective
from nelbo.training.kinds.latent.task import PriorTask
from nelbo.training.kinds.pixel.build import build_model
from nelbo.training.kinds.pixel.options import ModelConfig
from nelbo.training.kinds.pixel.task import pixel_task
from nelbo.training.processes import LostProcessError, Processes
from nelbo.training.rehearsal import choose_precision
from nelbo.training.state import averaged, restore, state_of
from nelbo.training.task import ImageSource
from nelbo.training.trainer import Trainer
from tests.children import group
from tests.commands.squares import draw_squares
from tests.conftest import reports
from tests.training.test_autoencoder import autoencoder
from tests.training.test_latents import pictures, text_model
from tests.training.test_trainer import SMALL, trainer

# Dropout's masks depend on how a batch is cut; everything else is drawn for the whole batch.
MODEL = [
    "--widths",
    "8",
    "16",
    "--layers",
    "1",
    "--levels",
    "6",
    "--dropout",
    "0",
    "--class-conditional",
]
LEVELS = ["--level-sampler", "importance", "--input-perturbation", "0.1", "--horizontal-flip"]
OPTIONS = ["--batch-size", "15", "--steps", "12", "--precision", "fp32", "--warmup-steps", "3"]
BRIEF = ["--evaluate-images", "4", "--evaluate-levels", "1", "--threads", "1"]
BRIEF += ["--sample-images", "4", "--sample-steps", "2"]
# Both stages of a latent model, four steps each.
STAGES = [
    *("--model", "latent", "--steps", "8", "--autoencoder-steps", "4", "--validate-every", "2"),
    *("--widths", "8", "16", "--heads", "2", "--levels", "12", "--text-width", "16"),
    *("--text-layers", "1", "--text-heads", "2", "--vocabulary", "600", "--batch-size", "8"),
    *("--precision", "fp32", "--warmup-steps", "1", *BRIEF),
]
STEPS = 3
ADVERSARIAL = "adversarial autoencoder"
COMMAND = ["-m", "nelbo", "train", "digits", *MODEL, *OPTIONS, *LEVELS, *BRIEF]


def launch(*arguments: str, out: Path, fsdp: bool = False) -> subprocess.Popen:
    """Two processes of this machine's CPU."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.Popen(
        [sys.executable, *launcher, *COMMAND, "--out", str(out), *arguments],
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_FSDP": str(fsdp).lower()},
        text=True,
        start_new_session=True,
    )


def curve(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "run"
    with reports(False):
        main([*COMMAND[2:], "--out", str(out), "--validate-every", "6"])
    return out


@pytest.mark.parametrize(
    "how",
    ["forked", *(pytest.param(how, marks=pytest.mark.slow) for how in ("torchrun", "sharded"))],
)
def test_two_processes_learn_as_one(alone, tmp_path, how):
    out = tmp_path / "run"
    options = ["--validate-every", "6"]
    if how == "forked":  # which torchrun does no otherwise, but for the imports of each
        children = group(2, main, [*COMMAND[2:], "--out", str(out), *options], logs=tmp_path)
        assert [child.join() for child in children] == [0, 0]
        message = children[0].message
    else:
        process = launch(*options, out=out, fsdp=how == "sharded")
        _, message = process.communicate(timeout=200)
        assert process.returncode == 0, message
    assert "2 processes" in message
    mine, theirs = curve(out), curve(alone)
    assert [row["step"] for row in mine] == [row["step"] for row in theirs] == [6, 10, 12]
    for a, b in zip(mine, theirs, strict=True):
        for name in ("loss", "bits_per_dim", "gradient_norm", "learning_rate"):
            assert a[name] == pytest.approx(b[name], rel=2e-4)
        if "validation_bits_per_dim" in b:
            key = "validation_bits_per_dim"
            assert a[key] == pytest.approx(b[key], rel=2e-4)
    assert (out / "report.html").is_file()
    assert (out / "samples" / "step-000012.png").is_file()
    checkpoints = [Checkpoints(run / "training") for run in (out, alone)]
    assert [kept.best() for kept in checkpoints] == [12, 12]
    read = [kept.load(12).progress[VALIDATION] for kept in checkpoints]
    assert read[0] == pytest.approx(read[1], rel=2e-4)


def kinds(processes: Processes | None, *only: str) -> dict[str, Trainer]:
    """A trainer for each kind of model, or for those that are named."""
    options = {"steps": STEPS, "batch_size": 6, "warmup_steps": 1, "precision": "fp32"}
    digits, small = load_data("digits", "train"), replace(SMALL, dropout=0.0, levels=6)

    def of_pixels(model: ModelConfig, optimizer: str = "adamw") -> Trainer:
        built = build_model(model, digits)
        config = TrainingConfig(**options, optimizer=optimizer)
        return Trainer(pixel_task(built, digits, config), processes=processes)

    data, captions = pictures()
    config = TrainingConfig(**options, objective="simple")

    def of_images(**objective: Any) -> Trainer:
        model = AutoencoderObjective(autoencoder(), likelihood="discretized", **objective)
        task = AutoencoderTask(model, data, TrainingConfig(**options))
        return Trainer(task, processes=processes)

    def of_latents(config: TrainingConfig, *, frozen: bool = False) -> Trainer:
        model = text_model().to("cpu" if processes is None else processes.device)
        model.text.requires_grad_(not frozen)
        latents = encode_data(model, data, captions)
        objective = PriorObjective(model, condition_dropout=0.5)
        return Trainer(PriorTask(objective, latents, config), processes=processes)

    def of_controls() -> Trainer:
        base = frozen(build_model(small, digits), "the base")
        objective = ControlObjective(fresh_controlnet(base), base.chain)
        training, controls = TrainingConfig(**options), controls_of("outline", digits)
        source = ImageSource(digits, training.seed)
        task = ControlTask(objective, source, PixelExamples(base, source), controls, training, 0.3)
        return Trainer(task, processes=processes)

    parts = replace(config, gradient_accumulation=2, checkpoint_activations=True)
    made: dict[str, Callable[[], Trainer]] = {
        "pixel": lambda: of_pixels(small),
        "pixel by muon": lambda: of_pixels(small, "muon"),
        "learned schedule": lambda: of_pixels(replace(small, schedule="learned")),
        "autoencoder": lambda: of_images(mirrored=0.5),
        ADVERSARIAL: lambda: of_images(discriminator=PatchDiscriminator(3)),
        "prior": lambda: of_latents(parts),
        "prior of frozen text": lambda: of_latents(config, frozen=True),
        "controlnet": of_controls,
    }
    trainers = {}
    for kind in only or made:
        torch.manual_seed(0)
        trainers[kind] = made[kind]()
    return trainers


def losses(trainers: dict[str, Trainer]) -> dict[str, list[list[float]]]:
    return {kind: _steps(trainer) for kind, trainer in trainers.items()}


def _steps(trainer: Trainer) -> list[list[float]]:
    rows = []
    for step in trainer.run():
        rows.append([step.loss, step.bits_per_dim, step.gradient_norm])
        if trainer.processes.sharded:  # as a validation that is no improvement
            with torch.no_grad():
                average = trainer.task.variant(module=trainer.average.model)
                trainer.terms(trainer.parts[0], average)
    return rows


def keep(trainers: dict[str, Trainer], folder: Path) -> None:
    """A checkpoint of each kind; all processes take part, the first one writes."""
    for kind, each in trainers.items():
        state = state_of(each)
        if each.processes.is_main:
            Checkpoints(folder / kind).save(state)


def go_on(trainers: dict[str, Trainer], folder: Path) -> None:
    for kind, each in trainers.items():
        restore(each, Checkpoints(folder / kind).newest()[0])


def train_as_two(folder: Path) -> None:
    """Replicated, then sharded in the same group, from the start and from a whole checkpoint."""
    processes = Processes.join(torch.device("cpu"))
    assert processes.count == 2
    found = {"replicated": losses(kinds(processes))}
    processes = replace(processes, sharded=True)
    trainers = kinds(processes)
    found["sharded"] = losses(trainers)
    keep(trainers, folder / "sharded")
    for each in trainers.values():
        model = averaged(each)
        assert all(type(value) is torch.nn.Parameter for value in model.parameters())
        for name, buffer in model.named_buffers():
            assert torch.equal(buffer, each.average.model.get_buffer(name))
    go_on(trainers, folder / "half")
    losses(trainers)
    keep(trainers, folder / "resumed sharded")
    if processes.is_main:
        (folder / "losses.json").write_text(json.dumps(found))
    processes.leave()


def assert_close(found: Checkpoint, expected: Checkpoint, kind: str) -> None:
    """Moments, then weights and averages, which Adam has moved by about 2e-3 a step."""
    assert found.step == expected.step
    moments = expected.tensors["optimizer"]
    largest: dict[str, Tensor] = {}
    for name, value in moments.items():
        which = name.partition(".")[0]
        largest[which] = torch.maximum(largest.get(which, value.new_zeros(())), value.abs().max())
    for name, value in moments.items():
        atol = 1e-4 * float(largest[name.partition(".")[0]])
        mine = found.tensors["optimizer"][name]
        torch.testing.assert_close(mine, value, rtol=1e-3, atol=atol, msg=f"{kind}: {name}")
    for file in ("model", "average"):
        assert found.tensors[file].keys() == expected.tensors[file].keys()
        for name, value in expected.tensors[file].items():
            mine = found.tensors[file][name]
            # Where a gradient is but rounding, as of a bias before a normalisation, a step of Adam
            # is one of chance.
            if (squared := moments.get(f"exp_avg_sq.{name}")) is not None:
                certain = squared > 1e-8 * largest["exp_avg_sq"]
                mine, value = mine[certain], value[certain]
            torch.testing.assert_close(mine, value, rtol=1e-3, atol=1e-4, msg=f"{kind}: {name}")


@pytest.mark.slow
def test_two_processes_learn_as_one_whatever_the_model(tmp_path):
    halves = kinds(None)
    for each in halves.values():
        next(islice(each.run(), STEPS // 2 - 1, None))
    keep(halves, tmp_path / "half")
    children = group(2, train_as_two, tmp_path, logs=tmp_path)
    alone = kinds(None)
    expected = losses(alone)
    for child in children:
        assert child.join() == 0, child.message
    found = json.loads((tmp_path / "losses.json").read_text())
    # Its two sides are balanced in each part of a batch, by two processes alike.
    expected[ADVERSARIAL] = found["replicated"][ADVERSARIAL]
    for how in ("replicated", "sharded"):
        for kind, steps in expected.items():
            torch.testing.assert_close(
                torch.tensor(found[how][kind]),
                torch.tensor(steps),
                rtol=1e-3,
                atol=1e-5,
                msg=f"{how} {kind}",
            )
    resumed = kinds(None)
    go_on(resumed, tmp_path / "sharded")
    for kind in expected.keys() - {ADVERSARIAL}:
        whole, sharded = state_of(alone[kind]), state_of(resumed[kind])
        assert_close(sharded, whole, kind)
        went_on = Checkpoints(tmp_path / "resumed sharded" / kind).newest()[0]
        assert_close(went_on, whole, kind)


def choose_precisions() -> None:
    processes = replace(Processes.join(torch.device("cpu")), sharded=True)
    trainers = kinds(processes, "prior", "autoencoder", "learned schedule", "pixel")
    trainers["prior"].use_precision("fp16")
    for kind in ("autoencoder", "learned schedule"):
        with pytest.raises(NelboError, match=r"sharded weights beside others.*bf16 or fp32"):
            trainers[kind].use_precision("fp16")
    auto = trainers["pixel"]
    auto.config = replace(auto.config, precision="auto")
    assert choose_precision(auto) in ("fp32", "bf16")
    bf16 = processes.sum([float(auto.precision == "bf16")])
    assert bf16[0] in (0.0, 2.0)
    processes.leave()


def test_sharded_models_in_each_precision(tmp_path):
    for child in group(2, choose_precisions, logs=tmp_path):
        assert child.join() == 0, child.message


@pytest.mark.slow
def test_a_sharded_run_of_two_stages_is_whole(tmp_path, capsys):
    """Validation, grids, both finishes, in place of an old run; then one goes on with it."""
    data = draw_squares(tmp_path / "pictures")
    command = ["train", str(data), "--size", "8", *STAGES]
    main([*command, "--out", str(tmp_path / "one")])
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    replacing = ["--shard", "--overwrite", "--out", str(tmp_path / "two")]
    children = group(2, main, [*command, *replacing], logs=tmp_path)
    for child in children:
        assert child.join() == 0, child.message
    for stage in ("autoencoder", "."):
        mine, theirs = (tmp_path / name / stage for name in ("two", "one"))
        assert_close(
            Checkpoints(mine / "training").newest()[0],
            Checkpoints(theirs / "training").newest()[0],
            stage,
        )
        for a, b in zip(curve(mine), curve(theirs), strict=True):
            assert a["step"] == b["step"]
            key = "validation_bits_per_dim"
            assert a[key] == pytest.approx(b[key], rel=2e-3)
        evaluations = [json.loads((run / "evaluation.json").read_text()) for run in (mine, theirs)]
        shown = [e["test"]["bits_per_dim"] for e in evaluations]
        totals = [x["total"]["mean"] if isinstance(x, dict) else x for x in shown]
        assert totals[0] == pytest.approx(totals[1], rel=2e-3)
        assert (mine / "samples" / "step-000004.png").is_file()
        assert (mine / "report.html").is_file()
    pipeline = load(tmp_path / "two")
    kept = Checkpoints(tmp_path / "two" / "training").newest()[0].tensors["average"]
    saved = pipeline.state_dict()
    assert all(torch.equal(saved[name], value) for name, value in kept.items())
    assert pipeline.sample(1, DDIM(2), prompt="red square").shape == (1, 3, 8, 8)
    main(["train", "--resume", "--out", str(tmp_path / "two"), "--steps", "12"])
    assert "had processes 2 and goes on with 1" in " ".join(capsys.readouterr().err.split())
    assert curve(tmp_path / "two")[-1]["step"] == 8


def train_and_die(out: Path) -> None:
    """`nelbo train`; the second process is killed in the middle of its seventh step."""
    step = Trainer.terms

    def killed(self: Trainer, part: Any, model: Any = None) -> Any:
        if self.processes.rank == 1 and self.step == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, part, model)

    Trainer.terms = killed
    main([*COMMAND[2:], "--out", str(out), "--validate-every", "6", "--save-every", "0.001s"])


@pytest.mark.usefixtures("ends_with_the_model")
def test_when_one_dies_the_other_says_so_and_one_alone_resumes(alone, tmp_path, capsys):
    out = tmp_path / "run"
    first, second = group(2, train_and_die, out, logs=tmp_path)
    assert second.join() == -signal.SIGKILL, second.message
    began = time.monotonic()
    assert first.join() == MISTAKE
    print(f"the other ended {time.monotonic() - began:.1f} s after")
    assert "process 0 of 2 stops, because another one is gone" in first.message
    assert "--resume goes on" in first.message
    assert Checkpoints(out / "training").newest()[0].step == 6
    main(["train", "--resume", "--out", str(out)])
    assert "had processes 2 and goes on with 1" in " ".join(capsys.readouterr().err.split())
    for mine, theirs in zip(curve(out), curve(alone), strict=True):
        for name in ("step", "loss", "bits_per_dim", "gradient_norm"):
            assert mine[name] == pytest.approx(theirs[name], rel=2e-4)


@pytest.mark.slow
def test_one_of_two_dies_and_the_run_resumes(tmp_path):
    out = tmp_path / "run"
    process = launch("--steps", "1000000", "--save-every", "0.5s", out=out)
    checkpoints = Checkpoints(out / "training")
    deadline = time.monotonic() + 200
    while max(checkpoints.steps(), default=0) < 1:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    listing = subprocess.run(
        ["ps", "--ppid", str(process.pid), "-o", "pid="], capture_output=True, text=True, check=True
    )
    os.kill(max(int(pid) for pid in listing.stdout.split()), signal.SIGKILL)
    _, message = process.communicate(timeout=200)
    assert process.returncode != 0
    assert "because another one is gone" in message or "stopped at step" in message
    saved = checkpoints.newest()[0].step
    main(["train", "--resume", "--out", str(out), "--steps", str(saved + 2)])
    assert curve(out)[-1]["step"] == saved + 2


@pytest.mark.parametrize("objective", ["bound", "hybrid", "sigmoid"])
def test_a_batch_in_parts_is_the_whole_batch(objective):
    model = replace(SMALL, dropout=0.0, levels=6)
    options = {"steps": 8, "objective": objective, "batch_size": 15, "input_perturbation": 0.1}
    options |= {"level_sampler": "importance", "horizontal_flip": True}
    whole = trainer(model, **options)
    parts = trainer(model, gradient_accumulation=4, **options)
    for a, b in zip(whole.run(), parts.run(), strict=True):
        assert a.loss == pytest.approx(b.loss, rel=1e-4)
        assert a.bits_per_dim == pytest.approx(b.bits_per_dim, rel=1e-4)
        assert a.gradient_norm == pytest.approx(b.gradient_norm, rel=1e-3)
    assert min(state_of(whole).tensors["level_sampler"]["seen"]) >= 10  # no longer uniform


def test_every_image_is_computed_once():
    groups = [Processes(torch.device("cpu"), rank, 3).parts(23, 2) for rank in range(3)]
    seen = [i for parts in groups for part in parts for i in range(23)[part.slice]]
    assert seen == list(range(23))
    with pytest.raises(NelboError, match=r"batch_size 5 is too small.*at least 6"):
        Processes(torch.device("cpu"), 0, 3).parts(5, 2)


def test_recomputed_activations_give_the_same_steps():
    plain, recomputed = trainer(steps=4), trainer(steps=4, checkpoint_activations=True)
    for a, b in zip(plain.run(), recomputed.run(), strict=True):
        assert a.loss == b.loss
        assert a.gradient_norm == b.gradient_norm


def test_only_a_broken_connection_is_a_lost_process():
    both = Processes(torch.device("cpu"), rank=0, count=2)
    for message in (
        "[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:12345",
        "[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Read error: Broken pipe",
    ):
        with pytest.raises(LostProcessError, match="another one is gone"), both.together():
            raise RuntimeError(message)
    with pytest.raises(RuntimeError, match="size of tensor a") as raised, both.together():
        raise RuntimeError("The size of tensor a (3) must match the size of tensor b (4)")
    assert not isinstance(raised.value, NelboError)
