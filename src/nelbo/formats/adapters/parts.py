"""The parts of a pipeline that libraries load, which is optional: diffusers and transformers."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from nelbo.base.console import quiet
from nelbo.base.errors import NelboError, explained, optional
from nelbo.base.files import read_json
from nelbo.formats.pipeline import Pipeline
from nelbo.networks.files import CONFIG_FILE, locate
from nelbo.networks.finite import check_finite_weights
from nelbo.networks.weights import DAMAGED, incomplete, shards

EXTRA = "diffusers"
_STEMS = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}
# The types of numbers that weights are computed with as they are stored; others are quantised.
_PLAIN = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16}
# Of float16, which overflows in such networks, the values are kept.
_WIDENED = {"F16": torch.float32}
QUANTISED = ("F8_", "F4", "F6_", "I8", "U8", "I4", "U4")


def load_part(
    pipeline: Pipeline,
    folder: str,
    library: str,
    classes: Sequence[str],
    *,
    dtype: torch.dtype | None = None,
) -> Any:
    """A network of a pipeline, of a class of a library, in evaluation mode.

    Args:
        pipeline: where it is.
        folder: its folder.
        library: "diffusers" or "transformers".
        classes: its classes that are known to be read rightly.
        dtype: of its weights; None keeps the stored one.

    Raises:
        MissingExtraError: the library is not installed.
        NelboError: a part that is missing, of another class, quantised, or damaged.
    """
    name = pipeline.index.require(folder, *classes)
    config_file = locate(pipeline.path, folder, CONFIG_FILE)
    check_unquantised(read_json(config_file), str(config_file), f"{library}.{name}")
    stem = _STEMS[library]
    weights = locate(pipeline.path, folder, f"{stem}.safetensors", f"{stem}.safetensors.index.json")
    module = library_of(library, pipeline.index.class_name)
    kind = getattr(module, name, None)
    if kind is None:
        raise NelboError(f"{config_file}: this version of {library} has no {name}: upgrade it")
    dtype = dtype or _stored_type(weights, f"{library}.{name}")
    # The libraries raise whatever they meet in a damaged file.
    with explained(f"{config_file.parent} cannot be read", Exception), quiet(library):
        part = kind.from_pretrained(
            pipeline.path, subfolder=folder, use_safetensors=True, torch_dtype=dtype
        )
    check_finite_weights(dict(part.named_parameters()), weights)
    return part.eval().requires_grad_(False)


def load_tokenizer(pipeline: Pipeline, folder: str) -> Any:
    """A tokenizer of a pipeline; errors as `load_part`."""
    if folder not in pipeline.index.parts:
        raise NelboError(f"{pipeline.index.file}: there is no {folder!r}, expected a tokenizer")
    transformers = library_of("transformers", pipeline.index.class_name)
    with explained(f"{pipeline.path}/{folder} cannot be read", Exception):
        return transformers.AutoTokenizer.from_pretrained(pipeline.path, subfolder=folder)


def check_unquantised(config: dict[str, Any], where: str, kind: str) -> None:
    """Raise `NelboError` for a configuration that states a quantised format, and name it."""
    stated = config.get("quantization_config")
    if stated is None:
        return
    name = stated.get("quant_method", "an unnamed method") if isinstance(stated, dict) else stated
    raise NelboError(_quantised(where, str(name), kind))


def library_of(name: str, what: str) -> Any:
    """The library of this name.

    Raises:
        MissingExtraError: it is not installed.
    """
    return optional(name, f"a {what}", EXTRA)


def default_argument(pipeline: str, name: str) -> Any:
    """What a pipeline of diffusers is called with where nothing is given.

    Raises:
        MissingExtraError: diffusers is not installed.
    """
    kind = getattr(library_of("diffusers", pipeline), pipeline)
    return inspect.signature(kind.__call__).parameters[name].default


def _stored_type(weights: Path, kind: str) -> torch.dtype:
    """The type of most numbers of the weights.

    Raises:
        NelboError: one of a quantised format, or a file that is damaged.
    """
    file = weights.parent / shards(weights)[0] if weights.suffix == ".json" else weights
    numbers = sizes_by_type(file)
    for name in numbers:
        if name.startswith(QUANTISED):
            raise NelboError(_quantised(str(file), name, kind))
    most = max(numbers, key=lambda name: numbers[name])
    return (_PLAIN | _WIDENED).get(most, torch.float32)


def sizes_by_type(file: Path) -> dict[str, int]:
    """How many numbers of each type a safetensors file holds, by its name there.

    Raises:
        NelboError: it is damaged.
    """
    found: dict[str, int] = {}
    with explained(incomplete(file), *DAMAGED), safe_open(file, "pt") as tensors:
        for one in [tensors.get_slice(name) for name in tensors.keys()]:  # noqa: SIM118
            name = one.get_dtype()
            found[name] = found.get(name, 0) + math.prod(one.get_shape())
    return found


def _quantised(where: str, format: str, kind: str) -> str:
    return (
        f"{where}: the weights are quantised ({format}), whose arithmetic nelbo does not have. Use "
        "the checkpoint in bfloat16 or float32 that it was made from, or write one: "
        f"{kind}.from_pretrained(DIR).dequantize().save_pretrained(OUT), with safetensors"
    )
