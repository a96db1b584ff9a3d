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
    from nelbo import coding, data, diffusion, editing, evidence, families, networks, samplers
    from nelbo.base.errors import MissingExtraError, NelboError
    from nelbo.chain.bound import Bound, BoundMap, BoundSummary
    from nelbo.chain.conditioning import Condition
    from nelbo.chain.distributions import DiscretizedNormal
    from nelbo.chain.estimate import Estimate
    from nelbo.chain.evidence import Evidence
    from nelbo.chain.mhvae import MHVAE, TractableMHVAE
    from nelbo.chain.model import Model
    from nelbo.checkpoints import pretrained
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
    from nelbo.diffusion.network_check import check_network
    from nelbo.diffusion.objectives import loss
    from nelbo.diffusion.own_network import (
        from_denoiser,
        from_epsilon,
        from_score,
        from_velocity,
        preconditioned,
    )
    from nelbo.evidence.calibration import fit_decoder_scale
    from nelbo.formats import load, load_sampler, save
    from nelbo.latent import LatentDiffusion
    from nelbo.latent.bound import LatentBound, LatentBoundMap
    from nelbo.networks import AutoencoderKL, ControlNet, DiT, UNet
    from nelbo.networks.control import Control
    from nelbo.networks.guidance import Guidance
    from nelbo.text import TextEncoder

# name -> the module that defines it
_PUBLIC = {
    "AutoencoderKL": "nelbo.networks",
    "Bound": "nelbo.chain.bound",
    "BoundMap": "nelbo.chain.bound",
    "BoundSummary": "nelbo.chain.bound",
    "Condition": "nelbo.chain.conditioning",
    "Continuous": "nelbo.diffusion",
    "Control": "nelbo.networks.control",
    "ControlNet": "nelbo.networks",
    "DiT": "nelbo.networks",
    "Diffusion": "nelbo.diffusion",
    "DiscretizedNormal": "nelbo.chain.distributions",
    "Estimate": "nelbo.chain.estimate",
    "Evidence": "nelbo.chain.evidence",
    "Guidance": "nelbo.networks.guidance",
    "LatentBound": "nelbo.latent.bound",
    "LatentBoundMap": "nelbo.latent.bound",
    "LatentDiffusion": "nelbo.latent.model",
    "LevelProfile": "nelbo.diffusion",
    "MHVAE": "nelbo.chain.mhvae",
    "MissingExtraError": "nelbo.base.errors",
    "Model": "nelbo.chain.model",
    "NelboError": "nelbo.base.errors",
    "NoiseSchedule": "nelbo.diffusion",
    "Pixels": "nelbo.diffusion",
    "Prediction": "nelbo.diffusion",
    "TextEncoder": "nelbo.text.encoder",
    "TractableMHVAE": "nelbo.chain.mhvae",
    "UNet": "nelbo.networks",
    "check_network": "nelbo.diffusion.network_check",
    "coding": "nelbo.coding",
    "data": "nelbo.data",
    "diffusion": "nelbo.diffusion",
    "editing": "nelbo.editing",
    "evidence": "nelbo.evidence",
    "families": "nelbo.families",
    "fit_decoder_scale": "nelbo.evidence.calibration",
    "fit_variance": "nelbo.diffusion",
    "from_denoiser": "nelbo.diffusion.own_network",
    "from_epsilon": "nelbo.diffusion.own_network",
    "from_score": "nelbo.diffusion.own_network",
    "from_velocity": "nelbo.diffusion.own_network",
    "level_profile": "nelbo.diffusion",
    "load": "nelbo.formats",
    "load_sampler": "nelbo.formats",
    "loss": "nelbo.diffusion.objectives",
    "networks": "nelbo.networks",
    "optimal_levels": "nelbo.diffusion",
    "preconditioned": "nelbo.diffusion.own_network",
    "pretrained": "nelbo.checkpoints",
    "samplers": "nelbo.samplers",
    "save": "nelbo.formats",
}

__all__ = [
    "MHVAE",
    "AutoencoderKL",
    "Bound",
    "BoundMap",
    "BoundSummary",
    "Condition",
    "Continuous",
    "Control",
    "ControlNet",
    "DiT",
    "Diffusion",
    "DiscretizedNormal",
    "Estimate",
    "Evidence",
    "Guidance",
    "LatentBound",
    "LatentBoundMap",
    "LatentDiffusion",
    "LevelProfile",
    "MissingExtraError",
    "Model",
    "NelboError",
    "NoiseSchedule",
    "Pixels",
    "Prediction",
    "TextEncoder",
    "TractableMHVAE",
    "UNet",
    "__version__",
    "check_network",
    "coding",
    "data",
    "diffusion",
    "editing",
    "evidence",
    "families",
    "fit_decoder_scale",
    "fit_variance",
    "from_denoiser",
    "from_epsilon",
    "from_score",
    "from_velocity",
    "level_profile",
    "load",
    "load_sampler",
    "loss",
    "networks",
    "optimal_levels",
    "preconditioned",
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
