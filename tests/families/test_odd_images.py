"""Images that are odd: all the same, in colour, a single one; for every family."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nelbo import NelboError, Pixels
from nelbo.evidence.standings import Figures, Standing
from tests.gpu.families import every_family

SPACE = Pixels(5)
FAMILIES = every_family()


def colour(n: int) -> Tensor:
    levels = torch.randint(5, (n, 3, 4, 3), generator=torch.Generator().manual_seed(0))
    return SPACE.to_network(levels)


# Of all values, which no density may spoil by a variance of nothing.
ODD = {
    "constant": torch.full((12, 1, 4, 3), -1.0),
    "colour": colour(12),
    "single": colour(1),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("name", FAMILIES)
def test_odd_images_are_fitted(name, kind):
    model, x = every_family()[name], ODD[kind]
    for step in model.fit_steps(x, data=SPACE, device="cpu"):
        if step.number == 2:
            break
    evidence = model.evidence(x, generator=torch.Generator().manual_seed(0))
    if evidence.kind != "none":
        assert evidence.total.isfinite().all()
        assert evidence.dims == x[0].numel()
    assert model.sample(2, generator=torch.Generator().manual_seed(0)).shape == (2, *x.shape[1:])


@pytest.mark.parametrize("device", ["nowhere", "meta9", "mps"])
def test_a_device_that_is_not_there(device):
    with pytest.raises(NelboError, match="cannot be on device"):
        FAMILIES["PPCA"].fit(ODD["colour"], data=SPACE, device=device)


def test_a_budget_too_small_for_one_pass_is_noted():
    run = Figures(
        family="rnn", seed=0, kind="exact", bits=(2.0,), monte_carlo_error=0.0, quality={},
        modes={}, sample_seconds=0.1, parameters=1, steps=3, passes=0.25, seconds=1.0, choice="",
        shape=(0,), pixels="",
    )  # fmt: skip
    standing = Standing("rnn", "RNN", "sequence models", (run,), {})
    assert standing.notes(1.0) == ["the budget was too small for one pass over the images (0.25)"]
