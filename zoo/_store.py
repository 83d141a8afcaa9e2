"""Features of many utterances in one file that is mapped into memory.

A store is a folder. `features.bin` holds the states (K, T, D) of one utterance after the other, little-endian, nothing
between them. `rows.jsonl` has a line for each, in that order: its key and frames, or why it was refused; so where an
utterance lies follows from the lines before. `store.json` says what the store was made of, and when it is finished how
long both are. Data are on the disk before the lines that speak of them, and those before the mark: what is there after
a crash is a whole number of utterances and perhaps a rest, which is cut off.
"""

from __future__ import annotations

import errno
import hashlib
import json
import mmap
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, KeysView, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from zoo import _audio
from zoo._audio import BATCH_SECONDS, Extraction, Upstream
from zoo._native import NAMES, replacing
from zoo._tensors import DTYPES
from zoo.errors import AudioError, InputError, printable, shown

if TYPE_CHECKING:
    from zoo._audio import Item

    Items = Mapping[str, Item] | Iterable[tuple[str, Item]]
    Transform = Callable[[str, Tensor], Tensor]

FORMAT = 1
HEADER, INDEX, DATA, LOCK = "store.json", "rows.jsonl", "features.bin", "lock"
STORED = (torch.float32, torch.float16, torch.bfloat16)
POOLS = (None, "mean")
SYNC_SECONDS = 5.0  # so much work at most is lost when the machine stops
LINE_BYTES = 256  # of an utterance in the index, at the most by reckoning
# Of Linux, which without it refuses to map privately what is larger than memory; named from Python 3.13 on.
NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)
FULL = {errno.ENOSPC, errno.EDQUOT}


class FeatureStore:
    """Features of many utterances, mapped into memory: opened in no time, read as fast as memory is.

    `store[key]` are the states (K, T, D) of one utterance, `store.batch(keys)` those of several. A store can be given
    to other processes; each opens it anew.

    Attributes:
        folder: where it lies.
        layers: index of each of the K hidden states.
        pool: None, or "mean" when there is one frame for each utterance, the mean of its own.
        dtype: as stored.
        width: D, values in a frame.
        lengths: (N,) frames of each utterance, in the order of `keys()`.
        errors: key -> why there are no features, in one sentence; these are not among the keys.
        fingerprint: as it was given to `create`.
        size_bytes: of all features.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Open a finished store; see `open`."""
        self.folder = Path(folder)
        header = _read_header(self.folder)
        if header is None:
            raise InputError(
                f"{self.folder} is no feature store: it has no {HEADER}; make one with FeatureStore.create"
            )
        rows = _read_rows(self.folder, header)
        if not header.is_whole(self.folder, rows):
            raise InputError(
                f"{self.folder} is a feature store that is not finished, or has lost a part; call FeatureStore.create "
                "as before, and it goes on from there"
            )
        self.layers = header.layers
        self.pool = header.pool
        self.dtype = DTYPES[header.dtype]
        self.width = header.width
        self.fingerprint = header.fingerprint
        self.errors = rows.errors
        self.size_bytes = rows.frames * header.frame_bytes
        self._positions = {key: i for i, key in enumerate(rows.lengths)}
        self.lengths = torch.tensor(list(rows.lengths.values()), dtype=torch.int64)
        self._starts = [0, *self.lengths.cumsum(0).tolist()]
        self._data = _mapped(self.folder / DATA, self.dtype)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> FeatureStore:
        """The store in a folder; nothing but its index is read.

        Raises:
            InputError: when there is none, or one that is not finished.
        """
        return cls(folder)

    @classmethod
    def create(
        cls,
        folder: str | os.PathLike[str],
        model: Upstream,
        items: Items,
        *,
        layers: Sequence[int] | None = None,
        pool: str | None = None,
        dtype: torch.dtype = torch.float32,
        transform: Transform | None = None,
        sample_rate: int | None = None,
        budget_bytes: int | None = None,
        batch_seconds: float = BATCH_SECONDS,
        progress: bool = True,
        fingerprint: str = "",
        rebuild: bool = False,
    ) -> FeatureStore:
        """Make a store, or open the one that is there when it was made of the same.

        One that was interrupted goes on from there; utterances that were refused stay so until the folder is deleted.
        Of several processes one makes it, the others wait for it.

        Args:
            folder: empty or not there, or a store.
            model: as `zoo.extract` takes it.
            items: key -> audio file or waveform, or pairs of them. A mapping is best: of an own one, whose items are
                made when they are asked for, only those that are not yet stored are.
            layers: which hidden states; None: all.
            pool: None: every frame; "mean": the mean over an utterance's frames, taken in float32 on the model's
                device.
            dtype: float32, float16 or bfloat16.
            transform: makes of an utterance's key and states (K, T, D) others, before they are pooled and stored.
            sample_rate: Hz of the waveforms among the items; None: the model's.
            budget_bytes: what all features may take at most; None: what the disk has.
            batch_seconds: audio in a batch, as in `zoo.extract`.
            progress: show a progress bar on stderr when it is a terminal.
            fingerprint: what else the features depend on, such as the contents of the recordings and `transform`; a
                store with another one is another. The model's weights and configuration, the options above and the
                keys are compared anyway, and so are the paths of items that are files.
            rebuild: throw a store away that was made of something else, instead of refusing it.

        Raises:
            InputError: for options that cannot be, two items of one key, a folder with a store of something else or
                with other files, features that do not fit into the budget, onto the disk or into `dtype`.
        """
        _check_pool(pool)
        indices, rate = _audio.checked(model, layers, sample_rate, batch_seconds)
        path, source = Path(folder), _Source(items, Path(folder))
        header = _Header(model_digest(model), indices, pool, _name(dtype), rate, fingerprint)
        with _locked(path):
            rows = _take_up(path, header, source, rebuild)
            if not header.finished:
                expected = _check_room(path, model, header, source, rows, budget_bytes, transform is not None)
                writer = _Writer(path, header, rows, budget_bytes, expected)
                with closing(writer):
                    _fill(writer, source, rows, model, transform, batch_seconds, progress)
            elif more := next(source.missing(rows, lambda key, why: None), None):
                raise _other(path, f"it lacks {shown(more[0])}")
            return cls(path)

    @staticmethod
    def estimate(
        model: Upstream,
        seconds: Iterable[float],
        *,
        layers: Sequence[int] | None = None,
        pool: str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> int:
        """Bytes that the features of utterances of these lengths take: `size_bytes` of their store.

        Args:
            model: as `create` takes it, with `frame_count`, and `width` or `config.width`.
            seconds: length of each utterance; those that are too short for the model take nothing.
            layers: as in `create`.
            pool: as in `create`.
            dtype: as in `create`.

        Raises:
            InputError: for a model that does not say how many frames it gives or how wide they are.
        """
        _check_pool(pool)
        width = _width(model)
        if width is None or not hasattr(model, "frame_count"):
            raise InputError(
                f"{type(model).__name__} does not say how large its features are: it needs frame_count(samples), and "
                "width or config.width"
            )
        frames = _frames(model, seconds)
        per_frame = len(model.layer_indices(layers)) * width * DTYPES[_name(dtype)].itemsize
        return per_frame * (len(frames) if pool == "mean" else sum(frames))

    def __len__(self) -> int:
        return len(self._positions)

    def __contains__(self, key: object) -> bool:
        return key in self._positions

    def __iter__(self) -> Iterator[str]:
        return iter(self._positions)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.folder,)

    def keys(self) -> KeysView[str]:
        """The utterances that have features, in the order in which they are stored."""
        return self._positions.keys()

    def positions(self, keys: Iterable[str]) -> Tensor:
        """Where utterances stand in `keys()`, (B,) int64: what an index_select of `tensor()` takes.

        Raises:
            InputError: for an utterance that the store does not have.
        """
        return torch.tensor([self._position(key) for key in keys], dtype=torch.int64)

    def _position(self, key: str) -> int:
        found = self._positions.get(key)
        if found is None:
            why = self.errors.get(key)
            raise InputError(
                f"{self.folder} has no features of {shown(key)}" + (f": {why}" if why else f" among {len(self)} keys")
            )
        return found

    def __getitem__(self, key: str) -> Tensor:
        """States (K, T, D) of one utterance, in memory of their own."""
        return self._states(self._position(key)).clone()

    def _states(self, position: int) -> Tensor:
        """States (K, T, D) where they lie."""
        start, stop = self._starts[position : position + 2]
        per_frame = len(self.layers) * self.width
        return self._data[start * per_frame : stop * per_frame].view(len(self.layers), stop - start, self.width)

    def batch(self, keys: Iterable[str], *, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """States of several utterances, padded with zeros, and their frames.

        Args:
            keys: B of them; one may come twice.
            out: memory to use, of any shape, contiguous and large enough; such as one pinned for a GPU. Memory that
                was written to before is filled twice as fast as new.

        Returns:
            (B, K, T, D) with the frames T of the longest, and (B,) int64.

        Raises:
            InputError: for an utterance that the store does not have, and for `out` that cannot be used.
        """
        positions = self.positions(keys)
        lengths = self.lengths[positions]
        longest = int(lengths.max()) if len(lengths) else 0
        x = self._room((len(positions), len(self.layers), longest, self.width), out)
        if self.pool:
            torch.index_select(self.tensor(), 0, positions, out=x)
            return x, lengths
        for row, position, frames in zip(x, positions.tolist(), lengths.tolist()):
            row[:, :frames].copy_(self._states(position))
            row[:, frames:].zero_()
        return x, lengths

    def _room(self, shape: tuple[int, ...], out: Tensor | None) -> Tensor:
        count = torch.Size(shape).numel()
        if out is None:
            # NumPy asks for huge pages, without which new memory takes several times longer to fill.
            return torch.from_numpy(np.empty(shape, f"i{self.dtype.itemsize}")).view(self.dtype)
        if out.dtype != self.dtype or out.device.type != "cpu" or not out.is_contiguous() or out.numel() < count:
            raise InputError(
                f"out has {out.numel()} values of {out.dtype} on {out.device}; give contiguous memory for {count} of "
                f"{self.dtype} on the CPU"
            )
        return out.view(-1)[:count].view(shape)

    def tensor(self) -> Tensor:
        """All of a pooled store, (N, K, 1, D), in the order of `keys()`: still in its file, so take from it only.

        Raises:
            InputError: when the store is not pooled.
        """
        if not self.pool:
            raise InputError(f"{self.folder} is not pooled, so its utterances differ in length; take batch(keys)")
        return self._data.view(len(self), len(self.layers), 1, self.width)


# --- what lies in the folder ---------------------------------------------------------------------------------------


@dataclass
class _Header:
    """`store.json`: what a store was made of.

    Attributes:
        model: hash of its weights and configuration.
        layers, pool, sample_rate, fingerprint: as in `FeatureStore.create`.
        dtype: as safetensors spells it.
        width: of a frame; 0 before the first is there.
        finished: bytes of the index and of the data; None before the last is there.
    """

    model: str
    layers: tuple[int, ...]
    pool: str | None
    dtype: str
    sample_rate: int
    fingerprint: str
    width: int = 0
    finished: tuple[int, int] | None = None

    SAME = ("model", "layers", "pool", "dtype", "sample_rate", "fingerprint")

    @property
    def frame_bytes(self) -> int:
        return len(self.layers) * self.width * DTYPES[self.dtype].itemsize

    def is_whole(self, folder: Path, rows: _Rows) -> bool:
        """Whether the store is finished, and all of it is there."""
        sizes = _size(folder / INDEX), _size(folder / DATA)
        return self.finished == sizes == (rows.index_bytes, rows.frames * self.frame_bytes)

    def differs(self, there: _Header) -> str:
        """What another store was made of that this one is not; or nothing."""
        for name in self.SAME:
            was, now = getattr(there, name), getattr(self, name)
            if was != now:
                return f"it was made with {name} = {shown(was)}, not {shown(now)}"
        return ""

    def write(self, folder: Path) -> None:
        with replacing(folder / HEADER) as file:
            file.write(json.dumps({"format": FORMAT, **vars(self)}, indent=1).encode())
            file.flush()
            os.fsync(file.fileno())


def _read_header(folder: Path) -> _Header | None:
    """The header of a store; None when there is no store."""
    try:
        data = json.loads((folder / HEADER).read_text(encoding="utf-8"))
        if data.pop("format") != FORMAT:
            raise ValueError
        header = _Header(**data)
        header.layers = tuple(int(layer) for layer in header.layers)
        header.finished = header.finished and (int(header.finished[0]), int(header.finished[1]))
        if DTYPES[header.dtype] not in STORED or header.pool not in POOLS or not header.width >= 0:
            raise ValueError
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
        raise InputError(
            f"{folder / HEADER} is damaged, or of another version of the zoo; delete the folder and make it again"
        ) from None
    except OSError as error:
        raise InputError(f"{folder / HEADER} cannot be read: {error.strerror}") from None
    return header


@dataclass
class _Rows:
    """What `rows.jsonl` says, as far as it and the data are whole.

    Attributes:
        lengths: key -> frames, in order.
        errors: key -> why it was refused.
        sources: key -> path of its file.
        frames: of all.
        index_bytes: where what is whole ends.
    """

    lengths: dict[str, int] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    frames: int = 0
    index_bytes: int = 0

    def take(self, line: bytes, most: int) -> bool:
        """Add a line whose utterance has `most` frames or fewer; False for one that is not whole."""
        try:
            row = json.loads(line) if line.endswith(b"\n") else {}
            key, frames, error = row["key"], row.get("frames", 0), row.get("error")
            if not isinstance(key, str) or key in self or not (0 < frames <= most or (error and frames == 0)):
                return False
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return False
        if error is None:
            self.lengths[key] = frames
        else:
            self.errors[key] = error
        if "source" in row:
            self.sources[key] = row["source"]
        self.frames += frames
        self.index_bytes += len(line)
        return True

    def __contains__(self, key: str) -> bool:
        return key in self.lengths or key in self.errors

    def __iter__(self) -> Iterator[str]:
        yield from self.lengths
        yield from self.errors

    def __len__(self) -> int:
        return len(self.lengths) + len(self.errors)


def _read_rows(folder: Path, header: _Header) -> _Rows:
    """The rows of a store up to the first that is not whole."""
    rows = _Rows()
    most = _size(folder / DATA) // (header.frame_bytes or 1)
    if (folder / INDEX).exists():
        with (folder / INDEX).open("rb") as file:
            for line in file:
                if not rows.take(line, most - rows.frames):
                    break
    return rows


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _mapped(path: Path, dtype: torch.dtype) -> Tensor:
    """All values of a file, (n,), in memory of this process alone as soon as it writes to them."""
    if not _size(path):
        return torch.empty(0, dtype=dtype)
    with path.open("rb") as file:
        try:
            flags = mmap.MAP_PRIVATE | NORESERVE
            mapped = mmap.mmap(file.fileno(), 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        except OSError as error:
            raise InputError(f"{path} cannot be mapped into memory: {error.strerror}") from None
    return torch.frombuffer(mapped, dtype=dtype)


# --- what it is made of --------------------------------------------------------------------------------------------


class _Source:
    """The items by key: a mapping, or pairs that come one after the other."""

    def __init__(self, items: Items, folder: Path) -> None:
        self.folder = folder
        if isinstance(items, Sequence) and not isinstance(items, str):
            given: dict[str, Item] = {}
            for key, item in map(_pair, items):
                if key in given:
                    raise _twice(key)
                given[key] = item
            items = given
        if isinstance(items, Mapping):
            self.keys = {_pair((key, None))[0] for key in items}
        elif not isinstance(items, Iterable):
            _pair(items)
        self.items = items
        self.count = len(items) if isinstance(items, Mapping) else None

    def why_not(self, rows: _Rows, finished: bool) -> str:
        """Why rows are not of these items, as far as it can be seen without making any; or nothing."""
        if not isinstance(self.items, Mapping):
            return ""
        if strange := [key for key in rows if key not in self.keys]:
            return f"it has {_some(strange)}, not among the {len(self.keys)} items"
        if finished and (lacking := [key for key in self.items if key not in rows]):
            return f"it lacks {_some(lacking)}"
        known = self.items.items() if isinstance(self.items, dict) else ()
        return next(filter(None, (_moved(key, item, rows) for key, item in known)), "")

    def missing(self, rows: _Rows, refuse: Callable[[str, str], None]) -> Iterator[tuple[str, Item]]:
        """The items that have no row; of those that cannot be had `refuse` is told."""
        if isinstance(self.items, Mapping):
            for key in self.items:
                if key not in rows:
                    try:
                        item = self.items[key]
                    except AudioError as error:
                        refuse(key, str(error))
                    else:
                        yield key, item
            return
        seen: set[str] = set()
        for key, item in map(_pair, self.items):
            if key in seen:
                raise _twice(key)
            seen.add(key)
            if why := _moved(key, item, rows):
                raise _other(self.folder, why)
            if key not in rows:
                yield key, item
        if strange := [key for key in rows if key not in seen]:
            raise _other(self.folder, f"it has {_some(strange)}, not among the {len(seen)} items")


def _pair(pair: Any) -> tuple[str, Any]:
    if not isinstance(pair, tuple) or len(pair) != 2 or not isinstance(pair[0], str):
        raise InputError(
            f"a feature store is made of keys and items, and {shown(pair)} was found; give a mapping whose keys are "
            "texts, or pairs (key, item)"
        )
    return pair


def _moved(key: str, item: object, rows: _Rows) -> str:
    """Why a row is not of an item of the same key; or nothing."""
    was, now = rows.sources.get(key), _audio.source(item)
    if key not in rows or was == now:
        return ""
    return f"its {shown(key)} is of {was or 'a waveform'}, not of {now or 'a waveform'}"


def _some(keys: Sequence[str]) -> str:
    return shown(keys[0]) + (f" and {len(keys) - 1} more" if len(keys) > 1 else "")


def _twice(key: str) -> InputError:
    return InputError(f"two items have the key {shown(key)}; give each its own")


def _other(folder: Path, why: str) -> InputError:
    return InputError(
        f"{folder} is a feature store of something else: {why}; choose another folder, or give rebuild=True to throw "
        "it away"
    )


def model_digest(model: Upstream) -> str:
    """SHA-256 of what a model computes, as far as it can be seen: class, configuration, padding, weights."""
    to_dict = getattr(getattr(model, "config", None), "to_dict", dict)
    facts: list[object] = [type(model).__name__, to_dict(), getattr(model, "padding", None)]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=lambda x: type(x).__name__).encode())
    for name, value in getattr(model, "state_dict", dict)().items():
        if isinstance(value, Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(_bytes(value.detach().cpu()))
    return digest.hexdigest()


def _check_pool(pool: object) -> None:
    if pool not in POOLS:
        raise InputError(f"pool={shown(pool)} was asked for; give None or 'mean'")


def _name(dtype: object) -> str:
    if dtype not in STORED:
        raise InputError(f"dtype={dtype!r} was asked for; give one of {', '.join(map(str, STORED))}")
    return NAMES[dtype]


def _width(model: Upstream) -> int | None:
    width = getattr(model, "width", getattr(getattr(model, "config", None), "width", None))
    return None if width is None else int(width)


def _frames(model: Any, seconds: Iterable[float]) -> list[int]:
    """Frames of utterances of these lengths, without those that are too short."""
    samples = (round(s * model.sample_rate) for s in seconds)
    return [int(model.frame_count(n)) for n in samples if n >= model.min_samples]


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().data


# --- making it -----------------------------------------------------------------------------------------------------


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock; it is made too."""
    import filelock

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / LOCK, mode=0o666)
        lock.acquire()
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{folder} cannot hold a feature store: {reason}; choose another folder") from None
    try:
        yield
    finally:
        lock.release()


def _take_up(folder: Path, header: _Header, source: _Source, rebuild: bool) -> _Rows:
    """The rows that are there already, with `header` completed from theirs."""
    there = _read_header(folder)
    if there is None:
        if others := [path.name for path in folder.iterdir() if path.name != LOCK and path.name[:5] != ".zoo-"]:
            raise InputError(f"{folder} holds other files, such as {shown(others[0])}; choose an empty folder")
        return _Rows()
    rows = _read_rows(folder, there)
    whole = there.is_whole(folder, rows)
    if why := header.differs(there) or source.why_not(rows, whole):
        if not rebuild:
            raise _other(folder, why)
        for name in (INDEX, DATA, HEADER):  # the header last: without it these would be other files
            (folder / name).unlink(missing_ok=True)
        return _Rows()
    header.width, header.finished = there.width, there.finished if whole else None
    return rows


def _check_room(
    folder: Path, model: Upstream, header: _Header, source: _Source, rows: _Rows, budget: int | None, transformed: bool
) -> int | None:
    """Bytes that all features will take, where it can be known beforehand; refused when there is no room for them."""
    width = _width(model)
    if width is None or source.count is None:
        return None
    missing = source.count - len(rows)
    if header.pool:
        frames = missing
    elif not transformed and isinstance(source.items, dict) and hasattr(model, "frame_count"):
        items = (item for key, item in source.items.items() if key not in rows)
        frames = sum(_frames(model, (_audio.duration(item, header.sample_rate) for item in items)))
    else:
        return None
    frame_bytes = len(header.layers) * width * DTYPES[header.dtype].itemsize
    more, total = frames * frame_bytes, (rows.frames + frames) * frame_bytes
    what = f"the features of {missing} utterances need {_amount(more)}"
    pooled = "" if header.pool else "pool='mean', "
    smaller = f"fewer layers, {pooled}dtype=torch.float16"
    if budget is not None and total > budget:
        raise InputError(f"{what}, {_amount(total)} in all, more than budget_bytes = {budget}; give more, or {smaller}")
    free = shutil.disk_usage(folder).free
    if more + LINE_BYTES * missing > free:
        raise InputError(
            f"{what} and {_amount(free)} are free in {folder}; make room there, or give another folder, {smaller}"
        )
    return total


def _amount(count: int) -> str:
    return f"{count / 1e9:.3g} GB" if count >= 1e7 else f"{count} bytes"


def _fill(
    writer: _Writer,
    source: _Source,
    rows: _Rows,
    model: Upstream,
    transform: Transform | None,
    batch_seconds: float,
    progress: bool,
) -> None:
    """Write what is missing, and the mark."""
    header = writer.header
    asked: list[str] = []

    def stream() -> Iterator[Item]:
        for key, item in source.missing(rows, writer.refuse):
            asked.append(key)
            yield item

    def keep(index: int, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (_kept(asked[index], states, header, transform),)

    total = None if source.count is None else source.count - len(rows)
    found = _audio.extract_checked(
        model, stream(), header.layers, header.sample_rate, batch_seconds, progress, total, keep
    )
    with closing(found):
        for extraction in found:
            writer.add(asked[extraction.index], extraction)
    writer.finish()


def _kept(key: str, states: tuple[Tensor, ...], header: _Header, transform: Transform | None) -> Tensor:
    """What is stored of an utterance, (K, T, D), on the device of its states, K of (T, D)."""
    if len({state.shape for state in states}) > 1:
        shapes = ", ".join(str(tuple(state.shape)) for state in states)
        raise InputError(f"the hidden states of {shown(key)} differ in shape ({shapes}); store layers that do not")
    if transform is not None:
        x, width = transform(key, torch.stack(states)), states[0].shape[1]
        if not isinstance(x, Tensor) or (x.dim(), *x.shape[::2]) != (3, len(states), width) or not x.shape[1]:
            found = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise InputError(
                f"transform made {found} of {shown(key)}; it must return states ({len(states)}, frames, {width})"
            )
        states = tuple(x)
    if header.pool:
        states = tuple(x.mean(0, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32)) for x in states)
    x = torch.stack(states)
    stored = x.to(DTYPES[header.dtype])
    if stored.dtype == torch.float16 and bool((stored.isinf() & ~x.isinf()).any()):
        raise InputError(
            f"the hidden states of {shown(key)} reach {float(x.abs().max()):.3g}, more than float16 holds; give "
            "dtype=torch.bfloat16 or torch.float32"
        )
    return stored


class _Writer:
    """Appends rows to a store."""

    def __init__(self, folder: Path, header: _Header, rows: _Rows, budget: int | None, expected: int | None) -> None:
        self.folder, self.header, self.budget, self.expected = folder, header, budget, expected
        self.data_end, self.index_end = rows.frames * header.frame_bytes, rows.index_bytes
        self.files: dict[str, int] = {}
        self.full = False
        self.lines: list[str] = []
        self.last_start = self.data_end
        self.last_commit = time.monotonic()

    def add(self, key: str, extraction: Extraction) -> None:
        """Append an utterance, or why there is none."""
        if extraction.error is not None:
            self.refuse(key, extraction.error, extraction.source)
            return
        (states,) = extraction.hidden_states
        width = states.shape[2]
        if self.header.width not in (0, width):
            raise InputError(f"{shown(key)} has features of width {width}, others {self.header.width}; store one width")
        data = _bytes(states)
        if self.budget is not None and self.data_end + len(data) > self.budget:
            raise InputError(
                f"the features outgrow budget_bytes = {self.budget} at {shown(key)}; begin again with more, "
                "it goes on from there"
            )
        with self._disk():
            if not self.header.width:
                self.header.width = width
                if self.files:  # of utterances that were all refused
                    self.header.write(self.folder)
            _write(self._file(DATA), data, self.data_end)
        self.last_start, self.data_end = self.data_end, self.data_end + len(data)
        self._note({"key": key, "frames": states.shape[1]}, extraction.source)

    def refuse(self, key: str, why: str, source: str | None = None) -> None:
        """Append why there are no features of an utterance."""
        self.last_start = self.data_end
        self._note({"key": key, "error": printable(why)}, source)

    def _note(self, row: dict[str, Any], source: str | None) -> None:
        self.lines.append(json.dumps(row if source is None else {**row, "source": source}) + "\n")
        if time.monotonic() - self.last_commit >= SYNC_SECONDS:
            self._commit()

    def _file(self, name: str) -> int:
        """Descriptor of the index or of the data; the first call opens both and cuts off what is not whole."""
        if not self.files:
            self.header.finished = None
            self.header.write(self.folder)
            for each, end in ((DATA, self.data_end), (INDEX, self.index_end)):
                self.files[each] = os.open(self.folder / each, os.O_RDWR | os.O_CREAT, 0o666)
                os.ftruncate(self.files[each], end)
        return self.files[name]

    def _commit(self) -> None:
        """Bring all to the disk: the data, then the lines that speak of them."""
        lines, self.lines = self.lines, []  # a disk may say but once that it lost data: they count as not there
        with self._disk():
            os.fsync(self._file(DATA))
        self.lines, text = lines, "".join(lines).encode()
        with self._disk():
            _write(self._file(INDEX), text, self.index_end)
            os.fsync(self._file(INDEX))
        self.lines = []
        self.index_end += len(text)
        self.last_commit = time.monotonic()

    def finish(self) -> None:
        """Set the mark."""
        self._commit()
        self.header.finished = (self.index_end, self.data_end)
        with self._disk():
            self.header.write(self.folder)

    def close(self) -> None:
        """Keep what there is, whatever has happened."""
        if self.lines and self.files:
            with suppress(InputError, OSError):
                if self.full:  # the last utterance goes, to make room for the lines of the others
                    self.lines.pop()
                    self.data_end = self.last_start
                os.ftruncate(self.files[DATA], self.data_end)
                self._commit()
        for descriptor in self.files.values():
            os.close(descriptor)

    @contextmanager
    def _disk(self) -> Iterator[None]:
        """Say in one sentence what to do about a disk that takes no more."""
        try:
            yield
        except (OSError, InputError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            if not isinstance(cause, OSError):
                raise
            if cause.errno not in FULL:
                raise InputError(f"{self.folder} cannot be written: {cause.strerror}") from error
            self.full = True
            total = f" of {_amount(self.expected)}" if self.expected else ""
            free = _amount(shutil.disk_usage(self.folder).free)
            raise InputError(
                f"the disk of {self.folder} is full: {_amount(self.data_end)}{total} are stored and {free} are free; "
                "make room there and begin again, it goes on from there"
            ) from error


def _write(descriptor: int, data: memoryview | bytes, offset: int) -> None:
    rest = memoryview(data)
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        offset, rest = offset + written, rest[written:]
