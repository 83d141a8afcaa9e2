"""Several processes under torchrun: each takes a share of every batch, and gradients are summed.

Without torchrun every function does what it does for one process.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

T = TypeVar("T")


def rank() -> int:
    """Number of this process."""
    return distributed.get_rank() if _several() else 0


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized()


@contextmanager
def group(device: str | None) -> Iterator[str | None]:
    """Join the processes that torchrun started; gives the device of this one."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or _several():
        yield device
        return
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device is not None and device.startswith("cuda") else "gloo")
    try:
        yield device
    finally:
        distributed.destroy_process_group()


def share(items: Sequence[T]) -> list[T]:
    """This process's part."""
    return list(items) if not _several() else list(items[rank() :: distributed.get_world_size()])


def total(value: Tensor) -> Tensor:
    """The sum over the processes, on the CPU."""
    if not _several():
        return value.detach().cpu()
    place = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    whole = value.detach().to(place, torch.float64, copy=True)
    distributed.all_reduce(whole)
    return whole.to("cpu", value.dtype)


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Add up the gradients of all processes, one that has none counting as zero."""
    if not _several():
        return
    ordered = list(parameters)
    for parameter in ordered:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    flat = torch.cat([p.grad.reshape(-1) for p in ordered if p.grad is not None])
    distributed.all_reduce(flat)
    for parameter, part in zip(ordered, torch.split(flat, [p.numel() for p in ordered])):
        parameter.grad = part.view_as(parameter)


def average_buffers(module: nn.Module) -> None:
    """Give every process the mean of what each has seen, such as the statistics of batch norm."""
    if not _several():
        return
    for buffer in module.buffers():
        if buffer.is_floating_point():
            distributed.all_reduce(buffer)
            buffer /= distributed.get_world_size()


def gather(found: dict[str, Any]) -> dict[str, Any]:
    """What all processes found."""
    if not _several():
        return found
    parts: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(parts, found)
    return {key: value for part in parts for key, value in part.items()}


def wait() -> None:
    """Until every process is here."""
    if _several():
        distributed.barrier()
