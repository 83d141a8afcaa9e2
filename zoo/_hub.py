"""From a registry name, or a repository of Hugging Face, to a checkpoint: fetched, converted once, and cached.

A registry name's preset fixes how waveforms are treated, whatever a source says of itself: every source of a name
gives the same numbers.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import tarfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from zoo import _cache, _native
from zoo._cache import Record, locked, offline, place, shown_url, verified
from zoo._digest import Digest
from zoo._download import download
from zoo._registry import families, find
from zoo._repository import PREFIX, parse, snapshot
from zoo._tensors import Lazy
from zoo.converters import open_conversion
from zoo.converters._dialect import Checkpoint
from zoo.errors import CacheError, CheckpointError, ConfigError, DownloadError, InputError
from zoo.models._family import Preset, Source

CONVERTER = 1  # to be raised when a converter gives something else for the same file
TREATMENT = {"normalize", "normalize_eps", "padding_rule", "attention_mask"}  # which the preset fixes
KNOWN_TO_FILE = {"symbols"}  # which only a source knows
ARCHIVE = ".tar"
CHECKPOINTS = (".pt", ".pth", ".ckpt")


@dataclass(frozen=True)
class Options:
    """As `zoo.load` and `python -m zoo fetch` take them; `refresh`: fetch again what is there."""

    cache_dir: str | os.PathLike[str] | None = None
    local_files_only: bool = False
    progress: bool = True
    refresh: bool = False

    @property
    def root(self) -> Path:
        """The cache."""
        return _cache.root(self.cache_dir)

    @property
    def native(self) -> Path:
        """Where converted files lie."""
        return self.root / "native" / f"v{CONVERTER}"

    def offline(self) -> str | None:
        """Why the network must not be used."""
        return offline(self.local_files_only)


@dataclass(frozen=True)
class Original:
    """A checkpoint as it was released.

    Attributes:
        path: a file or folder.
        source: where it came from.
        sha256: of the file, where known.
    """

    path: Path
    source: Source
    sha256: str | None = None


class Named:
    """A model of the registry.

    Attributes:
        target: where its native file lies in the cache, whether or not it is there.
        preset: what it has to be.
    """

    def __init__(self, name: str, options: Options) -> None:
        _, self.preset = find(name)
        self.label, self.options = name, options
        self.target = options.native / f"{self.preset.name}.safetensors"

    @cached_property
    def config_hash(self) -> str:
        """Of the name and the configuration that the native file is made with."""
        wanted = [self.preset.name, self.preset.config.to_dict()]
        return hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()

    def check(self) -> None:
        """Refuse what is not there and cannot be fetched."""
        name = self.preset.name
        if self.preset.parameters == 0:
            raise InputError(f"{name} has no weights to fetch; zoo.load({name!r}) needs no file")
        if not self.preset.sources:
            raise CheckpointError(
                f"no weights of {name!r} were released; zoo.build({name!r}) gives its architecture, and zoo.load takes "
                "the path of a model that you have trained"
            )
        reason = self.options.offline()
        if reason and next(self.cached(), None) is None:
            raise DownloadError(
                f"{self.label} is not in the cache ({self.options.root}), and {reason} forbids the network; fetch it "
                f"with python -m zoo fetch {self.label} where there is one, or give the path of a file"
            )

    def cached(self) -> Iterator[Original]:
        """Originals that are in the cache."""
        for source in self.preset.sources:
            if (original := cached(source, self.options)) is not None:
                yield original

    def originals(self, failures: list[str]) -> Iterator[Original]:
        """Originals in order of preference: those in the cache, then from the network; says why one is not to be had.

        A source whose address is known to be dead is looked for in a mirror alone.
        """
        if not self.options.refresh:
            yield from self.cached()
        if self.options.offline():
            return
        for source in self.preset.sources:
            if source.dead and not (source.url and os.environ.get("ZOO_MIRROR")):
                failures.append(f"{source.url or source.dialect}: {source.dead}")
                continue
            try:
                yield downloaded(source, self.options)
            except DownloadError as error:
                failures.append(str(error))
        failures.append(
            f"a file that you have can be taken: python -m zoo fetch {self.label} --from FILE; python -m zoo doctor "
            "looks at the network"
        )


class Hub:
    """A repository of Hugging Face, whose files are fetched at once: they tell the commit."""

    preset = None
    config_hash = ""

    def __init__(self, spec: str, options: Options) -> None:
        repository = parse(spec)
        folder = snapshot(
            repository,
            cache_dir=options.cache_dir,
            local_files_only=options.local_files_only,
            progress=options.progress,
            refresh=options.refresh,
        )
        self.label, self.options = spec, dataclasses.replace(options, refresh=False)
        self.target = options.native / "hf" / repository.org / repository.name / f"{folder.name}.safetensors"
        self._original = Original(folder, Source("huggingface", spec))

    def check(self) -> None:
        """Nothing is missing any more."""

    def cached(self) -> Iterator[Original]:
        """The folder."""
        yield self._original

    def originals(self, failures: list[str]) -> Iterator[Original]:
        """The folder."""
        yield self._original


@contextmanager
def opened(name: str, options: Options) -> Iterator[Path | Checkpoint]:
    """The native file of a registry name or repository; or its checkpoint, where the cache cannot take a native file.

    Raises:
        UnknownModelError: when nothing has such a name.
        DownloadError: when it is not there and cannot be fetched.
        CheckpointError: when what was fetched cannot be used.
    """
    wanted = Hub(name, options) if name.startswith(PREFIX) else Named(name, options)
    if _is_current(wanted):
        yield wanted.target
        return
    wanted.check()
    try:
        with locked(wanted.target):
            if not _is_current(wanted):
                _make(wanted)
    except CacheError:
        original = next(wanted.cached(), None)
        if original is None:
            raise
        with _converted(wanted, original) as checkpoint:
            yield checkpoint
        return
    yield wanted.target


def fetch(name: str, options: Options) -> Path:
    """Put a model into the cache; returns its native file.

    Raises:
        UnknownModelError: when nothing has such a name.
        DownloadError: when it cannot be fetched, or the cache cannot take it.
        CheckpointError: when what was fetched cannot be used.
    """
    with opened(name, options) as found:
        if isinstance(found, Path):
            return found
    raise DownloadError(f"{options.root} cannot be written; name another folder with ZOO_CACHE or --cache-dir")


def take(name: str, file: Path, options: Options) -> Path:
    """Put a checkpoint that the user has into the cache, as a registry name's; returns its native file.

    Raises:
        UnknownModelError: when the registry has no such name.
        CheckpointError: when it is another model.
    """
    if name.startswith(PREFIX):
        raise InputError(
            f"{name} is no registry name, whose file could be given; zoo.load takes the path {file} itself"
        )
    wanted = Named(name, options)
    if not file.exists():
        raise CheckpointError(f"{file} does not exist; give the path of a checkpoint")
    with locked(wanted.target):
        _write(wanted, Original(file, Source("", file.name)))
    return wanted.target


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
    source, options = Source("", url), Options(cache_dir, local_files_only, progress, refresh)
    original = None if refresh else cached(source, options)
    if original is None:
        if reason := options.offline():
            what = f"{shown_url(url)} is not in the cache ({options.root})"
            raise DownloadError(f"{what}, and {reason} forbids the network")
        original = downloaded(source, options)
    return original.path


def cached(source: Source, options: Options) -> Original | None:
    """A source's checkpoint, if it is in the cache."""
    if source.url.startswith(PREFIX):
        try:
            return Original(snapshot(parse(source.url), cache_dir=options.cache_dir, local_files_only=True), source)
        except DownloadError:
            return None
    if not source.url:
        return None
    path = place(options.root, source.url)
    record = verified(path, source.url)
    return None if record is None else Original(_unpacked(path, record), source, record.sha256)


def downloaded(source: Source, options: Options) -> Original:
    """A source's checkpoint, fetched unless it is in the cache.

    Raises:
        DownloadError: when it cannot be fetched.
    """
    progress, refresh = options.progress, options.refresh
    if source.url.startswith(PREFIX):
        repository = parse(source.url)
        folder = snapshot(repository, cache_dir=options.cache_dir, progress=progress, refresh=refresh)
        return Original(folder, source)
    path = place(options.root, source.url)
    record = download(source.url, path, sha256=source.sha256, size=source.size, progress=progress, refresh=refresh)
    return Original(_unpacked(path, record), source, record.sha256)


def _unpacked(path: Path, record: Record) -> Path:
    """The one checkpoint that an archive holds, beside it; any other file itself."""
    if path.suffix != ARCHIVE:
        return path
    target = path.with_name(f"{path.name}.pt")
    inside = verified(target)
    if inside is not None and inside.made_from == record.sha256:
        return target
    with locked(target):
        try:
            with tarfile.open(path) as archive:
                members = [m for m in archive if m.isreg() and m.name.endswith(CHECKPOINTS)]
                if len(members) != 1 or (content := archive.extractfile(members[0])) is None:
                    raise CheckpointError(f"{path} is an archive of {len(members)} checkpoints instead of one")
                with _native.replacing(target) as file:
                    shutil.copyfileobj(content, file, 1 << 20)
        except tarfile.TarError as error:
            raise CheckpointError(f"{path} cannot be read as an archive: {error}") from None
        _remember(target, record.url, made_from=record.sha256)
    return target


def _remember(path: Path, url: str, **more: str) -> None:
    """Write the record of a file that was made here."""
    status = path.stat()
    _cache.write_record(path, Record(url, status.st_size, Digest(path).result(), status.st_mtime_ns, **more))


def _is_current(wanted: Named | Hub) -> bool:
    """Whether the native file is there, whole, and made with today's configuration."""
    if wanted.options.refresh:
        return False
    record = verified(wanted.target)
    return record is not None and record.config == wanted.config_hash


def _make(wanted: Named | Hub) -> None:
    """Write the native file from the first original that gives it."""
    failures: list[str] = []
    for original in wanted.originals(failures):
        try:
            _write(wanted, original)
            return
        except (CheckpointError, ConfigError) as error:
            failures.append(f"{original.source.url}: {error} (--refresh of python -m zoo fetch fetches it again)")
    raise DownloadError(f"{wanted.label} cannot be had: {'; '.join(dict.fromkeys(failures))}")


def _write(wanted: Named | Hub, original: Original) -> None:
    """Write the native file and its record."""
    with _converted(wanted, original) as checkpoint:
        made_from = str(checkpoint.provenance["sha256"])
        try:
            _cache.record_path(wanted.target).unlink(missing_ok=True)  # which would not be that of the new file
            _native.write(wanted.target, checkpoint.tensors, checkpoint.config.to_dict(), checkpoint.provenance)
            _remember(wanted.target, original.source.url, made_from=made_from, config=wanted.config_hash)
        except (InputError, OSError) as error:
            raise CacheError(str(error)) from None


@contextmanager
def _converted(wanted: Named | Hub, original: Original) -> Iterator[Checkpoint]:
    """An original in the zoo's terms, with where it came from."""
    fallback = wanted.preset.name if wanted.preset is not None else None
    with open_conversion(original.path, fallback=fallback, language=original.source.language or None) as conversion:
        checkpoint = conversion.checkpoint()
        if wanted.preset is not None:
            try:
                checkpoint = _as_preset(checkpoint, wanted.preset, conversion.dialect)
            except CheckpointError as error:
                raise CheckpointError(f"{original.path} cannot be taken as {wanted.label}: {error}") from None
        known = {"sha256": original.sha256 or conversion.digest.result(), "url": original.source.url}
        name = {} if wanted.preset is None else {"name": wanted.preset.name}
        yield dataclasses.replace(checkpoint, provenance={**checkpoint.provenance, **known, **name})


def _as_preset(found: Checkpoint, preset: Preset, dialect: str) -> Checkpoint:
    """A checkpoint with its preset's configuration.

    Where the preset follows from its siblings only (`confirmed` is false), the file is believed, with a warning.

    Raises:
        CheckpointError: when it is another model.
    """
    due, said = preset.config.to_dict(), found.config.to_dict()
    if said["family"] != due["family"]:
        raise CheckpointError(f"it is of family {said['family']}, but {preset.name} is of {due['family']}")
    config = {**due, **{name: said[name] for name in KNOWN_TO_FILE & said.keys()}}
    tensors = found.tensors
    if said.get("conv_bias") and not due["conv_bias"]:
        tensors = _without_zero_biases(tensors, preset)
        said["conv_bias"] = len(tensors) == len(found.tensors)
    ignored = TREATMENT | KNOWN_TO_FILE | {name for name in due if "drop" in name}
    different = {name: said[name] for name in due if name not in ignored and said[name] != due[name]}
    if not preset.confirmed and dialect not in ("huggingface", "torchaudio") and "normalize" in due:
        different |= {"normalize": said["normalize"]} if said["normalize"] != due["normalize"] else {}
    if different:
        what = ", ".join(f"{name} {said[name]!r} instead of {due[name]!r}" for name in different)
        if preset.confirmed:
            raise CheckpointError(f"it is another model than {preset.name}: it has {what}")
        warnings.warn(f"the registry only infers what {preset.name} is, and its file has {what}", stacklevel=2)
    config_class: Any = type(preset.config)
    return dataclasses.replace(found, config=config_class.from_dict({**config, **different}), tensors=tensors)


def _without_zero_biases(tensors: Mapping[str, Lazy], preset: Preset) -> Mapping[str, Lazy]:
    """Tensors without biases that the preset does not have and that are zero, as Hugging Face adds some to HuBERT."""
    expected = families()[preset.config.family].shapes(preset.config)
    beside = [name for name in tensors if name not in expected and not name.startswith("heads.")]
    if all(name.endswith(".bias") and not tensors[name].load().any() for name in beside):
        return {name: tensor for name, tensor in tensors.items() if name not in beside}
    return tensors
