"""Positional convolutions whose weight normalisation was folded away before they were saved.

A weight `w` (D, D / groups, taps) is `v * g / norm(v)`, the norm over the first two axes. Of the many pairs that give
`w`, the one made here is `v = w` and `g = norm(w)`, in which nothing is lost.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from zoo._registry import families
from zoo._tensors import Lazy, Made
from zoo.converters._dialect import Reading
from zoo.converters._rows import Row, forward


def unfold(reading: Reading) -> Reading:
    """Give a folded weight the two tensors of which its model has one each; reads no tensor.

    They stand under the weight's key with `[g]` and `[v]` behind.
    """
    targets = forward(reading.rows, [key for key, tensor in reading.tensors.items() if len(tensor.shape) == 3])
    if any(target.endswith(".weight_v") for target in targets.values()):
        return reading
    expected = families()[reading.config.family].shapes(reading.config)
    tensors, rows, unfolded = dict(reading.tensors), list(reading.rows), []
    for key, target in targets.items():
        if target not in expected and f"{target}_g" in expected and f"{target}_v" in expected:
            weight = tensors.pop(key)
            tensors[f"{key}[g]"] = Made(torch.float32, (1, 1, weight.shape[2]), partial(_norm, weight))
            tensors[f"{key}[v]"] = Made(weight.dtype, weight.shape, partial(_direction, weight))
            rows += [Row(f"{key}[g]", f"{target}_g"), Row(f"{key}[v]", f"{target}_v")]
            unfolded.append(key)
    if not unfolded:
        return reading
    return replace(reading, tensors=tensors, rows=tuple(rows), extra={**reading.extra, "unfolded": unfolded})


def _norm(weight: Lazy) -> Tensor:
    """Of each tap, (1, 1, taps); of a half-precision weight too in full precision, which the product needs."""
    norm: Tensor = torch.linalg.vector_norm(weight.load().double(), dim=(0, 1), keepdim=True)
    return norm.float()


def _direction(weight: Lazy) -> Tensor:
    """The weight itself; of a tap that is zero, whose direction is lost and would be 0 / 0, any other."""
    value = weight.load()
    return torch.where((value == 0).all(dim=0).all(dim=0), torch.ones_like(value), value)
