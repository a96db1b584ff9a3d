"""What `nelbo train --preset` chooses for a model of pixels, by what the model is for.

Each preset is a set of defaults: what is given beside it comes first. docs/training.md has what
they measure against one another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from nelbo.base.arguments import check_choice


@dataclass(frozen=True)
class Preset:
    """Defaults that differ from those of the configurations.

    Attributes:
        training: fields of `TrainingConfig`.
        model: fields of `ModelConfig`.
    """

    training: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)


_MUON = {"optimizer": "muon"}
PRESETS = {
    "both": Preset({"objective": "clipped", **_MUON}, {"schedule": "mixed"}),
    "likelihood": Preset({"objective": "clipped", **_MUON}, {"schedule": "geometric"}),
    "pictures": Preset({"objective": "min_snr", **_MUON}, {"schedule": "cosine"}),
}
DEFAULT_PRESET: Literal["both"] = "both"
# Pixels of so few levels need no preset for the smallest noise, which a level is as wide as; where
# none of preset, objective and schedule is given, they have the bound.
FEW_LEVELS = 32
FEW_LEVELS_PRESET = Preset({"objective": "bound"}, {"schedule": "geometric"})


def preset_of(name: str) -> Preset:
    """The preset of that name.

    Raises:
        NelboError: there is none.
    """
    check_choice("--preset", name, PRESETS)
    return PRESETS[name]
