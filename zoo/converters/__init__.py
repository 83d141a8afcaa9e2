"""Checkpoints of other toolkits, read without running them: one file a dialect, exporting one constant `DIALECT`."""

from __future__ import annotations

import hashlib
import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import torch

from zoo._registry import families
from zoo._tensors import Made, zeros
from zoo.converters import _bare
from zoo.converters._dialect import Checkpoint, Dialect, Export, Reading
from zoo.converters._recorded import Recorded
from zoo.converters._rows import Assignment, assign
from zoo.converters._source import Folder, Source, Unwritten, open_source
from zoo.converters._unsupported import refuse_unsupported
from zoo.converters._weight_norm import unfold
from zoo.errors import CheckpointError, ConfigError, UnknownModelError
from zoo.models._family import Config, Family

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
        unread: fields that its configuration has and that nobody looked at, by their path.
    """

    dialect: str
    reading: Reading
    assignment: Assignment
    source: Source
    unread: tuple[str, ...] = ()

    def __enter__(self) -> Conversion:
        return self

    def __exit__(self, *error: object) -> None:
        self.source.close()

    @property
    def family(self) -> Family:
        """Of the model."""
        return families()[self.config.family]

    def checkpoint(self) -> Checkpoint:
        """The model in the zoo's terms; floating point as it is stored."""
        tensors = {name: self.reading.tensors[key] for name, key in self.assignment.filled.items()}
        for name, shape in self.assignment.made_up.items():
            make = self.family.generated.get(name)
            tensors[name] = zeros(*shape) if make is None else Made(torch.float32, shape, partial(make, self.config))
        return Checkpoint(config=self.config, tensors=tensors, provenance=self.provenance())

    @property
    def config(self) -> Config:
        """Of the model."""
        return self.reading.config

    def sha256(self) -> str:
        """Hash of the file, or of the files that hold a folder's weights."""
        return sha256(*(self.source.weights if isinstance(self.source, Folder) else [self.source.path]))

    def dtypes(self) -> list[str]:
        """In which the file stores its floating-point tensors."""
        dtypes = {tensor.dtype for tensor in self.reading.tensors.values() if tensor.dtype.is_floating_point}
        return sorted(str(dtype).removeprefix("torch.") for dtype in dtypes)

    def provenance(self) -> dict[str, Any]:
        """Where the tensors come from, as JSON data that is the same for the same file."""
        if self.reading.provenance is not None:
            return dict(self.reading.provenance)
        return {
            "dialect": self.dialect,
            "sha256": self.sha256(),
            "dtypes": self.dtypes(),
            "dropped": self.assignment.dropped,
            "made_up": sorted(self.assignment.made_up),
            "config": dict(self.reading.source_config),
            **self.reading.extra,
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


def open_conversion(path: Path, preset: str | None = None) -> Conversion:
    """Open a checkpoint of another toolkit, find its dialect and match its tensors; reads no tensor.

    Args:
        path: a file or folder.
        preset: a registry name whose configuration is taken instead of what the file says of itself.

    Raises:
        CheckpointError: when the file is not understood or its tensors do not fit its configuration.
        UnknownModelError: when there is no such registry name.
    """
    source = open_source(path)
    try:
        refuse_unsupported(source)
        dialect, reading, unread = _read(source, preset)
        reading = unfold(reading)
        assignment = match(reading)
        _check_dtypes(reading, assignment)
        return Conversion(dialect, reading, assignment, source, unread)
    except UnknownModelError:
        source.close()
        raise
    except (CheckpointError, ConfigError) as error:
        source.close()
        raise CheckpointError(f"{path} cannot be converted: {error}") from None


def _read(source: Source, preset: str | None) -> tuple[str, Reading, tuple[str, ...]]:
    """Name of the layout, what is in the file, and which fields of its configuration nobody looked at."""
    dialect = next((dialect for dialect in dialects().values() if dialect.recognise(source)), None)
    if dialect is not None and preset is None:
        root = Recorded(source.root)
        reading = dialect.read(Unwritten(root, source.path, source.container, source.globals))
        unread = root.unread()  # before the whole of it is copied
        said = {name: _plain(getattr(reading, name)) for name in ("source_config", "extra", "provenance")}
        return dialect.name, replace(reading, **said), unread
    if source.container in ("folder", "safetensors"):
        raise CheckpointError(f"it has a configuration of its own; leave out --preset {preset}")
    tensors = _bare.state_dict(source.root)
    if tensors is None:
        raise CheckpointError(f"its layout is none that the zoo reads ({', '.join(dialects())}); {_top(source)}")
    if preset is not None:
        return "state_dict", _bare.read_as(tensors, preset, dialects().values()), ()
    return "state_dict", _bare.read_alone(tensors, dialects().values(), match), ()


def targets() -> list[str]:
    """What can be written beside native files, by the words of the command line."""
    return sorted({dialect.target for dialect in dialects().values() if dialect.target})


def export(checkpoint: Checkpoint, target: str) -> Export:
    """What is to be written in the layout of another toolkit; reads no tensor.

    Raises:
        CheckpointError: when that toolkit has no such model, or its layout cannot say what is special about this one.
    """
    family = checkpoint.config.family
    fitting = [dialect for dialect in dialects().values() if dialect.holds(checkpoint.config)]
    for dialect in fitting:
        if dialect.target == target and dialect.write is not None:
            made = dialect.write(checkpoint)
            _check_export(dialect, checkpoint, made)
            return made
    others = ", ".join(["zoo", *sorted({dialect.target for dialect in fitting})])
    raise CheckpointError(f"{target} has no {family} models; such a model can be written as {others}")


def _check_export(dialect: Dialect, checkpoint: Checkpoint, made: Export) -> None:
    """Read what is about to be written; refuse a model that does not come back with its configuration and tensors."""
    reading = dialect.read(Unwritten(made.root))
    for name, value in checkpoint.config.to_dict().items():
        if name not in dialect.unsaid and getattr(reading.config, name, None) != getattr(checkpoint.config, name):
            raise CheckpointError(
                f"{dialect.target} has no {checkpoint.config.family} models whose {name} is {value!r}"
            )
    assignment = match(reading)
    for name, key in made.written.items():
        if assignment.filled.get(name) != key:
            raise CheckpointError(f"{dialect.target} has no place for {name} in such a model")


def match(reading: Reading, *, optional: bool = True) -> Assignment:
    """Match the tensors of a file with the parameters of its model; reads no tensor.

    Args:
        reading: what a dialect found.
        optional: whether tensors that can be made up may be missing.

    Raises:
        CheckpointError: when they do not fit.
    """
    shapes = {key: tensor.shape for key, tensor in reading.tensors.items()}
    family = families()[reading.config.family]
    expected = family.shapes(reading.config)
    made_up = MADE_UP | family.generated.keys() if optional else ()
    return assign(reading.rows, reading.drops, shapes, expected, made_up)


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
