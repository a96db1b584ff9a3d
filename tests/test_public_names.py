"""What is importable from the package root, and what objects look like where they are printed."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest
import torch

import nelbo
from nelbo.data import load_data
from nelbo.families import PPCA

ROOMS = "coding", "data", "diffusion", "editing", "evidence", "families", "networks", "samplers"


def for_type_checkers() -> set[str]:
    """The names that the package root imports for type checkers alone."""
    tree = ast.parse(Path(nelbo.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.name for node in imports for alias in node.names}


def test_public_names_are_the_same_everywhere():
    assert {*nelbo.__all__} - {"__version__"} == nelbo._PUBLIC.keys() == for_type_checkers()


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_need_no_import_of_their_own(room):
    assert nelbo.__getattr__(room) is importlib.import_module(f"nelbo.{room}")


def test_a_diffusion_is_printed_with_its_chain():
    options = {"variance": "fixed_large", "data": nelbo.Pixels(17), "shape": (1, 8, 8)}
    model = nelbo.Diffusion(torch.nn.Identity(), nelbo.NoiseSchedule.linear(10), **options)
    assert repr(model) == (
        "Diffusion(\n"
        "  image: 8 × 8 × 1, pixel levels: 17, chain: 10 levels, prediction: epsilon, "
        "variance: fixed large\n"
        "  (network): Identity()\n"
        ")"
    )


def test_a_family_is_printed_with_its_arguments():
    model = PPCA(4)
    assert repr(model).startswith("PPCA(latents=4, ")
    model.fit(load_data("digits", "validation"))
    assert "latents=4, " in repr(model)
    assert repr(model).endswith("image: 8 × 8 × 1, pixel levels: 17)")


def test_images_are_printed_in_a_line():
    data = load_data("digits", "test")
    shown = "ImageData(digits: 299 images of 1×8×8, 17 pixel levels, 10 classes)"
    assert repr(data) == shown
