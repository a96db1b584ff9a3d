"""Images as a model takes them, and what is no image."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nelbo import NelboError
from nelbo.chain.evidence import Costs
from nelbo.data import ImageData
from nelbo.evidence.inputs import check_pictures, check_probability, condition_for, inputs
from tests.chain.test_model import Plain


class Conditional(Plain):
    """Of three classes, under a control of two channels."""

    kind = "exact"

    def __init__(self, control: bool = True) -> None:
        super().__init__(3)
        self.under_control = control

    @property
    def control_shape(self):
        return (2, 4, 5) if self.under_control else None

    def evidence(self, x_0, condition=None, *, levels=None, generator=None):
        terms = {"all": torch.zeros(len(x_0))} if self.kind == "exact" else {}
        return Costs.of(self.kind, terms, x_0)


def data(n: int = 2, **fields) -> ImageData:
    images = torch.arange(17).repeat(n * 60)[: n * 60].view(n, 3, 4, 5).byte()
    return ImageData("made", images, 17, tuple(map(str, range(n))), **fields)


def test_levels_are_scaled_and_labels_condition():
    labelled = data(labels=torch.tensor([2, 0]), label_names=("a", "b", "c"))
    x_0, condition = inputs(Conditional(), labelled)
    torch.testing.assert_close(x_0, labelled.images.float() / 8 - 1)
    assert condition.label.tolist() == [2, 0]
    assert condition.control is None


def test_a_control_is_of_shares_of_white():
    controls = torch.arange(80).view(2, 2, 4, 5).byte()
    some = data(controls=controls)
    found = condition_for(Conditional(), some)
    torch.testing.assert_close(255 * found.control, controls.float())
    assert found.label is None
    assert condition_for(Conditional(control=False), some) is None
    assert condition_for(Conditional(), data()) is None


def test_what_does_not_fit():
    model = Conditional()
    model.shape = (3, 5, 4)
    with pytest.raises(NelboError, match=r"made has images of shape \(3, 4, 5\), the model"):
        inputs(model, data())
    with pytest.raises(NelboError, match="levels"):
        inputs(Conditional(), replace(data(), levels=18))
    with pytest.raises(NelboError, match="expected ImageData"):
        inputs(Conditional(), data().images)


@pytest.mark.parametrize(
    "pictures", [torch.rand(2, 3, 4, 5), torch.zeros(3, 4, 5).byte(), [[1]], None]
)
def test_samples_are_no_pictures(pictures):
    levels = torch.zeros(2, 3, 4, 5).byte()
    check_pictures(samples=levels)
    with pytest.raises(NelboError, match=r"real is .*expected a tensor of pixel levels"):
        check_pictures(samples=levels, real=pictures)


def test_a_model_without_probabilities_is_refused_before_long_work():
    model = Conditional()
    check_probability("model", model, data())
    model.kind = "none"
    with pytest.raises(NelboError, match="probab"):
        check_probability("model", model, data())
