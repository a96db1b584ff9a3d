"""What `nelbo train` asks for; see `nelbo.training.kinds` for the options of each kind of model."""

from nelbo.training.kinds.pixel.options import TrainPixels as Train

__all__ = ["Train"]
