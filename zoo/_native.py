"""The native file: plain safetensors whose tensor names are the parameter names, with config and provenance as JSON.

Metadata keys: `zoo.format` ("1"), `zoo.config`, `zoo.provenance`. The header is written here rather than by the
safetensors package, which puts metadata in a random order: the same model must give the same bytes.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from zoo._digest import Digest
from zoo._safetensors import MAX_HEADER_BYTES, open_safetensors
from zoo._tensors import DTYPES, Lazy, Made, pieces
from zoo.errors import CheckpointError, InputError, shown

FORMAT = "1"
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def usual_mode(path: str | Path, mode: int) -> None:
    """Give a temporary file or folder the mode that one made without such care would have."""
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(path, mode & ~umask)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A binary file that appears under `path` whole or not at all.

    Raises:
        InputError: when the file cannot be written.
    """
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=".zoo-", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
            usual_mode(temporary, 0o666)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error


def write(
    path: Path,
    tensors: Mapping[str, Lazy],
    config: Mapping[str, Any],
    provenance: Mapping[str, Any],
    digest: Digest | None = None,
) -> None:
    """Write a native file, one tensor in memory at a time.

    Args:
        path: replaced when the file is complete.
        tensors: by name.
        config: JSON data, with its family.
        provenance: JSON data.
        digest: of the source, which becomes `sha256` in the provenance; it is waited for when all else is written.
    """

    def metadata(**more: str) -> dict[str, str]:
        return {
            "zoo.config": json.dumps(config, sort_keys=True),
            "zoo.format": FORMAT,
            "zoo.provenance": json.dumps({**provenance, **more}, sort_keys=True),
        }

    with replacing(path) as file:
        if digest is None:
            write_safetensors(file, tensors, metadata())
        else:
            write_safetensors(file, tensors, metadata(sha256="0" * Digest.LENGTH))
            file.seek(0)
            file.write(_header(tensors, metadata(sha256=digest.result())))


def write_safetensors(file: BinaryIO, tensors: Mapping[str, Lazy], metadata: Mapping[str, str]) -> None:
    """Write tensors in the safetensors format, one in memory at a time; the same input gives the same bytes.

    Raises:
        InputError: when the header would be larger than any model's.
    """
    file.write(_header(tensors, metadata))
    for name in _order(tensors):
        for piece in pieces(tensors[name]):
            file.write(piece)


def _order(tensors: Mapping[str, Lazy]) -> list[str]:
    """Widest first keeps all aligned."""
    return sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))


def _header(tensors: Mapping[str, Lazy], metadata: Mapping[str, str]) -> bytes:
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name in _order(tensors):
        tensor = tensors[name]
        start, end = end, end + tensor.dtype.itemsize * tensor.numel
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER_BYTES:
        raise InputError(
            f"nothing was written: the file would need a header of {len(text)} bytes, more than {MAX_HEADER_BYTES}: "
            "its configuration or its names are longer than any model's"
        )
    return len(text).to_bytes(8, "little") + text


class NativeFile:
    """An open native file.

    Attributes:
        root: its `config`, `provenance` and `tensors`, the last not yet read.
    """

    container = "safetensors"
    globals: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        """Open `path`; raises CheckpointError when it is no native file."""
        file = open_safetensors(path)
        tensors = lazy_tensors(file, path)
        metadata = file.metadata() or {}
        if metadata.get("zoo.format") != FORMAT:
            found = f"format {shown(metadata['zoo.format'])}" if "zoo.format" in metadata else "no zoo metadata"
            raise CheckpointError(
                f"{path} is a safetensors file with {found}; give one that zoo.convert or zoo.save wrote in format "
                f"{FORMAT!r}, or the original checkpoint"
            )
        self.path = path
        self.root = {
            "config": self._json(path, metadata, "zoo.config"),
            "provenance": self._json(path, metadata, "zoo.provenance"),
            "tensors": tensors,
        }

    def close(self) -> None:
        """The file is mapped into memory as long as its tensors are."""

    @staticmethod
    def _json(path: Path, metadata: Mapping[str, str], key: str) -> dict[str, Any]:
        try:
            value = json.loads(metadata.get(key, ""))
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise CheckpointError(
                f"{path} has damaged metadata: its {key} is no JSON object; convert the original again"
            )
        return value


def lazy_tensors(file: Any, path: Path) -> dict[str, Lazy]:
    """The tensors of an open safetensors file, by name.

    Raises:
        CheckpointError: for a dtype that no model has.
    """
    found: dict[str, Lazy] = {}
    for name in file.keys():  # noqa: SIM118 (it is no dict)
        part = file.get_slice(name)
        if part.get_dtype() not in DTYPES:
            raise CheckpointError(f"{path} holds {shown(name)} as {part.get_dtype()}, which no model of the zoo has")
        found[name] = Made(DTYPES[part.get_dtype()], tuple(part.get_shape()), partial(file.get_tensor, name))
    return found


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors does: an eight-byte header length, then JSON."""
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") < 100 << 20
