"""Tensors that are still in their file, or made when they are written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from zoo.errors import InputError

DTYPES = {  # as safetensors spells them
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@runtime_checkable
class Lazy(Protocol):
    """A tensor that is not yet in memory."""

    @property
    def dtype(self) -> torch.dtype:
        """As stored."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sizes."""

    @property
    def numel(self) -> int:
        """Number of elements."""

    def load(self) -> Tensor:
        """Read it."""


@runtime_checkable
class InPieces(Protocol):
    """A tensor that need not be in memory as a whole to be copied."""

    def pieces(self) -> Iterator[memoryview]:
        """Its bytes in memory order, whole elements at a time, each good until the next."""


@dataclass(frozen=True)
class Made:
    """A tensor that a function makes when it is asked for."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    make: Callable[[], Tensor]

    @property
    def numel(self) -> int:
        """Number of elements."""
        return torch.Size(self.shape).numel()

    def load(self) -> Tensor:
        """Make it."""
        return self.make().to(self.dtype).reshape(self.shape)


def zeros(*shape: int) -> Made:
    """A tensor of zeros."""
    return Made(torch.float32, shape, lambda: torch.zeros(shape))


def cast(name: str, tensor: Lazy, dtype: torch.dtype | None, allow_nonfinite: bool = False) -> Lazy:
    """A floating-point tensor as another dtype; None: as it is. What is too large for it is refused by name."""
    if dtype in (None, tensor.dtype) or not tensor.dtype.is_floating_point:
        return tensor
    return Made(dtype, tensor.shape, tensor.load if allow_nonfinite else partial(_cast, name, tensor, dtype))


def _cast(name: str, tensor: Lazy, dtype: torch.dtype) -> Tensor:
    stored = tensor.load()
    result = stored.to(dtype)
    if is_finite(stored) and not is_finite(result):
        raise InputError(f"nothing was written: {name} holds numbers too large for {dtype}; choose another --dtype")
    return result


def is_finite(tensor: Tensor) -> bool:
    """Whether all values are finite in float32; what is no floating point is."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    return bool(torch.stack(torch.aminmax(tensor)).float().isfinite().all())


def pieces(tensor: Lazy) -> Iterator[memoryview]:
    """Read the bytes of a tensor in memory order: piece by piece where it can be done, each good until the next."""
    if isinstance(tensor, InPieces):
        yield from tensor.pieces()
    else:
        loaded = tensor.load().detach().to("cpu", tensor.dtype).contiguous()
        yield loaded.reshape(-1).view(torch.uint8).numpy().data
