"""Genuine checkpoints, taken apart so that a test can change them and write them again."""

from __future__ import annotations

from typing import Any

from zoo.converters._unpickle import LazyTensor


def read_tensors(item: Any) -> Any:
    """`item` with every lazy tensor read."""
    if isinstance(item, LazyTensor):
        return item.load()
    if isinstance(item, dict):
        return {key: read_tensors(content) for key, content in item.items()}
    if isinstance(item, (list, tuple)):
        return type(item)(read_tensors(content) for content in item)
    return item
