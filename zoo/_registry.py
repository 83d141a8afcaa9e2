"""Names: families found in `zoo.models` and in installed packages, their presets and aliases."""

from __future__ import annotations

import difflib
import fnmatch
import importlib
import pkgutil
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import entry_points
from typing import Any

import zoo.models
from zoo.errors import UnknownModelError
from zoo.models._family import Config, Family, Preset, Source
from zoo.models._unsupported import UNSUPPORTED


@lru_cache(maxsize=1)
def families() -> dict[str, Family]:
    """Every family by name: the files of `zoo.models`, then the entry points "zoo.families" of other packages."""
    names = sorted(m.name for m in pkgutil.iter_modules(zoo.models.__path__) if not m.name.startswith("_"))
    found: list[Family] = [importlib.import_module(f"zoo.models.{name}").FAMILY for name in names]
    found += [point.load() for point in entry_points(group="zoo.families")]
    return {family.name: family for family in found}


@lru_cache(maxsize=1)
def _presets() -> dict[str, tuple[Family, Preset]]:
    """Every preset by name and by alias."""
    table: dict[str, tuple[Family, Preset]] = {}
    for family in families().values():
        for preset in family.presets:
            for name in (preset.name, *preset.aliases):
                table[name] = (family, preset)
    return table


def find(name: str) -> tuple[Family, Preset]:
    """The family and preset of a name or alias.

    Raises:
        UnknownModelError: with the nearest names, or why it is not supported and what to use instead.
    """
    if name not in _presets():
        for model in UNSUPPORTED:
            if name in model.names:
                raise UnknownModelError(
                    f"{name!r} is {model.name}, which is not supported, because {model.reason}; use {model.instead}"
                )
        near = difflib.get_close_matches(name.lower(), _presets(), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "`python -m zoo list` prints every name"
        raise UnknownModelError(f"there is no model named {name!r}; {hint}")
    return _presets()[name]


def list_models(pattern: str = "*") -> list[str]:
    """Names that match a shell pattern, sorted; an alias is listed when the pattern is its exact spelling.

    Args:
        pattern: as in "*hubert*".
    """
    names = {preset.name for _, preset in _presets().values()} | ({pattern} & _presets().keys())
    return sorted(name for name in names if fnmatch.fnmatchcase(name, pattern))


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """One record about a released model.

    Attributes:
        parameters: of the encoder, without the mask embedding and without heads.
        hop: samples from one frame to the next; of a model that takes features, frames of them.
        sample_rate: Hz; of a model that takes features, frames of them per second, 0 where not evenly spaced.
        licence: SPDX expression of the weights; NOASSERTION where none is stated or they contradict each other.
        licence_notes: who contradicts whom.
        sources: where the weights can be had, in order of preference, dead ones last; empty where none were released.
        size, sha256: of the first source's file, where a page states them (`Source.cited`); otherwise None.
        confirmed: False where the architecture is inferred from sibling models.
    """

    name: str
    aliases: tuple[str, ...]
    family: str
    parameters: int
    layers: int
    width: int
    hop: int
    sample_rate: int
    data: str
    licence: str
    licence_notes: str
    paper: str
    sources: tuple[Source, ...]
    size: int | None
    sha256: str | None
    confirmed: bool
    notes: str
    config: Config


def info(name: str) -> ModelInfo:
    """What is known about a model, by name or alias.

    Raises:
        UnknownModelError: with the nearest names.
    """
    family, preset = find(name)
    config: Any = preset.config
    first = preset.sources[0] if preset.sources else None
    return ModelInfo(
        name=preset.name,
        aliases=preset.aliases,
        family=family.name,
        parameters=preset.parameters,
        layers=config.num_layers,
        width=config.width,
        hop=config.hop_length,
        sample_rate=config.sample_rate,
        data=preset.data,
        licence=preset.licence,
        licence_notes=preset.licence_notes,
        paper=preset.paper,
        sources=preset.sources,
        size=first.size if first else None,
        sha256=first.sha256 if first else None,
        confirmed=preset.confirmed,
        notes=preset.notes,
        config=config,
    )
