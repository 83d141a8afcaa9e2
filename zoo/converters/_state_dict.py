"""State dicts of any toolkit as tensors by key.

Some hold the projections of query, key and value one after another in one tensor. Key tables call such parts by the
tensor's key with `[0]`, `[1]` and `[2]` behind.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor

from zoo._tensors import Lazy, Made
from zoo.errors import CheckpointError, shown

PARTS = 3
PART = re.compile(r"(.*)\[([012])\]")


# data2vec 2.0 in fairseq, without its moving average; torch's own attention module.
STACKS = re.compile(r"(?!_ema\.).*\.(attn\.qkv\.|attention\.attention\.in_proj_)(weight|bias)")


def tensors(items: Iterable[tuple[Any, Any]]) -> dict[str, Lazy]:
    """The tensors of a state dict; a dictionary inside it, such as data2vec's teacher copy, is taken apart.

    Raises:
        CheckpointError: for something that is no tensor, and for two of one key.
    """
    found: dict[str, Lazy] = {}
    for key, value in items:
        inside = [(f"{key}.{k}", v) for k, v in value.items()] if isinstance(value, Mapping) else [(key, value)]
        for name, tensor in inside:
            if not isinstance(name, str) or not isinstance(tensor, Lazy):
                raise CheckpointError(f"the model's state dict holds something else than a tensor under {shown(name)}")
            parts = _split(name, tensor) if STACKS.fullmatch(name) else {name: tensor}
            if twice := parts.keys() & found.keys():
                raise CheckpointError(f"the model's state dict holds {shown(min(twice))} twice")
            found |= parts
    return found


def _split(key: str, tensor: Lazy) -> dict[str, Lazy]:
    """The parts of a tensor that has three of them; otherwise the tensor."""
    if not tensor.shape or tensor.shape[0] % PARTS:
        return {key: tensor}
    shape = (tensor.shape[0] // PARTS, *tensor.shape[1:])
    return {f"{key}[{i}]": Made(tensor.dtype, shape, partial(_part, tensor, i)) for i in range(PARTS)}


def _part(stack: Lazy, index: int) -> Tensor:
    """A copy, as a view would keep the whole in memory."""
    return stack.load().chunk(PARTS)[index].clone()


def join(tensors: Mapping[str, Lazy]) -> dict[str, Lazy]:
    """Tensors by key, those whose parts are there put together; a stack of several dtypes has the widest."""
    found: dict[str, Lazy] = {}
    for key, tensor in tensors.items():
        match = PART.fullmatch(key)
        if match is None:
            found[key] = tensor
        elif match[2] == "0":
            found[match[1]] = _joined([tensors[f"{match[1]}[{i}]"] for i in range(PARTS)])
    return found


def _joined(parts: Sequence[Lazy]) -> Lazy:
    dtype = reduce(torch.promote_types, (part.dtype for part in parts))
    shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
    return Made(dtype, shape, lambda: torch.cat([part.load().to(dtype) for part in parts]))
