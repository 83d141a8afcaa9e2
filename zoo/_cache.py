"""Where downloaded and converted files lie, and how they are known to be whole.

Beside each FILE lies FILE.json, its record: a file without one, or another than it describes, is not used. Below the
root: `files/<host>/<path>` what was downloaded, `hf/<org>/<repo>/<commit>/` folders of Hugging Face, `native/v<n>/`
what version n of the converters made of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from zoo._digest import Digest
from zoo._native import replacing
from zoo.errors import CacheError, InputError, cut

SWITCHES = ("ZOO_OFFLINE", "HF_HUB_OFFLINE")
ON = {"1", "true", "yes", "on"}
MAX_RECORD_BYTES = 1 << 16
MAX_NAME_BYTES = 200  # of a part of a path: there is room for what is put behind a file's name


@dataclass(frozen=True)
class Record:
    """What is known about a file of the cache.

    Attributes:
        url: where it came from.
        size, sha256: of its bytes.
        mtime_ns: when it was written; a file with another time or size is hashed before it is used.
        served_by: scheme, host and port that gave it: its own, or those of a mirror.
        commit: of the Hugging Face repository that it belongs to.
        made_from: of a converted file, the hash of the original.
        config: of a converted file, the hash of the configuration that it was made with.
    """

    url: str
    size: int
    sha256: str
    mtime_ns: int
    served_by: str = ""
    commit: str = ""
    made_from: str = ""
    config: str = ""


def root(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """The cache: the argument, $ZOO_CACHE, $XDG_CACHE_HOME/zoo or ~/.cache/zoo, the first that is set."""
    if cache_dir is not None:
        return Path(cache_dir).expanduser()
    if own := os.environ.get("ZOO_CACHE"):
        return Path(own).expanduser()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared).expanduser() / "zoo"
    return Path.home() / ".cache" / "zoo"


def offline(local_files_only: bool = False) -> str | None:
    """Why the network must not be used; None when it may."""
    if local_files_only:
        return "local_files_only=True"
    for name in SWITCHES:
        value = os.environ.get(name, "")
        if value.strip().lower() in ON:
            return f"{name}={value}"
    return None


def place(base: Path, url: str) -> Path:
    """Where the file of a URL lies below the root; no URL leads out of it.

    Raises:
        InputError: for a URL that names no file.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise InputError(f"{shown_url(url)}; give the address of a checkpoint") from None
    names = [unquote(name) for name in parts.path.split("/") if name]
    if names and parts.query:
        names[-1] += f"-{hashlib.sha256(parts.query.encode()).hexdigest()[:12]}"
    safe = [quote(name, safe="+,=@ ()") for name in (parts.netloc.rpartition("@")[2], *names)]
    if not names or any(name in (".", "..") or len(name) > MAX_NAME_BYTES for name in safe):
        raise InputError(f"{shown_url(url)} names no file; give the address of a checkpoint")
    return base.joinpath("files", *safe)


def shown_url(url: str) -> str:
    """A URL as a sentence names it: short, without user, password, query and fragment, which may be secrets."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "what was given is no address"
    return cut(urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", "")), 300)


def without_user(url: str) -> str:
    """A URL as it is remembered: without user, password and fragment."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, parts.query, ""))


def record_path(path: Path) -> Path:
    """Where the record of a file lies."""
    return path.with_name(f"{path.name}.json")


def read_record(path: Path) -> Record | None:
    """The record of a file, None when there is none that can be used."""
    beside = record_path(path)
    try:
        if beside.stat().st_size > MAX_RECORD_BYTES:
            return None
        data = json.loads(beside.read_text(encoding="utf-8"))
        record = Record(**data)
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    types = {name: int if name in ("size", "mtime_ns") else str for name in data}
    return record if all(type(data[name]) is kind for name, kind in types.items()) else None


def write_record(path: Path, record: Record) -> None:
    """Put a record beside its file."""
    with replacing(record_path(path)) as file:
        file.write(json.dumps(dataclasses.asdict(record), indent=1, sort_keys=True).encode())


def verified(path: Path, url: str | None = None) -> Record | None:
    """The record of a file that is there and whole, and from a URL if one is given; None when it has to be made.

    A file whose time or size is not the recorded one is hashed; one that has changed is reported by a warning.
    """
    record = read_record(path)
    if record is None or (url is not None and record.url != without_user(url)):
        return None
    try:
        status = path.stat()
        if (status.st_size, status.st_mtime_ns) == (record.size, record.mtime_ns):
            return record
        digest = Digest(path).result() if status.st_size == record.size else ""
    except OSError:
        return None
    if digest != record.sha256:
        warnings.warn(f"{path} is not what was put into the cache: it is damaged or replaced", stacklevel=2)
        return None
    record = dataclasses.replace(record, mtime_ns=status.st_mtime_ns)
    with contextlib.suppress(InputError):  # a cache that others keep
        write_record(path, record)
    return record


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a file's lock, so that of many processes one makes it; its folder is made too.

    Raises:
        CacheError: when the cache cannot be written.
    """
    import filelock

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(f"{path}.lock", mode=0o666)
        lock.acquire()
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CacheError(
            f"{path} is not in the cache and cannot be put there: {reason}; name another folder with ZOO_CACHE or "
            "cache_dir"
        ) from None
    try:
        yield
    finally:
        lock.release()
