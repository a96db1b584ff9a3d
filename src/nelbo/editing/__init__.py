"""Editing given images with the chain that samples new ones."""

from nelbo.editing.base import Edit
from nelbo.editing.image_to_image import ImageToImage
from nelbo.editing.inpainting import Inpainting
from nelbo.editing.interpolation import Interpolation, slerp
from nelbo.editing.inversion import Inversion

__all__ = ["Edit", "ImageToImage", "Inpainting", "Interpolation", "Inversion", "slerp"]
