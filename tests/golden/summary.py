"""Small numbers that stand for large tensors: what full-size pins record of hidden states and gradients.

Of a tensor of N values, whose last axis has F:

* `values`: up to 64 of them, evenly spaced, with an odd distance so that they do not fall into one channel.
* `norms`: the L2 norm of every vector along the last axis (of every frame), over sqrt(F).
* `sketch`: a fixed random projection to 16 numbers, over sqrt(N). The flattened tensor is written into rows of 4096,
  every row and every column has a sign from the generator, and columns of one remainder by 16 are summed.
  For two tensors the expected squared distance of their sketches is their own, over N: a difference of root mean
  square d anywhere in the tensor shows as about d (mostly within a factor of two), and rounding shows as rounding.

All are in the unit of the values, so that one tolerance serves: what is within it value by value is within it here.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

if __package__:
    from tests.golden.generator import uniform
else:  # the makers run from this folder
    from generator import uniform

COLUMNS, ROWS, SKETCH = 4096, 16384, 16
VALUES = 64


@lru_cache(maxsize=1)
def _signs() -> tuple[Tensor, Tensor]:
    """Signs of the rows and the columns."""
    rows, columns = (torch.from_numpy(np.where(uniform(f"sketch/{n}", n) < 0, -1, 1)) for n in (ROWS, COLUMNS))
    return rows.float(), columns.double()


def sample(x: Tensor, count: int = VALUES) -> Tensor:
    """Evenly spaced values of a tensor, `count` at most."""
    flat = x.flatten()
    return flat[:: max(1, len(flat) // count) | 1][:count]


def _table(x: Tensor) -> Tensor:
    """A tensor in rows of 4096, with zeros behind."""
    flat = x.detach().flatten()
    return F.pad(flat, (0, -len(flat) % COLUMNS)).view(-1, COLUMNS) if len(flat) % COLUMNS else flat.view(-1, COLUMNS)


def size(x: Tensor) -> Tensor:
    """The L2 norm of a tensor in float64, from those of its rows: as exact as is needed, and quick."""
    return torch.linalg.vector_norm(_table(x), dim=1).double().norm()


def sketch(x: Tensor) -> Tensor:
    """The projection of a tensor, before it is divided: 16 float64 numbers whose norm is about the tensor's."""
    rows, columns = _signs()
    table = _table(x)
    return ((rows[: len(table)].to(table.dtype) @ table).double() * columns).view(-1, SKETCH).sum(0)


def summarise(x: Tensor) -> dict[str, Tensor]:
    """`values` (64,), zeros behind, `norms` (N / F,) and `sketch` (16,) of a tensor (..., F), in float64."""
    x = x.detach().double()
    values = sample(x)
    return {
        "values": F.pad(values, (0, VALUES - len(values))),
        "norms": (x.norm(dim=-1) / x.shape[-1] ** 0.5).flatten(),
        "sketch": sketch(x) / x.numel() ** 0.5,
    }
