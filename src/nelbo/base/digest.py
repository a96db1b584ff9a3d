"""Short hashes of the inputs of a figure, by which changes are detected."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def digest(parts: Iterable[str | Tensor], size: int = 8) -> str:
    """A hash of texts and of the values of tensors, in their order, of a number of bytes."""
    found = hashlib.blake2b(digest_size=size)
    for part in parts:
        if isinstance(part, Tensor):
            plain = part.detach().cpu().contiguous().view(-1).view(torch.uint8)
            found.update(plain.numpy().data)
        else:
            found.update(part.encode("utf-8", "surrogatepass"))
    return found.hexdigest()


def config_digest(network: Any) -> str:
    """A hash of the configuration of a network, or of its absence."""
    config: Any = getattr(network, "config", None)
    content = config.to_dict() if hasattr(config, "to_dict") else repr(config)
    return digest([json.dumps(content, sort_keys=True, default=str)])
