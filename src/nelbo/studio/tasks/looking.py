"""What tasks that read a picture share: the picture, and its condition."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from nelbo.base.errors import NelboError
from nelbo.chain.conditioning import Condition
from nelbo.studio.form import Form
from nelbo.studio.shelf import Served
from nelbo.studio.uploads import Upload


@dataclass(frozen=True)
class Reading:
    """Pictures to read a model on, and what it is conditioned on.

    Attributes:
        model: name of the model.
        images: the pictures.
        prompt: what they show, for a model of text.
        label: their class, by name.
        seed: of all noise.
    """

    model: str | None
    images: tuple[Upload, ...]
    prompt: str | None
    label: str | None
    seed: int

    @classmethod
    def read(cls, form: Form, most: int = 1) -> Reading:
        """That of a form with at most `most` pictures.

        Raises:
            NelboError: no picture, too many, or one that is refused.
        """
        images = tuple(form.pictures.get("image", ()))
        if len(images) < 2:
            images = (form.picture("image", "the picture"),)
        if len(images) > most:
            raise NelboError(f"{len(images)} pictures were given, at most {most}")
        for image in images:
            image.check(form.limits.upload_pixels)
        return cls(form.text("model"), images, form.text("prompt"), form.text("label"), form.seed())

    def condition(self, served: Served) -> Condition | None:
        """What the model is conditioned on, of one example.

        Raises:
            NelboError: a prompt or class that the model does not know.
        """
        model = served.model
        if self.prompt is not None and not model.reads_text:
            raise NelboError(f"a prompt was given, and {served.name} reads none")
        if self.label is None:
            return model.condition_for(1, None, [self.prompt])
        if self.label not in served.classes:
            raise NelboError(f"{served.name} has no class {self.label!r}")
        label = torch.tensor([served.classes.index(self.label)])
        return model.condition_for(1, label)
