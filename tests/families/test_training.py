"""What Muon and Adam move of a network that is trained."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nelbo import Pixels
from nelbo.families import RNN, SSM, VAE
from nelbo.families.training import muon_of


@pytest.mark.parametrize(
    ("family", "adam"),
    [
        (VAE(2, width=8), {"hierarchy.log_scale"}),
        (RNN(width=8, layers=1), {"neighbours.along.weight", "neighbours.channel.weight"}),
        (SSM(width=8, layers=1, states=2), {"sequence.blocks.0.ssm.frequency"}),
    ],
    ids=lambda given: type(given).__name__,
)
def test_muon_has_the_matrices_of_layers_and_adam_the_rest(family, adam):
    family.allocate((1, 4, 4), Pixels(3))
    names = {id(weight): name for name, weight in family.named_parameters()}
    groups = {group["orthogonal"]: group["params"] for group in muon_of(family, 0.1).param_groups}
    assert {name for group in groups.values() for name in map(names.get, map(id, group))} == set(
        names.values()
    )
    matrices = {names[id(weight)] for weight in groups[True]}
    assert all(weight.ndim > 1 for weight in groups[True])
    assert not matrices & adam
    for name, module in family.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            assert f"{name}.weight" in matrices
            assert f"{name}.bias" not in matrices
    if isinstance(family, RNN):
        assert {"sequence.cells.weight_ih_l0", "sequence.cells.weight_hh_l0"} <= matrices


def test_a_step_of_a_matrix_has_the_length_of_the_rate():
    torch.manual_seed(0)
    layer = nn.Linear(6, 4)
    before = {name: weight.detach().clone() for name, weight in layer.named_parameters()}
    optimizer = muon_of(layer, 0.01)
    layer(torch.randn(20, 6)).square().sum().backward()
    optimizer.step()
    # Adam's first step of each bias is the rate, Muon's of a matrix its root mean square times 1.2.
    moved = {name: weight.detach() - before[name] for name, weight in layer.named_parameters()}
    torch.testing.assert_close(moved["bias"].abs(), torch.full((4,), 0.01))
    values = torch.linalg.svdvals(moved["weight"]) / (0.01 * 1.2 * 6**0.5)
    assert values.min() > 0.6
    assert values.max() < 1.3
