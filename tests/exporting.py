"""What the tests of exports share: conversion by the command line, and comparison bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo import convert
from zoo.converters import open_conversion

DATA = Path(__file__).parent / "data"


def write(source: Path, output: Path, to: str, *options: str) -> Any:
    """Convert by the command line; what torch's restricted loader reads of a torch file."""
    assert convert.main([str(source), "-o", str(output), "--to", to, *options]) == 0
    return None if to == "zoo" else torch.load(output, weights_only=True)


def flat(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """A state dict with the dictionary inside it, data2vec's teacher, taken apart."""
    found = {}
    for key, value in state.items():
        found |= {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, Mapping) else {key: value}
    return found


def original(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by its own keys."""
    with open_conversion(path) as conversion:
        return {key: tensor.load() for key, tensor in conversion.reading.tensors.items()}


def tensors(path: Path) -> dict[str, Tensor]:
    """A checkpoint in the zoo's terms."""
    with open_conversion(path) as conversion:
        return {name: tensor.load() for name, tensor in conversion.checkpoint().tensors.items()}


def same(got: Mapping[str, Tensor], want: Mapping[str, Tensor]) -> None:
    """Assert that two sets of tensors are equal in keys, dtypes and bits."""
    assert got.keys() == want.keys()
    for key, value in want.items():
        assert got[key].dtype == value.dtype and torch.equal(got[key], value), key


def changed(before: Path, after: Path) -> set[str]:
    """Fields of the configuration in which two checkpoints differ."""
    configs = []
    for path in (before, after):
        with open_conversion(path) as conversion:
            configs.append(conversion.config.to_dict())
    first, second = configs
    return {name for name in first if first[name] != second[name]}
