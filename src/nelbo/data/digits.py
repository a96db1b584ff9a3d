"""The embedded data set: 1,797 handwritten digits of 8×8 pixels with 17 pixel levels.

The test set of "Optical Recognition of Handwritten Digits" (E. Alpaydin and C. Kaynak, 1998, UCI
Machine Learning Repository, CC BY 4.0), as scikit-learn distributes it. The test images are those
of index i with i mod 6 = 5, 299 of them; of the other 1,498 `splits` takes 166 for validation, by
their names.
"""

from __future__ import annotations

from importlib.resources import as_file, files

import numpy as np
import torch

from nelbo.data.credits import CREDITS
from nelbo.data.image_data import ImageData
from nelbo.data.splits import TEST, TRAIN, split_for_validation

LEVELS = 17


def load_digits(split: str, *, validation: bool = True) -> ImageData:
    """The digits of one split; arguments as `nelbo.data.load_data`."""
    with as_file(files("nelbo.data") / "digits.npz") as path, np.load(path) as arrays:
        images, labels = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"])
    names = tuple(f"digits #{i}" for i in range(len(images)))
    splits = [TEST if i % 6 == 5 else TRAIN for i in range(len(images))]
    if validation:
        splits = split_for_validation(names, splits)
    return ImageData(
        source="digits",
        images=images[:, None],
        levels=LEVELS,
        names=names,
        splits=tuple(splits),
        labels=labels.long(),
        label_names=tuple(str(d) for d in range(10)),
        credit=CREDITS["digits"],
    ).of_split(split)
