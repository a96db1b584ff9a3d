"""What a supervisor asks of a kind, for a model of pixels in tests."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

import nelbo
from nelbo.training.kinds.pixel.kind import Pixel


class Plain(Pixel):
    """Saves the model; reads and draws nothing of it."""

    def __init__(self) -> None:
        pass

    def save(self, module, directory, notes) -> None:
        nelbo.save(module, directory, notes=notes)

    def reading(self, module) -> Tensor:
        return torch.zeros(1)

    def picture(self, module, seed) -> Image.Image:
        return Image.new("L", (2, 2))
