"""The models that are served: loaded when first used, the last few kept in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.base.suggestions import did_you_mean
from nelbo.data import ImageData
from nelbo.evidence.autoencoder import fit_scale
from nelbo.evidence.standings import Standing
from nelbo.formats import Pipeline
from nelbo.runs.picture_model import PictureModel
from nelbo.runs.run_data import check_data, data_for_run
from nelbo.samplers import SAMPLERS, Sampler
from nelbo.studio.uploads import Upload

# Models in memory at once: two can be compared without loading them in turn.
KEPT = 2
_STEPS = 25
# The standings of each comparison, by its name on the page.
Comparisons = Mapping[str, Callable[[], Sequence[Standing]]]
# What to ask a text model of a data set for, until its user has ideas.
_EXAMPLES = {
    "emoji": ("red apple", "woman firefighter: medium skin tone", "full moon", "sailboat", "fox"),
}


@dataclass
class Served(PictureModel):
    """A model with what the page asks of it.

    Attributes:
        name: what the page calls it.
        argument: what the command line calls it.
        known: what tasks have found out about it, by their own keys.
    """

    name: str
    argument: str
    known: dict[Any, Any] = field(default_factory=dict)

    @cached_property
    def classes(self) -> list[str]:
        """The names of its classes, numbers where they have none."""
        return self.class_names or list(map(str, range(self.model.num_classes)))

    @property
    def usual_steps(self) -> int:
        """Steps where no number is asked for."""
        chain = self.model.chain
        return _STEPS if chain is None else min(_STEPS, chain.num_levels)

    @property
    def sketch_shape(self) -> tuple[int, int, int] | None:
        """(C, H, W) of the sketch that it follows; None without a ControlNet, and with several, of
        which the page has no sketch each."""
        return self.model.control_shape if len(self.model.control_channels) == 1 else None

    def sampler(self, name: str | None, steps: int) -> Sampler | None:
        """The sampler of that name, or the usual one; None for a model without a chain.

        Raises:
            NelboError: more steps than the chain has levels.
        """
        return self.pipeline.named_sampler(name, steps) if self.pipeline.has_chain else None

    def pixels(self, upload: Upload) -> Tensor:
        """A picture of the page on the model's pixel levels, (C, H, W) uint8."""
        return self.model.data.nearest(upload.pixels(self.shape))

    def facts(self) -> dict[str, Any]:
        """What the page shows of the model, and what it may ask of it."""
        chain = self.model.chain
        source = self.pipeline.notes.get("source")
        return {
            "name": self.name,
            "description": self.model.description(),
            "facts": {name: str(value) for name, value in self.model.facts().items()},
            "shape": list(self.shape),
            "levels": self.levels,
            "text": self.model.reads_text,
            "classes": self.classes,
            "control": self.sketch_shape and list(self.sketch_shape),
            "chain": None if chain is None else chain.num_levels,
            "samplers": list(SAMPLERS) if chain is not None else [],
            "steps": None if chain is None else self.usual_steps,
            "guided": bool(self.model.reads_text or self.model.num_classes),
            "guidance": self.usual_guidance,
            "data": None if source is None else Path(source).name,
            "examples": list(_EXAMPLES.get(str(source), ())) if self.model.reads_text else [],
        }


class Shelf:
    """Models by name.

    Args:
        arguments: for each name what the command line calls the model; nothing else is opened.
        device: where the models compute.
        check: called from the layers of models, to raise where their task was cancelled.
        comparisons: what `nelbo compare --budget` found.
    """

    def __init__(
        self,
        arguments: Mapping[str, str],
        device: torch.device,
        check: Callable[[], None],
        comparisons: Comparisons | None = None,
    ) -> None:
        self._arguments, self._device, self._check = arguments, device, check
        self._comparisons = comparisons or {}
        self._loaded: OrderedDict[str, Served] = OrderedDict()

    def model(self, name: str | None) -> Served:
        """The model of a name, loaded where it is not in memory.

        Raises:
            NelboError: there is none of this name, or it is no model of pixels.
        """
        if name is None:
            raise NelboError(f"no model was named: served are {', '.join(self._arguments)}")
        if name not in self._arguments:
            near = did_you_mean(name, self._arguments)
            raise NelboError(f"no model {name!r} is served here{near}")
        if name not in self._loaded:
            while len(self._loaded) >= KEPT:
                self._loaded.popitem(last=False)
            self._loaded[name] = self._load(name)
        self._loaded.move_to_end(name)
        return self._loaded[name]

    def images(self, served: Served, split: str) -> ImageData | None:
        """The images of a split of the data that a model was trained on; None where they are
        not there."""
        key = ("images", split)
        if key not in served.known:
            try:
                source = check_data(served.pipeline, None, split, resize=True)
                served.known[key] = data_for_run(source, served.model)
            except (NelboError, OSError):
                served.known[key] = None
        return served.known[key]

    def comparison(self, name: str | None) -> Sequence[Standing]:
        """What a comparison of families found.

        Raises:
            NelboError: there is none of this name, or its files are damaged.
        """
        if name is None or name not in self._comparisons:
            raise NelboError(f"no comparison {name!r} is served here")
        return self._comparisons[name]()

    def scaled(self, served: Served) -> None:
        """Fit the scale of a decoder that lacks one, to images that are not for test."""
        if not served.model.lacks_scale:
            return
        data = self.images(served, "validation") or self.images(served, "train")
        if data is None:
            raise NelboError(
                f"{served.name} has no scale of its decoder, so that its bits are not known: train "
                "it with nelbo, or fit one to images in Python (docs/latent-diffusion.md)"
            )
        latent: Any = served.model
        latent.decoder_scale = fit_scale(latent, data)

    def _load(self, name: str) -> Served:
        argument = self._arguments[name]
        pipeline = Pipeline.open(argument)
        served = Served.load(pipeline, self._device, name=name, argument=argument)
        self._watch(served.model)
        return served

    def _watch(self, model: Any) -> None:
        """Have every layer ask whether anyone still waits, so that a long step breaks off."""
        for layer in model.modules():
            layer.register_forward_pre_hook(lambda *_: self._check())
