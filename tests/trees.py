"""Checkpoints as trees of plain data, to be edited and saved again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoo.converters._unpickle import LazyTensor, open_torch_file

Tree = dict[str, Any]


def loaded(item: Any) -> Any:
    """`item` with every lazy tensor read."""
    if isinstance(item, LazyTensor):
        return item.load()
    if isinstance(item, dict):
        return {key: loaded(content) for key, content in item.items()}
    if isinstance(item, (list, tuple)):
        return type(item)(loaded(content) for content in item)
    return item


def read(path: Path) -> Any:
    """What a torch checkpoint holds."""
    with open_torch_file(path) as file:
        return loaded(file.root)
