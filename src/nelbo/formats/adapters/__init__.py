"""Pipelines whose networks are diffusers', in nelbo's chain: one adapter each (extra `diffusers`).

A new one is a module with an `ADAPTER` and its line here; docs/your-own-network.md shows how to
read a pipeline without.
"""

from nelbo.formats.adapters import flux, pixart_sigma, qwen_image, sana, stable_diffusion_3, z_image
from nelbo.formats.adapters.adapter import Adapter

ADAPTERS: dict[str, Adapter] = {
    module.ADAPTER.pipeline: module.ADAPTER
    for module in (stable_diffusion_3, flux, pixart_sigma, sana, qwen_image, z_image)
}
