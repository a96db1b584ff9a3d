"""The checks of `make gpu`, run on the CPU at a small size."""

from __future__ import annotations

import pytest
import torch

from tests.gpu.__main__ import main, run
from tests.gpu.check import Check, Failure, difference, within

# One of each kind that takes no process of its own, no compiler and little time.
QUICK = (
    *("unet/single_resolution", "text-unet/without_text", "autoencoder/single_resolution"),
    *("bound/sample", "sampler/DDPM", "step/bound", "train/pixel", "resume/pixel"),
    *("precision/bf16", "speed/UNet forward"),
)


def test_checks_pass_where_the_device_is_the_cpu(capsys):
    assert main(["--device", "cpu", *QUICK]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith("ok ") for line in lines[1:-1]), lines
    for name in QUICK:
        assert any(f" {name}" in line for line in lines)
    assert " 0 failed, in " in lines[-1]


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
