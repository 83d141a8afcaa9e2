"""Repositories of Hugging Face, as folders of the cache: over plain https, without its libraries.

Facts of the hub: `<endpoint>/<org>/<repo>/resolve/<revision>/<file>` gives a file, with the commit in `X-Repo-Commit`;
of a large one it leads to another host, with its sha256 in `X-Linked-ETag`.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from zoo._cache import offline, read_record, root, verified
from zoo._download import COMMIT, HUB, MISSING, download
from zoo._native import replacing
from zoo._registry import families
from zoo.errors import CheckpointError, DownloadError, UnknownModelError, cut, shown

PREFIX = "hf:"
NAME = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9_]([A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
REVISION = re.compile(r"(?!.*(\.\.|//|\.lock(/|$)))[A-Za-z0-9_][A-Za-z0-9._+/-]{0,198}")
FILE = re.compile(r"(?!\.)[A-Za-z0-9._ +=-]{1,200}")
SETTINGS = ("preprocessor_config.json", "processor_config.json", "tokenizer_config.json", "vocab.json")
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
SNAPSHOT = ".snapshot.json"
MAX_SETTINGS_BYTES = 4 << 20
MAX_SHARDS = 64


@dataclass(frozen=True)
class Repository:
    """A repository at a revision: a branch, a tag or a commit."""

    org: str
    name: str
    revision: str = "main"

    @property
    def label(self) -> str:
        """As people write it."""
        return f"{PREFIX}{self.org}/{self.name}" + ("" if self.revision == "main" else f"@{self.revision}")

    def url(self, file: str, revision: str) -> str:
        """Where a file of it is."""
        return f"{HUB}/{self.org}/{self.name}/resolve/{quote(revision, safe='')}/{quote(file, safe='')}"

    def folder(self, cache_dir: str | os.PathLike[str] | None) -> Path:
        """Where it lies in the cache, all revisions of it."""
        return root(cache_dir) / "hf" / self.org / self.name


def parse(spec: str) -> Repository:
    """The repository of "hf:org/repo[@revision]".

    Raises:
        UnknownModelError: when no repository can have such a name.
    """
    name, at, revision = spec.removeprefix(PREFIX).partition("@")
    parts = name.split("/")
    if len(parts) != 2 or not all(NAME.fullmatch(part) and not part.endswith(".git") for part in parts):
        raise UnknownModelError(
            f"{cut(spec)} names no repository of Hugging Face; give hf:org/repo or hf:org/repo@revision"
        )
    if at and not (REVISION.fullmatch(revision) and not revision.endswith(("/", "."))):
        raise UnknownModelError(f"{cut(spec)} names no revision of a repository; give a branch, a tag or a commit")
    return Repository(parts[0], parts[1], revision or "main")


def snapshot(
    repository: Repository,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    progress: bool = True,
    refresh: bool = False,
) -> Path:
    """The repository's folder: its settings and weights, fetched unless they are there.

    What a branch or tag meant when it was first asked for is kept, so that the same call gives the same model.

    Args:
        repository: what is asked for.
        cache_dir: the cache, or None for the usual one.
        local_files_only: never use the network.
        progress: show a bar while downloading.
        refresh: ask again what a branch or tag means.

    Raises:
        DownloadError: when it cannot be fetched.
        CheckpointError: when it holds no model of the zoo.
    """
    base = repository.folder(cache_dir)
    folder = None if refresh else _cached(repository, base)
    if folder is not None:
        return folder
    if reason := offline(local_files_only):
        raise DownloadError(
            f"{repository.label} is not in the cache ({base}), and {reason} forbids the network; fetch it first with "
            f"python -m zoo fetch {repository.label}"
        )
    revision = _resolve(repository, base, progress, refresh)
    folder = base / quote(revision, safe="")
    fetcher = Fetcher(repository, revision, folder, progress)
    files = fetcher.settings() + fetcher.weights()
    with replacing(folder / SNAPSHOT) as file:
        file.write(json.dumps({"revision": revision, "files": files}).encode())
    return folder


def _cached(repository: Repository, base: Path) -> Path | None:
    """The folder, if it is there and whole."""
    record = read_record(_reference(repository, base))
    commit = repository.revision if COMMIT.fullmatch(repository.revision) else record and record.commit
    folder = base / quote(commit or repository.revision, safe="")
    try:
        files = json.loads((folder / SNAPSHOT).read_text(encoding="utf-8"))["files"]
        names = [name for name in files if FILE.fullmatch(name)]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return folder if all(verified(folder / name) for name in names) else None


def _reference(repository: Repository, base: Path) -> Path:
    """A copy of the settings under the name that was asked for, whose record tells the commit."""
    return base / ".refs" / quote(repository.revision, safe="") / "config.json"


def _resolve(repository: Repository, base: Path, progress: bool, refresh: bool) -> str:
    """The commit that a branch or tag means; itself where a mirror does not say."""
    if COMMIT.fullmatch(repository.revision):
        return repository.revision
    target, url = _reference(repository, base), repository.url("config.json", repository.revision)
    try:
        record = download(url, target, progress=progress, refresh=refresh)
    except DownloadError as error:
        raise _unfetched(repository, error) from None
    return record.commit or repository.revision


@dataclass
class Fetcher:
    """Fetches the files of one revision; who gives the first one says which of the others there are."""

    repository: Repository
    revision: str
    folder: Path
    progress: bool
    authority: str | None = None

    def settings(self) -> list[str]:
        """Names of the settings that there are, of a model that the zoo has.

        Raises:
            DownloadError: when they cannot be fetched.
            CheckpointError: for another model, before its weights are fetched.
        """
        self.get("config.json")
        _check_type(self.repository, self.folder / "config.json")
        return ["config.json", *(name for name in SETTINGS if self.has(name))]

    def weights(self) -> list[str]:
        """Names of the file of the weights, or of the index and its shards.

        Raises:
            DownloadError: when they cannot be fetched.
            CheckpointError: when there are none.
        """
        for name in WEIGHTS:
            if self.has(name):
                return [name]
            index = f"{name}.index.json"
            if self.has(index):
                shards = _shards(self.repository, self.folder / index, Path(name).suffix)
                for shard in shards:
                    self.get(shard)
                return [index, *shards]
        raise CheckpointError(
            f"{self.repository.label} holds no weights; expected one of {', '.join(WEIGHTS)}, or their shards"
        )

    def get(self, name: str) -> None:
        """Fetch a file."""
        url = self.repository.url(name, self.revision)
        try:
            record = download(url, self.folder / name, progress=self.progress, authority=self.authority)
        except DownloadError as error:
            raise _unfetched(self.repository, error) from None
        self.authority = self.authority or record.served_by

    def has(self, name: str) -> bool:
        """Fetch a file, if there is one."""
        try:
            self.get(name)
        except DownloadError as error:
            if error.status in MISSING:
                return False
            raise
        return True


def _shards(repository: Repository, index: Path, suffix: str) -> list[str]:
    """Names of the files of weights that an index names, none of which may lie elsewhere."""
    content = _settings(repository, index)
    names = content.get("weight_map")
    found = list(names.values()) if isinstance(names, dict) else []
    if not found or not all(isinstance(n, str) and FILE.fullmatch(n) and n.endswith(suffix) for n in found):
        raise CheckpointError(f"{repository.label} has an index without a map from tensors to {suffix} files beside it")
    shards = sorted(set(found))
    if len(shards) > MAX_SHARDS:
        raise CheckpointError(f"{repository.label} has an index of {len(shards)} files, more than {MAX_SHARDS}")
    return shards


def _check_type(repository: Repository, path: Path) -> None:
    """Refuse a model that the zoo does not have before its weights are fetched."""
    found = _settings(repository, path).get("model_type")
    known = {name for family in families().values() for name in family.names.get("huggingface", ())}
    if not isinstance(found, str) or found not in known:
        types = ", ".join(sorted(name for name in known if name == name.lower()))
        raise CheckpointError(
            f"{repository.label} is of type {shown(found)}, which the zoo does not have; it has {types}"
        )


def _settings(repository: Repository, path: Path) -> dict[str, object]:
    try:
        if path.stat().st_size > MAX_SETTINGS_BYTES:
            raise ValueError
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise CheckpointError(f"{repository.label} holds a {path.name} that is no JSON object")
    return content


def _unfetched(repository: Repository, error: DownloadError) -> DownloadError:
    found = DownloadError(f"{repository.label} cannot be fetched: {error}")
    found.status = error.status
    return found
