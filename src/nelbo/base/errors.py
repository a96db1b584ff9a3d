"""Errors that explain a mistake in the input and what to do about it.

The command line prints these without a traceback and exits with code 2; anything else that
escapes is a defect of nelbo.
"""

from __future__ import annotations

import importlib
from typing import Any


class NelboError(ValueError):
    """A mistake in the input: the message names what was found, what was expected, what to do."""


class NotFiniteError(NelboError):
    """Weights, predictions or what follows from them that are not finite."""


class MissingExtraError(NelboError, ImportError):
    """A feature needs an optional dependency that is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs an optional extra: pip install 'nelbo[{extra}]'")


def optional(module: str, feature: str, extra: str) -> Any:
    """The module of an optional dependency, for what needs it.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(feature, extra) from error
