"""nelbo likelihood: the flow beside the bound."""

from __future__ import annotations

import json

import pytest
import torch

import nelbo
from nelbo.cli import main
from nelbo.data import load_data
from nelbo.diffusion import flow


def test_prints_what_the_library_finds(run_path, capsys):
    options = ["--images", "6", "--batch-size", "6", "--tolerance", "0.1", "--seed", "3"]
    main(["likelihood", str(run_path), *options, "--json"])
    printed = json.loads(capsys.readouterr().out)
    model = nelbo.load(run_path).eval()
    x_0 = model.data.to_network(load_data("digits", "test").subset(6, 3).images)
    generator = torch.Generator().manual_seed(3)
    found = flow.log_likelihood(model, x_0, rtol=0.1, atol=0.1, generator=generator)
    assert printed["flow"]["bits_per_dim"] == pytest.approx(found.bits_per_dim.mean().item())
    assert printed["flow"]["evaluations"] == found.evaluations
    evaluated = []
    model.network.register_forward_hook(lambda _, given, output: evaluated.append(len(output)))
    model_bound = model.elbo(x_0, generator=generator)
    bound = model_bound.bits_per_dim.mean().item()
    assert printed["bound"]["bits_per_dim"] == pytest.approx(bound)
    assert printed["bound"]["evaluations"] == sum(evaluated) / len(x_0)
    difference = found.bits_per_dim.mean().item() - bound
    assert printed["difference"]["bits_per_dim"] == pytest.approx(difference, abs=1e-6)

    main(["likelihood", str(run_path), *options])
    table = capsys.readouterr().out
    assert f"{found.bits_per_dim.mean():.3f}" in table
    assert "evaluations" in table
    # As evaluate warns of errors that are not to be relied on, once where it is so of all rows.
    few, *others = printed["warnings"]
    assert few.startswith("6 images are few: evaluate at least 20")
    assert all(line.partition(": ")[0] in ("flow", "bound", "difference") for line in others)
    for name, values in {
        "flow": found.bits_per_dim,
        "difference": found.bits_per_dim - model_bound.bits_per_dim,
    }.items():
        far = (values.double() - values.double().mean()).square()
        share = f"{float(far.max() / far.sum()):.0%} of the variance"
        assert any(line.startswith(f"{name}: ") and share in line for line in others)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--images", "0", "--images must be at least 1, got 0"),
        ("--levels", "0", "--levels must be at least 1, got 0"),
        ("--draws", "0", "--draws must be at least 1, got 0"),
        ("--tolerance", "-1", "--tolerance must be positive, got -1"),
        ("--threads", "0", "--threads must be at least 1, got 0"),
        ("--threads", "5000", "--threads must be at most 1,024, got 5000"),
        ("--device", "bananas", "expected auto, cpu, cuda or mps"),
        ("--data", "not/there", "unknown data 'not/there'"),
        ("--trace", "guess", "unknown --trace 'guess'"),
        ("--dequantization", "none", "which are no real"),
        ("--draws", "2", "is no lower bound"),
    ],
)
def test_wrong_options_are_explained(run_path, capsys, option, value, message):
    with pytest.raises(SystemExit) as exit_code:
        main(["likelihood", str(run_path), option, value])
    assert exit_code.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())
