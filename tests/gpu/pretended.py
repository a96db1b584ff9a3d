"""A device that pretends: its tensors lie on the CPU and refuse to meet those of the CPU.

So code that mixes devices fails here as it does on a GPU, without one. What CUDA accepts is
accepted: copies between devices, numbers (tensors without a dimension), and indices on the CPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "pretended"
_aten = torch.ops.aten
_MIXED = {
    *(_aten.copy_.default, _aten._to_copy.default),
    *(_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default),
}


class _Backend:
    """What `torch.pretended` offers."""

    @staticmethod
    def get_amp_supported_dtype() -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def device_count() -> int:
        return 1

    @staticmethod
    def current_device() -> int:
        return 0

    @staticmethod
    def _is_in_bad_fork() -> bool:
        return False

    @staticmethod
    def manual_seed_all(seed: int) -> None:
        pass

    @staticmethod
    def get_rng_state(device: Any = None) -> Tensor:
        return torch.empty(0)

    @staticmethod
    def set_rng_state(state: Tensor, device: Any = None) -> None:
        pass


class PretendedTensor(Tensor):
    """A tensor of the CPU that reports the pretended device."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> PretendedTensor:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(NAME, 0),
        )
        made.inner = inner
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"{NAME}: {self.inner}"

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Compute on the CPU, and wrap the result."""
        kwargs = dict(kwargs or {})
        for value in () if func in _MIXED else pytree.tree_leaves((args, kwargs)):
            if isinstance(value, Tensor) and not isinstance(value, cls) and value.ndim:
                raise RuntimeError(f"{func}: tensors on {NAME} and on {value.device}")
        target = kwargs.get("device")
        if target is not None:
            kwargs["device"] = torch.device("cpu")
        inside = pytree.tree_map_only(cls, lambda tensor: tensor.inner, (args, kwargs))
        result = func(*inside[0], **inside[1])
        if target is not None and torch.device(target).type == "cpu":
            return result
        if func is _aten.copy_.default and not isinstance(args[0], cls):
            return args[0]
        wrapped = pytree.tree_map_only(Tensor, cls, result)
        return return_and_correct_aliasing(func, args, kwargs, wrapped)


def register() -> torch.device:
    """Make the device known to PyTorch, once a process; it cannot be undone."""
    _setup_privateuseone_for_python_backend(NAME, backend_module=_Backend())
    library = torch.library.Library("aten", "IMPL")

    def empty(
        size: Any, dtype: Any = None, *_: Any, memory_format: Any = None, **__: Any
    ) -> Tensor:
        made = torch.empty(
            size, dtype=dtype, memory_format=memory_format or torch.contiguous_format
        )
        return PretendedTensor(made)

    def empty_strided(size: Any, stride: Any, dtype: Any = None, *_: Any, **__: Any) -> Tensor:
        return PretendedTensor(torch.empty_strided(size, stride, dtype=dtype))

    def copy_from(source: Tensor, target: Tensor, *_: Any) -> Tensor:
        inner = source.inner if isinstance(source, PretendedTensor) else source
        (target.inner if isinstance(target, PretendedTensor) else target).copy_(inner)
        return target

    library.impl("empty.memory_format", empty, "PrivateUse1")
    library.impl("empty_strided", empty_strided, "PrivateUse1")
    library.impl("_copy_from", copy_from, "PrivateUse1")
    casting = torch.library.Library("_", "IMPL")
    casting.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    _KEPT.extend((library, casting))  # registrations end with these
    return torch.device(NAME, 0)


_KEPT: list[Any] = []
