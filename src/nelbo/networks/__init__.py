"""Networks: what a chain's learned conditionals are made of, in the diffusers format."""

from nelbo.networks.unet import UNet
from nelbo.networks.unet_config import UNetConfig

__all__ = ["UNet", "UNetConfig"]
