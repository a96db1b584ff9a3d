"""A check: a name, and a function that measures on a device and compares."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Failure(AssertionError):
    """A figure is beyond its tolerance."""


class Check(NamedTuple):
    """One check.

    Attributes:
        name: kind of check, a slash, what is checked.
        measure: measures on a device and returns the figures to print; raises `Failure`.
    """

    name: str
    measure: Callable[[torch.device], str]


def difference(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest value expected; infinite where one is nan."""
    found, expected = found.detach().cpu().double(), expected.detach().cpu().double()
    if found.shape != expected.shape:
        raise Failure(f"shape {tuple(found.shape)}, expected {tuple(expected.shape)}")
    if not (found.isfinite().all() and expected.isfinite().all()):
        return float("inf")
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-300))


def deviation(found: Tensor, expected: Tensor) -> float:
    """Root mean square of the difference, relative to that of the values expected."""
    found, expected = found.detach().cpu().double(), expected.detach().cpu().double()
    return float((found - expected).norm() / expected.norm())


def within(name: str, value: float, limit: float) -> str:
    """The figure as text.

    Raises:
        Failure: the value is above the limit, or nan.
    """
    if not value <= limit:
        raise Failure(f"{name} {value:.1e}, expected at most {limit:.0e}")
    return f"{name} {value:.1e}"


def placed(value: Any, device: torch.device, dtype: torch.dtype | None = None) -> Any:
    """A copy of a network, tensor, condition or sequence of them on a device.

    Args:
        value: what to copy.
        device: where to.
        dtype: of floating-point numbers; unchanged by default.
    """
    if isinstance(value, nn.Module):
        return copy.deepcopy(value).to(device, dtype)
    if isinstance(value, Tensor):
        return value.to(device, dtype if value.is_floating_point() else None)
    if is_dataclass(value) and not isinstance(value, type):
        parts = {f.name: placed(getattr(value, f.name), device, dtype) for f in fields(value)}
        return type(value)(**parts)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return type(value)(placed(each, device, dtype) for each in value)
    return value


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def exact_products() -> Iterator[None]:
    """Compute products in float32, not in the TF32 that convolutions have by default."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
