"""Writing what other toolkits read: torch's zip files of plain data and tensors, and Hugging Face folders.

A pickle is written here as plain opcodes, of which torch's restricted loader (`weights_only=True`) knows all; nothing
but its tensors names a class. The same input gives the same bytes.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from zoo._native import replacing, usual_mode, write_safetensors
from zoo._tensors import Lazy, pieces
from zoo.errors import InputError

STORAGES = {
    torch.float64: "DoubleStorage",
    torch.float32: "FloatStorage",
    torch.float16: "HalfStorage",
    torch.bfloat16: "BFloat16Storage",
    torch.int64: "LongStorage",
    torch.int32: "IntStorage",
    torch.int16: "ShortStorage",
    torch.int8: "CharStorage",
    torch.uint8: "ByteStorage",
    torch.bool: "BoolStorage",
}
ALIGNMENT = 64  # of a tensor's bytes in the file, as torch itself does it, so that they can be mapped into memory


def write_torch_file(path: Path, root: Mapping[str, Any]) -> None:
    """Write plain data with tensors as `torch.save` does, one tensor in memory at a time.

    A tensor that stands in several places is stored once.
    """
    tensors: list[Lazy] = []
    program = b"".join(_opcodes(root, tensors, {}))
    with replacing(path) as file, zipfile.ZipFile(file, "w") as archive:
        _whole(archive, file, "data.pkl", b"\x80\x02" + program + b".")
        _whole(archive, file, "byteorder", b"little")
        for number, tensor in enumerate(tensors):
            _member(archive, file, f"data/{number}", tensor.numel * tensor.dtype.itemsize, pieces(tensor))
        _whole(archive, file, "version", b"3\n")


def _whole(archive: zipfile.ZipFile, file: BinaryIO, name: str, content: bytes) -> None:
    _member(archive, file, name, len(content), [content])


def _member(
    archive: zipfile.ZipFile, file: BinaryIO, name: str, size: int, content: Iterable[bytes | memoryview]
) -> None:
    """Add a stored member whose content begins at a multiple of ALIGNMENT."""
    info = zipfile.ZipInfo(f"archive/{name}")  # its date is that of the format's beginning
    large = size >= 1 << 31
    header = 30 + len(info.filename) + 4 + (20 if large else 0)
    padding = -(file.tell() + header) % ALIGNMENT
    info.extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
    with archive.open(info, "w", force_zip64=large) as member:
        for piece in content:
            member.write(piece)


def _opcodes(value: Any, tensors: list[Lazy], seen: dict[int, int]) -> Iterator[bytes]:
    """Opcodes of protocol 2 that push a value; its tensors are collected on the way."""
    if value is None:
        yield b"N"
    elif isinstance(value, bool):
        yield b"\x88" if value else b"\x89"
    elif isinstance(value, int):
        digits = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        yield b"\x8a" + bytes([len(digits)]) + digits
    elif isinstance(value, float):
        yield b"G" + struct.pack(">d", value)
    elif isinstance(value, str):
        text = value.encode()
        yield b"X" + struct.pack("<I", len(text)) + text
    elif isinstance(value, Mapping):
        yield b"}("
        yield from _each((part for item in value.items() for part in item), tensors, seen)
        yield b"u"
    elif isinstance(value, (list, tuple)):
        yield b"](" if isinstance(value, list) else b"("
        yield from _each(value, tensors, seen)
        yield b"e" if isinstance(value, list) else b"t"
    else:
        yield from _tensor(value, tensors, seen)


def _each(values: Iterable[Any], tensors: list[Lazy], seen: dict[int, int]) -> Iterator[bytes]:
    for value in values:
        yield from _opcodes(value, tensors, seen)


def _tensor(tensor: Lazy, tensors: list[Lazy], seen: dict[int, int]) -> Iterator[bytes]:
    number = seen.setdefault(id(tensor), len(tensors))
    if number == len(tensors):
        tensors.append(tensor)
    strides = [1]
    for size in tensor.shape[:0:-1]:
        strides.insert(0, strides[0] * size)
    yield b"ctorch._utils\n_rebuild_tensor_v2\n("
    yield b"("
    yield from _opcodes("storage", tensors, seen)
    yield b"ctorch\n" + STORAGES[tensor.dtype].encode() + b"\n"
    yield from _each((str(number), "cpu", tensor.numel), tensors, seen)
    yield b"tQ"
    yield from _each((0, tensor.shape, tuple(strides[: len(tensor.shape)]), False), tensors, seen)
    yield b"ccollections\nOrderedDict\n)RtR"


def write_folder(path: Path, root: Mapping[str, Any]) -> None:
    """Write a Hugging Face folder: JSON files by stem, and `tensors` as model.safetensors.

    The folder appears whole or not at all. One that exists is replaced only if it holds nothing but such files.

    Raises:
        InputError: when it cannot be written, or when there are other files in its place.
    """
    names = {f"{stem}.json" for stem in root if stem != "tensors"} | {"model.safetensors"}
    if path.exists():
        other = sorted(p.name for p in path.iterdir() if p.name not in names) if path.is_dir() else [path.name]
        if other:
            raise InputError(f"{path} holds {other[0]}, which is no file of this model; choose another name with -o")
    temporary = None
    try:
        temporary = Path(tempfile.mkdtemp(prefix=".zoo-", dir=path.parent))
        for stem, content in root.items():
            if stem != "tensors":
                (temporary / f"{stem}.json").write_text(
                    json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
                )
        with replacing(temporary / "model.safetensors") as file:
            write_safetensors(file, root["tensors"], {"format": "pt"})
        usual_mode(temporary, 0o777)
        if path.exists():
            shutil.rmtree(path)
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        if temporary is not None and temporary.exists():
            shutil.rmtree(temporary)
