"""The checks of `make gpu`, run on the CPU at a small size."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from tests.children import Child
from tests.gpu.__main__ import main, run
from tests.gpu.check import Check, Failure, difference, within

PACKAGES = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}

# One of each kind that takes no process of its own, no compiler and little time.
ON_CPU = (
    *("unet/single_resolution", "autoencoder/single_resolution", "step/bound", "resume/pixel"),
    *("precision/bf16", "speed/UNet forward"),
)
PRETENDED = ("bound/sample", "sampler/DDPM", "family/PPCA", "family/LDS", "family/Markov")


def assert_all_pass(printed: str, names: tuple[str, ...]) -> None:
    lines = printed.splitlines()
    assert all(line.startswith("ok ") for line in lines[1:-1]), lines
    for name in names:
        assert any(f" {name}" in line for line in lines)
    assert " 0 failed, in " in lines[-1]


def test_checks_pass_where_the_device_is_the_cpu(capsys):
    assert main(["--device", "cpu", *ON_CPU]) == 0
    assert_all_pass(capsys.readouterr().out, ON_CPU)


def test_no_tensor_lies_on_another_device_than_the_model(tmp_path):
    """In a process of its own: PyTorch does not forget a device."""

    def check() -> None:
        sys.exit(main(["--device", "pretended", *PRETENDED]))

    child = Child(check, log=tmp_path / "log")
    assert child.join() == 0, child.message
    assert_all_pass(child.log.read_text(), PRETENDED)


@pytest.mark.slow
def test_no_tensor_of_a_training_step_lies_on_another_device():
    """In a new process: the engine of gradients must not have started before the device is made."""
    only = ("unet/", "text-unet/", "autoencoder/", "controlnet/", "step/", "train/", "family/")
    command = [sys.executable, "-m", "tests.gpu", "--device", "pretended", "--limit", "3600", *only]
    result = subprocess.run(command, capture_output=True, text=True, env=PACKAGES)
    assert result.returncode == 0, result.stdout


@pytest.mark.slow
def test_every_check_passes_where_the_device_is_the_cpu(capsys, without_shape_checks):
    assert main(["--device", "cpu", "--limit", "3600"]) == 0


def test_a_machine_without_cuda_is_no_failure(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([]) == 0
    assert capsys.readouterr().out.startswith("no CUDA device found")


def test_a_figure_beyond_its_limit_fails(capsys, tmp_path):
    def wrong(device: torch.device) -> str:
        return within("float32", difference(torch.ones(2), torch.tensor([1.0, 1.5])), 0.1)

    def broken(device: torch.device) -> str:
        raise RuntimeError("out of memory")

    checks = [Check("a/wrong", wrong), Check("a/broken", broken), Check("a/right", lambda _: "0")]
    assert run(checks, torch.device("cpu"), 60.0, tmp_path / "figures.json") == 1
    printed = capsys.readouterr().out
    assert "FAILED a/wrong" in printed
    assert "float32 3.3e-01, expected at most 1e-01" in printed
    assert "RuntimeError: out of memory" in printed
    assert "ok     a/right" in printed
    assert '"outcome": "FAILED"' in (tmp_path / "figures.json").read_text()


def test_nan_and_another_shape_fail():
    nan = torch.tensor([1.0, torch.nan])
    with pytest.raises(Failure, match="inf"):
        within("output", difference(nan, torch.ones(2)), 0.1)
    with pytest.raises(Failure, match="shape"):
        difference(torch.ones(2), torch.ones(3))


def test_checks_that_start_too_late_are_left_out(capsys):
    assert run([Check("a/b", lambda _: "0")], torch.device("cpu"), -1.0, None) == 0
    assert "1 not started" in capsys.readouterr().out
