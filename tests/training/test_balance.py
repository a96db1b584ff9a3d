"""How often images are shown: the weights by hand, and the order that follows them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nelbo import NelboError
from nelbo.data import ImageData, load_data
from nelbo.training.balance import balanced_weights
from nelbo.training.config import TrainingConfig
from nelbo.training.kinds.pixel.build import build_model
from nelbo.training.kinds.pixel.options import ModelConfig
from nelbo.training.kinds.pixel.task import pixel_task
from nelbo.training.order import DataOrder
from nelbo.training.trainer import Trainer
from tests.training.test_trainer import trainer


def pictures(**fields) -> ImageData:
    images = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1).expand(6, 1, 4, 4)
    names = tuple(f"{i}.png" for i in range(6))
    return ImageData("pictures", images, levels=256, names=names, **fields)


CAPTIONS = ("red apple", "red car", "Red, blue car", None, "apple", "")
# The rarest words are apple (2 images), car (2), blue (1), none (6), apple (2), none (6).
RAREST = torch.tensor([2, 2, 1, 6, 2, 6]).double()
LABELS = torch.tensor([0, 0, 1, 0, -1, 0])


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_captions_count_by_their_rarest_word(power):
    weights = balanced_weights(pictures(captions=CAPTIONS), "captions", power)
    expected = RAREST**-power
    torch.testing.assert_close(weights, expected / expected.mean())


def test_labels_count_by_the_size_of_their_class():
    data = pictures(labels=LABELS, label_names=("cat", "dog"))
    weights = balanced_weights(data, "labels", 1.0)
    assert (weights[[0, 1, 3, 5]].sum() / weights[2]).item() == pytest.approx(1)
    assert (weights[4] / weights[2]).item() == pytest.approx(1 / 6)  # it has no class
    assert weights.mean().item() == pytest.approx(1)
    assert balanced_weights(data, "none") is None


def test_an_image_is_shown_as_often_as_its_weight_says():
    weights = RAREST**-1
    order = DataOrder(6, 4, 7, weights)
    epochs = torch.cat([order.batch(step) for step in range(3000)]).view(-1, 6)
    counts = torch.stack([(epochs == i).sum(1) for i in range(6)], 1)
    per_epoch = 6 * weights / weights.sum()
    assert ((counts >= per_epoch.floor()) & (counts <= per_epoch.ceil())).all()
    spread = (counts.double().var(0) / len(counts)).sqrt()
    assert ((counts.double().mean(0) - per_epoch).abs() <= 4 * spread + 1e-9).all()
    assert torch.equal(DataOrder(6, 4, 7, weights).batch(2), order.batch(2))
    # Neighbours in the set are not neighbours in the order.
    assert (epochs.diff(dim=1) == 0).double().mean() < 0.4


def test_equal_weights_are_an_epoch_of_each_image_once():
    order = DataOrder(10, 10, 3, torch.full((10,), 0.3, dtype=torch.float64))
    for step in range(50):
        assert sorted(order.batch(step).tolist()) == list(range(10))


def test_a_trainer_follows_the_weights():
    data = load_data("digits", "train")
    weights = (data.labels == 3).double()
    config = TrainingConfig(steps=1, batch_size=64)
    model = build_model(ModelConfig(widths=(8, 16), levels=20), data)
    t = Trainer(pixel_task(model, data, config), weights=weights)
    assert (data.labels[t._order.batch(0)] == 3).all()
    assert (data.labels[trainer(steps=1)._order.batch(0)] != 3).any()


def test_mistakes():
    data = pictures(captions=CAPTIONS)
    with pytest.raises(NelboError, match="pictures has no labels to balance its images by"):
        balanced_weights(data, "labels")
    with pytest.raises(NelboError, match="no captions"):
        balanced_weights(replace(data, captions=(None,) * 6), "captions")
    for settings, message in (
        ({"balance": "words"}, "unknown --balance 'words': expected one of none, labels, captions"),
        ({"balance_power": -1.0}, "--balance-power must not be negative"),
    ):
        with pytest.raises(NelboError, match=message):
            TrainingConfig(steps=1, **settings).check()
