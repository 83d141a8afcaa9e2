"""From a registry name, or a repository of Hugging Face, to a checkpoint: fetched, converted once, and cached.

A registry name's preset fixes how waveforms are treated, whatever the source says of itself: every source of a name
gives the same numbers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import tarfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from zoo import _native
from zoo._cache import Record, locked, offline, place, read_record, root, verified, write_record
from zoo._digest import Digest
from zoo._download import download
from zoo._registry import families, find
from zoo._repository import PREFIX, Repository, parse, snapshot
from zoo._tensors import Lazy, Made
from zoo.converters import open_conversion
from zoo.converters._dialect import Checkpoint
from zoo.errors import CheckpointError, ConfigError, DownloadError, InputError
from zoo.models._family import Preset, Source

CONVERTER = 1  # to be raised when a converter gives something else for the same file
# What a preset fixes in place of the source, and what only a source knows.
TREATMENT = {"normalize", "normalize_eps", "padding_rule", "attention_mask"}
OF_THE_FILE = {"symbols"}
GUESSING = {"huggingface", "torchaudio", "state_dict"}  # dialects that cannot say how fairseq treated a waveform


@dataclass(frozen=True)
class Wanted:
    """What is to be had.

    Attributes:
        label: as it was asked for.
        target: where its native file lies in the cache.
        preset: of a registry name.
        repository: of Hugging Face, otherwise.
        cache_dir, local_files_only, progress, refresh: as for `zoo.load` and `python -m zoo fetch`.
    """

    label: str
    target: Path
    preset: Preset | None
    repository: Repository | None
    cache_dir: str | os.PathLike[str] | None
    local_files_only: bool
    progress: bool
    refresh: bool

    def config_hash(self) -> str:
        """Of the configuration that it is made with; empty where the source says it."""
        if self.preset is None:
            return ""
        return hashlib.sha256(json.dumps(self.preset.config.to_dict(), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Original:
    """A checkpoint in the cache, as it was released.

    Attributes:
        path: a file or folder.
        url: where it came from, without what a server adds.
        sha256: of the file; None of a folder.
    """

    path: Path
    url: str
    sha256: str | None


def wanted(
    name: str,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    progress: bool = True,
    refresh: bool = False,
) -> Wanted:
    """Where a registry name or "hf:org/repo[@revision]" lies in the cache, whether or not it is there.

    Raises:
        UnknownModelError: when nothing has such a name.
    """
    base = root(cache_dir) / "native" / f"v{CONVERTER}"
    if name.startswith(PREFIX):
        repository, preset = parse(name), None
        target = base / "hf" / repository.org / repository.name / "main"  # the commit is put in its place
    else:
        repository, (_, preset) = None, find(name)
        target = base / f"{preset.name}.safetensors"
    return Wanted(name, target, preset, repository, cache_dir, local_files_only, progress, refresh)


@contextmanager
def opened(want: Wanted) -> Iterator[Path | Checkpoint]:
    """The native file of what is wanted; or the checkpoint itself, where the cache cannot take one.

    Raises:
        DownloadError: when it is not there and cannot be fetched.
        CheckpointError: when what was fetched cannot be used.
    """
    folder = None
    if want.repository is not None:
        folder = snapshot(
            want.repository,
            cache_dir=want.cache_dir,
            local_files_only=want.local_files_only,
            progress=want.progress,
            refresh=want.refresh,
        )
        want = dataclasses.replace(want, target=want.target.with_name(f"{folder.name}.safetensors"), refresh=False)
    if not want.refresh and _is_current(want):
        yield want.target
        return
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(want.target))
        except DownloadError:
            original = _cached_original(want, folder)
            if original is None:
                raise
            with _converted(want, *original) as checkpoint:
                yield checkpoint
            return
        if want.refresh or not _is_current(want):
            _make(want, folder)
    yield want.target


def fetch(want: Wanted, file: Path | None = None) -> Path:
    """Put a model into the cache.

    Args:
        want: what.
        file: a checkpoint that the user has, taken in place of the sources.

    Returns:
        Its native file.

    Raises:
        DownloadError: when it cannot be fetched.
        CheckpointError: when what was fetched, or the file, cannot be used.
    """
    if file is not None:
        if want.preset is None:
            raise InputError(f"{want.label} is no registry name; zoo.load takes the path {file} itself")
        with locked(want.target):
            _write(want, Source("file", file.name), Original(file, str(file.name), None))
        return want.target
    with opened(want) as found:
        if not isinstance(found, Path):
            raise DownloadError(f"{want.target} cannot be written; name another folder with ZOO_CACHE or --cache-dir")
        return found


def download_url(
    url: str,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    progress: bool = True,
    refresh: bool = False,
) -> Path:
    """The file of a URL, in the cache.

    Raises:
        DownloadError: when it is not there and cannot be fetched.
    """
    source = Source("", url)
    base = root(cache_dir)
    path = place(base, url)
    if not refresh and verified(path) is not None:
        return path
    if reason := offline(local_files_only):
        raise DownloadError(f"{url} is not in the cache ({base}), and {reason} forbids the network")
    return _download(source, base, progress, refresh).path


def _is_current(want: Wanted) -> bool:
    """Whether the native file is there, whole, and made with today's configuration."""
    record = verified(want.target)
    return record is not None and record.config == want.config_hash()


def _cached_original(want: Wanted, folder: Path | None) -> tuple[Source, Original] | None:
    """The first source whose file is in the cache."""
    if want.repository is not None and folder is not None:
        return Source("huggingface", want.repository.label), Original(folder, want.repository.label, None)
    for source in want.preset.sources if want.preset is not None else ():
        with contextlib.suppress(DownloadError):
            return source, _original(want, source, local_files_only=True)
    return None


def _make(want: Wanted, folder: Path | None) -> None:
    """Write the native file from the first source that gives it: those in the cache first, then from the network."""
    if want.repository is not None or not want.refresh:
        there = _cached_original(want, folder)
        if there is not None and (want.repository is not None or not there[0].dead):
            _write(want, *there)
            return
    if want.preset is None:
        raise DownloadError(f"{want.label} is not in the cache")
    if reason := offline(want.local_files_only):
        raise DownloadError(
            f"{want.label} is not in the cache ({root(want.cache_dir)}), and {reason} forbids the network; fetch it "
            f"first with python -m zoo fetch {want.label}, or give the path of a file"
        )
    failures = []
    for source in want.preset.sources:
        try:
            _write(want, source, _original(want, source, local_files_only=False))
            return
        except (DownloadError, CheckpointError, ConfigError) as error:
            failures.append(str(error))
    raise DownloadError(f"{want.label} cannot be fetched: {'; '.join(failures)}")
