"""A trained network for other classes."""

from __future__ import annotations

import pytest
import torch

from nelbo import Condition, NelboError
from nelbo.networks import UNet

FIELDS = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": (8,),
    "down_block_types": ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",),
    "layers_per_block": 1,
    "norm_num_groups": 4,
}


def network(classes: int | None) -> UNet:
    torch.manual_seed(0)
    made = UNet(num_class_embeds=classes, **FIELDS)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.3)
    return made.eval()


def output(made: UNet, label: int | None) -> torch.Tensor:
    x = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8)
    condition = None if label is None else Condition(label=torch.tensor([label]))
    with torch.no_grad():
        return made(x, torch.tensor([3.0]), condition)


def test_classes_of_the_same_name_keep_their_place_and_new_ones_begin_as_none():
    old = network(3)
    new = old.with_classes(["cat", "dog", "eel"], ["ant", "eel", "dog", "fox"])
    assert new.config.num_class_embeds == 4
    assert torch.equal(output(new, 1), output(old, 2))
    assert torch.equal(output(new, 2), output(old, 1))
    for label in (0, 3):
        assert torch.equal(output(new, label), output(old, None))
    assert not torch.equal(output(new, 1), output(new, 2))


def test_without_classes_and_with_the_first():
    old = network(3)
    bare = old.with_classes(["a", "b", "c"], [])
    assert bare.config.num_class_embeds is None
    assert torch.equal(output(bare, None), output(old, None))
    again = bare.with_classes([], ["a", "b"])
    assert torch.equal(output(again, 1), output(old, None))
    loss = again(torch.ones(1, 1, 8, 8), torch.tensor([3.0]), Condition(label=torch.tensor([1])))
    loss.square().sum().backward()
    gradient = again.class_embedding.weight.grad
    assert gradient[1].abs().max() > 0  # what begins as zero does not stay there
    assert gradient[0].abs().max() == 0


def test_labels_that_are_no_table_are_refused():
    made = UNet(class_embed_type="timestep", **FIELDS)
    with pytest.raises(NelboError, match="embedded by 'timestep'"):
        made.with_classes([], ["a"])
