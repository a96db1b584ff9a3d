"""Training as TensorBoard shows it (the extra `tracking`)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nelbo.base.errors import optional

# Columns of a row that are axes, not values.
_AXES = ("step", "seconds", "fraction")


class TensorBoard:
    """Writes metrics and pictures as TensorBoard's events.

    Args:
        directory: where the events go.

    Raises:
        MissingExtraError: tensorboard is not installed.
    """

    def __init__(self, directory: Path) -> None:
        library = optional("torch.utils.tensorboard", "tracking with TensorBoard", "tracking")
        self._open = partial(library.SummaryWriter, str(directory))
        self._writer = self._open()

    def row(self, row: Mapping[str, Any]) -> None:
        """Add the values of a row of metrics.jsonl."""
        for name, value in row.items():
            if name not in _AXES:
                self._writer.add_scalar(name, value, row["step"])

    def picture(self, name: str, image: Image.Image, step: int) -> None:
        """Add a picture."""
        self._writer.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def forget_after(self, step: int) -> None:
        """Let TensorBoard discard the values of steps that are taken again."""
        self._writer.close()
        self._writer = self._open(purge_step=step + 1)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()
