"""The answers of a model without a chain, classes or prompts."""

from __future__ import annotations

import pytest
import torch

from nelbo import Condition, NelboError, Pixels
from nelbo.chain.examples import check_examples
from nelbo.chain.model import BaseModel


class Plain(BaseModel):
    shape, data = (3, 4, 5), Pixels(17)

    def __init__(self, classes: int = 0) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1200))
        self.classes = classes

    @property
    def num_classes(self) -> int:
        return self.classes

    def evidence(self, x_0, condition=None, *, levels=None, generator=None):
        raise AssertionError

    def sample(self, n, sampler=None, *, condition=None, generator=None):
        raise AssertionError


@pytest.mark.parametrize(
    ("name", "noun"),
    [
        ("HMM", "an HMM"),
        ("RNN", "an RNN"),
        ("VAE", "a VAE"),
        ("PPCA", "a PPCA"),
        ("GAN", "a GAN"),
        ("Autoregressive", "an Autoregressive"),
        ("Ising", "an Ising"),
        ("Hierarchical", "a Hierarchical"),
    ],
)
def test_the_article_is_that_of_what_is_heard(name, noun):
    model = type(name, (Plain,), {})()
    assert model.noun == noun
    assert model.title == noun[0].upper() + noun[1:]


def test_classes_come_in_turn():
    assert Plain().classes_in_turn(4) is None
    assert Plain(3).classes_in_turn(5).label.tolist() == [0, 1, 2, 0, 1]
    assert Plain(3).classes_in_turn(5, [2, 0]).label.tolist() == [2, 0, 2, 0, 2]
    assert Plain(3).classes_in_turn(2).label.dtype == torch.int64


def test_labels_condition_a_model_of_classes():
    labels = torch.tensor([1, -1])
    assert Plain().condition_for(2, labels) is None
    assert Plain(3).condition_for(2) is None
    assert Plain(3).condition_for(2, labels).label.tolist() == [1, -1]


def test_what_it_is_asked_it_has_not():
    model = Plain()
    assert model.chain is model.latent_chain is model.control_shape is None
    assert model.guidance is model.embedded_guidance is model.conditionals(1) is None
    assert model.control_channels == []
    for answer in (model.reads_text, model.few_levels_matter, model.lacks_scale):
        assert answer is False


def test_what_is_stated_of_it():
    model = Plain()
    assert model.facts() == {"image": "4 × 5 × 3", "pixel levels": 17, "parameters": "1,200"}
    assert model.description() == "A Plain of 4×5 images, 3 channels with 17 pixel levels"
    model.shape, model.weight = (1, 4, 5), None
    assert list(model.facts()) == ["image", "pixel levels"]
    assert model.description() == "A Plain of 4×5 images, 1 channel with 17 pixel levels"
    model.shape = None
    assert model.description() == "A Plain"


def test_it_has_no_chain_to_be_guided():
    model = Plain()
    condition = Condition(label=torch.tensor([0, 1]))
    for guidance in (1.0, 1, None):
        assert model.conditioned(2, condition=condition, guidance=guidance) == (model, condition)
    with pytest.raises(NelboError, match="guidance was given"):
        model.conditioned(2, guidance=2.0)
    with pytest.raises(NelboError, match="negative_prompt was given"):
        model.conditioned(2, negative_prompt="")
    with pytest.raises(NelboError):
        model.conditioned(3, condition=condition)
    assert model.start(4).shape == (4, 0)


def test_data_are_states_of_no_chain():
    x_0 = torch.rand(2, 3, 4, 5)
    model = Plain()
    assert torch.equal(model.encode(x_0).mean, x_0)
    assert torch.equal(model.decode(x_0), x_0)
    assert model.decoder_log_prob(x_0, x_0).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("x_0", "message"),
    [
        (
            torch.zeros(2, 3, 4, 4),
            r"images have shape \(3, 4, 4\) in a batch of shape \(2, 3, 4, 4",
        ),
        (torch.zeros(0, 3, 4, 5), "a batch of no images"),
        (torch.zeros(2, 3, 4, 5).long(), "expected a tensor"),
        (torch.zeros(5), "expected a tensor"),
    ],
)
def test_what_is_no_data_of_it(x_0, message, without_shape_checks):
    with pytest.raises(NelboError, match=message):
        Plain().check_data(x_0)
    Plain().check_data(torch.zeros(1, 3, 4, 5))


def test_examples_of_one_formula_have_one_shape():
    check_examples(x_0=torch.zeros(2, 3), x_t=torch.zeros(2, 3))
    with pytest.raises(NelboError, match=r"x_t has shape \(2, 4\) and x_0 has \(2, 3\)"):
        check_examples(x_0=torch.zeros(2, 3), x_t=torch.zeros(2, 4))
    with pytest.raises(NelboError, match=r"x_t is list .*expected a tensor \(B, \.\.\.\)"):
        check_examples(x_0=torch.zeros(2, 3), x_t=[1.0])
