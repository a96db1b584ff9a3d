"""Networks: what a chain's learned conditionals are made of, in the diffusers format."""

from nelbo.networks.text_unet_config import TextUNetConfig
from nelbo.networks.unet import UNet
from nelbo.networks.unet_config import UNetConfig
from nelbo.networks.unet_encoder import Residuals

__all__ = ["Residuals", "TextUNetConfig", "UNet", "UNetConfig"]
