"""Sources of images: uint8 levels, with labels and captions where there are any."""

from nelbo.data.image_data import SPLITS, ImageData
from nelbo.data.sources import load_data

__all__ = ["SPLITS", "ImageData", "load_data"]
