"""Latent diffusion: a VAE whose prior is a diffusion model."""

from nelbo.latent.model import LatentDiffusion

__all__ = ["LatentDiffusion"]
