"""Process: the chain of one picture, level by level: x_t, x̂_0, the posterior mean, the term."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from nelbo.base.errors import NelboError
from nelbo.chain.distributions import generator_for, randn_like
from nelbo.studio.desk import Event
from nelbo.studio.form import Form
from nelbo.studio.pictures import preview
from nelbo.studio.shelf import Shelf
from nelbo.studio.tasks.looking import Reading

_FRAMES, _BATCH = 48, 6


@dataclass(frozen=True)
class Process:
    """The picture, and how many levels of its chain to show."""

    reading: Reading
    frames: int

    def run(self, shelf: Shelf) -> Iterator[Event]:
        """Frames from the first level to the last, a few at a time, all of one noise."""
        served = shelf.model(self.reading.model)
        model, chain = served.model, served.model.chain
        if chain is None:
            raise NelboError(f"{served.name} has no chain of levels to watch")
        condition = self.reading.condition(served)
        pixels = served.pixels(self.reading.images[0])
        x_0 = served.to_network(pixels)[None]
        z_0 = model.encode(x_0).mean
        noise = randn_like(z_0, generator_for(self.reading.seed, 9))
        schedule = chain.schedule
        levels = schedule.even_in_angle(min(self.frames, schedule.num_levels))
        nats_per_bit_per_dim = x_0[0].numel() * math.log(2)
        yield {
            "type": "chain",
            "levels": list(levels),
            "of": schedule.num_levels,
            "data": preview(served.to_pictures(z_0)[0], served.levels),
            "latent": z_0.shape != x_0.shape,
        }
        for start in range(0, len(levels), _BATCH):
            some = torch.tensor(levels[start : start + _BATCH], device=model.device)
            n = len(some)
            states = z_0.expand(n, *z_0.shape[1:])
            x_t = chain.diffuse(states, noise.expand_as(states), some)
            given = None if condition is None else condition.repeat(n)
            prediction = chain.predict(x_t, some, given)
            mean = chain.posterior_mean(prediction.x_t, prediction.x_0, some)
            term = chain.level_term(prediction, states, some) / nats_per_bit_per_dim
            shown = [served.to_pictures(each) for each in (x_t, prediction.x_0, mean)]
            yield {
                "type": "frames",
                "start": start,
                "frames": [
                    {
                        "t": t,
                        "signal": float(schedule.alphas_cumprod[t]),
                        "bits": float(term[i]),
                        "x_t": preview(shown[0][i], served.levels),
                        "x_0": preview(shown[1][i], served.levels),
                        "mean": preview(shown[2][i], served.levels),
                    }
                    for i, t in enumerate(some.tolist())
                ],
            }
            text = f"Level {int(some[-1]):,} of {schedule.num_levels:,}"
            yield {"type": "progress", "step": start + n, "of": len(levels), "text": text}


def read(form: Form) -> Process:
    """The task of a form."""
    return Process(Reading.read(form), form.count("frames", _FRAMES, 2, 2 * _FRAMES))
