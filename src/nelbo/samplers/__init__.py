"""Ways to walk the decoder chain from x_T to x_0."""

from nelbo.samplers.base import Sampler, State
from nelbo.samplers.ddim import DDIM
from nelbo.samplers.ddpm import DDPM
from nelbo.samplers.default import default_sampler
from nelbo.samplers.dpm_solver import DPMSolver
from nelbo.samplers.heun import Euler, Heun

__all__ = [
    "DDIM",
    "DDPM",
    "DPMSolver",
    "Euler",
    "Heun",
    "Sampler",
    "State",
    "default_sampler",
]
