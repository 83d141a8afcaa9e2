"""Checkpoints of other toolkits, read without running them: one file a dialect, exporting one constant `DIALECT`."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import math
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import entry_points
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo._registry import families
from zoo.converters._dialect import Dialect, Reading
from zoo.converters._rows import Assignment, assign
from zoo.converters._source import Folder, Lazy, Source, open_source
from zoo.converters._unsupported import refuse_unsupported
from zoo.errors import CheckpointError, ConfigError, cut, shown
from zoo.models._family import Family

# Parameters of training only that a file may lack; they become zeros, and the result says so. A family may name more
# that follow from its configuration.
MADE_UP = frozenset({"masked_spec_embed"})
MAX_CONFIG_DEPTH = 32
SMALL_BYTES = 2**24


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
        allow_nonfinite: whether `load` gives tensors that hold NaN or infinity.
    """

    dialect: str
    reading: Reading
    assignment: Assignment
    source: Source
    allow_nonfinite: bool = False

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
        """The tensor of a target name; floating point comes as fp32, whatever was stored.

        Raises:
            CheckpointError: when it cannot be read, or holds NaN or infinity and these are not allowed.
        """
        if name in self.assignment.made_up:
            make = self.family.generated.get(name)
            return torch.zeros(self.assignment.made_up[name]) if make is None else make(self.reading.config)
        stored = self.tensor(name).load()
        tensor = stored.float() if stored.is_floating_point() else stored
        if not (self.allow_nonfinite or tensor.isfinite().all()):
            raise CheckpointError(
                f"{self.source.path} cannot be used: {self.assignment.filled[name]} holds values that are not finite "
                "in float32; if they are meant to be there, convert it with python -m zoo.convert --allow-nonfinite"
            )
        return tensor

    def sizes(self) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Target name -> dtype as stored and shape, of everything that `load` gives."""
        stored = {name: (self.tensor(name).dtype, self.tensor(name).shape) for name in self.assignment.filled}
        return stored | {name: (torch.float32, shape) for name, shape in self.assignment.made_up.items()}

    def sha256(self) -> str:
        """Hash of the file, or of the files that hold a folder's weights."""
        return sha256(*_weights(self.source))

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
            "config": self.reading.source_config,
            **self.reading.extra,
        }


def _plain(value: Any, levels: int = MAX_CONFIG_DEPTH) -> Any:
    """Configuration values as JSON data; what JSON has no word for becomes text."""
    if not levels:
        raise CheckpointError(f"its configuration is nested deeper than {MAX_CONFIG_DEPTH} levels, as no toolkit's is")
    if isinstance(value, Mapping):
        return {str(k): _plain(v, levels - 1) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v, levels - 1) for v in value]
    if isinstance(value, (set, frozenset)):  # in an order that is the same in every run
        return sorted(map(str, value))
    kept = value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value))
    return value if kept else str(value)


def sha256(*paths: Path) -> str:
    """Hash of the bytes of files, one after the other, in hexadecimal."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def open_conversion(path: Path) -> Conversion:
    """Open a checkpoint of another toolkit, find its dialect and match its tensors; reads no tensor.

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
        reading = dialect.read(source)
        reading = dataclasses.replace(reading, source_config=_plain(reading.source_config), extra=_plain(reading.extra))
        shapes = {key: tensor.shape for key, tensor in reading.tensors.items()}
        family = families()[reading.config.family]
        layers = getattr(reading.config, "num_layers", 0)
        if layers > len(shapes):  # before a model of that size is laid out
            raise CheckpointError(f"its configuration asks for {layers} layers, but it holds {len(shapes)} tensors")
        expected = family.shapes(reading.config)
        assignment = assign(reading.rows, reading.drops, shapes, expected, MADE_UP | family.generated.keys())
        _check_dtypes(reading, assignment)
        _check_size(source, reading, assignment)
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


def _check_size(source: Source, reading: Reading, assignment: Assignment) -> None:
    """Refuse tensors that share their bytes so often that what is written could fill the disk."""
    there = sum(path.stat().st_size for path in _weights(source))
    tensors = [reading.tensors[key] for key in assignment.filled.values()]
    taken = sum(tensor.numel * tensor.dtype.itemsize for tensor in tensors)
    if taken > 2 * there + SMALL_BYTES:
        raise CheckpointError(f"its tensors have {taken} bytes, but its files {there}: they repeat each other")


def _weights(source: Source) -> list[Path]:
    return source.weights if isinstance(source, Folder) else [source.path]


def _top(source: Source) -> str:
    if not isinstance(source.root, Mapping):
        return f"it holds a {type(source.root).__name__} instead of a dictionary"
    keys = [cut(key, 40) if isinstance(key, str) else shown(key) for key in islice(source.root, 8)]
    return f"its top level holds {', '.join(keys)}" + (" and more" if len(source.root) > 8 else "")
