"""Generate: pictures from a prompt, a class or a sketch, as `nelbo sample` draws them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.chain.conditioning import Condition
from nelbo.samplers import Sampler, State
from nelbo.studio.desk import Event
from nelbo.studio.form import Form
from nelbo.studio.limits import Limits
from nelbo.studio.pictures import png
from nelbo.studio.shelf import Served, Shelf
from nelbo.studio.tasks.steering import Steering, command
from nelbo.studio.tasks.walking import follow

# Pixels that are walked together: a batch should neither fill the memory nor take long a step.
_AT_ONCE = 2**20


@dataclass(frozen=True)
class Generate:
    """What to draw, and how many."""

    steering: Steering
    n: int
    limits: Limits

    def run(self, shelf: Shelf) -> Iterator[Event]:
        """Progress with previews, each picture, and the command line."""
        begun = time.perf_counter()
        served = shelf.model(self.steering.model)
        _, height, width = served.shape
        if self.n * height * width > self.limits.drawn_pixels:
            most = max(1, self.limits.drawn_pixels // (height * width))
            raise NelboError(f"at most {most} pictures of {height}×{width} are drawn at once")
        sampler = served.sampler(self.steering.sampler, self.steering.steps_of(served))
        walked, condition = self.steering.conditioned(served, self.n)
        steps = 1 if sampler is None else len(sampler.path(walked.schedule))
        size = max(1, _AT_ONCE // (height * width))
        batches = range(0, self.n, size)
        for k, first in enumerate(batches):
            some = slice(first, min(first + size, self.n))
            noise = [self.steering.noise(i) for i in range(some.start, some.stop)]
            given = None if condition is None else condition[some]
            states = _states(walked, sampler, given, noise)
            steered = follow(
                served, states, steps, first=first, done=k * steps, of=len(batches) * steps
            )
            for event in steered:
                if isinstance(event, Tensor):
                    yield from self._pictures(served, event, first)
                else:
                    yield event
        yield {
            "type": "result",
            "seconds": time.perf_counter() - begun,
            "command": self._command(served),
        }

    def _pictures(self, served: Served, states: Tensor, first: int) -> Iterator[Event]:
        settings = {"task": "generate", **self.steering.settings(served), "n": self.n}
        in_turn = [] if self.steering.label is not None else served.classes
        for i, picture in enumerate(served.to_pictures(states), first):
            own = {**settings, "picture": i}
            if in_turn:
                own["class"] = in_turn[i % len(in_turn)]
            url = png(picture, served.levels, own)
            yield {"type": "picture", "index": i, "url": url, "settings": own}

    def _command(self, served: Served) -> str:
        options = [*self.steering.options(served), "-n", str(self.n)]
        return command("sample", served, [*options, "--out", "samples.png"])


def _states(
    walked: Any,
    sampler: Sampler | None,
    condition: Condition | None,
    noise: list[torch.Generator],
) -> Iterator[State]:
    """The states of a walk; of a model without a chain its samples alone."""
    if sampler is None:
        x = walked.sample(len(noise), condition=condition, generator=noise)
        return iter((State(x, x, 0),))
    start = walked.start(len(noise), None, noise)
    return sampler.iterate(walked, start, condition=condition, generator=noise)


def read(form: Form) -> Generate:
    """The task of a form."""
    steering = Steering.read(form, in_turn=True)
    return Generate(steering, form.count("n", 1, 1, form.limits.images), form.limits)
