"""What holds for every family: saved and loaded, seeded, and clear about what it does not take."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from nelbo import NelboError
from nelbo.chain.model import Model
from nelbo.families import Family


def check_contract(family: Family, x: Tensor, path: Path) -> None:
    """A fitted family: itself again from the disk, its draws from a seed, its refusals."""
    assert isinstance(family, Model)
    assert family.chain is None

    family.save_pretrained(path)
    loaded = type(family).from_pretrained(path)
    assert loaded.config() == family.config()
    for name, value in family.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)

    def seeded() -> torch.Generator:
        return torch.Generator().manual_seed(3)

    images = family.sample(2, generator=seeded())
    assert images.shape == (2, *x.shape[1:])
    assert images.dtype == torch.float32
    assert torch.equal(loaded.sample(2, generator=seeded()), images)
    family.check_data(images)
    one_each = family.sample(2, generator=[seeded(), seeded()])
    assert torch.equal(one_each[0], one_each[1])

    evidence = family.evidence(x, generator=seeded())
    again = loaded.evidence(x, generator=seeded())
    assert evidence.total.shape == (len(x),)
    assert torch.equal(evidence.total, again.total) or evidence.kind == "none"
    assert evidence.dims == x[0].numel()

    with pytest.raises(NelboError, match=r"images have shape .* the model takes"):
        family.evidence(x[:, :, :-1])
    with pytest.raises(NelboError, match="neither a chain nor a condition"):
        family.sample(1, sampler=object())
    with pytest.raises(NelboError, match="at least 1"):
        family.sample(0)
    with pytest.raises(NelboError, match=r"not fitted yet: call fit first, or nelbo\.load one$"):
        type(family)(**family.options).sample(1)
