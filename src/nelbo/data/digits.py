"""The embedded data set: 1,797 handwritten digits of 8×8 pixels with 17 grey levels.

The test set of "Optical Recognition of Handwritten Digits" (E. Alpaydin and C. Kaynak, 1998, UCI
Machine Learning Repository, CC BY 4.0), as scikit-learn distributes it. The held-out images are
those of index i with i mod 6 = 5: 299 of them, and 1,498 to train on.
"""

from __future__ import annotations

from importlib.resources import as_file, files

import numpy as np
import torch

from nelbo.data.credits import CREDITS
from nelbo.data.image_data import ImageData

LEVELS = 17


def load_digits(split: str) -> ImageData:
    """The digits of one split: "train", "test" or "all"."""
    with as_file(files("nelbo.data") / "digits.npz") as path, np.load(path) as arrays:
        images, labels = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"])
    digits = ImageData(
        source="digits",
        images=images[:, None],
        levels=LEVELS,
        names=tuple(f"digits #{i}" for i in range(len(images))),
        labels=labels.long(),
        label_names=tuple(str(d) for d in range(10)),
        credit=CREDITS["digits"],
    )
    if split == "all":
        return digits
    held_out = torch.arange(len(digits)) % 6 == 5
    return digits.take(held_out if split == "test" else ~held_out)
