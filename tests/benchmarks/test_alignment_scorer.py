"""The scorer: what its words are, that it learns, and that only the seed decides it."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from benchmarks._alignment_scorer import (
    Scorer,
    augment,
    load_scorer,
    to_network,
    train_scorer,
    words_of,
)
from benchmarks._retrieval import ranks
from nelbo.data import ImageData

COLORS = {"red": (200, 30, 30), "green": (30, 170, 60), "blue": (40, 60, 220)}
SHAPES = ("square", "bar", "frame", "corner")


@pytest.fixture(scope="module")
def figures() -> ImageData:
    """Every colour in every shape."""
    images, captions = [], []
    for color, levels in COLORS.items():
        for shape in SHAPES:
            mask = torch.zeros(32, 32, dtype=torch.bool)
            match shape:
                case "square":
                    mask[8:24, 8:24] = True
                case "bar":
                    mask[12:20, 2:30] = True
                case "frame":
                    mask[4:28, 4:28] = True
                    mask[9:23, 9:23] = False
                case "corner":
                    mask[4:28, 4:10] = mask[22:28, 4:28] = True
            color_of = torch.tensor(levels, dtype=torch.uint8).view(3, 1, 1)
            images.append(torch.where(mask, color_of, torch.tensor(255, dtype=torch.uint8)))
            captions.append(f"{shape}: {color} skin tone")
    return ImageData("figures", torch.stack(images), 256, tuple(captions), captions=tuple(captions))


def test_words_and_pairs_of_a_name():
    name = "kiss: man, man, light skin tone, medium-dark skin tone"
    assert words_of(name) == [
        *("kiss", "man", "man", "light", "medium-dark"),
        *("^ kiss", "kiss man", "man man", "man light", "light medium-dark"),
    ]


def test_the_order_of_tones_is_seen():
    scorer = Scorer(["kiss: light skin tone, dark skin tone", "kiss: dark skin tone, light"])
    first, second = scorer.names(
        scorer.tokens(["kiss: light skin tone, dark skin tone", "kiss: dark skin tone, light"])
    )
    assert (first - second).norm() > 0.1


def test_a_name_is_the_sum_of_its_known_words():
    scorer = Scorer(["red bar", "blue square"])
    vectors = scorer.words.weight
    known = [scorer.index[w] for w in ("red", "square", "^ red")]
    expected = torch.nn.functional.normalize(scorer.out(vectors[known].sum(0)), dim=0)
    found = scorer.names(scorer.tokens(["red unheard square"]))[0]
    assert found.allclose(expected, atol=1e-6)
    keep = torch.tensor([[1.0, 0.0, 1.0]])
    fewer = scorer.names(scorer.tokens(["red unheard square"]), keep)[0]
    expected = torch.nn.functional.normalize(
        scorer.out(vectors[[known[0], known[2]]].sum(0)), dim=0
    )
    assert fewer.allclose(expected, atol=1e-6)


def test_it_names_a_combination_that_it_did_not_see(figures):
    held_out = figures.captions.index("frame: green skin tone")
    others = torch.tensor([i for i in range(len(figures)) if i != held_out])
    scorer = train_scorer(figures.take(others), steps=60)
    with torch.no_grad():
        vectors = scorer.images(to_network(figures.images))
        scores = vectors @ scorer.names(scorer.tokens(figures.captions)).T
    places = ranks(scores, torch.arange(len(figures)))
    assert (places[others] == 1).all()
    assert places[held_out] <= 2


def test_one_name_of_many_pictures(figures):
    colors = tuple(caption.split(": ")[1] for caption in figures.captions)
    scorer = train_scorer(dataclasses.replace(figures, captions=colors), steps=25)
    answers = sorted(set(colors))
    with torch.no_grad():
        vectors = scorer.images(to_network(figures.images))
        first = (vectors @ scorer.names(scorer.tokens(answers)).T).argmax(1)
    assert [answers[i] for i in first.tolist()] == list(colors)


def test_it_is_kept_for_its_data_and_settings(figures, tmp_path):
    first = load_scorer(figures, tmp_path, steps=3)
    torch.rand(5)  # what others draw does not matter
    again, other = train_scorer(figures, 3), train_scorer(figures, 3, seed=1)
    for name, value in first.state_dict().items():
        assert value.equal(again.state_dict()[name])
    assert not first.words.weight.equal(other.words.weight)
    (file,) = tmp_path.iterdir()
    before = file.stat().st_mtime_ns
    kept = load_scorer(figures, tmp_path, steps=3)
    assert file.stat().st_mtime_ns == before
    assert kept.words.weight.equal(first.words.weight)
    load_scorer(figures.take(slice(9)), tmp_path, steps=3)
    assert len(list(tmp_path.iterdir())) == 2


def test_augmented_pictures_stay_what_they_are(figures, generator):
    x = to_network(figures.images)
    changed = torch.stack([augment(x, generator) for _ in range(8)]).flatten(0, 1)
    nearest = torch.cdist(changed.flatten(1), x.flatten(1)).argmin(1)
    assert (nearest == torch.arange(len(x)).repeat(8)).double().mean() > 0.9
    assert augment(torch.ones(2, 3, 32, 32), generator).mean() > 0.8  # no dark borders
