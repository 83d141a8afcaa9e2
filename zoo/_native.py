"""The native file: plain safetensors whose tensor names are the parameter names, with config and provenance as JSON.

Metadata keys: `zoo.format` ("1"), `zoo.config`, `zoo.provenance`. The header is written here rather than by the
safetensors package, which puts metadata in a random order: the same model must give the same bytes.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from zoo._safetensors import MAX_HEADER_BYTES, open_safetensors
from zoo.errors import CheckpointError, InputError, shown

FORMAT = "1"
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


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
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(temporary, 0o666 & ~umask)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error


def write(
    path: Path,
    tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]],
    load: Callable[[str], Tensor],
    config: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> None:
    """Write a native file, one tensor in memory at a time.

    Args:
        path: replaced when the file is complete.
        tensors: name -> (dtype, shape).
        load: gives the tensor of a name.
        config: JSON data, with its family.
        provenance: JSON data.
    """
    metadata = {
        "zoo.config": json.dumps(config, sort_keys=True),
        "zoo.format": FORMAT,
        "zoo.provenance": json.dumps(provenance, sort_keys=True),
    }
    header: dict[str, Any] = {"__metadata__": metadata}
    names = sorted(tensors, key=lambda name: (-tensors[name][0].itemsize, name))  # widest first keeps all aligned
    end = 0
    for name in names:
        dtype, shape = tensors[name]
        start, end = end, end + dtype.itemsize * torch.Size(shape).numel()
        header[name] = {"dtype": DTYPES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER_BYTES:
        raise InputError(
            f"{path} would need a header of {len(text)} bytes, more than {MAX_HEADER_BYTES}: its configuration or its "
            "names are longer than any model's"
        )
    with replacing(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            tensor = load(name).detach().to("cpu", tensors[name][0]).contiguous()
            file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)


class NativeFile:
    """An open native file: its configuration, provenance and tensors."""

    def __init__(self, path: Path) -> None:
        """Open `path`; raises CheckpointError when it is no native file."""
        self._file = open_safetensors(path)
        self.names: list[str] = list(self._file.keys())
        metadata = self._file.metadata() or {}
        if metadata.get("zoo.format") != FORMAT:
            found = f"format {shown(metadata['zoo.format'])}" if "zoo.format" in metadata else "no zoo metadata"
            raise CheckpointError(
                f"{path} is a safetensors file with {found}; give one that zoo.convert or zoo.save wrote in format "
                f"{FORMAT!r}, or the original checkpoint"
            )
        self.config = self._json(path, metadata, "zoo.config")
        self.provenance = self._json(path, metadata, "zoo.provenance")

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

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, read from the header."""
        return tuple(self._file.get_slice(name).get_shape())

    def load(self, name: str) -> Tensor:
        """One tensor, as stored."""
        tensor: Tensor = self._file.get_tensor(name)
        return tensor


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors does: an eight-byte header length, then JSON."""
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") < 100 << 20
