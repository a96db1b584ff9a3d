"""Images that are odd: all the same, in colour, a single one; for every family."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nelbo import NelboError, Pixels
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


@pytest.mark.parametrize("name", FAMILIES)
def test_images_may_have_float64(name):
    model, x = every_family()[name], colour(12)
    for step in model.fit_steps(x.double(), data=SPACE, device="cpu"):
        if step.number == 2:
            break
    wide, usual = (
        model.evidence(images, generator=torch.Generator().manual_seed(0))
        for images in (x.double(), x)
    )
    # nan of a GAN, which has no evidence
    torch.testing.assert_close(
        wide.total.double(), usual.total.double(), rtol=1e-5, atol=1e-4, equal_nan=True
    )


@pytest.mark.parametrize("device", ["nowhere", "meta9", "mps"])
def test_a_device_that_is_not_there(device):
    with pytest.raises(NelboError, match="cannot be on device"):
        FAMILIES["PPCA"].fit(ODD["colour"], data=SPACE, device=device)
