"""Checkpoints of other toolkits, read without running them: one file a dialect, exporting one constant `DIALECT`."""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from importlib.metadata import entry_points
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo._digest import Digest
from zoo._registry import families
from zoo._tensors import Lazy, Made, is_finite, pieces, zeros
from zoo.converters import _bare
from zoo.converters._dialect import Checkpoint, Dialect, Export, Reading
from zoo.converters._recorded import Recorded
from zoo.converters._rows import Assignment, assign
from zoo.converters._source import Folder, Source, Unwritten, open_source
from zoo.converters._unsupported import refuse_unsupported
from zoo.converters._weight_norm import unfold
from zoo.errors import CheckpointError, ConfigError, UnknownModelError, cut, shown
from zoo.models._family import Config, Family

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
class Checked:
    """A tensor of a file that is refused when it holds NaN, or what is infinite in float32."""

    path: Path
    key: str
    tensor: Lazy

    @property
    def dtype(self) -> torch.dtype:
        """As stored."""
        return self.tensor.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sizes."""
        return self.tensor.shape

    @property
    def numel(self) -> int:
        """Number of elements."""
        return self.tensor.numel

    def load(self) -> Tensor:
        """Read it.

        Raises:
            CheckpointError: when it holds what is not finite.
        """
        tensor = self.tensor.load()
        self._check(tensor)
        return tensor

    def pieces(self) -> Iterator[memoryview]:
        """Its bytes, as those of any tensor; raises CheckpointError too."""
        for piece in pieces(self.tensor):
            if len(piece):
                self._check(torch.frombuffer(piece, dtype=self.dtype))
            yield piece

    def _check(self, tensor: Tensor) -> None:
        if not is_finite(tensor):
            raise CheckpointError(
                f"{self.path} cannot be used: {self.key} holds values that are not finite in float32; "
                "if they are meant to be there, convert it with python -m zoo.convert --allow-nonfinite"
            )


@dataclass(frozen=True)
class Conversion:
    """A checkpoint of another toolkit, matched with a model's parameters but not yet read.

    Attributes:
        dialect: name of the file's layout.
        reading: what the dialect found.
        assignment: which source key fills which parameter, and what is left behind.
        source: the open checkpoint.
        unread: fields that its configuration has and that nobody looked at, by their path.
        allow_nonfinite: whether its tensors may hold NaN or infinity.
    """

    dialect: str
    reading: Reading
    assignment: Assignment
    source: Source
    unread: tuple[str, ...] = ()
    allow_nonfinite: bool = False

    def __enter__(self) -> Conversion:
        return self

    def __exit__(self, *error: object) -> None:
        if "digest" in self.__dict__:
            self.digest.stop()
        self.source.close()

    @property
    def family(self) -> Family:
        """Of the model."""
        return families()[self.config.family]

    def checkpoint(self) -> Checkpoint:
        """The model in the zoo's terms; floating point as it is stored. Its provenance has no hash yet."""
        tensors: dict[str, Lazy] = {}
        for name, key in self.assignment.filled.items():
            tensor = self.reading.tensors[key]
            tensors[name] = tensor if self.allow_nonfinite else Checked(self.source.path, key, tensor)
        for name, shape in self.assignment.made_up.items():
            make = self.family.generated.get(name)
            tensors[name] = zeros(*shape) if make is None else Made(torch.float32, shape, partial(make, self.config))
        return Checkpoint(config=self.config, tensors=tensors, provenance=self.provenance())

    @property
    def config(self) -> Config:
        """Of the model."""
        return self.reading.config

    @cached_property
    def digest(self) -> Digest:
        """Hash of the file, or of the files that hold a folder's weights; it is begun when first asked for."""
        return Digest(*_weights(self.source))

    def digest_if_cheap(self) -> Digest | None:
        """The hash, unless most of the file is left behind: of a trainer's file it would take longer than all else."""
        kept, whole = _sizes(self.source, self.reading, self.assignment)
        return self.digest if 2 * kept + SMALL_BYTES >= whole else None

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
            "dtypes": self.dtypes(),
            "dropped": self.assignment.dropped,
            "made_up": sorted(self.assignment.made_up),
            "config": dict(self.reading.source_config),
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


def open_conversion(
    path: Path,
    preset: str | None = None,
    *,
    fallback: str | None = None,
    language: str | None = None,
    allow_nonfinite: bool = False,
) -> Conversion:
    """Open a checkpoint of another toolkit, find its dialect and match its tensors; reads no tensor.

    Args:
        path: a file or folder.
        preset: a registry name whose configuration is taken instead of what the file says of itself.
        fallback: one whose configuration is taken where the file says nothing of itself.
        language: which one, of a file that holds several.
        allow_nonfinite: whether its tensors may hold NaN or infinity.

    Raises:
        CheckpointError: when the file is not understood or its tensors do not fit its configuration.
        UnknownModelError: when there is no such registry name.
    """
    source = open_source(path)
    try:
        refuse_unsupported(source)
        dialect, reading, unread = _read(source, preset, fallback, language)
        reading = unfold(reading)
        assignment = match(reading)
        _check_dtypes(reading, assignment)
        _check_size(source, reading, assignment)
        return Conversion(dialect, reading, assignment, source, unread, allow_nonfinite)
    except UnknownModelError:
        source.close()
        raise
    except (CheckpointError, ConfigError) as error:
        source.close()
        raise CheckpointError(f"{path} cannot be converted: {error}") from None


def _read(
    source: Source, preset: str | None, fallback: str | None, language: str | None
) -> tuple[str, Reading, tuple[str, ...]]:
    """Name of the layout, what is in the file, and which fields of its configuration nobody looked at."""
    dialect = next((dialect for dialect in dialects().values() if dialect.recognise(source)), None)
    if language is not None:
        if dialect is None or dialect.pick is None:
            raise CheckpointError(
                f"the language {shown(language)} was asked for, but it holds none to choose from; ask for none"
            )
        dialect.pick(source, language)
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
    if named := preset or fallback:
        return "state_dict", _bare.read_as(tensors, named, dialects().values()), ()
    return "state_dict", _bare.read_alone(tensors, dialects().values(), match), ()


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
                f"{dialect.target} has no {checkpoint.config.family} models whose {name} is {shown(value)}"
            )
    assignment = match(reading)
    for name, key in made.written.items():
        if assignment.filled.get(name) != key:
            raise CheckpointError(f"{dialect.target} has no place for {name} in such a model")


def match(
    reading: Reading, expected: Mapping[str, tuple[int, ...]] | None = None, *, optional: bool = True
) -> Assignment:
    """Match the tensors of a file with the parameters of its model; reads no tensor.

    Args:
        reading: what a dialect found.
        expected: shapes of the model's parameters; None: those of its configuration.
        optional: whether tensors that can be made up may be missing.

    Raises:
        CheckpointError: when they do not fit.
    """
    family = families()[reading.config.family]
    if expected is None:
        check_depth(reading)
        expected = family.shapes(reading.config)
    shapes = {key: tensor.shape for key, tensor in reading.tensors.items()}
    made_up = MADE_UP | family.generated.keys() if optional else ()
    return assign(reading.rows, reading.drops, shapes, expected, made_up)


def check_depth(reading: Reading) -> None:
    """Refuse a configuration of more layers than there are tensors, before a model of that size is laid out."""
    layers, tensors = getattr(reading.config, "num_layers", 0), len(reading.tensors)
    if layers > tensors:
        raise CheckpointError(f"its configuration asks for {layers} layers, but it holds {tensors} tensors")


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
    taken, there = _sizes(source, reading, assignment)
    if taken > 2 * there + SMALL_BYTES:
        raise CheckpointError(f"its tensors have {taken} bytes, but its files {there}: they repeat each other")


def _sizes(source: Source, reading: Reading, assignment: Assignment) -> tuple[int, int]:
    """Bytes of the tensors that a model takes, and of the files."""
    tensors = [reading.tensors[key] for key in assignment.filled.values()]
    kept = sum(tensor.numel * tensor.dtype.itemsize for tensor in tensors)
    return kept, sum(path.stat().st_size for path in _weights(source))


def _weights(source: Source) -> list[Path]:
    return source.weights if isinstance(source, Folder) else [source.path]


def _top(source: Source) -> str:
    if not isinstance(source.root, Mapping):
        return f"it holds a {type(source.root).__name__} instead of a dictionary"
    keys = [cut(key, 40) if isinstance(key, str) else shown(key) for key in islice(source.root, 8)]
    return f"its top level holds {', '.join(keys)}" + (" and more" if len(source.root) > 8 else "")
