"""Diffusion models as Markovian hierarchical VAEs with a fixed linear-Gaussian encoder."""

from nelbo.diffusion.data_space import Continuous, Pixels
from nelbo.diffusion.model import Diffusion
from nelbo.diffusion.noise_level import NoiseLevel
from nelbo.diffusion.prediction import Prediction
from nelbo.diffusion.schedule import NoiseSchedule
from nelbo.diffusion.thresholding import DynamicThreshold, StaticThreshold

__all__ = [
    "Continuous",
    "Diffusion",
    "DynamicThreshold",
    "NoiseLevel",
    "NoiseSchedule",
    "Pixels",
    "Prediction",
    "StaticThreshold",
]
