"""What an evaluation was of: each part by name, and by hashes that are computed here anew."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest
import torch

from nelbo import Diffusion, NoiseSchedule, Pixels, level_profile
from nelbo.data import ImageData
from nelbo.evidence.identity import identify, identify_profile
from nelbo.families import MarkovModel
from tests.coding.models import Shrink

SHAPE = (3, 4, 5)


class Classes(Diffusion):
    @property
    def num_classes(self) -> int:
        return 3


def images(n: int = 4) -> torch.Tensor:
    return torch.randint(17, (n, *SHAPE), generator=torch.Generator().manual_seed(0)).byte()


def plain(n: int = 4) -> ImageData:
    return ImageData("made", images(n), 17, tuple(f"{i}.png" for i in range(n)))


LABELS = torch.tensor([0, 2, -1, 1])
FULL = replace(
    plain(),
    labels=LABELS,
    label_names=tuple("xyz"),
    captions=("a cat", None, "é", "a dog"),
    controls=(images() * 15),
)


def model_of(kind: type[Diffusion] = Diffusion) -> Diffusion:
    return kind(Shrink(3), NoiseSchedule.cosine(6), data=Pixels(17), shape=SHAPE)


def hashed(*parts: bytes, size: int = 8) -> str:
    return hashlib.blake2b(b"".join(parts), digest_size=size).hexdigest()


def content(values: torch.Tensor) -> bytes:
    return values.numpy().tobytes()


def test_images_alone():
    found = identify(model_of(), plain())
    assert found["images"] == 4
    assert found["names of the images"] == hashed(json.dumps(list(plain().names)).encode())
    assert found["pixels"] == f"3×4×5, {hashed(content(images()))}"
    for missing in ("captions", "controls", "labels", "conditioned on"):
        assert found[missing] == "-"


def test_all_that_stands_beside_images():
    found = identify(model_of(Classes), FULL)
    assert found["captions"] == hashed(json.dumps(FULL.captions).encode())
    assert found["controls"] == hashed(content(FULL.controls))
    assert found["labels"] == hashed(json.dumps(["x", "y", "z"]).encode(), content(LABELS))
    assert found["conditioned on"] == "the class"
    # Of a model without classes, labels are not what it is conditioned on.
    assert identify(model_of(), FULL)["conditioned on"] == "-"


def test_weights_count_by_name_and_value():
    model = model_of()
    weight, bias = model.network.mix.weight, model.network.mix.bias
    named = {name: value.detach() for name, value in model.state_dict().items()}
    assert {name.rpartition(".")[2] for name in named} >= {"weight", "bias"}
    parts = [part for name in sorted(named) for part in (name.encode(), content(named[name]))]
    first = identify(model, plain())["weights"]
    assert first == hashed(*parts, size=16)
    assert len(first) == 32
    for parameter in (weight, bias):
        with torch.no_grad():
            parameter.view(-1)[-1] += 1e-6
        other = identify(model, plain())["weights"]
        assert other != first
        first = other


@pytest.mark.parametrize("n", [4095, 4096, 4097])
def test_images_are_hashed_in_their_order_whatever_their_number(n):
    """Some thousands are hashed at a time."""
    found = identify(model_of(), replace(plain(n), controls=images(n).flip(0)))
    assert found["pixels"] == f"3×4×5, {hashed(content(images(n)))}"
    assert found["controls"] == hashed(content(images(n).flip(0)))


CHANGES = {
    "names of the images": {"names": ("0.png", "1.png", "3.png", "2.png")},
    "pixels": {"images": FULL.images.flip(0)},
    "captions": {"captions": ("a cat", "", "é", "a dog")},
    "controls": {"controls": 255 - FULL.controls},
    "labels": {"labels": LABELS.flip(0)},
}


@pytest.mark.parametrize("changed", CHANGES)
def test_a_change_is_seen_in_its_own_line_alone(changed):
    model = model_of(Classes)
    before, after = (identify(model, data) for data in (FULL, replace(FULL, **CHANGES[changed])))
    assert {name for name in before if before[name] != after[name]} == {changed}
    assert list(before) == list(after)


def test_the_names_of_classes_count_with_the_labels():
    model = model_of(Classes)
    other = replace(FULL, label_names=tuple("xzy"))
    before, after = identify(model, FULL), identify(model, other)
    assert {name for name in before if before[name] != after[name]} == {"labels"}
    for data in (plain(), replace(plain(), label_names=("x",))):
        assert identify(model, data)["labels"] == "-"


def test_what_a_model_states_of_itself_is_there():
    model = model_of()
    found = identify(model, plain())
    assert found | model.identity() == found
    assert "prediction" in model.identity()


def test_a_profile_is_that_of_the_chain():
    model = model_of()
    assert identify_profile(model) == "-"
    assert identify_profile(MarkovModel(1)) == "-"
    x_0 = images().float() / 8 - 1
    profile = level_profile(model, x_0, generator=torch.Generator().manual_seed(0))
    found = identify_profile(model.replace(profile=profile))
    square = profile.score_matching_square
    assert found == hashed(json.dumps(profile.levels.tolist()).encode(), content(square))
