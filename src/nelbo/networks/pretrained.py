"""Networks on disk: config.json beside safetensors, as diffusers writes and reads them.

Nothing is unpickled: weights in .bin, .pt or .ckpt files are refused with the way to convert them.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
)
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nelbo.errors import NelboError
from nelbo.networks.config import NetworkConfig, unsupported

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
PICKLE_SUFFIXES = (".bin", ".ckpt", ".pt", ".pth")

# The diffusers release whose format is written; diffusers shows it when a newer one reads it.
DIFFUSERS_VERSION = "0.42.1"

# Names that attention weights had before diffusers 0.18.
RENAMED_LAYERS = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}

_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


class Pretrained(nn.Module):
    """A network that is built from a config and lives in a directory.

    Args:
        config: an instance of one of the class's `config_classes`.
        **fields: instead of a config, the fields of the first of them.
    """

    config_classes: ClassVar[tuple[type[NetworkConfig], ...]]
    config: Any

    def __init__(self, config: NetworkConfig | None = None, **fields: Any) -> None:
        super().__init__()
        config_class = type(config) if config is not None else self.config_classes[0]
        if config_class not in self.config_classes:
            known = ", ".join(known.__name__ for known in self.config_classes)
            raise NelboError(f"config is a {config_class.__name__}, expected {known}")
        unknown = sorted(fields.keys() - config_class.__dataclass_fields__.keys())
        if unknown:
            raise NelboError(f"{type(self).__name__} has no config field {unknown[0]!r}")
        if config is not None and fields:
            raise NelboError("give a config or its fields, not both")
        self.config = config_class(**fields) if config is None else config

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """A fresh network from the contents of a config.json."""
        return cls(cls.read_config(config))

    @classmethod
    def read_config(cls, found: Mapping[str, Any]) -> NetworkConfig:
        """The config of the class that the contents of a config.json name."""
        known = {config_class.class_name: config_class for config_class in cls.config_classes}
        if not isinstance(found, Mapping):
            raise NelboError(f"a config must be a JSON object, found {type(found).__name__}")
        class_name = found.get("_class_name", cls.config_classes[0].class_name)
        if class_name not in known:
            raise unsupported("_class_name", class_name, ", ".join(map(repr, known)))
        return known[class_name].from_dict(found)

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        subfolder: str | None = None,
        *,
        dtype: torch.dtype | None = None,
    ) -> Self:
        """A network from a directory, or from the Hugging Face Hub if there is no such directory.

        Args:
            path: directory or Hub id.
            subfolder: where in it the network is, e.g. "unet" in a pipeline.
            dtype: precision of the weights; None keeps the stored one, but half as float32.
        """
        config_file = locate(path, subfolder, CONFIG_FILE)
        config = read_json(config_file)
        weights_file = locate(path, subfolder, WEIGHTS_FILE)
        try:
            # On the meta device nothing is allocated or initialised that is overwritten next.
            with torch.device("meta"):
                network = cls.from_config(config)
        except NelboError as error:
            raise NelboError(f"{config_file}: {error}") from error
        weights = rename_layers(read_weights(weights_file))
        check_weights(weights, network.state_dict(), weights_file)
        network.load_state_dict(
            {name: weight.to(_precision(weight, dtype)) for name, weight in weights.items()},
            assign=True,
        )
        return network.eval()

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Write config.json and the weights into a directory; each file appears whole or not."""
        directory = Path(path)
        directory.mkdir(parents=True, exist_ok=True)
        weights = {name: weight.contiguous() for name, weight in self.state_dict().items()}
        with atomic_file(directory / WEIGHTS_FILE) as temporary:
            # Without this note diffusers does not know that the tensors are PyTorch's.
            save_file(weights, temporary, metadata={"format": "pt"})
        config = self.config.to_dict() | {"_diffusers_version": DIFFUSERS_VERSION}
        with atomic_file(directory / CONFIG_FILE) as temporary:
            temporary.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place once the block succeeds."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files that only their owner reads; a saved network is an ordinary file.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise NelboError(f"{path} is not readable as JSON: {error}") from error
    if not isinstance(content, dict):
        raise NelboError(f"{path} must hold a JSON object, found {type(content).__name__}")
    return content


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors in a safetensors file."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise NelboError(
            f"{path} is not a complete safetensors file (truncated or damaged?): {error}"
        ) from error


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


def check_weights(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> None:
    """Refuse weights that do not fit the network, saying which."""
    problems = {
        "missing": [name for name in expected if name not in found],
        "unexpected": [name for name in found if name not in expected],
        "of the wrong shape": [
            f"{name} (found {tuple(found[name].shape)}, expected {tuple(weight.shape)})"
            for name, weight in expected.items()
            if name in found and found[name].shape != weight.shape
        ],
    }
    listed = [_listing(kind, names) for kind, names in problems.items() if names]
    if listed:
        raise NelboError(
            f"{path} does not fit the network its {CONFIG_FILE} describes. " + " ".join(listed)
        )


def _listing(kind: str, names: list[str], shown: int = 10) -> str:
    more = f", and {len(names) - shown} more" if len(names) > shown else ""
    return f"{len(names)} tensors {kind}: {', '.join(names[:shown])}{more}."


def locate(path: str | os.PathLike[str], subfolder: str | None, name: str) -> Path:
    """The named file of a network, from a directory or through the Hub's cache."""
    local = Path(path)
    if local.suffix in PICKLE_SUFFIXES:
        raise _pickle_refused(str(local))
    if local.is_dir():
        directory = local / subfolder if subfolder else local
        file = directory / name
        if file.is_file():
            return file
        if name == WEIGHTS_FILE:
            pickles = [f for f in _entries(directory) if f.suffix in PICKLE_SUFFIXES]
            if pickles:
                raise _pickle_refused(str(pickles[0]))
        raise NelboError(f"{directory} holds no {name}, so it is not the directory of a network")
    if local.exists():
        raise NelboError(f"{local} is a file; give the directory that holds {CONFIG_FILE}")
    if not _HUB_ID.fullmatch(str(path)):
        raise NelboError(f"no directory {local}, and it is not a Hub id of the form owner/name")
    return _download(str(path), subfolder, name)


def _download(hub_id: str, subfolder: str | None, name: str) -> Path:
    where = f"{hub_id}/{subfolder}" if subfolder else hub_id
    try:
        return Path(hf_hub_download(hub_id, name, subfolder=subfolder))
    except LocalEntryNotFoundError as error:
        raise NelboError(
            f"no directory {hub_id}, and the Hub cannot be reached to look for {where}/{name} "
            "there (nor is it in the local cache)"
        ) from error
    except EntryNotFoundError as error:
        if name == WEIGHTS_FILE:
            raise NelboError(f"{where} on the Hub holds no {name}. {_HOW_TO_CONVERT}") from error
        raise NelboError(f"{where} on the Hub holds no {name}") from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise NelboError(
            f"no directory {hub_id}, and {name} cannot be had from the Hub: {error}"
        ) from error


_HOW_TO_CONVERT = (
    "nelbo reads safetensors only, because opening a pickle runs the code in it. If you trust the "
    "source of .bin weights, convert them once with diffusers: "
    "UNet2DModel.from_pretrained(DIR, use_safetensors=False).save_pretrained(DIR)"
)


def _pickle_refused(path: str) -> NelboError:
    return NelboError(f"{path} is a pickle. {_HOW_TO_CONVERT}")


def _entries(directory: Path) -> list[Path]:
    return sorted(directory.iterdir()) if directory.is_dir() else []


def _precision(weight: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    if not weight.is_floating_point():
        return weight.dtype
    if dtype is not None:
        return dtype
    return torch.float32 if weight.element_size() < 4 else weight.dtype


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
