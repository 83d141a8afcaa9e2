"""The one place that opens safetensors files, once their header is known to be one that a model needs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from zoo.errors import CheckpointError, cut, shown

MAX_HEADER_BYTES = 2 * 2**20  # a model of 1000 tensors needs about 130 000
MAX_ELEMENTS = 2**62
MAX_DIMENSIONS = 64


def open_safetensors(path: Path) -> Any:
    """Open a safetensors file; reads no tensor.

    Raises:
        CheckpointError: when it is damaged, or its header is one that no writer writes.
    """
    try:
        _check_header(path)
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        why = cut(str(error), 160)
        raise CheckpointError(f"{path} is a damaged safetensors file ({why}); fetch or convert it again") from None


def _check_header(path: Path) -> None:
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > MAX_HEADER_BYTES:
            raise ValueError(f"its header has {size} bytes, more than {MAX_HEADER_BYTES}")
        header = json.loads(file.read(size).decode(), object_pairs_hook=_without_repetition)
    if not isinstance(header, dict):
        raise ValueError("its header is no object")
    for name, entry in header.items():
        shape = entry.get("shape") if isinstance(entry, Mapping) else None
        if name != "__metadata__" and not (
            isinstance(shape, list)
            and len(shape) <= MAX_DIMENSIONS
            and all(type(n) is int and 0 <= n < MAX_ELEMENTS for n in shape)
            and math.prod(filter(None, shape)) < MAX_ELEMENTS
        ):
            raise ValueError(f"{shown(name)} has no possible shape")


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"its header holds {shown(twice)} twice")
    return content
