"""Pipelines on disk, as diffusers writes and reads them.

A directory holds `model_index.json`, a folder for each part (`unet/`, `scheduler/`), and
`nelbo.json` for what diffusers has no place for: the data's levels and the shape of an example.
"""

from nelbo.base.files import write_json
from nelbo.formats.model_directory import INDEX_FILE, NELBO_FILE
from nelbo.formats.pipeline import Pipeline
from nelbo.formats.pipelines import load, load_sampler, save

__all__ = [
    "INDEX_FILE",
    "NELBO_FILE",
    "Pipeline",
    "load",
    "load_sampler",
    "save",
    "write_json",
]
