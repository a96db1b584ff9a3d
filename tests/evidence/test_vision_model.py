"""Features of vision models: those of transformers, of pictures that Pillow has resized."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from nelbo.base.errors import NelboError, NotFiniteError
from nelbo.evidence.vision_model import vision_model

transformers = pytest.importorskip("transformers")

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 14}
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)
PREPROCESSING = "preprocessor_config.json"


def dino(path: Path, **settings) -> torch.nn.Module:
    """A tiny DINOv2 of random weights in a directory, with what it states of pictures."""
    torch.manual_seed(0)
    model = transformers.Dinov2Model(transformers.Dinov2Config(**SMALL, image_size=28)).eval()
    model.save_pretrained(path)
    if settings:
        (path / PREPROCESSING).write_text(json.dumps(settings))
    return model


def random_pictures(n: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (n, *shape), generator=generator).byte()


def resized(images: Tensor, side: int) -> Tensor:
    """By Pillow's bicubic filter, in float and cut to 0..255 at the end."""
    planes = [Image.fromarray(p.numpy().astype(np.float32)) for p in images.flatten(0, 1)]
    planes = [np.asarray(p.resize((side, side), Image.Resampling.BICUBIC)) for p in planes]
    found = torch.from_numpy(np.stack(planes)).view(*images.shape[:2], side, side)
    assert not ((found >= 0) & (found <= 255)).all()  # edges that the filter overshoots
    return found.clamp(0, 255)


def standard(values: Tensor, mean=MEAN, std=STD) -> Tensor:
    """Pixels 0..255 in the units of a model."""
    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (mean, std))
    return (values / 255 - mean) / std


@torch.no_grad()
def pooled(model: torch.nn.Module, pixels: Tensor) -> Tensor:
    return model(pixel_values=pixels).pooler_output


@pytest.mark.parametrize("shape", [(3, 9, 17), (3, 40, 33), (1, 12, 12)])
def test_pictures_of_any_size_are_resized_as_by_pillow(tmp_path, shape):
    model = dino(tmp_path, crop_size=28, image_mean=MEAN, image_std=STD)
    images = random_pictures(4, *shape)
    expected = pooled(model, standard(resized(images, 28).expand(-1, 3, -1, -1)))
    found = vision_model(tmp_path, 256)(images)
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=1e-4)
    assert found.std() > 0.1


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_colours_are_standardised_channel_by_channel(tmp_path, levels):
    model = dino(tmp_path, crop_size=28, image_mean=MEAN, image_std=STD)
    images = (random_pictures(4, 3, 28, 28).int() % levels).byte()
    expected = pooled(model, standard(images * (255 / (levels - 1))))
    found = vision_model(tmp_path, levels)(images)
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=1e-4)


def test_without_preprocessing_colours_are_those_of_imagenet(tmp_path):
    model = dino(tmp_path)
    images = random_pictures(2, 3, 28, 28)
    usual = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    found = vision_model(tmp_path, 256)(images).float()
    torch.testing.assert_close(found, pooled(model, standard(images, *usual)), rtol=0, atol=1e-4)
    for name, given in (("image_mean", {"mean": MEAN}), ("image_std", {"std": STD})):
        value = next(iter(given.values()))
        (tmp_path / PREPROCESSING).write_text(json.dumps({name: value}))
        options = dict(zip(("mean", "std"), usual, strict=True)) | given
        found = vision_model(tmp_path, 256)(images).float()
        expected = pooled(model, standard(images, **options))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


# No side of these is a multiple of the patches, so that the error says which was taken.
@pytest.mark.parametrize(
    ("settings", "side"),
    [
        ({"crop_size": 5}, 5),
        ({"crop_size": {"height": 5, "width": 6}}, 5),
        ({"crop_size": [5, 6]}, 5),
        ({"size": 5}, 5),
        ({"size": {"shortest_edge": 5}}, 5),
        ({"size": {"height": 5, "shortest_edge": 6}}, 5),
        ({"size": 6, "crop_size": 5}, 5),
        ({"size": 5, "crop_size": None}, 5),
        ({"size": 5, "crop_size": {}}, 5),
        ({"size": 5, "crop_size": {"longest_edge": 6}}, 5),
        ({"size": 1, "crop_size": None}, 1),
    ],
)
def test_the_side_of_a_picture_is_that_of_the_preprocessing(tmp_path, settings, side):
    dino(tmp_path, **settings)
    with pytest.raises(NelboError, match=f"no features of pictures of {side} pixels a side"):
        vision_model(tmp_path, 256)


@pytest.mark.parametrize("settings", [{}, {"size": {"longest_edge": 5}}, {"crop_size": None}])
def test_the_side_is_otherwise_that_of_the_model(tmp_path, settings):
    model = dino(tmp_path, image_mean=MEAN, image_std=STD, **settings)
    images = random_pictures(2, 3, 20, 20)
    expected = pooled(model, standard(resized(images, 28)))
    found = vision_model(tmp_path, 256)(images).float()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"image_size": [28, 28]}))
    torch.testing.assert_close(vision_model(tmp_path, 256)(images).float(), found)


@pytest.mark.parametrize("size", [0, -28, 28.5, "28", True, []])
def test_a_side_that_is_none_is_named(tmp_path, size):
    dino(tmp_path, size=size)
    with pytest.raises(NelboError, match=rf"{PREPROCESSING}: size is .* expected a number of pix"):
        vision_model(tmp_path, 256)


def test_a_model_of_pictures_and_texts_gives_features_of_pictures(tmp_path):
    torch.manual_seed(0)
    shared = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config={**shared, "vocab_size": 20, "intermediate_size": 16},
        vision_config={**shared, "image_size": 28, "patch_size": 14, "intermediate_size": 16},
        projection_dim=12,
    )
    model = transformers.CLIPModel(config).eval()
    model.save_pretrained(tmp_path)
    (tmp_path / PREPROCESSING).write_text(json.dumps({"image_mean": MEAN, "image_std": STD}))
    images = random_pictures(3, 3, 28, 28)
    with torch.no_grad():
        seen = model.vision_model(pixel_values=standard(images)).pooler_output
        expected = model.visual_projection(seen)
    space = vision_model(tmp_path, 256)
    torch.testing.assert_close(space(images).float(), expected, rtol=0, atol=1e-4)
    assert space.name == f"clip features of {tmp_path.name}"
    assert expected.shape == (3, 12)


def test_what_is_no_model_of_pictures_is_named(tmp_path):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=20
    )
    transformers.BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(NelboError, match=r"is no vision model: its config\.json has no image_size"):
        vision_model(tmp_path, 256)


@pytest.mark.parametrize("left_out", ["config.json", "model.safetensors"])
def test_both_files_are_needed(tmp_path, left_out):
    dino(tmp_path)
    (tmp_path / left_out).unlink()
    with pytest.raises(NelboError, match="is no vision model: expected a directory with config"):
        vision_model(tmp_path, 256)


def test_weights_that_are_not_finite_are_named(tmp_path):
    dino(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["layernorm.weight"][3] = float("nan")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NotFiniteError, match=r"model\.safetensors holds weights .*layernorm"):
        vision_model(tmp_path, 256)


def test_vision_models_are_read_from_a_directory(tmp_path, generator):
    config = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    torch.manual_seed(0)
    model = transformers.Dinov2Model(config).eval()
    model.save_pretrained(tmp_path / "dino")
    (tmp_path / "dino" / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "crop_size": {"height": 28, "width": 28},
                "image_mean": [0.5] * 3,
                "image_std": [1] * 3,
            }
        )
    )
    images = torch.randint(256, (4, 3, 28, 28), generator=generator).byte()
    space = vision_model(tmp_path / "dino", 256)
    with torch.no_grad():
        expected = model(pixel_values=images.float() / 255 - 0.5).pooler_output
    assert torch.allclose(space(images).float(), expected, atol=1e-5)
    assert space.name == "dinov2 features of dino"
    assert space.unit == 1.0
    file = tmp_path / "dino" / "preprocessor_config.json"
    file.write_text("{")
    with pytest.raises(NelboError, match=r"preprocessor_config\.json is not readable as JSON"):
        vision_model(tmp_path / "dino", 256)
    for field, found, expected in (
        ("image_mean", 0.5, "a list of 3 numbers"),
        ("image_mean", ["a"] * 3, "a list of 3 numbers"),
        ("image_std", [1, 1], "a list of 3 numbers"),
        ("image_std", [1, 0, 1], "a list of 3 numbers above 0"),
        ("crop_size", "28", "a number of pixels"),
        ("size", {"shortest_edge": [28]}, "a number of pixels"),
    ):
        file.write_text(json.dumps({field: found}))
        with pytest.raises(NelboError, match=rf"config\.json: {field} is .* expected {expected}"):
            vision_model(tmp_path / "dino", 256)
    file.write_text(json.dumps({"crop_size": 5}))  # no multiple of its patches
    with pytest.raises(NelboError, match="no features of pictures of 5 pixels a side"):
        vision_model(tmp_path / "dino", 256)


def test_a_vision_model_without_a_pooler_gives_its_class_token(tmp_path, generator):
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=28,
        patch_size=14,
    )
    torch.manual_seed(0)
    classifier = transformers.ViTForImageClassification(config).eval()
    classifier.save_pretrained(tmp_path)
    images = torch.randint(256, (2, 3, 28, 28), generator=generator).byte()
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 1, 3, 1, 1)
    with torch.no_grad():
        expected = classifier.vit((images / 255 - mean) / std).last_hidden_state[:, 0]
    # transformers makes a pooler of random weights, which are others each time.
    assert torch.allclose(vision_model(tmp_path, 256)(images).float(), expected, atol=1e-5)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["vit.layernorm.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NelboError, match=r"has no weights 'layernorm\.weight'"):
        vision_model(tmp_path, 256)


def test_weights_that_could_run_code_are_refused(tmp_path):
    file = tmp_path / "inception.pth"
    file.write_bytes(b"x")
    with pytest.raises(NelboError, match=r"inception.pth is no vision model.*can run code"):
        vision_model(file, 256)
    with pytest.raises(NelboError, match="is no vision model: expected a directory"):
        vision_model(tmp_path / "nowhere", 256)
