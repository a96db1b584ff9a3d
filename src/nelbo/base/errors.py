"""Errors that explain a mistake in the input and what to do about it.

The command line prints these without a traceback and exits with code 2; anything else that
escapes is a defect of nelbo.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class NelboError(ValueError):
    """A mistake in the input: the message names what was found, what was expected, what to do."""


class NotFiniteError(NelboError):
    """Weights, predictions or what follows from them that are not finite."""


class UnwritableError(NelboError):
    """A file or directory cannot be written."""


class MissingExtraError(NelboError, ImportError):
    """A feature needs an optional dependency that is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs an optional extra: pip install 'nelbo[{extra}]'")


@contextmanager
def explained(what: object, *errors: type[Exception]) -> Iterator[None]:
    """Raise what goes wrong meanwhile as a `NelboError` that begins with what that means.

    Args:
        what: where the mistake is, such as a file or an option, or what could not be done.
        *errors: which errors mean that; by default `NelboError`.
    """
    meant = errors or (NelboError,)
    try:
        yield
    except meant as error:
        raise NelboError(f"{what}: {error}") from error


def optional(module: str, feature: str, extra: str) -> Any:
    """The module of an optional dependency, for what needs it.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(feature, extra) from error
