"""Diffusion models as Markovian hierarchical VAEs with a fixed linear-Gaussian encoder."""

from nelbo.chain.data_space import Continuous, Pixels
from nelbo.diffusion.continuous import ContinuousDiffusion
from nelbo.diffusion.learned_schedule import LearnedSchedule
from nelbo.diffusion.measurement import fit_variance, level_profile
from nelbo.diffusion.model import Diffusion
from nelbo.diffusion.noise_level import NoiseLevel
from nelbo.diffusion.optimal_levels import optimal_levels
from nelbo.diffusion.prediction import Prediction
from nelbo.diffusion.profile import LevelProfile
from nelbo.diffusion.schedule import NoiseSchedule
from nelbo.diffusion.thresholding import DynamicThreshold, StaticThreshold

__all__ = [
    "Continuous",
    "ContinuousDiffusion",
    "Diffusion",
    "DynamicThreshold",
    "LearnedSchedule",
    "LevelProfile",
    "NoiseLevel",
    "NoiseSchedule",
    "Pixels",
    "Prediction",
    "StaticThreshold",
    "fit_variance",
    "level_profile",
    "optimal_levels",
]
