"""The files of a pipeline: its index, nelbo's own notes, and JSON that appears whole."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nelbo.base.errors import NelboError
from nelbo.base.files import read_json, write_json
from nelbo.formats.model_directory import INDEX_FILE, NELBO_FILE, holds_autoencoder_alone
from nelbo.formats.notes import read_notes
from nelbo.networks.denoiser import Denoiser
from nelbo.networks.denoisers import DENOISERS
from nelbo.networks.files import locate
from nelbo.networks.pretrained import DIFFUSERS_VERSION

_PART = re.compile(r"\w[\w-]*")


def usual_guidance(notes: Mapping[str, Any]) -> float:
    """The guidance that a run draws its own samples with, from its nelbo.json; 1 for none."""
    found = notes.get("settings", {}).get("model", {}).get("guidance")
    return 1.0 if found is None else float(found)


@dataclass(frozen=True)
class PipelineIndex:
    """The contents of model_index.json.

    Attributes:
        file: path of the index.
        class_name: the class of the pipeline.
        parts: the class of each part that is present, by the name of its folder.
        settings: all other entries.
    """

    file: Path
    class_name: str
    parts: Mapping[str, str]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def require(self, name: str, *classes: str) -> str:
        """The class of a part, one of `classes`.

        Raises:
            NelboError: the pipeline has no such part, or it is of another class.
        """
        expected = " or ".join(classes)
        if name not in self.parts:
            raise NelboError(f"{self.file}: there is no {name!r}, expected one of class {expected}")
        if self.parts[name] not in classes:
            raise NelboError(
                f"{self.file}: {name} is of class {self.parts[name]!r}, nelbo reads {expected}"
            )
        return self.parts[name]

    def denoiser(self, *, text: bool) -> type[Denoiser]:
        """The class of the denoising network, with a text encoder or without; errors as `require`.

        Its folder is the first of known ones that the pipeline has.
        """
        fitting = [
            (name, each)
            for each in DENOISERS
            for config in each.config_classes
            if config.for_text == text
            for name in (config.class_name, *config.other_names)
        ]
        folders = [each.folder for _, each in fitting]
        folder = next((name for name in folders if name in self.parts), folders[0])
        known = {name: each for name, each in fitting if each.folder == folder}
        return known[self.require(folder, *known)]


def read_index(path: str | os.PathLike[str]) -> PipelineIndex:
    """The index of a pipeline directory or Hub id.

    Raises:
        NelboError: it is missing or damaged, or names a part outside of the directory.
    """
    if holds_autoencoder_alone(path):
        raise NelboError(
            f"{path} holds no {INDEX_FILE}: it is the run of an autoencoder alone, whose bound and "
            f"PSNR nelbo evaluate reads; nelbo train --model latent --autoencoder {path} trains a "
            "model of its latents"
        )
    file = locate(path, None, INDEX_FILE)
    content = read_json(file)
    class_name = content.get("_class_name")
    if not isinstance(class_name, str):
        raise NelboError(f"{file}: _class_name is {class_name!r}, expected the name of a pipeline")
    parts, settings = {}, {}
    for name, value in content.items():
        if name.startswith("_"):
            continue
        if not isinstance(value, list):
            settings[name] = value
            continue
        if not _PART.fullmatch(name):
            raise NelboError(
                f"{file}: the part {name!r} is no plain name; only folders in the directory of a "
                "pipeline are read"
            )
        if len(value) != 2 or not all(v is None or isinstance(v, str) for v in value):
            raise NelboError(f"{file}: {name} is {value!r}, expected [library, class]")
        if value[1] is not None:
            parts[name] = value[1]
    return PipelineIndex(file, class_name, parts, settings)


def part_folder(path: str | os.PathLike[str], name: str, file: str) -> str | None:
    """The folder that a part of a pipeline is in; None where it lies beside the index.

    Early pipelines of one network have no folders, and diffusers reads them still.

    Args:
        path: directory, or Hub id if there is no such directory.
        name: the part.
        file: one that every part of this kind has.
    """
    local = Path(path)
    if local.is_dir():
        beside = not (local / name).is_dir() and (local / file).is_file()
        return None if beside else name
    try:
        locate(path, name, file)
    except NelboError:
        try:
            locate(path, None, file)
        except NelboError:
            return name  # which the error about what is missing then names
        return None
    return name


def write_index(directory: Path, class_name: str, content: Mapping[str, Any]) -> None:
    """Write model_index.json; last of all files, so that a directory that has it is complete."""
    head = {"_class_name": class_name, "_diffusers_version": DIFFUSERS_VERSION}
    write_json(directory / INDEX_FILE, head | dict(content))


def read_own(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The contents of nelbo.json, or None without one."""
    try:
        file = locate(path, None, NELBO_FILE)
    except NelboError:
        return None
    return read_notes(file)
