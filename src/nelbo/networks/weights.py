"""Weights of a network in safetensors: one file, or several that an index lists.

Tensors are mapped from the file, so that reading them takes neither time nor a second copy.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nelbo.base.errors import NelboError, explained
from nelbo.base.files import atomic_file, read_json, write_json, writing
from nelbo.networks.files import CONFIG_FILE, PICKLE_SUFFIXES, locate, pickle_refused
from nelbo.networks.finite import check_finite_weights

STEM = "diffusion_pytorch_model"
WEIGHTS_FILE = f"{STEM}.safetensors"
INDEX_FILE = f"{WEIGHTS_FILE}.index.json"
FALLBACK_VARIANT = "fp16"

# Names that attention weights had before diffusers 0.18.
RENAMED_LAYERS = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
# What reading a file of safetensors raises.
DAMAGED = (OSError, SafetensorError)
# Names of tensors that an error lists.
_LISTED = 10


def locate_weights(
    path: str | os.PathLike[str], subfolder: str | None, variant: str | None
) -> Path:
    """The weights of a network, or the index of their files.

    Args:
        path: directory or Hub id.
        subfolder: where in it the network is.
        variant: which of several sets of weights, e.g. "fp16"; None is the main one, or with a note
            the fp16 one if it is the only one.
    """
    if variant is not None:
        if not re.fullmatch(r"[\w-]+", variant):
            raise NelboError(f"variant is {variant!r}, expected a word such as 'fp16'")
        return locate(path, subfolder, *_names(variant))
    found = locate(path, subfolder, *_names(None), *_names(FALLBACK_VARIANT))
    if found.name in _names(FALLBACK_VARIANT):
        warnings.warn(
            f"{path} holds no {WEIGHTS_FILE}, so {found.name} is read, whose numbers are rounded "
            "to 16 bits",
            stacklevel=3,
        )
    return found


def read_weights(
    path: str | os.PathLike[str],
    subfolder: str | None,
    file: Path,
    dtype: torch.dtype | None = None,
) -> dict[str, Tensor]:
    """The tensors in a file, or in all files that an index lists.

    Args:
        path: directory or Hub id of the network.
        subfolder: where in it the network is.
        file: what `locate_weights` found.
        dtype: precision to convert to; None keeps the stored one, but half as float32.
    """
    if file.suffix != ".json":
        return rename_layers(_read_file(file, dtype))
    weights: dict[str, Tensor] = {}
    for shard in shards(file):
        weights |= _read_file(locate(path, subfolder, shard), dtype)
    return rename_layers(weights)


def shards(index: Path) -> list[str]:
    """Names of the files that an index lists; they are beside it."""
    weight_map = read_json(index).get("weight_map")
    names = weight_map.values() if isinstance(weight_map, dict) else ()
    if not names or not all(isinstance(name, str) for name in names):
        raise NelboError(f"{index}: weight_map must be an object of tensor names to file names")
    files = sorted(set(names))
    for name in files:
        # Whichever system this runs on: neither kind of separator, no drive, no "..".
        if {PurePosixPath(name).name, PureWindowsPath(name).name} != {name}:
            raise NelboError(f"{index} lists {name!r}: only files in the same directory are read")
        if name.endswith(PICKLE_SUFFIXES):
            raise pickle_refused(f"{name}, listed in {index},")
        if not name.endswith(".safetensors"):
            raise NelboError(f"{index} lists {name!r}, which is not a safetensors file")
    return files


def rename_layers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Old names of attention weights replaced by today's."""
    renamed = {}
    for name, weight in weights.items():
        path, _, kind = name.rpartition(".")
        parent, _, layer = path.rpartition(".")
        if "attentions" in parent and layer in RENAMED_LAYERS:
            name = f"{parent}.{RENAMED_LAYERS[layer]}.{kind}"
        renamed[name] = weight
    return renamed


def incomplete(path: Path) -> str:
    """What an error of `DAMAGED` means for a file."""
    return f"{path} is not a complete safetensors file (truncated or damaged?)"


def check_weights(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> None:
    """Refuse weights that do not fit the network, and name them."""
    problems = {
        "missing": [name for name in expected if name not in found],
        "unexpected": [name for name in found if name not in expected],
        "of the wrong shape": [
            f"{name} (found {tuple(found[name].shape)}, expected {tuple(weight.shape)})"
            for name, weight in expected.items()
            if name in found and found[name].shape != weight.shape
        ],
        # Of a quantised checkpoint: whole numbers are weights only with their scales.
        "that are no real numbers": [
            f"{name} ({found[name].dtype})"
            for name, weight in expected.items()
            if name in found and weight.is_floating_point() and not found[name].is_floating_point()
        ],
    }
    listed = [_listing(kind, names) for kind, names in problems.items() if names]
    if listed:
        raise NelboError(
            f"{path} does not fit the network its {CONFIG_FILE} describes. " + " ".join(listed)
        )


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Give a network these weights, without a copy; errors as the checks of both kinds."""
    check_weights(weights, network.state_dict(), path)
    check_finite_weights(weights, path)
    network.load_state_dict(weights, assign=True)


def write_network(
    directory: Path, file: str, weights: Mapping[str, Tensor], config: Mapping[str, Any]
) -> None:
    """Write the weights of a network and its config.json; each appears whole or not.

    Args:
        directory: where, made if it does not exist.
        file: the name of the file of weights.
        weights: by name.
        config: what config.json holds.

    Raises:
        NelboError: the directory cannot be written.
    """
    whole = {name: weight.contiguous() for name, weight in weights.items()}
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
        with atomic_file(directory / file) as temporary:
            # Without this note diffusers does not know that the tensors are PyTorch's.
            save_file(whole, temporary, metadata={"format": "pt"})
        write_json(directory / CONFIG_FILE, config, sort_keys=True)


def remove_shards(directory: Path) -> None:
    """Remove the index of older weights, which readers would prefer, and the files it lists."""
    index = directory / INDEX_FILE
    if not index.is_file():
        return
    try:
        names = shards(index)
    except NelboError:
        names = []
    index.unlink()
    for name in names:
        if name != WEIGHTS_FILE:
            (directory / name).unlink(missing_ok=True)


def _names(variant: str | None) -> tuple[str, str]:
    if variant is None:
        return WEIGHTS_FILE, INDEX_FILE
    return f"{STEM}.{variant}.safetensors", f"{WEIGHTS_FILE}.index.{variant}.json"


def _read_file(path: Path, dtype: torch.dtype | None) -> dict[str, Tensor]:
    with explained(incomplete(path), *DAMAGED):
        stored = load_file(path)
    return {name: weight.to(_precision(weight, dtype)) for name, weight in stored.items()}


def _precision(weight: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    if not weight.is_floating_point():
        return weight.dtype
    if dtype is not None:
        return dtype
    return torch.float32 if weight.element_size() < 4 else weight.dtype


def _listing(kind: str, names: list[str]) -> str:
    more = f", and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{len(names)} tensors {kind}: {', '.join(names[:_LISTED])}{more}."
