"""Files of arrays: all values of a dtype in one run, so that hundreds of small arrays cost little. NumPy only.

An `.npz` with `index`, the UTF-8 bytes of a JSON list of (name, dtype, shape), and for each dtype the bytes of its
values in the order of that list, little-endian, as planes: first all lowest bytes, ..., last all highest. Signs and
exponents, which are the top bytes, are alike and shrink; mantissas do not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays; the same arrays give the same bytes."""
    values = {name: np.asarray(value) for name, value in arrays.items()}
    values = {name: value.astype(value.dtype.newbyteorder("<"), copy=False) for name, value in values.items()}
    index = [(name, value.dtype.str, value.shape) for name, value in values.items()]
    members = {"index": np.frombuffer(json.dumps(index).encode(), dtype=np.uint8)}
    for dtype in dict.fromkeys(kind for _, kind, _ in index):
        run = np.concatenate([value.ravel() for value in values.values() if value.dtype.str == dtype])
        members[dtype] = np.ascontiguousarray(run.view(np.uint8).reshape(len(run), run.itemsize).T)
    np.savez_compressed(path, **members)


def read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file, by name and in the order in which they were given."""
    with np.load(path) as members:
        index = json.loads(members["index"].tobytes())
        runs = {key: np.ascontiguousarray(members[key].T).view(key).ravel() for key in members if key != "index"}
    found, taken = {}, dict.fromkeys(runs, 0)
    for name, dtype, shape in index:
        start, size = taken[dtype], math.prod(shape)
        found[name] = runs[dtype][start : start + size].reshape(shape).astype(np.dtype(dtype).newbyteorder("="))
        taken[dtype] += size
    return found
