"""The kinds of model that `nelbo train` trains: one package of its name each.

`kinds.NAME.options` holds `OPTIONS`, what `nelbo train --model NAME` asks for, and imports nothing
heavy; `kinds.NAME.kind` holds `KIND`, a `nelbo.training.kinds.kind.Kind`: how such a model is
built, trained, saved, pictured and reported. To add a kind, write its package and add its name to
`nelbo.training.options.KindName`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from nelbo.training.options import NAMES, TrainOptions

if TYPE_CHECKING:
    from nelbo.training.kinds.kind import Kind

KINDS: dict[str, type[TrainOptions]] = {
    name: import_module(f"{__name__}.{name}.options").OPTIONS for name in NAMES
}


def kind_of(name: str) -> type[Kind]:
    """What builds, trains, saves, pictures and reports the models of a kind."""
    return import_module(f"{__name__}.{name}.kind").KIND
