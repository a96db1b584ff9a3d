"""A walk as events: how far it is, and what it would end in from where it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from torch import Tensor

from nelbo.samplers import State
from nelbo.studio.desk import Event
from nelbo.studio.pictures import preview
from nelbo.studio.shelf import Served

# The largest share of the time that previews may take; decoding latents costs more than a step.
_SHARE = 0.4


def follow(
    served: Served,
    states: Iterator[State],
    steps: int,
    *,
    first: int = 0,
    done: int = 0,
    of: int = 0,
    shown: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[Event | Tensor]:
    """The events of a walk with previews of x̂_0, and at last the state that it ends in.

    Args:
        served: whose chain is walked.
        states: the walk.
        steps: how many states there will be.
        first: number of the first picture of this batch.
        done: steps of earlier batches.
        of: steps of all batches; `steps` by default.
        shown: changes pictures before they are shown.
    """
    begun, spent, last = time.perf_counter(), 0.0, None
    for k, state in enumerate(states, 1):
        last = state.x
        event: Event = {"type": "progress", "step": done + k, "of": of or steps, "first": first}
        now = time.perf_counter()
        if k < steps and (k == 1 or spent <= _SHARE * (now - begun)):
            pictures = served.to_pictures(state.x_0)
            pictures = pictures if shown is None else shown(pictures)
            event["previews"] = [preview(picture, served.levels) for picture in pictures]
            spent += time.perf_counter() - now
        yield event
    assert last is not None
    yield last
