"""What a single file holds, recognised by the names of its weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from nelbo.base.errors import NelboError, explained
from nelbo.base.files import read_json
from nelbo.formats.adapters.parts import QUANTISED, sizes_by_type
from nelbo.formats.single.renaming import part
from nelbo.networks.files import PICKLE_SUFFIXES, pickle_refused
from nelbo.networks.weights import DAMAGED

SUFFIX = ".safetensors"
# Notes on a file lie beside it, under its name with this in place of the suffix.
NOTES_SUFFIX = ".nelbo.json"
UNET, CONTROL, AUTOENCODER = "model.diffusion_model.", "control_model.", "first_stage_model."
CLIP, OPEN_CLIP = "cond_stage_model.transformer.", "cond_stage_model.model."
XL_CLIP = "conditioner.embedders.0.transformer."
XL_OPEN_CLIP = "conditioner.embedders.1.model."
# Where each kind has weights, the first that fits.
_KINDS = {
    "StableDiffusionXLPipeline": (UNET, XL_OPEN_CLIP),
    "StableDiffusionControlNetPipeline": (UNET, CONTROL, CLIP),
    "StableDiffusionPipeline": (UNET, "cond_stage_model."),
    "ControlNetModel": ("input_hint_block.",),
    "AutoencoderKL": ("decoder.up.",),
}
# Layouts that are known and not read, by the beginning of a name that each has.
_OTHERS = {
    "model.diffusion_model.joint_blocks.": "Stable Diffusion 3",
    "joint_blocks.": "the network of Stable Diffusion 3",
    "double_blocks.": "the network of Flux",
    "model.diffusion_model.double_blocks.": "Flux",
    "down_blocks.": "a network of diffusers without its config.json",
    UNET: "a UNet without text encoders",
}


@dataclass(frozen=True)
class Checkpoint:
    """A single file: what it holds, and its weights.

    Attributes:
        path: the file.
        kind: the class in diffusers of what it holds.
        names: of its weights, without the prefix of a part that is alone.
        prefix: what all names of a part that is alone begin with.
    """

    path: Path
    kind: str
    names: tuple[str, ...]
    prefix: str

    @classmethod
    def open(cls, path: Path) -> Checkpoint:
        """Recognise a file.

        Raises:
            NelboError: it is a pickle, damaged, quantised, or of a layout that is not read.
        """
        if path.suffix in PICKLE_SUFFIXES:
            raise pickle_refused(str(path))
        if path.suffix != SUFFIX:
            quantised = ", a quantised format" * (path.suffix == ".gguf")
            raise NelboError(
                f"{path} is a {path.suffix or 'nameless'} file{quantised}; nelbo reads single "
                "files of safetensors: use the checkpoint in bfloat16 or float32 that it was made "
                "from"
            )
        for name in sizes_by_type(path):
            if name.startswith(QUANTISED):
                raise NelboError(
                    f"{path}: the weights are quantised ({name}), whose rounding is no part of the "
                    "model: use the checkpoint in float16, bfloat16 or float32 that it was made "
                    "from"
                )
        with safe_open(path, "pt") as file:
            names = tuple(file.keys())
        prefix = _prefix(names)
        bare = tuple(name.removeprefix(prefix) for name in names)
        for kind, beginnings in _KINDS.items():
            if all(any(name.startswith(start) for name in bare) for start in beginnings):
                return cls(path, kind, bare, prefix)
        if any("lora" in name for name in bare):
            raise NelboError(
                f"{path} holds a LoRA, weights to add to those of a model. Add them with "
                "diffusers, pipeline.load_lora_weights(FILE), pipeline.fuse_lora(), "
                "pipeline.unload_lora_weights(), pipeline.save_pretrained(DIR), and use that"
            )
        for start, what in _OTHERS.items():
            if any(name.startswith(start) for name in bare):
                raise NelboError(
                    f"{path} holds {what}, which nelbo does not read from a single file. Write a "
                    "directory with diffusers, CLASS.from_single_file(FILE).save_pretrained(DIR), "
                    "and use that"
                )
        raise NelboError(
            f"{path} is of no layout that nelbo knows: its first weights are "
            f"{', '.join(names[:3]) or 'none'}; expected Stable Diffusion 1, 2 or XL, a ControlNet "
            "or an autoencoder"
        )

    @property
    def is_pipeline(self) -> bool:
        """Whether it holds a whole model, not a network alone."""
        return self.kind.endswith("Pipeline")

    @property
    def is_xl(self) -> bool:
        """Whether it is Stable Diffusion XL."""
        return "XL" in self.kind

    @property
    def is_second(self) -> bool:
        """Whether it is Stable Diffusion 2, whose text encoder is OpenCLIP."""
        return any(name.startswith(OPEN_CLIP) for name in self.names)

    @cached_property
    def metadata(self) -> dict[str, str]:
        """What the file states of itself, such as `modelspec.prediction_type`."""
        with safe_open(self.path, "pt") as file:
            return dict(file.metadata() or {})

    @cached_property
    def notes(self) -> dict[str, Any] | None:
        """The content of the notes beside the file, or None.

        Raises:
            NelboError: they are damaged.
        """
        return read_json(self.notes_file) if self.notes_file.is_file() else None

    @property
    def notes_file(self) -> Path:
        """Where the notes beside the file are, if there are any."""
        return self.path.with_suffix(NOTES_SUFFIX)

    def weights(self, prefix: str = "") -> dict[str, Tensor]:
        """The weights below a prefix, mapped from the file; those of 16 bits as float32.

        Raises:
            NelboError: the file is damaged.
        """
        whole = self.prefix + prefix
        with explained(f"{self.path} cannot be read", *DAMAGED), safe_open(self.path, "pt") as file:
            found = {n: file.get_tensor(n) for n in file.keys() if n.startswith(whole)}  # noqa: SIM118
        return {
            name: w.float() if w.dtype in (torch.float16, torch.bfloat16) else w
            for name, w in part(found, whole).items()
        }

    def value(self, name: str) -> Tensor | None:
        """A tensor beside those of the parts, such as `betas`; None where there is none."""
        if name not in self.names:
            return None
        with safe_open(self.path, "pt") as file:
            return file.get_tensor(self.prefix + name)


def _prefix(names: tuple[str, ...]) -> str:
    """What the names of a part that is alone begin with, as some tools write it."""
    starts = {name.split(".")[0] + "." for name in names}
    alone = (CONTROL, AUTOENCODER)
    return next((start for start in alone if starts == {start}), "")
