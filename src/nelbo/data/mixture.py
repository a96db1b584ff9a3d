r"""5,000 points of a mixture of 25 normals in the plane: images of two values with 256 levels.

The modes are a 5 × 5 grid of equal weights (as in Srivastava et al. 2017),

.. math::
    p(x) = \frac{1}{25} \sum_{i,j} N\big(x;\, (c_i, c_j),\, \sigma^2 I\big), \qquad
    c = -0.8, -0.4, \dots, 0.8, \quad \sigma = 0.02,

rounded to the levels of a pixel. So the probability of every point is known, and with it the least
bits/dim that a model can have. Points of index i with i mod 5 = 4 are for test, 1,000 of them; of
the others `splits` takes a tenth for validation, by their names. The class of a point is its mode.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from nelbo.chain.data_space import Pixels
from nelbo.chain.distributions import DiscretizedNormal
from nelbo.data.image_data import ImageData
from nelbo.data.splits import TEST, TRAIN, split_for_validation

LEVELS = 256
CENTRES = (-0.8, -0.4, 0.0, 0.4, 0.8)
STD = 0.02
_POINTS = 5_000


def load_mixture(split: str, *, validation: bool = True) -> ImageData:
    """The points of one split, (N, 1, 1, 2); arguments as `nelbo.data.load_data`."""
    random = np.random.RandomState(0)  # whose draws are the same for ever
    modes = torch.from_numpy(random.randint(len(CENTRES), size=(_POINTS, 2)))
    noise = torch.from_numpy(random.standard_normal((_POINTS, 2)))
    x = torch.tensor(CENTRES, dtype=torch.float64)[modes] + STD * noise
    names = tuple(f"mixture #{i}" for i in range(_POINTS))
    splits = [TEST if i % 5 == 4 else TRAIN for i in range(_POINTS)]
    if validation:
        splits = split_for_validation(names, splits)
    return ImageData(
        source="mixture",
        images=Pixels(LEVELS).to_levels(x).byte().view(-1, 1, 1, 2),
        levels=LEVELS,
        names=names,
        splits=tuple(splits),
        labels=modes @ torch.tensor([len(CENTRES), 1]),
        label_names=tuple(f"{a:g}, {b:g}" for a in CENTRES for b in CENTRES),
        # Each is a draw of its own: one that is rounded to the same levels as another is no copy.
        pixel_keys=torch.arange(_POINTS),
    ).of_split(split)


def mixture_bits(images: Integer[Tensor, "n 1 1 2"]) -> Float[Tensor, " n"]:
    """−log2 of the true probability of each point, bits a dimension, float64.

    Args:
        images: pixel levels.
    """
    x = images.double()[..., None] * (2 / (LEVELS - 1)) - 1
    centres = torch.tensor(CENTRES, dtype=torch.float64)
    log_p = DiscretizedNormal(centres, torch.full_like(centres, STD), LEVELS).log_prob(x)
    # The coordinates are independent, and each is a mixture of its own.
    each = log_p.logsumexp(-1) - math.log(len(CENTRES))
    return -each.flatten(1).sum(1) / (2 * math.log(2))
