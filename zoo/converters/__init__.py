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

from torch import Tensor

from zoo._registry import families
from zoo.converters._dialect import Dialect, Reading
from zoo.converters._rows import Assignment, assign
from zoo.converters._unpickle import LazyTensor, TorchFile, open_torch_file
from zoo.errors import CheckpointError, ConfigError


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
        file: the open source.
    """

    dialect: str
    reading: Reading
    assignment: Assignment
    file: TorchFile

    def __enter__(self) -> Conversion:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def tensor(self, name: str) -> LazyTensor:
        """What fills a target name, not yet read."""
        return self.reading.tensors[self.assignment.filled[name]]

    def load(self, name: str) -> Tensor:
        """The tensor of a target name; floating point comes as fp32, whatever was stored."""
        tensor = self.tensor(name).load()
        return tensor.float() if tensor.is_floating_point() else tensor

    def provenance(self) -> dict[str, Any]:
        """Where the tensors come from, as JSON data that is the same for the same file."""
        dtypes = {
            str(t.dtype).removeprefix("torch.") for t in self.reading.tensors.values() if t.dtype.is_floating_point
        }
        return {
            "dialect": self.dialect,
            "sha256": sha256(self.file.path),
            "dtypes": sorted(dtypes),
            "dropped": self.assignment.dropped,
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


def sha256(path: Path) -> str:
    """Hash of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def open_conversion(path: Path) -> Conversion:
    """Open a checkpoint of another toolkit, find its dialect and match its tensors; reads no tensor.

    Raises:
        CheckpointError: when the file is not understood or its tensors do not fit its configuration.
    """
    file = open_torch_file(path)
    try:
        for dialect in dialects().values():
            if dialect.recognise(file):
                break
        else:
            raise CheckpointError(f"its layout is none that the zoo reads ({', '.join(dialects())}); {_top(file)}")
        reading = dialect.read(file)
        shapes = {key: tensor.shape for key, tensor in reading.tensors.items()}
        expected = families()[reading.config.family].shapes(reading.config)
        return Conversion(dialect.name, reading, assign(reading.rows, reading.drops, shapes, expected), file)
    except (CheckpointError, ConfigError) as error:
        file.close()
        raise CheckpointError(f"{path} cannot be converted: {error}") from None


def _top(file: TorchFile) -> str:
    if not isinstance(file.root, Mapping):
        return f"it holds a {type(file.root).__name__} instead of a dictionary"
    keys = [str(key) for key in file.root]
    return f"its top level holds {', '.join(keys[:8])}" + (" and more" if len(keys) > 8 else "")
