"""Which toolkits can be imported here, and which families each is a reference of."""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from tests.golden.compare import Comparison
from tests.golden.live.examples import DRAWN, FAMILIES, Example

Twin = Callable[[Example, Path], Comparison]


@dataclass(frozen=True)
class Toolkit:
    """A toolkit, or why there is none.

    Attributes:
        twins: what compares an example, by family.
        missing: what its import said.
    """

    twins: Mapping[str, Twin] = field(default_factory=dict)
    missing: str = ""


@functools.cache
def toolkits() -> dict[str, Toolkit]:
    """Every toolkit by name; importing them leaves torch with one thread, the fastest for what is so small."""
    found = {}
    for name in DRAWN:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found[name] = Toolkit(importlib.import_module(f"tests.golden.live.{name}").TWINS)
        except Exception as error:  # whatever goes wrong inside a toolkit
            found[name] = Toolkit(missing=f"{type(error).__name__}: {error}".partition("\n")[0])
    torch.set_num_threads(1)
    return found


def header() -> list[str]:
    """What the head of the report says."""
    lines = [
        f"live: {name}: {', '.join(toolkit.twins)}" if toolkit.twins else f"live: {name}: none ({toolkit.missing})"
        for name, toolkit in toolkits().items()
    ]
    alone = set(FAMILIES) - {family for toolkit in toolkits().values() for family in toolkit.twins}
    return [*lines, f"live: families without a reference here: {', '.join(sorted(alone)) or 'none'}"]
