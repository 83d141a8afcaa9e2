"""Miniatures of HEAR's folders."""

from __future__ import annotations

from pathlib import Path

from zoo.benchmark.hear._folder import Folder


def write(root: Path, *, folder: Folder) -> None:
    """Writes a small folder below `root`, in HEAR's format."""
    raise NotImplementedError
