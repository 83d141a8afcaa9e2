"""Checkpoints of other toolkits, read without running them: one file a dialect, exporting one constant `DIALECT`."""

from __future__ import annotations

import hashlib
import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo._registry import families
from zoo.converters._dialect import Dialect, Reading
from zoo.converters._rows import Assignment, assign
from zoo.converters._source import Folder, Lazy, Source, open_source
from zoo.converters._unsupported import refuse_unsupported
from zoo.errors import CheckpointError, ConfigError
from zoo.models._family import Family

# Parameters of training only that a file may lack; they become zeros, and the result says so. A family may name more
# that follow from its configuration.
MADE_UP = frozenset({"masked_spec_embed"})


@lru_cache(maxsize=1)
def dialects() -> dict[str, Dialect]:
    """Every dialect by name: the files of `zoo.converters`, then the entry points "zoo.dialects"."""
    names = sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))
    found: list[Dialect] = [importlib.import_module(f"{__name__}.{name}").DIALECT for name in names]
    found += [point.load() for point in entry_points(group="zoo.dialects")]
    return {dialect.name: dialect for dialect in found}


@dataclass(frozen=True)
class Conversion:
    """A checkpoint of another toolkit, matched with a model's parameters but not yet read.

    Attributes:
        dialect: name of the file's layout.
        reading: what the dialect found.
        assignment: which source key fills which parameter, and what is left behind.
        source: the open checkpoint.
    """

    dialect: str
    reading: Reading
    assignment: Assignment
    source: Source

    def __enter__(self) -> Conversion:
        return self

    def __exit__(self, *error: object) -> None:
        self.source.close()

    @property
    def family(self) -> Family:
        """Of the model."""
        return families()[self.reading.config.family]

    def tensor(self, name: str) -> Lazy:
        """What fills a target name, not yet read."""
        return self.reading.tensors[self.assignment.filled[name]]

    def load(self, name: str) -> Tensor:
        """The tensor of a target name; floating point comes as fp32, whatever was stored."""
        if name in self.assignment.made_up:
            make = self.family.generated.get(name)
            return torch.zeros(self.assignment.made_up[name]) if make is None else make(self.reading.config)
        tensor = self.tensor(name).load()
        return tensor.float() if tensor.is_floating_point() else tensor

    def sizes(self) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Target name -> dtype as stored and shape, of everything that `load` gives."""
        stored = {name: (self.tensor(name).dtype, self.tensor(name).shape) for name in self.assignment.filled}
        return stored | {name: (torch.float32, shape) for name, shape in self.assignment.made_up.items()}

    def sha256(self) -> str:
        """Hash of the file, or of the files that hold a folder's weights."""
        return sha256(*(self.source.weights if isinstance(self.source, Folder) else [self.source.path]))

    def provenance(self) -> dict[str, Any]:
        """Where the tensors come from, as JSON data that is the same for the same file."""
        dtypes = {
            str(t.dtype).removeprefix("torch.") for t in self.reading.tensors.values() if t.dtype.is_floating_point
        }
        return {
            "dialect": self.dialect,
            "sha256": self.sha256(),
            "dtypes": sorted(dtypes),
            "dropped": self.assignment.dropped,
            "made_up": sorted(self.assignment.made_up),
            "config": _plain(self.reading.source_config),
            **_plain(self.reading.extra),
        }


def _plain(value: Any) -> Any:
    """Configuration values as JSON data; what JSON has no word for becomes text."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def sha256(*paths: Path) -> str:
    """Hash of the bytes of files, one after the other, in hexadecimal."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def open_conversion(path: Path, language: str | None = None) -> Conversion:
    """Open a checkpoint of another toolkit, find its dialect and match its tensors; reads no tensor.

    Args:
        path: a file or a folder.
        language: which one, of a file that holds several.

    Raises:
        CheckpointError: when the file is not understood or its tensors do not fit its configuration.
    """
    source = open_source(path)
    try:
        refuse_unsupported(source)
        for dialect in dialects().values():
            if dialect.recognise(source):
                break
        else:
            raise CheckpointError(f"its layout is none that the zoo reads ({', '.join(dialects())}); {_top(source)}")
        if language is not None:
            if dialect.pick is None:
                raise CheckpointError(
                    f"the language {language!r} was asked for, but it holds none to choose from; ask for none"
                )
            dialect.pick(source, language)
        reading = dialect.read(source)
        shapes = {key: tensor.shape for key, tensor in reading.tensors.items()}
        family = families()[reading.config.family]
        expected = family.shapes(reading.config)
        assignment = assign(reading.rows, reading.drops, shapes, expected, MADE_UP | family.generated.keys())
        _check_dtypes(reading, assignment)
        return Conversion(dialect.name, reading, assignment, source)
    except (CheckpointError, ConfigError) as error:
        source.close()
        raise CheckpointError(f"{path} cannot be converted: {error}") from None


def _check_dtypes(reading: Reading, assignment: Assignment) -> None:
    """Refuse a parameter that is not floating point: nothing could be trained or computed with it."""
    for target, key in assignment.filled.items():
        dtype = reading.tensors[key].dtype
        if not (dtype.is_floating_point or target.startswith("heads.") or target.endswith(".num_batches_tracked")):
            raise CheckpointError(f"{key} holds {dtype}, where a model has floating point; give the original weights")
        if dtype.is_complex:
            raise CheckpointError(f"{key} holds {dtype}, which no model has; give the original weights")


def _top(source: Source) -> str:
    if not isinstance(source.root, Mapping):
        return f"it holds a {type(source.root).__name__} instead of a dictionary"
    keys = [str(key) for key in source.root]
    return f"its top level holds {', '.join(keys[:8])}" + (" and more" if len(keys) > 8 else "")
