"""Networks of the learned conditionals of a chain, in the diffusers format."""

from nelbo.networks.autoencoder import AutoencoderKL
from nelbo.networks.autoencoder_config import AutoencoderConfig
from nelbo.networks.clip import ClipText
from nelbo.networks.clip_config import ClipTextConfig
from nelbo.networks.controlnet import ControlledUNet, ControlNet
from nelbo.networks.controlnet_config import ControlNetConfig
from nelbo.networks.dit import DiT, TextDiT
from nelbo.networks.dit_config import DiTConfig, TextDiTConfig
from nelbo.networks.text_unet_config import TextUNetConfig
from nelbo.networks.unet import UNet
from nelbo.networks.unet_config import UNetConfig
from nelbo.networks.unet_encoder import Residuals

__all__ = [
    "AutoencoderConfig",
    "AutoencoderKL",
    "ClipText",
    "ClipTextConfig",
    "ControlNet",
    "ControlNetConfig",
    "ControlledUNet",
    "DiT",
    "DiTConfig",
    "Residuals",
    "TextDiT",
    "TextDiTConfig",
    "TextUNetConfig",
    "UNet",
    "UNetConfig",
]
