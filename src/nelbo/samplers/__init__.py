"""Ways to walk the decoder chain from x_T to x_0.

A new sampler is a module with a step rule (see `nelbo.samplers.loop`) and a line of `SAMPLERS`,
which the command line, the tests and this package read.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nelbo.diffusion.sampler import Sampler, State
    from nelbo.samplers.base import GridSampler, SigmaSampler
    from nelbo.samplers.ddim import DDIM
    from nelbo.samplers.ddpm import DDPM
    from nelbo.samplers.default import default_sampler
    from nelbo.samplers.dpm_solver import DPMSolver
    from nelbo.samplers.euler import Euler
    from nelbo.samplers.heun import Heun
    from nelbo.samplers.loop import Walk

# The module of each sampler, which is its name on the command line, and its class.
SAMPLERS = {
    "ddpm": "DDPM",
    "ddim": "DDIM",
    "dpm_solver": "DPMSolver",
    "euler": "Euler",
    "heun": "Heun",
}
# What else there is, and the module that defines it.
_OTHERS = {
    "GridSampler": "nelbo.samplers.base",
    "Sampler": "nelbo.diffusion.sampler",
    "SigmaSampler": "nelbo.samplers.base",
    "State": "nelbo.diffusion.sampler",
    "Walk": "nelbo.samplers.loop",
    "default_sampler": "nelbo.samplers.default",
}
_PUBLIC = _OTHERS | {kind: f"{__name__}.{module}" for module, kind in SAMPLERS.items()}

__all__ = [
    "DDIM",
    "DDPM",
    "SAMPLERS",
    "DPMSolver",
    "Euler",
    "GridSampler",
    "Heun",
    "Sampler",
    "SigmaSampler",
    "State",
    "Walk",
    "default_sampler",
]


def __getattr__(name: str) -> Any:
    """Load what is used: the names of all samplers are read without any of them."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_PUBLIC[name]), name)
    return value
