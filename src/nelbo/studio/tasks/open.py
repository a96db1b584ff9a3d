"""Open a model: load it, and describe what can be asked of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from nelbo.studio.desk import Event
from nelbo.studio.form import Form
from nelbo.studio.shelf import Shelf


@dataclass(frozen=True)
class Open:
    """The model to open."""

    model: str | None

    def run(self, shelf: Shelf) -> Iterator[Event]:
        """Its facts."""
        yield {"type": "model", "model": shelf.model(self.model).facts()}


def read(form: Form) -> Open:
    """The task of a form."""
    return Open(form.text("model"))
