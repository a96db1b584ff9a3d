"""Every figure can be had of one example alone, with no second one to read its size from."""

from __future__ import annotations

import pytest
import torch

import nelbo
from nelbo import Condition, Continuous, level_profile
from nelbo.diffusion import flow
from nelbo.diffusion.continuous import ContinuousDiffusion
from nelbo.diffusion.objectives import OBJECTIVES
from nelbo.evidence import Classifier
from tests.diffusion.test_model import SHAPE, make

X = torch.full((1, *SHAPE), 0.25, dtype=torch.float64)
LABELS = Condition(label=torch.tensor([0, 2]))


def learned() -> ContinuousDiffusion:
    return ContinuousDiffusion(make(variance="fixed_large", data=Continuous()))


FIGURES = {
    "elbo": lambda m, x: m.elbo(x).nelbo,
    "elbo at some levels": lambda m, x: m.elbo(x, levels=3).bits_per_dim,
    "map": lambda m, x: m.bound_map(x).nats,
    "path": lambda m, x: m.path_elbo(x),
    "paths": lambda m, x: m.importance_weighted_elbo(x, paths=2),
    "prior matching": lambda m, x: m.prior_matching(x),
    "profile": lambda m, x: level_profile(m, x, levels=4).squared_error,
    "in continuous time": lambda m, x: learned().elbo(x).bits_per_dim,
    "training in continuous time": lambda m, x: learned()(x).loss,
    "flow": lambda m, x: flow.log_likelihood(m, x, rtol=0.1, atol=0.1).bits_per_dim,
    "flow, exactly": lambda m, x: (
        flow.log_likelihood(m, x, trace="exact", draws=2, rtol=0.1, atol=0.1).bits_per_dim
    ),
    "classes": lambda m, x: Classifier(m, LABELS, draws=8)(x).nelbo,
} | {
    f"loss {kind}": lambda m, x, kind=kind: nelbo.loss(m, x, objective=kind) for kind in OBJECTIVES
}


@pytest.mark.parametrize("name", FIGURES)
def test_one_example_has_every_figure(name):
    model = make(data=Continuous())
    found = FIGURES[name](model, X)
    assert found.isfinite().all()
    of_three = FIGURES[name](model, X.expand(3, *SHAPE))
    assert found.shape[1:] == of_three.shape[1:]
    assert found.dtype == of_three.dtype
