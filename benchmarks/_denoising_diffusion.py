"""denoising-diffusion-pytorch, a peer that pip installs with `--no-deps` beside nelbo's packages.

pip install --no-deps --target DIRECTORY denoising-diffusion-pytorch einops ema-pytorch
PYTHONPATH=DIRECTORY python benchmarks/...
"""

from __future__ import annotations

import importlib
import sys
from typing import Any
from unittest.mock import MagicMock


def denoising_diffusion() -> Any | None:
    """The package; None, after a message, if it is missing.

    It imports torchvision and pytorch-fid for folders of images, grids and scores, none of which a
    step uses; where they cannot be imported, mock modules stand in for them.
    """
    for name in ("torchvision", "pytorch_fid"):
        try:
            importlib.import_module(name)
        except Exception:
            for part in ("", ".transforms", ".utils", ".fid_score", ".inception"):
                sys.modules[name + part] = MagicMock()
    try:
        return importlib.import_module("denoising_diffusion_pytorch")
    except Exception as error:
        print(f"without denoising-diffusion-pytorch, which cannot be imported: {error}")
        return None
