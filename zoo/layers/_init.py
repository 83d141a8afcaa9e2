"""Random values of parameters."""

from __future__ import annotations

from torch import Tensor, nn


def normal_(tensor: Tensor, std: float) -> None:
    """Fill with draws from a normal distribution; on the meta device, where there is nothing to fill, do nothing.

    There torch would import its compiler for it, which takes a second.
    """
    if not tensor.is_meta:
        nn.init.normal_(tensor, std=std)
