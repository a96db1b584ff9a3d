"""Training steps on the device and on the CPU, 16 bits, compiled, resumed, under torchrun."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any
from unittest import mock

import torch

import nelbo
from nelbo.chain.distributions import generator_for
from nelbo.data import load_data
from nelbo.diffusion.objectives import OBJECTIVES
from nelbo.runs.checkpoints import Checkpoints
from nelbo.training.config import TrainingConfig
from nelbo.training.kinds.pixel.build import build_model
from nelbo.training.kinds.pixel.options import ModelConfig
from nelbo.training.kinds.pixel.task import pixel_task
from nelbo.training.processes import Processes
from nelbo.training.rehearsal import choose_precision
from nelbo.training.state import restore, state_of
from nelbo.training.trainer import Trainer
from tests.gpu.chains import images, model_of
from tests.gpu.check import Check, Failure, difference, exact_products, placed, within
from tests.training import test_processes

CPU = torch.device("cpu")
# A step in float64, and weights after it: Adam amplifies the rounding of gradients next to zero.
# Steps in float32, likewise; steps in 16 bits, of which fp16 skips the first ones.
DOUBLE, ADAM, SINGLE, HALF = 1e-8, 1e-5, 5e-3, 1e-1
KINDS = (
    "pixel",
    "learned schedule",
    "autoencoder",
    test_processes.ADVERSARIAL,
    "prior",
    "prior of frozen text",
)
RESUMED = ("pixel", "autoencoder", "prior")


def _objective(name: str, device: torch.device) -> str:
    """One step of AdamW in float64: loss, gradients and weights."""
    model = model_of(variance="learned_range")

    def step(device: torch.device) -> list[torch.Tensor]:
        mine = placed(model, device).train()
        optimizer = torch.optim.AdamW(mine.parameters(), lr=1e-3)
        noise = torch.Generator().manual_seed(0)
        loss = nelbo.loss(mine, images().to(device), objective=name, generator=noise)
        loss.backward()
        gradients = [w.grad.flatten() for w in mine.parameters() if w.grad is not None]
        optimizer.step()
        weights = [w.detach().flatten() for w in mine.parameters()]
        return [loss.detach(), torch.cat(gradients), torch.cat(weights)]

    limits = {"loss": DOUBLE, "gradients": DOUBLE, "weights": ADAM}
    pairs = zip(limits.items(), step(device), step(CPU), strict=True)
    return ", ".join(within(what, difference(a, b), most) for (what, most), a, b in pairs)


def _noise_where_it_can_be(device: torch.device) -> AbstractContextManager[None]:
    """Noise of the device, if it has generators."""
    return nullcontext() if device.type in ("cpu", "cuda") else _noise_of_the_cpu()


@contextmanager
def _noise_of_the_cpu() -> Iterator[None]:
    """Let trainers draw their noise on the CPU, wherever they compute."""

    def on_cpu(*key: int, device: Any = None) -> torch.Generator:
        return generator_for(*key)

    with mock.patch("nelbo.training.trainer.generator_for", on_cpu):
        yield


def _trainer(kind: str, device: torch.device) -> Trainer:
    return test_processes.kinds(Processes(device), kind)[kind]


def _steps(kind: str, device: torch.device) -> torch.Tensor:
    """Loss, bits/dim and gradient norm of each step."""
    trainer = _trainer(kind, device)
    return torch.tensor([[s.loss, s.bits_per_dim, s.gradient_norm] for s in trainer.run()])


def _kind(kind: str, device: torch.device) -> str:
    """The whole loop of a kind of model: noise, autocast, clipping, AdamW, averages."""
    with _noise_of_the_cpu(), exact_products():
        found, expected = _steps(kind, device), _steps(kind, CPU)
    pairs = zip(("loss", "bits/dim", "gradient norm"), found.T, expected.T, strict=True)
    return ", ".join(within(what, difference(a, b), SINGLE) for what, a, b in pairs)


def _resumed(kind: str, device: torch.device) -> str:
    """A run that is stopped, written to disk and resumed takes the steps of one that is not."""
    noise = _noise_where_it_can_be(device)
    with noise, exact_products(), tempfile.TemporaryDirectory() as folder:
        whole = _steps(kind, device)
        half = _trainer(kind, device)
        next(islice(half.run(), 1, None))
        Checkpoints(Path(folder)).save(state_of(half))
        rest = _trainer(kind, device)
        restore(rest, Checkpoints(Path(folder)).newest()[0])
        losses = torch.tensor([step.loss for step in rest.run()])
    apart = difference(losses, whole[-len(losses) :, 0])
    figure = within("losses", apart, 1e-5 if device.type == "cuda" else 0.0)
    return f"{figure}{'' if apart else ', equal to the last bit'}"


def _digits(device: torch.device, **options: Any) -> list[float]:
    """The losses of a few steps on digits."""
    torch.manual_seed(0)
    data = load_data("digits", "train")
    config = TrainingConfig(steps=4, batch_size=16, warmup_steps=0, **options)
    settings = ModelConfig(widths=(8, 8), levels=50, attention=(4,), dropout=0.0)
    trainer = Trainer(pixel_task(build_model(settings, data), data, config), device)
    if config.precision == "auto":
        choose_precision(trainer)
    return [step.loss for step in trainer.run()]


def _backend(device: torch.device) -> Any:
    """On the CPU, graphs are captured and run as they are: compiling them takes a minute."""
    if device.type == "cuda":
        return nullcontext()
    return mock.patch("torch.compile", functools.partial(torch.compile, backend="aot_eager"))


def _precision(precision: str, compiled: bool, device: torch.device) -> str:
    """Steps in a precision, compiled or not, beside plain ones of float32."""
    torch.compiler.reset()
    backend = _backend(device) if compiled else nullcontext()
    with _noise_where_it_can_be(device), exact_products(), backend:
        expected = torch.tensor(_digits(device, precision="fp32"))
        found = torch.tensor(_digits(device, precision=precision, compile=compiled))
    return within("losses", difference(found, expected), SINGLE if precision == "fp32" else HALF)


def _run(*arguments: str) -> str:
    """Run a Python command; its standard output.

    Raises:
        Failure: it fails; the message has the end of what it printed.
    """
    result = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=180,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    if result.returncode:
        lines = (result.stderr.strip() or result.stdout.strip()).splitlines()[-6:]
        raise Failure(f"{' '.join(arguments[:6])}: exit code {result.returncode}: {lines}")
    return result.stdout


def _torchrun(device: torch.device) -> str:
    """`nelbo train` under torchrun and without; then resume, evaluate and sample."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"]
    where = ["--device", device.type]
    with tempfile.TemporaryDirectory() as folder:
        launched, alone = str(Path(folder, "launched")), str(Path(folder, "alone"))
        _run(*launcher, *test_processes.COMMAND, *where, "--out", launched)
        _run(*test_processes.COMMAND, *where, "--out", alone)
        curves = [test_processes.curve(Path(run)) for run in (launched, alone)]
        found, expected = (torch.tensor([row["loss"] for row in curve]) for curve in curves)
        figure = within("losses", difference(found, expected), 1e-4)
        nelbo = ["-m", "nelbo"]
        _run(*nelbo, "train", "--resume", "--out", launched, "--steps", "16", *where)
        last = test_processes.curve(Path(launched))[-1]["step"]
        if last != 16:
            raise Failure(f"resumed up to step {last}, expected 16")
        printed = _run(*nelbo, "evaluate", launched, "--images", "16", *where)
        grid = str(Path(folder, "grid.png"))
        _run(*nelbo, "sample", launched, "-n", "4", "--steps", "5", "--out", grid, *where)
    result = [line for line in printed.splitlines() if "bits/dim" in line][-1]
    return f"{figure}; resumed to step 16; evaluated: {result}; sampled"


def checks() -> list[Check]:
    """Every objective and kind of model, then how they are computed."""
    objectives = [Check(f"step/{name}", partial(_objective, name)) for name in OBJECTIVES]
    kinds = [Check(f"train/{kind}", partial(_kind, kind)) for kind in KINDS]
    resumed = [Check(f"resume/{kind}", partial(_resumed, kind)) for kind in RESUMED]
    computed = [
        Check(
            f"{'compile' if compiled else 'precision'}/{name}", partial(_precision, name, compiled)
        )
        for compiled, names in ((False, ("bf16", "fp16", "auto")), (True, ("fp32", "bf16")))
        for name in names
    ]
    return [*objectives, *kinds, *resumed, *computed, Check("torchrun/digits", _torchrun)]
