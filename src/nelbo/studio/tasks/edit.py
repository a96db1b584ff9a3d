"""Edit: redraw a picture's details, paint a part of it, or go over into another one."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.chain.conditioning import Condition
from nelbo.editing import Edit, ImageToImage, Inpainting, Interpolation
from nelbo.samplers import DDIM, DDPM
from nelbo.studio.desk import Event
from nelbo.studio.form import Form
from nelbo.studio.pictures import png
from nelbo.studio.shelf import Served, Shelf
from nelbo.studio.tasks.steering import Steering, command
from nelbo.studio.tasks.walking import follow
from nelbo.studio.uploads import Upload

MODES = ("redraw", "paint", "between")
_MOST_FRAMES = 16


@dataclass(frozen=True)
class Change:
    """What to do with which picture.

    Attributes:
        steering: how the chain is walked.
        mode: one of `MODES`.
        image: the picture.
        other: where to, of "between".
        mask: where to paint, of "paint".
        strength: share of the steps that are taken, of "redraw".
        n: how many results; of "between", how many frames.
        jump_length: levels that painting goes back up at a time.
        jump_n_sample: how often it walks each stretch.
    """

    steering: Steering
    mode: str
    image: Upload
    other: Upload | None
    mask: Upload | None
    strength: float
    n: int
    jump_length: int
    jump_n_sample: int

    def run(self, shelf: Shelf) -> Iterator[Event]:
        """Progress with previews, each picture, and the command line."""
        begun = time.perf_counter()
        served = shelf.model(self.steering.model)
        if served.model.chain is None:
            raise NelboError(f"{served.name} has no chain to edit pictures with")
        paint = None if self.mask is None else self._painted(served)
        given = [self.image] if self.other is None else [self.image, self.other]
        known = torch.stack([served.pixels(upload) for upload in given])
        states = served.to_states(known)
        edit = self._edit(served, paint, (states.shape[2], states.shape[3]))
        chain, condition = self.steering.conditioned(served, self.n)
        walk = self._walk(edit, chain, states, condition)

        def kept(pictures: Tensor) -> Tensor:
            # Exact in latents as well, whose decoder changes everything a little.
            return pictures if paint is None else torch.where(paint, pictures, known)

        settings = {"task": "edit", "mode": self.mode, **self.steering.settings(served)}
        settings |= {"n": self.n, **self._own()}
        for event in follow(served, walk, edit.num_states(chain.schedule), shown=kept):
            if isinstance(event, Tensor):
                for i, picture in enumerate(kept(served.to_pictures(event))):
                    own = {**settings, "picture": i}
                    url = png(picture, served.levels, own)
                    yield {"type": "picture", "index": i, "url": url, "settings": own}
            else:
                yield event
        seconds = time.perf_counter() - begun
        yield {"type": "result", "seconds": seconds, "command": self._command(served)}

    def _walk(self, edit: Edit, chain: Any, states: Tensor, condition: Condition | None) -> Any:
        if self.mode == "between":
            # All frames take the same noise, so that they differ by their place alone.
            noise = [self.steering.noise(0) for _ in range(self.n)]
            return edit.iterate(chain, states, condition=condition, generator=noise)
        noise = [self.steering.noise(i) for i in range(self.n)]
        copies = states.expand(self.n, -1, -1, -1)
        return edit.iterate(chain, copies, condition=condition, generator=noise)

    def _edit(self, served: Served, paint: Tensor | None, size: tuple[int, int]) -> Edit:
        steps = self.steering.steps_of(served)
        if self.mode == "paint":
            if self.steering.sampler not in (None, "ddpm"):
                raise NelboError(f"painting walks with ddpm, not with {self.steering.sampler}")
            ancestral = served.sampler("ddpm", steps)
            assert paint is not None
            assert isinstance(ancestral, DDPM)
            jumps = self.jump_length, self.jump_n_sample
            return Inpainting(paint, ancestral, *jumps).of_latents(size)
        if self.mode == "between":
            name = self.steering.sampler or "ddim"
            between = served.sampler(name, steps)
            assert between is not None
            encoder = "inversion" if isinstance(between, DDIM) else "diffusion"
            return Interpolation(self.n, between, encoder)
        sampler = served.sampler(self.steering.sampler, steps)
        assert sampler is not None
        return ImageToImage(sampler, self.strength)

    def _painted(self, served: Served) -> Tensor:
        assert self.mask is not None
        paint = self.mask.mask(served.shape[1:])
        if not paint.any():
            raise NelboError("nothing is marked: paint over what is to be drawn anew")
        if paint.all():
            raise NelboError("everything is marked, so that nothing of the picture is kept")
        return paint[None, None]

    def _own(self) -> dict[str, Any]:
        """The settings that the mode has of its own."""
        if self.mode == "paint":
            return {"jump_length": self.jump_length, "jump_n_sample": self.jump_n_sample}
        return {"strength": self.strength} if self.mode == "redraw" else {}

    def _command(self, served: Served) -> str:
        options = self.steering.options(served)
        if self.mode == "paint":
            jumps = ["--jump-length", str(self.jump_length)]
            jumps += ["--jump-n-sample", str(self.jump_n_sample)]
            options += ["--mask", "mask.png", *jumps, "-n", str(self.n)]
        elif self.mode == "between":
            assert self.other is not None
            encoder = "inversion" if self.steering.sampler in (None, "ddim") else "diffusion"
            options += ["--interpolate", shlex.quote(self.other.name)]
            options += ["--frames", str(self.n), "--encoder", encoder]
        else:
            options += ["--strength", f"{self.strength:g}", "-n", str(self.n)]
        image = ["--image", shlex.quote(self.image.name)]
        return command("edit", served, [*image, *options, "--out", "edited.png"])


def read(form: Form) -> Change:
    """The task of a form.

    Raises:
        NelboError: a setting out of range, or a picture that is missing or refused.
    """
    mode = form.choice("mode", MODES) or "redraw"
    image = form.picture("image", "the picture to edit")
    other = form.picture("other", "the picture to go over into") if mode == "between" else None
    mask = form.picture("mask", "the mask") if mode == "paint" else None
    for upload in (image, other, mask):
        if upload is not None:
            upload.check(form.limits.upload_pixels)
    least, most = (2, _MOST_FRAMES) if mode == "between" else (1, form.limits.images)
    return Change(
        Steering.read(form),
        mode,
        image,
        other,
        mask,
        form.number("strength", 0.6, 0.01, 1.0),
        form.count("n", 8 if mode == "between" else 1, least, most),
        form.count("jump_length", 5, 1, 100),
        form.count("jump_n_sample", 3, 1, 20),
    )
