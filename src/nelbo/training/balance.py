r"""How often each image is shown, where some kinds of images are rare.

An image of a kind that :math:`n` of :math:`N` images are of is shown in proportion to
:math:`n^{-p}`: with p = 1 every kind is seen equally often, with p = 1/2, square-root sampling, the
frequent ones still more so (Mahajan et al. 2018, section 2.2, whose images count by the rarest of
their tags as those with captions do here by the rarest of their words).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.data import ImageData


def balanced_weights(data: ImageData, by: str, power: float = 0.5) -> Float[Tensor, " n"] | None:
    """How often to show each image, relative to the average one, (N,) float64; None for all alike.

    Args:
        data: the images.
        by: "labels", by the size of an image's class; "captions", by the number of images with the
            rarest word of its caption; or "none". Where there is no label or caption, it is the
            number of all images.
        power: p above.

    Raises:
        NelboError: images that are streamed, or that have no labels or captions to go by.
    """
    if by == "none":
        return None
    has = {"labels": data.labels is not None, "captions": data.has_captions}
    if data.stream is not None:
        raise NelboError(
            f"{data.source} is a stream, whose images cannot be balanced: leave out --balance"
        )
    if not has[by]:
        raise NelboError(f"{data.source} has no {by} to balance its images by")
    weights = (
        _class_sizes(data) if by == "labels" else _rarest_words(data.captions or ())
    ) ** -power
    return weights / weights.mean()


def _class_sizes(data: ImageData) -> Float[Tensor, " n"]:
    assert data.labels is not None
    _, place, sizes = data.labels.unique(return_inverse=True, return_counts=True)
    unlabelled = data.labels < 0
    return torch.where(unlabelled, len(data), sizes[place]).double()


def _rarest_words(captions: Sequence[str | None]) -> Float[Tensor, " n"]:
    words = [set(re.findall(r"\w+", (caption or "").lower())) for caption in captions]
    images = Counter(word for some in words for word in some)
    rarest = [min((images[word] for word in some), default=len(words)) for some in words]
    return torch.tensor(rarest, dtype=torch.float64)
