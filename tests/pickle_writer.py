"""Pickles put together by hand, and torch's two containers around them, for files that no `torch.save` would write."""

from __future__ import annotations

import pickle
import pickletools
import struct
import zipfile
from pathlib import Path

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


def pickled(body: bytes, protocol: int = 2) -> bytes:
    return b"\x80" + bytes([protocol]) + body + b"."


def value(item: object) -> bytes:
    """The opcodes that push plain data, without those that memoise it."""
    found = pickle.dumps(item, protocol=2)
    if type(item) is int:  # which is not memoised; `optimize` takes its time, and some files hold 60 000 of these
        return found[2:-1]
    return pickletools.optimize(found)[2:-1] if type(item) is not str else found[2:-1].removesuffix(b"q\0")


def group(*items: bytes) -> bytes:
    """A tuple of what each item pushes."""
    return b"(" + b"".join(items) + b"t"


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def call(module: str, attribute: str, *arguments: bytes) -> bytes:
    return name(module, attribute) + group(*arguments) + b"R"


def storage(key: str, numel: int, kind: str = "FloatStorage", *view: bytes) -> bytes:
    return group(value("storage"), name("torch", kind), value(key), value("cpu"), value(numel), *view) + b"Q"


def tensor(source: bytes, offset: object, shape: object, stride: object) -> bytes:
    hooks = call("collections", "OrderedDict")
    layout = (value(offset), value(shape), value(stride))
    return call("torch._utils", "_rebuild_tensor_v2", source, *layout, value(False), hooks)


def write_zip(
    path: Path,
    pickle_bytes: bytes,
    storages: dict[str, bytes] | None = None,
    *,
    folder: str = "archive",
    members: dict[str, bytes] | None = None,
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(f"{folder}/data.pkl", pickle_bytes)
        for key, data in (storages or {}).items():
            archive.writestr(f"{folder}/data/{key}", data)
        for member, data in (members or {"version": b"3\n"}).items():
            archive.writestr(f"{folder}/{member}", data)
    return path


def legacy_head(pickle_bytes: bytes, keys: list[str], *, little_endian: bool = True, protocol: int = 1001) -> bytes:
    system = {"protocol_version": protocol, "little_endian": little_endian, "type_sizes": {"int": 4}}
    parts = (pickle.dumps(part, protocol=2) for part in (LEGACY_MAGIC, protocol, system))
    return b"".join(parts) + pickle_bytes + pickle.dumps(keys, protocol=2)


def write_legacy(path: Path, pickle_bytes: bytes, storages: dict[str, tuple[int, bytes]], **head: object) -> Path:
    """`storages`: the declared number of elements and the bytes, by key."""
    data = b"".join(struct.pack("<q", numel) + content for numel, content in storages.values())
    path.write_bytes(legacy_head(pickle_bytes, list(storages), **head) + data)
    return path
