"""Where in a picture its bits go, small enough for a page."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator

import numpy as np
from torch import Tensor
from torch.nn.functional import avg_pool2d

from nelbo.chain.conditioning import Condition
from nelbo.chain.distributions import generator_for
from nelbo.evidence.bit_map import MAP_LEVELS
from nelbo.evidence.cost import levels_to_evaluate
from nelbo.studio.desk import Event
from nelbo.studio.shelf import Served

# The side of a map at most.
_SIDE = 128


def bit_map(
    served: Served, x_0: Tensor, condition: Condition | None, index: int, seed: int
) -> Iterator[Event]:
    """The map of a picture, (1, C, H, W), as an event; none of a model that has none."""
    if served.model.chain is None:
        return
    levels = levels_to_evaluate(MAP_LEVELS, served.model)
    found = served.model.bound_map(x_0, condition, levels=levels, generator=generator_for(seed, 7))
    if found is None:
        return
    bits = found.by_pixel[0].float() / math.log(2.0)
    factor = math.ceil(max(bits.shape) / _SIDE)
    if factor > 1:
        bits = avg_pool2d(bits[None, None], factor, ceil_mode=True)[0, 0]
    values = np.ascontiguousarray(bits.cpu().numpy(), dtype="<f4")
    yield {
        "type": "map",
        "index": index,
        "height": values.shape[0],
        "width": values.shape[1],
        "values": base64.b64encode(values.tobytes()).decode(),
    }
