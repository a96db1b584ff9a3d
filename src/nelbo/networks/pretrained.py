"""Networks on disk: config.json beside safetensors, as diffusers writes and reads them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from nelbo.base.errors import NelboError, explained
from nelbo.base.files import read_json
from nelbo.networks.config import NetworkConfig, unsupported
from nelbo.networks.files import CONFIG_FILE, locate
from nelbo.networks.weights import (
    WEIGHTS_FILE,
    load_weights,
    locate_weights,
    read_weights,
    remove_shards,
    write_network,
)

# The diffusers release whose format is written; a newer release shows it.
DIFFUSERS_VERSION = "0.42.1"


@contextmanager
def skeleton() -> Iterator[None]:
    """Build layers with shapes only, without memory or initial values.

    Both would be overwritten by the weights that are read next.
    """
    with torch.device("meta"), _NoInitialisation():
        yield


class _NoInitialisation(TorchFunctionMode):
    """Functions of `torch.nn.init` return their tensor as it is."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__module__", None) == nn.init.__name__:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


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
        known = {
            name: config_class
            for config_class in cls.config_classes
            for name in (config_class.class_name, *config_class.other_names)
        }
        if not isinstance(found, Mapping):
            raise NelboError(f"a config must be a JSON object, found {type(found).__name__}")
        class_name = found.get("_class_name", cls.config_classes[0].class_name)
        if class_name not in tuple(known):
            raise unsupported("_class_name", class_name, ", ".join(map(repr, known)))
        return known[class_name].from_dict(found)

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        subfolder: str | None = None,
        *,
        variant: str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Self:
        """A network from a directory, or from the Hugging Face Hub if there is no such directory.

        Args:
            path: directory or Hub id.
            subfolder: where in it the network is, e.g. "unet" in a pipeline.
            variant: which of several sets of weights, e.g. "fp16"; None is the main one, or with a
                note the fp16 one if it is the only one.
            dtype: precision of the weights; None keeps the stored one, but half as float32.
        """
        config_file = locate(path, subfolder, CONFIG_FILE)
        config = read_json(config_file)
        weights_file = locate_weights(path, subfolder, variant)
        with explained(config_file), skeleton():
            network = cls.from_config(config)
        weights = read_weights(path, subfolder, weights_file, dtype)
        load_weights(network, weights, weights_file)
        return network.eval()

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Write config.json and the weights into a directory; each file appears whole or not.

        Raises:
            NelboError: the directory cannot be written.
        """
        config = self.config.to_dict() | {"_diffusers_version": DIFFUSERS_VERSION}
        write_network(Path(path), WEIGHTS_FILE, self.state_dict(), config)
        remove_shards(Path(path))
