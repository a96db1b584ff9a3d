"""What is given for a condition, and is none, is refused with what would be one."""

from __future__ import annotations

import jaxtyping
import pytest
import torch

import nelbo
from nelbo import Condition, Diffusion, NelboError, NoiseSchedule, samplers
from nelbo.diffusion import flow
from nelbo.diffusion.measurement import level_profile
from nelbo.editing import ImageToImage, Inpainting, Interpolation
from nelbo.evidence import Classifier
from nelbo.evidence.precision import try_bfloat16
from nelbo.networks import UNet
from nelbo.networks.guidance import Guidance
from nelbo.samplers import DDIM, DDPM


@pytest.fixture(autouse=True)
def _as_users_call_it():
    """Without the checks of types that the tests add, which would come first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


LABELS = torch.tensor([0, 2])


@pytest.fixture(scope="module")
def model() -> Diffusion:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = UNet(
            sample_size=8,
            in_channels=1,
            out_channels=1,
            block_out_channels=(8, 8),
            layers_per_block=1,
            norm_num_groups=4,
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            num_class_embeds=3,
        )
    return Diffusion(network, NoiseSchedule.linear(6), shape=(1, 8, 8)).eval()


X = torch.zeros(2, 1, 8, 8) - 1
TIMES = torch.tensor([1, 3])
CALLS = {
    "sample": lambda m, c: m.sample(2, condition=c),
    "sample with a sampler": lambda m, c: m.sample(2, DDIM(2), condition=c),
    "sample with guidance": lambda m, c: m.sample(2, DDIM(2), condition=c, guidance=2.0),
    "elbo": lambda m, c: m.elbo(X, c, levels=2),
    "bound_map": lambda m, c: m.bound_map(X, c, levels=2),
    "path_elbo": lambda m, c: m.path_elbo(X, c),
    "importance_weighted_elbo": lambda m, c: m.importance_weighted_elbo(X, c, paths=2),
    "walk": lambda m, c: list(m.walk(X, c)),
    "loss": lambda m, c: nelbo.loss(m, X, c),
    "predict": lambda m, c: m.predict(X, 2, c),
    "p_step": lambda m, c: m.p_step(X, 2, c),
    "p_data": lambda m, c: m.p_data(X, c),
    "reconstruction": lambda m, c: m.reconstruction(X, X, c),
    "score_matching": lambda m, c: m.score_matching(X, X, 2, c),
    "network": lambda m, c: m.network(X, TIMES, c),
    "guided": lambda m, c: m.guided(Guidance(2.0)).predict(X, 2, c),
    "likelihood": lambda m, c: flow.log_likelihood(m, X, c, rtol=0.1, atol=0.1),
    "encode": lambda m, c: flow.encode(m, X, c),
    "decode": lambda m, c: flow.decode(m, X, c),
    "profile": lambda m, c: level_profile(m, X, c, levels=2),
    "classifier": lambda m, c: Classifier(m, c),
    "classify": lambda m, c: list(nelbo.evidence.classify(m, X, c)),
    "precision": lambda m, c: try_bfloat16(m, X, c, seed=0),
    "inpainting": lambda m, c: Inpainting(X > 0, DDPM(2), 1, 1).edit(m, X, condition=c),
    "image to image": lambda m, c: ImageToImage(DDIM(2), 0.5).edit(m, X, condition=c),
    "interpolation": lambda m, c: Interpolation(2, DDIM(2)).edit(m, X, condition=c),
} | {
    kind: lambda m, c, kind=kind: getattr(samplers, kind)(2).sample(m, X, condition=c)
    for kind in samplers.SAMPLERS.values()
}
# Calls of any number of conditions.
OTHERWISE = ("classifier", "classify", "network")


@pytest.mark.parametrize("call", CALLS)
def test_a_tensor_of_labels_is_no_condition(call, model):
    with pytest.raises(NelboError, match=r"Condition\(label=labels\)"):
        CALLS[call](model, LABELS)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("given", [[0, 2], 1, "cat", LABELS.float(), {"label": LABELS}])
def test_nothing_else_is_either(call, given, model):
    with pytest.raises(NelboError, match="expected a Condition or None"):
        CALLS[call](model, given)


@pytest.mark.parametrize("count", [0, 3])
@pytest.mark.parametrize("call", [call for call in CALLS if call not in OTHERWISE])
def test_a_condition_is_of_as_many_examples(call, count, model):
    with pytest.raises(NelboError, match=f"has batch size {count}, expected 2, one for each image"):
        CALLS[call](model, Condition(label=torch.arange(count)))


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        ("a red cat", "prompt="),
        (["a red cat", None], r"condition_on\(prompts\)"),
        (torch.zeros(2, 5, 4), r"Condition\(text="),
        (torch.zeros(2, 1, 4, 4), r"Condition\(control="),
        (torch.zeros(2), r"Condition\(label=labels.long\(\)\)"),
        ([1, 2], r"Condition\(label=torch.tensor"),
    ],
)
def test_the_remedy_suits_what_was_given(given, remedy, model):
    with pytest.raises(NelboError, match=remedy):
        model.elbo(X, given)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"label": [0, 2]}, r"condition.label is list \[0, 2\], expected a tensor of the class"),
        ({"label": 2}, "condition.label is int 2"),
        ({"label": torch.tensor(2)}, r"condition.label is a Tensor of shape \(\)"),
        ({"text": "a red cat"}, r"condition.text is str .*condition_on"),
        ({"text": ["a", "b"]}, "condition.text is list"),
        ({"control": "edges.png"}, r"condition.control is str .*\(B, C, H, W\)"),
        ({"pooled_text": 1.0}, "condition.pooled_text is float"),
        ({"size": (8, 8, 0, 0, 8, 8)}, "condition.size is tuple"),
        ({"label": LABELS, "text": torch.zeros(3, 5, 4)}, "2 of label, 3 of text"),
    ],
)
def test_the_parts_of_a_condition_are_tensors(fields, message):
    with pytest.raises(NelboError, match=message):
        Condition(**fields)


@pytest.mark.parametrize("label", [LABELS.float(), LABELS[:, None], LABELS > 0])
def test_labels_are_numbers_of_classes(label, model):
    with pytest.raises(NelboError, match=r"expected the number of the class of each example"):
        model.elbo(X, Condition(label=label))


def test_labels_of_a_shorter_type_are_labels(model):
    found = model.predict(X, 2, Condition(label=LABELS.to(torch.uint8))).x_0
    assert torch.equal(found, model.predict(X, 2, Condition(label=LABELS)).x_0)


def test_classes_come_in_turn(model):
    """All of them, or those that are named; none of a model without classes."""
    assert model.classes_in_turn(5).label.tolist() == [0, 1, 2, 0, 1]
    assert model.classes_in_turn(3, [2, 0]).label.tolist() == [2, 0, 2]
    assert Diffusion(lambda x, t, c: x, NoiseSchedule.linear(3)).classes_in_turn(2) is None


def prompt(first: float, mask: list[int]) -> Condition:
    """One embedded prompt of as many tokens as the mask has, counted up from `first`."""
    n = len(mask)
    text = first + torch.arange(2.0 * n).view(1, n, 2)
    return Condition(
        text=text, text_mask=torch.tensor([mask]), pooled_text=torch.full((1, 4), first)
    )


def test_what_is_done_to_a_batch_is_done_to_each_of_its_parts():
    control = torch.arange(8.0).view(2, 1, 2, 2)
    both = Condition(label=LABELS, control=control)
    assert both.batch_size == 2
    assert both.nbytes == 2 * 8 + 8 * 4
    assert (Condition().batch_size, Condition().nbytes) == (0, 0)
    twice = both.repeat(2)
    assert twice.label.tolist() == [0, 2, 0, 2]
    assert torch.equal(twice.control, torch.cat([control, control]))
    last = both[slice(1, 2)]
    assert (last.label.tolist(), last.control.tolist()) == ([2], control[1:].tolist())
    wide = both.float_to(torch.float64)
    assert (wide.control.dtype, wide.label.dtype) == (torch.float64, torch.int64)
    assert both.to(torch.float64).label.dtype == torch.float64


def test_texts_of_other_lengths_are_padded_to_be_joined():
    short, long = prompt(1.0, [1, 1]), prompt(5.0, [1, 1, 1, 0])
    for parts in ([short, long], [long, short]):
        joined = Condition.join(parts)
        for k, part in enumerate(parts):
            n = part.text.shape[1]
            assert torch.equal(joined.text[k, :n], part.text[0])
            assert joined.text[k, n:].abs().sum() == 0
            assert joined.text_mask[k].tolist() == part.text_mask[0].tolist() + [0] * (4 - n)
    with pytest.raises(NelboError, match=r"conditions on \['text'\] and on \['label'\]"):
        Condition.join([Condition(text=torch.zeros(1, 2, 2)), Condition(label=LABELS[:1])])


def test_the_way_between_two_prompts_is_straight():
    first, last = prompt(1.0, [1, 1, 0]), prompt(-4.0, [1, 1, 1])
    found = first.between(last, torch.tensor([0.0, 0.2, 1.0]))
    middle = 0.8 * first.text + 0.2 * last.text
    torch.testing.assert_close(found.text, torch.cat([first.text, middle, last.text]))
    assert found.pooled_text[1].tolist() == pytest.approx([0.8 - 0.2 * 4] * 4, abs=1e-6)
    assert found.text_mask.tolist() == [[1, 1, 1]] * 3  # what counts at either end
    both = Condition.join([first, last])
    with pytest.raises(NelboError, match="expected one example at each end, got 3 in all"):
        first.between(both, torch.tensor([0.5]))
    with pytest.raises(NelboError, match="nothing lies between two labels"):
        Condition(label=LABELS[:1]).between(Condition(label=LABELS[1:]), torch.tensor([0.5]))
