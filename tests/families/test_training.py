"""How networks are trained: what Muon and Adam move, another optimiser, fits that diverge."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from nelbo import NelboError, Pixels
from nelbo.families import RNN, SSM, VAE
from nelbo.families.optimizers import muon_of


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


def test_a_recipe_names_the_optimiser():
    """Plain descent at the recipe's rate: a step is the rate times the gradient."""
    made = []

    def descent(network: nn.Module, rate: float) -> torch.optim.Optimizer:
        made.append((network, rate))
        return torch.optim.SGD(network.parameters(), rate)

    model = VAE(2, width=8)
    model.recipe = replace(model.recipe, optimizer=descent, learning_rate=0.25)
    next(model.fit_steps(-torch.ones(4, 1, 2, 2), data=Pixels(3), device="cpu"))
    assert made == [(model, 0.25)]
    assert VAE(2, width=8).recipe.optimizer is muon_of


def test_a_fit_that_diverges_leaves_no_model():
    family = VAE(2, width=8)
    family.recipe = replace(family.recipe, learning_rate=1e30)
    x = Pixels(3).to_network(torch.randint(3, (20, 1, 2, 2)))
    with pytest.raises(NelboError, match="training diverged; use another seed"):
        family.fit(x, data=Pixels(3), device="cpu")
    assert family.last_step is not None  # the first was as usual
    with pytest.raises(NelboError, match="is not fitted yet"):
        family.sample(1)


def test_images_that_are_refused_leave_no_model():
    model = VAE(2, width=8).fit(-torch.ones(4, 1, 2, 2), data=Pixels(3), time_budget=1e-6)
    with pytest.raises(NelboError, match="at most 256 pixels a side"):
        model.fit(-torch.ones(2, 1, 1, 300), data=Pixels(3))
    assert model.last_step is None
    with pytest.raises(NelboError, match="is not fitted yet"):
        model.evidence(-torch.ones(2, 1, 1, 300))
