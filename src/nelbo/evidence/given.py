"""What a figure is conditioned on, to stand beside it wherever it is shown.

A model of text or of classes has no bound on log p(x), only on log p(x | c) with c the caption or
the class of each image, which is not counted. And a guided chain, `Diffusion.guided`, is another
model than the one that was trained: its bound is that of the chain with the guided network. So is
each guidance that a distilled network receives as an input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nelbo.chain.model import Model
from nelbo.data import ImageData


@dataclass(frozen=True)
class Given:
    """What a model is conditioned on, on some images.

    Attributes:
        what: "caption", "class", or "" for nothing.
        having: how many of the images have one.
        images: how many images there are.
        guidance: the scale of a guided chain; None where it is not guided.
        embedded: the guidance that a distilled network receives; None for any other.
    """

    what: str
    having: int
    images: int
    guidance: float | None = None
    embedded: float | None = None

    @property
    def suffix(self) -> str:
        """What follows bits/dim: " given the caption", or nothing."""
        guided = "" if self.guidance is None else f", guided by {self.guidance:g}"
        if self.embedded is not None:
            guided += f", at the embedded guidance {self.embedded:g}"
        return (f" given the {self.what}" if self.what else "") + guided

    @property
    def fact(self) -> str:
        """What the figures are conditioned on, in a few words."""
        guided = "" if self.guidance is None else f", in the chain guided by {self.guidance:g}"
        if self.embedded is not None:
            guided += f", with {self.embedded:g} for the guidance that the network receives"
        if not self.what:
            return f"nothing{guided}"
        if self.having == self.images:
            return f"the {self.what} of each image{guided}"
        rest = "no image" if self.having == 0 else f"{self.having:,} of {self.images:,} images"
        return f"the {self.what} of {rest}, nothing for the others{guided}"

    @property
    def line(self) -> str:
        """The same as a line for the terminal; empty for a bound on log p(x)."""
        if not self.what:
            return "" if self.embedded is None else f"conditioned on {self.fact}"
        return f"a bound on log p(x | {self.what}), conditioned on {self.fact}"

    def to_json(self) -> dict[str, Any]:
        """For a program: `conditioned_on`, the images that have one, and the guidance if any."""
        content: dict[str, Any] = {"conditioned_on": self.what or None}
        if self.what:
            content["conditioned_images"] = self.having
        given = {"guidance": self.guidance, "embedded_guidance": self.embedded}
        return content | {name: value for name, value in given.items() if value is not None}


def data_facts(model: Model, data: ImageData) -> dict[str, str]:
    """A sentence on the images that the figures of a page are of."""
    facts = {"figures conditioned on": given_of(model, data).fact}
    if data.duplicates:
        kept = "left out" if data.left_out else "kept"
        facts["test images in other splits"] = f"{data.duplicates:,}, {kept}"
    return facts


def given_of(model: Model, data: ImageData) -> Given:
    """What `Model.condition_for` conditions a model on, on these images."""
    if model.reads_text:
        having = sum(caption is not None for caption in data.captions or ())
        what = "caption" if data.captions is not None else ""
    else:
        known = model.num_classes and data.labels is not None
        having = int((data.labels >= 0).sum()) if known and data.labels is not None else 0
        what = "class" if known else ""
    if data.controls is not None and model.control_shape is not None:
        what, having = f"{what} and the control" if what else "control", len(data)
    return Given(what, having, len(data), model.guidance, model.embedded_guidance)
