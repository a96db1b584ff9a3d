"""Muon's steps beside the singular value decomposition, PyTorch's Muon, and AdamW."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import yaml
from torch import nn

from nelbo import NelboError
from nelbo.networks import muon
from nelbo.networks.muon import orthogonalised
from nelbo.training.config import TrainingConfig
from nelbo.training.kinds.pixel.options import TrainPixels
from nelbo.training.optimizer import optimizer_of
from nelbo.training.settings import parse_options, save_options

CONFIG = TrainingConfig(steps=3, optimizer="muon", learning_rate=0.01, weight_decay=0.1)


@pytest.mark.parametrize("shape", [(5, 12), (12, 5), (7, 7), (1, 6)])
def test_singular_values_become_about_one_and_vectors_stay(shape):
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn(3, *shape, generator=generator, dtype=torch.float64) * 7
    found = torch.stack(orthogonalised([*matrices]))
    assert found.shape == matrices.shape
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    inner = u.mT @ found @ v.mT
    values = inner.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(inner, torch.diag_embed(values), atol=1e-8, rtol=0)
    assert values.min() > 0.65
    assert values.max() < 1.25


def test_gram_form_is_the_iteration_itself():
    generator = torch.Generator().manual_seed(1)
    shapes = [(4, 9), (4, 5), (6, 4), (3, 3), (9, 4)]
    matrices = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    for matrix, found in zip(matrices, orthogonalised(matrices), strict=True):
        x = matrix / matrix.norm()
        for _ in range(3):
            gram = x @ x.T
            x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
        torch.testing.assert_close(found, x, atol=1e-6, rtol=1e-6)


def gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator) / 30


def test_matrices_move_as_with_torch_muon():
    torch.manual_seed(0)
    mine, theirs = nn.Linear(40, 24, bias=False), nn.Linear(40, 24, bias=False)
    theirs.load_state_dict(mine.state_dict())
    before = mine.weight.detach().clone()
    optimizer = optimizer_of(mine, CONFIG)
    # Whose steps are a sixth as long at the same rate.
    peer = torch.optim.Muon(
        theirs.parameters(),
        0.06,
        weight_decay=0.1 / 6,
        momentum=0.9,
        ns_steps=3,
        adjust_lr_fn="match_rms_adamw",
    )
    for step in range(3):
        gradients(mine, step)
        gradients(theirs, step)
        optimizer.step()
        peer.step()
    moved = (mine.weight - before).norm()
    assert (mine.weight - theirs.weight).norm() < 0.02 * moved  # it computes in bfloat16
    assert moved > 0.01


class Matrices(nn.Module):
    """Wide, tall and square ones, and one of kernels, in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.tall = (nn.Linear(*s, bias=False) for s in ((9, 4), (4, 9)))
        self.square, self.kernels = nn.Linear(4, 4, bias=False), nn.Conv2d(2, 5, 3, bias=False)
        self.still, self.unused = (nn.Linear(3, 5, bias=False) for _ in range(2))
        self.double()


def test_matrices_move_by_the_formula():
    """M ← 0.9 M + 0.1 G, and W ← (1 − ηλ) W − 1.2 η √(larger side) p(p(p(0.1 G + 0.9 M))).

    With p of the singular values over the norm, and η of its own in each step.
    """
    torch.manual_seed(0)
    model = Matrices()
    config = replace(CONFIG, weight_decay=0.8)
    optimizer = optimizer_of(model, config)
    expected = {n: w.detach().flatten(1).clone() for n, w in model.named_parameters()}
    momenta = {n: torch.zeros_like(w) for n, w in expected.items()}
    generator = torch.Generator().manual_seed(1)
    for rate in (0.01, 0.05, 0.02):
        for group in optimizer.param_groups:
            group["lr"] = rate
        for name, weight in model.named_parameters():
            still, w = name.startswith("still"), expected[name]
            if name.startswith("unused"):
                continue
            g = torch.randn(w.shape, generator=generator, dtype=w.dtype) * (0 if still else 1)
            weight.grad = g.view(weight.shape).clone()
            momenta[name] = 0.9 * momenta[name] + 0.1 * g
            u, values, v = torch.linalg.svd(0.1 * g + 0.9 * momenta[name], full_matrices=False)
            x = values if still else values / values.norm()
            for _ in range(3):
                x = 3.4445 * x - 4.7750 * x**3 + 2.0315 * x**5
            side = math.sqrt(max(w.shape))
            expected[name] = (1 - 0.8 * rate) * w - 1.2 * rate * side * (u * x) @ v
        optimizer.step()
        for name, weight in model.named_parameters():
            torch.testing.assert_close(
                weight.detach().flatten(1), expected[name], rtol=1e-6, atol=1e-7, msg=name
            )


def test_parts_move_as_the_whole(monkeypatch):
    torch.manual_seed(0)
    whole, parts = Small(), Small()
    parts.load_state_dict(whole.state_dict())
    for model, at_once in ((whole, muon._AT_ONCE), (parts, 100)):
        monkeypatch.setattr(muon, "_AT_ONCE", at_once)
        optimizer = optimizer_of(model, CONFIG)
        for step in range(2):
            gradients(model, step)
            optimizer.step()
    for w in parts.parameters():
        w.grad = torch.zeros_like(w)
    found = muon._in_parts(w for w in parts.parameters() if w.ndim > 1)
    assert [[w.numel() for w in some] for some in found] == [[24], [288], [24]]
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b)


class Small(nn.Module):
    """A weight of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.convolution = nn.Conv2d(4, 8, 3)
        self.norm = nn.GroupNorm(2, 8)
        self.linear = nn.Linear(8, 3)


def test_embeddings_gains_and_biases_move_as_with_adamw():
    torch.manual_seed(0)
    mine, theirs = Small(), Small()
    theirs.load_state_dict(mine.state_dict())
    plain = [p for p in theirs.parameters() if p.ndim < 2]
    decayed = {"params": [theirs.embedding.weight], "weight_decay": 0.1}
    peer = torch.optim.AdamW(
        [{"params": plain, "weight_decay": 0.0}, decayed], lr=0.01, betas=(0.9, 0.99)
    )
    optimizer = optimizer_of(mine, CONFIG)
    for step in range(3):
        gradients(mine, step)
        gradients(theirs, step)
        optimizer.step()
        peer.step()
    matrices = {"convolution.weight", "linear.weight"}
    for name, parameter in mine.named_parameters():
        same = torch.allclose(parameter, theirs.get_parameter(name), atol=1e-7)
        assert same == (name not in matrices), name


def test_adamw_moves_all():
    torch.manual_seed(0)
    mine, theirs = Small(), Small()
    theirs.load_state_dict(mine.state_dict())
    optimizer = optimizer_of(mine, replace(CONFIG, optimizer="adamw", weight_decay=0.0))
    peer = torch.optim.AdamW(theirs.parameters(), lr=0.01, betas=(0.9, 0.99), weight_decay=0.0)
    for step in range(3):
        gradients(mine, step)
        gradients(theirs, step)
        optimizer.step()
        peer.step()
    for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_step_with_overflow_moves_nothing():
    model = Small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = optimizer_of(model, CONFIG)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    loss = sum(p.square().sum() for p in model.parameters())
    scaler.scale(loss).backward()
    model.linear.weight.grad[0, 0] = float("inf")
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_it_learns_a_direction_whose_gradient_is_small():
    """Least squares of inputs of very different variance: what AdamW's scales cannot mend."""
    generator = torch.Generator().manual_seed(0)
    x = (
        torch.randn(256, 16, generator=generator)
        @ torch.linalg.qr(torch.randn(16, 16, generator=generator))[0]
        * 1.0
    )
    basis = torch.linalg.qr(torch.randn(16, 16, generator=generator))[0]
    x = x @ (basis * torch.logspace(0, -1.5, 16)[:, None])
    target = x @ torch.randn(16, 16, generator=generator)

    def left(optimizer: str) -> float:
        torch.manual_seed(0)
        model = nn.Linear(16, 16, bias=False)
        config = replace(CONFIG, optimizer=optimizer, weight_decay=0.0, learning_rate=0.05)
        moving = optimizer_of(model, config)
        for step in range(200):
            for group in moving.param_groups:
                group["lr"] = config.learning_rate * (1 - step / 200)
            moving.zero_grad()
            loss = (model(x) - target).square().mean()
            loss.backward()
            moving.step()
        return loss.item()

    assert left("muon") < 0.5 * left("adamw")


def test_runs_from_before_keep_adamw(tmp_path):
    file = tmp_path / "config.yaml"
    save_options(TrainPixels(data="digits"), file)
    content = yaml.safe_load(file.read_text())
    assert content["training"].pop("optimizer") == "muon"
    # Settings written by hand leave out what is to be as usual.
    assert parse_options(TrainPixels, content, file).training.optimizer == "muon"
    (tmp_path / "nelbo.json").write_text("{}")
    assert parse_options(TrainPixels, content, file).training.optimizer == "adamw"


def test_an_unknown_optimizer():
    with pytest.raises(NelboError, match=r"--optimizer.*adam.*muon"):
        replace(CONFIG, optimizer="adam").check()
