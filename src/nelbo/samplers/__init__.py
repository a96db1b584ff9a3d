"""Ways to walk the decoder chain from x_T to x_0."""

from nelbo.samplers.base import Sampler, State
from nelbo.samplers.ddim import DDIM
from nelbo.samplers.ddpm import DDPM

__all__ = ["DDIM", "DDPM", "Sampler", "State"]
