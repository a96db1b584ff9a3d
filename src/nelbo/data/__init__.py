"""Sources of images: uint8 levels, with labels and captions where there are any."""

from nelbo.data.image_data import ImageData
from nelbo.data.sources import load_data
from nelbo.data.splits import SPLITS

__all__ = ["SPLITS", "ImageData", "load_data"]
