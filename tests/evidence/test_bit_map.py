"""Maps of bits: of images as they are, told what they are given, from as many levels as asked."""

from __future__ import annotations

import pytest
import torch

from nelbo import Condition, Diffusion, NelboError, NoiseSchedule, Pixels
from nelbo.data import ImageData
from nelbo.evidence.bit_map import MAP_LEVELS, map_bits
from tests.chain.test_model import Plain
from tests.coding.models import Shrink

LABELS = torch.tensor([0, 2, 1])


class Classes(Diffusion):
    """Whose noise is predicted higher by the class."""

    @property
    def num_classes(self) -> int:
        return 3


def made(T: int) -> tuple[Classes, ImageData]:
    model = Classes(Shrink(3), NoiseSchedule.cosine(T), data=Pixels(17), shape=(3, 4, 5))
    images = (torch.arange(180) * 7 % 17).view(3, 3, 4, 5).byte()
    data = ImageData("made", images, 17, tuple("abc"), labels=LABELS, label_names=tuple("xyz"))
    return model, data


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("asked", [1, 3, 5, 6, MAP_LEVELS])
def test_a_map_is_of_the_bound_of_the_same_draws(asked):
    """Each level once where as many are asked for as there are, which here are five."""
    model, data = made(6)
    found = map_bits(model, data, 2, levels=asked)
    x_0 = data.images.double() / 8 - 1
    with torch.no_grad():
        bound = model.elbo(
            x_0.float(),
            Condition(label=LABELS),
            levels=None if asked >= 5 else asked,
            generator=seeded(2),
        )
    assert found.bound.levels.shape == (3, min(asked, 5))
    torch.testing.assert_close(found.bound.elbo, bound.elbo)
    torch.testing.assert_close(found.nats.flatten(1).sum(1), -bound.elbo, check_dtype=False)
    assert found.nats.shape == data.images.shape
    assert not found.nats.requires_grad


def test_maps_take_a_hundred_levels_of_long_chains_by_default():
    model, data = made(150)
    assert map_bits(model, data, 0).bound.levels.shape == (3, 100)
    other = map_bits(model, data, 1)
    assert torch.equal(map_bits(model, data, 1).nats, other.nats)
    assert not torch.equal(map_bits(model, data, 0).nats, other.nats)


def test_what_has_no_map_and_what_does_not_fit():
    _, data = made(6)
    assert map_bits(Plain(), data, 0) is None
    smaller = ImageData("other", data.images[:, :, :3], 17, tuple("abc"))
    with pytest.raises(NelboError, match="other has images of shape"):
        map_bits(Plain(), smaller, 0)
