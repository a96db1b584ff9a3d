"""nelbo: diffusion models with their evidence.

Every model is a Markovian hierarchical VAE, a chain of latents that is trained by raising its
evidence lower bound, sampled by walking its decoder, and evaluated by reading that bound term by
term. The public names below load what they need when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from nelbo.version import __version__

if TYPE_CHECKING:
    from nelbo import editing, samplers
    from nelbo.bound import Bound, BoundMap, BoundSummary
    from nelbo.calibration import fit_decoder_scale
    from nelbo.checkpoints import pretrained
    from nelbo.conditioning import Condition
    from nelbo.diffusers_format import load, load_sampler, save
    from nelbo.diffusion import (
        Continuous,
        Diffusion,
        LevelProfile,
        NoiseSchedule,
        Pixels,
        Prediction,
        fit_variance,
        level_profile,
        optimal_levels,
    )
    from nelbo.distributions import DiscretizedNormal
    from nelbo.errors import MissingExtraError, NelboError
    from nelbo.latent import LatentDiffusion
    from nelbo.latent_bound import LatentBound, LatentBoundMap
    from nelbo.mhvae import MHVAE, TractableMHVAE
    from nelbo.networks import AutoencoderKL, ControlNet, UNet
    from nelbo.networks.guidance import Guidance
    from nelbo.text import TextEncoder

# name -> the module that defines it
_PUBLIC = {
    "AutoencoderKL": "nelbo.networks",
    "Bound": "nelbo.bound",
    "BoundMap": "nelbo.bound",
    "BoundSummary": "nelbo.bound",
    "Condition": "nelbo.conditioning",
    "Continuous": "nelbo.diffusion",
    "ControlNet": "nelbo.networks",
    "Diffusion": "nelbo.diffusion",
    "DiscretizedNormal": "nelbo.distributions",
    "Estimate": "nelbo.estimate",
    "Guidance": "nelbo.networks.guidance",
    "LatentBound": "nelbo.latent_bound",
    "LatentBoundMap": "nelbo.latent_bound",
    "LatentDiffusion": "nelbo.latent",
    "LevelProfile": "nelbo.diffusion",
    "MHVAE": "nelbo.mhvae",
    "MissingExtraError": "nelbo.errors",
    "NelboError": "nelbo.errors",
    "NoiseSchedule": "nelbo.diffusion",
    "Pixels": "nelbo.diffusion",
    "Prediction": "nelbo.diffusion",
    "TextEncoder": "nelbo.text",
    "TractableMHVAE": "nelbo.mhvae",
    "UNet": "nelbo.networks",
    "editing": "nelbo.editing",
    "fit_decoder_scale": "nelbo.calibration",
    "fit_variance": "nelbo.diffusion",
    "level_profile": "nelbo.diffusion",
    "load": "nelbo.diffusers_format",
    "load_sampler": "nelbo.diffusers_format",
    "optimal_levels": "nelbo.diffusion",
    "pretrained": "nelbo.checkpoints",
    "samplers": "nelbo.samplers",
    "save": "nelbo.diffusers_format",
}

__all__ = [
    "MHVAE",
    "AutoencoderKL",
    "Bound",
    "BoundMap",
    "BoundSummary",
    "Condition",
    "Continuous",
    "ControlNet",
    "Diffusion",
    "DiscretizedNormal",
    "Estimate",
    "Guidance",
    "LatentBound",
    "LatentBoundMap",
    "LatentDiffusion",
    "LevelProfile",
    "MissingExtraError",
    "NelboError",
    "NoiseSchedule",
    "Pixels",
    "Prediction",
    "TextEncoder",
    "TractableMHVAE",
    "UNet",
    "__version__",
    "editing",
    "fit_decoder_scale",
    "fit_variance",
    "level_profile",
    "load",
    "load_sampler",
    "optimal_levels",
    "pretrained",
    "samplers",
    "save",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'nelbo' has no attribute {name!r}")
    module = importlib.import_module(_PUBLIC[name])
    value = module if _PUBLIC[name] == f"nelbo.{name}" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
