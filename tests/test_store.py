"""`zoo.FeatureStore`: what `zoo.extract` gives, whatever happened while it was made."""

from __future__ import annotations

import copy
import errno
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import zoo
from zoo import FeatureStore, _store
from zoo.errors import AudioError, InputError
from zoo.models._family import Model

ROOT = Path(__file__).resolve().parent.parent
RECORDINGS = sorted((ROOT / "examples" / "audio").iterdir())
ATOL = 1e-5  # of an utterance in batches of other lengths
SIZES = [5000, 400, 16000, 399, 9000, 400, 12345, 8000, 15999, 640]  # one of them is too short
SHORT = "u3"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model() -> Model:
    return zoo.load(ROOT / "examples" / "hubert_tiny.pt")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


def waves() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    return {f"u{i}": 0.1 * torch.randn(size, generator=draw) + 0.01 for i, size in enumerate(SIZES)}


def create(folder: Path, model: Any, items: Any, **options: Any) -> FeatureStore:
    return FeatureStore.create(folder, model, items, progress=False, **options)


def extracted(model: Any, items: Mapping[str, Any], layers: Sequence[int] | None = None) -> dict[str, torch.Tensor]:
    """Key -> states (K, T, D), one utterance at a time."""
    found = {}
    for key, item in items.items():
        (one,) = zoo.extract(model, [item], layers=layers, progress=False)
        if one.error is None:
            found[key] = torch.stack(one.hidden_states)
    return found


def holds(store: FeatureStore, expected: Mapping[str, torch.Tensor], atol: float = ATOL) -> None:
    """The store has just these features, by whatever way they are asked for."""
    assert set(store.keys()) == expected.keys() and len(store) == len(expected)
    assert list(store) == list(store.keys())
    for key, states in expected.items():
        torch.testing.assert_close(store[key], states.to(store.dtype), rtol=0, atol=atol)
    assert dict(zip(store.keys(), store.lengths.tolist(), strict=True)) == {k: x.shape[1] for k, x in expected.items()}
    assert store.size_bytes == sum(x.numel() for x in expected.values()) * store.dtype.itemsize
    assert store.size_bytes == (store.folder / _store.DATA).stat().st_size


class Seen:
    """Notes the utterances that are computed, and may stop at one of them."""

    def __init__(self, at: int = -1, act: Callable[[], object] = lambda: None) -> None:
        self.keys: list[str] = []
        self.at, self.act = at, act

    def __call__(self, key: str, states: torch.Tensor) -> torch.Tensor:
        if len(self.keys) == self.at:
            self.act()
        self.keys.append(key)
        return states


def interrupted(folder: Path, model: Model, after: int, **options: Any) -> None:
    """Leave a store with so many utterances."""

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        create(folder, model, waves(), transform=Seen(after, stop), batch_seconds=0.01, **options)


# What it holds


@pytest.mark.parametrize("batch_seconds", [0.01, 1.0, 64.0])
@pytest.mark.parametrize("turned", [False, True])
def test_it_holds_what_extract_gives(folder: Path, model: Model, batch_seconds: float, turned: bool) -> None:
    items = dict(reversed(waves().items())) if turned else waves()
    store = create(folder, model, items, batch_seconds=batch_seconds)
    holds(store, extracted(model, items))
    assert list(store.keys()) == [key for key in items if key != SHORT]
    assert store.errors.keys() == {SHORT} and "min_samples = 400" in store.errors[SHORT]
    assert (store.layers, store.pool, store.dtype, store.width) == ((0, 1, 2, 3), None, torch.float32, 32)
    seconds = [len(wave) / 16000 for wave in items.values()]
    assert store.size_bytes == FeatureStore.estimate(model, seconds)


def test_in_one_batch_it_is_the_same_to_the_bit(folder: Path, model: Model) -> None:
    store = create(folder, model, waves())
    for item, key in zip(zoo.extract(model, waves().values(), progress=False), waves(), strict=True):
        assert (item.error is None) == (key in store)
        if item.error is None:
            assert torch.equal(store[key], torch.stack(item.hidden_states))


@pytest.mark.parametrize("layers", [[3], [-1, 0], [1, 1], range(1, 3)])
@pytest.mark.parametrize("pool", [None, "mean"])
def test_layers(folder: Path, model: Model, layers: Any, pool: str | None) -> None:
    store = create(folder, model, waves(), layers=layers, pool=pool)
    assert store.layers == tuple(index % 4 for index in layers)
    expected = extracted(model, waves(), layers)
    holds(store, expected if pool is None else {k: x.mean(1, keepdim=True) for k, x in expected.items()})
    seconds = [len(wave) / 16000 for wave in waves().values()]
    assert store.size_bytes == FeatureStore.estimate(model, seconds, layers=layers, pool=pool)


def test_the_pooled_mean_is_that_of_the_frames(folder: Path, tmp_path: Path, model: Model) -> None:
    """To the rounding of float32: against a mean in float64."""
    pooled, whole = create(folder, model, waves(), pool="mean"), create(tmp_path / "whole", model, waves())
    assert pooled.keys() == whole.keys()
    for key in whole:
        exact = whole[key].double().mean(1, keepdim=True)
        assert pooled[key].shape == (4, 1, 32)
        torch.testing.assert_close(pooled[key].double(), exact, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("pool", [None, "mean"])
def test_half_precision(folder: Path, tmp_path: Path, model: Model, dtype: torch.dtype, pool: str | None) -> None:
    """What is stored is the float32 value, rounded once."""
    full = create(tmp_path / "full", model, waves(), pool=pool)
    store = create(folder, model, waves(), pool=pool, dtype=dtype)
    assert store.dtype == dtype and store.size_bytes * 2 == full.size_bytes
    x, lengths = store.batch(full.keys())
    for row, frames, key in zip(x, lengths, full.keys(), strict=True):
        assert torch.equal(store[key], full[key].to(dtype))
        assert torch.equal(row[:, :frames], store[key])
    seconds = [len(wave) / 16000 for wave in waves().values()]
    assert store.size_bytes == FeatureStore.estimate(model, seconds, pool=pool, dtype=dtype)


def test_a_half_precision_model_is_pooled_in_float32(folder: Path) -> None:
    half = zoo.load(ROOT / "examples" / "hubert_tiny.pt", dtype=torch.bfloat16)
    store = create(folder, half, {"a": waves()["u2"]}, pool="mean")
    (item,) = zoo.extract(half, [waves()["u2"]], progress=False)
    expected = torch.stack(item.hidden_states).double().mean(1, keepdim=True)
    torch.testing.assert_close(store["a"].double(), expected, rtol=1e-6, atol=1e-7)


def test_what_float16_cannot_hold_is_refused(folder: Path, model: Model) -> None:
    with pytest.raises(InputError, match=r"^the hidden states of 'u\d' reach .*, more than float16 holds; give dtype="):
        create(folder, model, waves(), dtype=torch.float16, transform=lambda key, x: x * 1e9)
    with pytest.raises(InputError, match="is no feature store"):
        FeatureStore.open(folder)


@pytest.mark.parametrize("pool", [None, "mean"])
def test_transform(folder: Path, model: Model, pool: str | None) -> None:
    def cut(key: str, x: torch.Tensor) -> torch.Tensor:
        return x[:, : int(key[1:]) + 1] * 2

    store = create(folder, model, waves(), transform=cut, pool=pool)
    expected = {key: cut(key, x) for key, x in extracted(model, waves()).items()}
    holds(store, expected if pool is None else {k: x.mean(1, keepdim=True) for k, x in expected.items()}, 2 * ATOL)


@pytest.mark.parametrize("made", [None, torch.zeros(4, 3), torch.zeros(4, 0, 32), torch.zeros(3, 5, 32)])
def test_a_transform_that_makes_no_states(folder: Path, model: Model, made: Any) -> None:
    with pytest.raises(InputError, match=r"^transform made .* of 'u\d'; it must return states \(4, frames, 32\)$"):
        create(folder, model, waves(), transform=lambda key, x: made)


def test_files(folder: Path, model: Model) -> None:
    items = {path.stem: str(path) if i % 2 else path for i, path in enumerate(RECORDINGS)}
    store = create(folder, model, items)
    holds(store, extracted(model, items))
    rows = [json.loads(line) for line in (folder / _store.INDEX).read_text().splitlines()]
    assert [row["source"] for row in rows] == [str(path) for path in RECORDINGS]
    infos = [soundfile.info(str(path)) for path in RECORDINGS]
    assert {info.samplerate for info in infos} == {8000, 16000}
    assert store.size_bytes == FeatureStore.estimate(model, [info.frames / info.samplerate for info in infos])


def test_waveforms_at_another_rate(folder: Path, model: Model) -> None:
    store = create(folder, model, waves(), sample_rate=8000)
    found = zoo.extract(model, waves().values(), sample_rate=8000, progress=False)
    holds(store, {k: torch.stack(item.hidden_states) for k, item in zip(waves(), found) if item.error is None})
    with pytest.raises(InputError, match="it was made with sample_rate = 8000, not 16000"):
        create(folder, model, waves())


def test_errors_are_listed_and_do_not_stop_the_others(folder: Path, tmp_path: Path, model: Model) -> None:
    (tmp_path / "page.wav").write_text("<html></html>")
    items = {"page": tmp_path / "page.wav", **waves(), "gone": "gone.wav", "integers": np.zeros(4000, np.int16)}
    store = create(folder, model, items)
    assert store.errors.keys() == {"page", SHORT, "gone", "integers"}
    assert "gone.wav cannot be used: there is no such file" in store.errors["gone"]
    holds(store, extracted(model, waves()))
    again = create(folder, model, items, transform=Seen(0, lambda: pytest.fail("computed again")))
    assert again.errors == store.errors
    for key, why in ((SHORT, "needs at least min_samples"), ("x", "among 9 keys")):
        assert key not in store
        with pytest.raises(InputError, match=f"has no features of '{key}'.*{why}"):
            store[key]


@pytest.mark.parametrize("items", [{}, [], iter([])])
@pytest.mark.parametrize("pool", [None, "mean"])
def test_nothing(folder: Path, model: Model, items: Any, pool: str | None) -> None:
    store = create(folder, model, items, pool=pool)
    assert (len(store), store.size_bytes, store.errors, list(store.keys())) == (0, 0, {}, [])
    assert store.batch([])[0].shape[:2] == (0, 4) and store.batch([])[1].shape == (0,)
    if pool:
        assert store.tensor().shape[:3] == (0, 4, 1)


def test_only_errors(folder: Path, model: Model) -> None:
    store = create(folder, model, {"a": torch.zeros(3), "b": "gone.wav"})
    assert len(store) == 0 and store.errors.keys() == {"a", "b"}


# Items


def test_pairs_and_mappings_whose_items_are_made_on_demand(tmp_path: Path, model: Model) -> None:
    made: list[str] = []

    class Cut(Mapping[str, torch.Tensor]):
        def __getitem__(self, key: str) -> torch.Tensor:
            made.append(key)
            if key == "u0":
                raise AudioError("the recording of u0 ends before the segment begins")
            return waves()[key]

        def __iter__(self) -> Iterator[str]:
            return iter(waves())

        def __len__(self) -> int:
            return len(SIZES)

    expected = extracted(model, waves())
    holds(create(tmp_path / "pairs", model, list(waves().items())), expected)
    holds(create(tmp_path / "stream", model, iter(waves().items())), expected)
    holds(create(tmp_path / "stream", model, iter(waves().items())), expected)
    del expected["u0"]
    store = create(tmp_path / "mapping", model, Cut())
    holds(store, expected)
    assert store.errors["u0"] == "the recording of u0 ends before the segment begins"
    assert made == list(waves())
    create(tmp_path / "mapping", model, Cut())
    assert made == list(waves())


@pytest.mark.parametrize("kind", [list, iter])
def test_a_key_given_twice(folder: Path, model: Model, kind: Callable[[Any], Any]) -> None:
    pairs = [("a", torch.zeros(800)), ("b", torch.zeros(800)), ("a", torch.zeros(900))]
    with pytest.raises(InputError, match=r"^two items have the key 'a'; give each its own$"):
        create(folder, model, kind(pairs))
    assert not (folder / _store.HEADER).exists() or kind is iter


@pytest.mark.parametrize("items", ["a.wav", ["a.wav"], {3: "a.wav"}, [("a", "a.wav", 3)], iter([(3, "a.wav")]), 7])
def test_items_without_keys(folder: Path, model: Model, items: Any) -> None:
    with pytest.raises(InputError, match=r"^a feature store is made of keys and items, and .* was found; give a map"):
        create(folder, model, items)


def test_strange_keys(folder: Path, model: Model) -> None:
    keys = ["", "a/b", "../c", "new\nline", "音", '"', "\udc80", "u"]
    store = create(folder, model, {key: torch.zeros(800 + i) for i, key in enumerate(keys)})
    assert list(FeatureStore.open(folder).keys()) == list(store.keys()) == keys
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [_store.HEADER, _store.INDEX, _store.DATA, _store.LOCK]
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool": "max"}, "pool='max' was asked for; give None or 'mean'"),
        ({"dtype": torch.float64}, "dtype=torch.float64 was asked for; give one of torch.float32, torch.float16"),
        ({"layers": [4]}, r"layers=\[4\] was asked for"),
        ({"sample_rate": 3}, "sample_rate is 3"),
        ({"batch_seconds": 0}, "batch_seconds=0 was asked for"),
    ],
)
def test_options_that_cannot_be(folder: Path, model: Model, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        create(folder, model, waves(), **options)
    assert not (folder / _store.HEADER).exists()
    if options.keys() <= {"pool", "dtype", "layers"}:
        with pytest.raises(InputError, match=message):
            FeatureStore.estimate(model, [1.0], **options)


# Reading


def test_batch(folder: Path, model: Model) -> None:
    store = create(folder, model, waves())
    keys = ["u2", "u1", "u0", "u2"]
    memory = torch.full((5, 4, 60, 32), float("nan"))
    for out in (None, memory, memory.view(-1), memory[1:]):
        x, lengths = store.batch(iter(keys), out=out)
        assert x.shape == (4, 4, 49, 32) and lengths.tolist() == [49, 1, 15, 49]
        assert out is None or x.data_ptr() == out.data_ptr()
        for row, frames, key in zip(x, lengths, keys, strict=True):
            assert torch.equal(row[:, :frames], store[key])
            assert not row[:, frames:].any()


def test_memory_that_a_batch_cannot_use(folder: Path, model: Model) -> None:
    store = create(folder, model, waves())
    size = 4 * 15 * 32
    for out in (torch.empty(size - 1), torch.empty(size, dtype=torch.float16), torch.empty(2 * size)[::2]):
        with pytest.raises(InputError, match=f"give contiguous memory for {size} of torch.float32 on the CPU"):
            store.batch(["u0"], out=out)
    store.batch(["u0"], out=torch.empty(size))
    with pytest.raises(InputError, match="has no features of 'x'"):
        store.batch(["u0", "x"])


def test_a_pooled_store_as_one_tensor(folder: Path, model: Model) -> None:
    store = create(folder, model, waves(), pool="mean")
    everything, keys = store.tensor(), ["u4", "u0", "u4"]
    assert everything.shape == (9, 4, 1, 32)
    positions = store.positions(keys)
    assert [list(store.keys())[i] for i in positions] == keys
    taken = everything.index_select(0, positions)
    x, lengths = store.batch(keys)
    assert torch.equal(x, taken) and lengths.tolist() == [1, 1, 1]
    assert torch.equal(taken, torch.stack([store[key] for key in keys]))
    out = torch.empty(4 * len(taken) * 32)
    assert torch.equal(store.batch(keys, out=out)[0], taken)


def test_a_store_that_is_not_pooled_is_no_tensor(folder: Path, model: Model) -> None:
    with pytest.raises(InputError, match=r"is not pooled, so its utterances differ in length; take batch\(keys\)"):
        create(folder, model, waves()).tensor()


def test_what_a_caller_writes_to_does_not_reach_the_store(folder: Path, model: Model) -> None:
    store = create(folder, model, waves(), pool="mean")
    before = (folder / _store.DATA).read_bytes()
    store["u0"].zero_()
    store.batch(["u0"])[0].zero_()
    assert torch.equal(store["u0"], FeatureStore.open(folder)["u0"]) and store["u0"].any()
    store.tensor().zero_()
    assert (folder / _store.DATA).read_bytes() == before
    assert FeatureStore.open(folder)["u0"].any()


def first_value(store: FeatureStore) -> float:
    return float(store["u2"][0, 0, 0])


def test_other_processes_open_it_anew(folder: Path, model: Model) -> None:
    store = create(folder, model, waves())
    again = copy.copy(store)
    assert again is not store and torch.equal(again["u2"], store["u2"])
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(first_value, [store]) == [first_value(store)]


def test_a_store_larger_than_memory_is_mapped(folder: Path, model: Model) -> None:
    """Nothing is read but what is asked for: here all but the first utterances of a file of 4 TiB with a hole."""
    store = create(folder, model, waves(), pool="mean")
    with (folder / _store.DATA).open("r+b") as file:
        file.truncate(1 << 42)
    mapped = _store._mapped(folder / _store.DATA, torch.float32)
    assert mapped.nbytes == 1 << 42
    assert torch.equal(mapped[: 4 * 32].view(4, 1, 32), store["u0"]) and not mapped[-4:].any()


# Refusals


def test_a_store_of_something_else(folder: Path, model: Model) -> None:
    items = {path.stem: path for path in RECORDINGS[:2]}
    first, second = items
    moved = f"its '{first}' is of {items[first]}, not of "
    store = create(folder, model, items, fingerprint="v1")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    another = copy.deepcopy(model)
    with torch.no_grad():
        next(another.parameters())[0] += 1e-3
    padded = zoo.load(ROOT / "examples" / "hubert_tiny.pt", padding="reference")
    same: dict[str, Any] = {"model": model, "items": items, "fingerprint": "v1"}
    for change, why in (
        ({"fingerprint": "v2"}, "it was made with fingerprint = 'v1', not 'v2'"),
        ({"layers": [0]}, r"it was made with layers = \(0, 1, 2, 3\), not \(0,\)"),
        ({"pool": "mean"}, "it was made with pool = None, not 'mean'"),
        ({"dtype": torch.bfloat16}, "it was made with dtype = 'F32', not 'BF16'"),
        ({"model": another}, "it was made with model = '[0-9a-f.]*', not '"),
        ({"model": padded}, "it was made with model = '[0-9a-f.]*', not '"),
        ({"items": {first: items[first]}}, f"it has '{second}', not among the 1 items"),
        ({"items": iter([(first, items[first])])}, f"it has '{second}', not among the 1 items"),
        ({"items": {**items, "b": items[first], "c": items[first]}}, "it lacks 'b' and 1 more"),
        ({"items": iter({**items, "b": items[first]}.items())}, "it lacks 'b'"),
        ({"items": {first: items[second], second: items[second]}}, f"{moved}{items[second]}"),
        ({"items": iter([(first, torch.zeros(800))])}, f"{moved}a waveform"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=f"^{folder} is a feature store of something else: {why}.*rebuild=True"):
            create(folder, **{**same, **change})
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert create(folder, **same).keys() == store.keys()


def test_rebuild(folder: Path, model: Model) -> None:
    old = create(folder, model, waves())
    kept = old["u0"]
    seen = Seen()
    store = create(folder, model, waves(), layers=[0, 2], rebuild=True, transform=seen)
    assert len(seen.keys) == 9
    holds(store, extracted(model, waves(), [0, 2]))
    assert torch.equal(old["u0"], kept), "what is open still stands"
    create(folder, model, waves(), layers=[0, 2], rebuild=True, transform=seen)
    assert len(seen.keys) == 9, "a store of the same is kept"


def test_a_folder_with_other_files(folder: Path, model: Model) -> None:
    folder.mkdir()
    (folder / _store.DATA).write_text("mine")
    with pytest.raises(InputError, match=f"holds other files, such as '{_store.DATA}'; choose an empty folder$"):
        create(folder, model, waves(), rebuild=True)
    assert (folder / _store.DATA).read_text() == "mine"


@pytest.mark.parametrize("make", [FeatureStore.open, lambda folder: create(folder, None, {})])
def test_where_there_is_no_store(tmp_path: Path, model: Model, make: Callable[[Path], object]) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for path in (tmp_path / "gone", tmp_path, file):
        with pytest.raises(InputError, match=r"is no feature store: it has no store\.json; make one with"):
            FeatureStore.open(path)
    with pytest.raises(InputError, match=f"^{file} cannot hold a feature store: File exists; choose another folder$"):
        create(file, model, waves())


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: text[:40],
        lambda text: "[]",
        lambda text: text.replace('"format": 1', '"format": 2'),
        lambda text: text.replace('"F32"', '"F31"'),
        lambda text: text.replace('"F32"', '"I64"'),
        lambda text: text.replace('"width": 32', '"width": "32"'),
        lambda text: text.replace('"width": 32', '"width": -32'),
        lambda text: text.replace('"finished": [', '"finished": [[], '),
        lambda text: text.replace('"layers": [', '"layers": [[], '),
    ],
)
def test_a_damaged_header(folder: Path, model: Model, change: Callable[[str], str]) -> None:
    create(folder, model, waves())
    header = folder / _store.HEADER
    before = header.read_text()
    header.write_text(change(before))
    assert header.read_text() != before
    for call in (FeatureStore.open, lambda path: create(path, model, waves())):
        with pytest.raises(InputError, match=r"store\.json is damaged, or of another version of the zoo; delete"):
            call(folder)


# Interruptions


@pytest.mark.parametrize("after", [0, 1, 4, 8])
@pytest.mark.parametrize("pool", [None, "mean"])
def test_an_interrupted_store_goes_on(folder: Path, model: Model, after: int, pool: str | None) -> None:
    interrupted(folder, model, after, pool=pool)
    with pytest.raises(InputError, match="is no feature store" if after == 0 else "not finished, or has lost a part"):
        FeatureStore.open(folder)
    seen = Seen()
    store = create(folder, model, waves(), pool=pool, transform=seen)
    assert len(seen.keys) == 9 - after
    expected = extracted(model, waves())
    holds(store, expected if pool is None else {k: x.mean(1, keepdim=True) for k, x in expected.items()})
    assert list(store.keys()) == [key for key in waves() if key != SHORT]


def test_another_order_after_an_interruption(folder: Path, model: Model) -> None:
    interrupted(folder, model, 4)
    seen = Seen()
    store = create(folder, model, iter(list(waves().items())[::-1]), transform=seen)
    assert seen.keys and not set(seen.keys) & {"u0", "u1", "u2", "u4"}
    holds(store, extracted(model, waves()))


def test_an_interrupted_store_of_something_else(folder: Path, model: Model) -> None:
    interrupted(folder, model, 4)
    with pytest.raises(InputError, match="it has 'u0' and 4 more, not among the 1 items"):
        create(folder, model, {"v": torch.zeros(800)})
    with pytest.raises(InputError, match="it was made with fingerprint = '', not 'x'"):
        create(folder, model, waves(), fingerprint="x")
    with pytest.raises(InputError, match="it has 'u0', not among the 10 items"):
        create(folder, model, ((key if i else "v", wave) for i, (key, wave) in enumerate(waves().items())))
    with pytest.raises(InputError, match="not finished"):
        FeatureStore.open(folder)


KILLED = """
import os, signal, sys
import torch, zoo
from tests import test_store as t
from zoo import _store

torch.set_num_threads(1)
_store.SYNC_SECONDS = 0
where, after = sys.argv[2:]
model = zoo.load(t.ROOT / "examples" / "hubert_tiny.pt")
kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
seen = t.Seen(int(after), kill) if where == "computing" else t.Seen()
if where != "computing":
    write, count = os.pwrite, [0]
    def torn(descriptor, data, offset):
        count[0] += 1
        if count[0] > int(after):
            write(descriptor, data[: len(data) // 2], offset)
            kill()
        return write(descriptor, data, offset)
    os.pwrite = torn
zoo.FeatureStore.create(sys.argv[1], model, t.waves(), transform=seen, batch_seconds=0.01, progress=False)
"""


@pytest.mark.parametrize(
    ("where", "after", "rows"),
    # Two writes an utterance: its states, then its line. u3 is refused and has a line only.
    [("computing", 4, 4), ("writing", 5, 2), pytest.param("writing", 8, 3, marks=pytest.mark.slow)],
)
def test_a_killed_process(folder: Path, model: Model, where: str, after: int, rows: int) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder), where, str(after)], cwd=ROOT, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    with pytest.raises(InputError, match="not finished"):
        FeatureStore.open(folder)
    seen = Seen()
    store = create(folder, model, waves(), transform=seen)
    complete = [key for key in waves() if key not in seen.keys and key != SHORT]
    assert seen.keys and complete == [key for key in waves() if key != SHORT][: len(complete)]
    assert len(complete) == rows
    holds(store, extracted(model, waves()))


def lines(folder: Path) -> list[bytes]:
    return (folder / _store.INDEX).read_bytes().splitlines(keepends=True)


DAMAGE: dict[str, Callable[[list[bytes], bytes], tuple[bytes, bytes]]] = {
    "one byte of the data": lambda rows, data: (b"".join(rows), data[:-1]),
    "half of the data": lambda rows, data: (b"".join(rows), data[: len(data) // 2]),
    "all data": lambda rows, data: (b"".join(rows), b""),
    "the last line": lambda rows, data: (b"".join(rows[:-1]), data),
    "half of the last line": lambda rows, data: (b"".join(rows)[:-10], data),
    "the end of the last line": lambda rows, data: (b"".join(rows)[:-1], data),
    "all lines": lambda rows, data: (b"", data),
    "a line of zeros": lambda rows, data: (b"".join(rows[:4]) + bytes(len(rows[4])) + b"".join(rows[5:]), data),
    "a line twice": lambda rows, data: (b"".join([*rows[:5], *rows[4:]]), data),
    "another number": lambda rows, data: (b"".join(rows).replace(b'"frames": 15}', b'"frames": 1e}'), data),
    "a line that is no row": lambda rows, data: (b"".join([*rows[:3], b"[]\n", *rows[3:]]), data),
    "a number of frames that is a text": lambda rows, data: (b"".join(rows).replace(b": 15}", b': "15"}'), data),
    "more frames than there are": lambda rows, data: (b"".join(rows).replace(b": 15}", b": 150000}"), data),
    "something behind the data": lambda rows, data: (b"".join(rows), data + b"rest"),
    "something behind the lines": lambda rows, data: (b"".join(rows) + b'{"key": "v"', data),
}


@pytest.mark.parametrize("what", DAMAGE)
@pytest.mark.parametrize("finished", [True, False])
def test_damaged_files_are_mended(folder: Path, model: Model, what: str, finished: bool) -> None:
    expected = extracted(model, waves())
    create(folder, model, waves())
    if not finished:
        header = json.loads((folder / _store.HEADER).read_text())
        (folder / _store.HEADER).write_text(json.dumps({**header, "finished": None}))
    rows, data = DAMAGE[what](lines(folder), (folder / _store.DATA).read_bytes())
    assert (rows, data) != (b"".join(lines(folder)), (folder / _store.DATA).read_bytes())
    (folder / _store.INDEX).write_bytes(rows)
    (folder / _store.DATA).write_bytes(data)
    with pytest.raises(InputError, match=r"not finished, or has lost a part; call FeatureStore\.create"):
        FeatureStore.open(folder)
    holds(create(folder, model, waves()), expected)


@pytest.mark.parametrize("name", [_store.INDEX, _store.DATA])
def test_a_missing_file_is_made_again(folder: Path, model: Model, name: str) -> None:
    create(folder, model, waves())
    (folder / name).unlink()
    with pytest.raises(InputError, match="not finished, or has lost a part"):
        FeatureStore.open(folder)
    holds(create(folder, model, waves()), extracted(model, waves()))


# Room


@pytest.mark.parametrize("pool", [None, "mean"])
@pytest.mark.parametrize("items", [waves, lambda: {path.stem: path for path in RECORDINGS}])
def test_the_budget(folder: Path, model: Model, pool: str | None, items: Callable[[], dict[str, Any]]) -> None:
    seconds = [
        w.numel() / 16000 if isinstance(w, torch.Tensor) else soundfile.info(w).duration for w in items().values()
    ]
    size = FeatureStore.estimate(model, seconds, pool=pool)
    seen = Seen()
    unread = 512 if pool and items is waves else 0  # nobody has looked yet which are too short
    with pytest.raises(
        InputError, match=f"^the features of {len(seconds)} utterances need {size + unread} bytes, .*; give"
    ):
        create(folder, model, items(), pool=pool, budget_bytes=size + unread - 1, transform=seen if pool else None)
    assert seen.keys == [] and not (folder / _store.HEADER).exists()
    assert create(folder, model, items(), pool=pool, budget_bytes=size + unread).size_bytes == size


def test_the_budget_of_what_is_not_known_beforehand(folder: Path, model: Model) -> None:
    size = FeatureStore.estimate(model, [n / 16000 for n in SIZES])
    with pytest.raises(InputError, match=f"^the features outgrow budget_bytes = {size - 1} at 'u9'; begin"):
        create(folder, model, iter(waves().items()), budget_bytes=size - 1)
    with pytest.raises(InputError, match="not finished"):
        FeatureStore.open(folder)
    seen = Seen()
    assert create(folder, model, iter(waves().items()), budget_bytes=size, transform=seen).size_bytes == size
    assert seen.keys == ["u9"]


def test_room_is_looked_for_before_the_start(folder: Path, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    size = FeatureStore.estimate(model, [n / 16000 for n in SIZES])
    usage = shutil.disk_usage(folder.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=size))
    why = f"^the features of 10 utterances need {size} bytes and {size} bytes are free in .*; make room there, or give"
    with pytest.raises(InputError, match=why):
        create(folder, model, waves())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=size + 10 * _store.LINE_BYTES))
    create(folder, model, waves())


def limited(folder: Path, room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that has room for so many bytes of index and data."""
    write = os.pwrite

    def pwrite(descriptor: int, data: memoryview, offset: int) -> int:
        others = sum(path.stat().st_size for path in folder.iterdir() if path.suffix in (".bin", ".jsonl"))
        free = room - others + os.fstat(descriptor).st_size - offset
        if free <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data[:free], offset)

    monkeypatch.setattr(os, "pwrite", pwrite)


def lossy(folder: Path, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that says once, when its files are brought to it for the so-manieth time, that it is full."""
    sync, left = os.fsync, [count]

    def fsync(descriptor: int) -> None:
        left[0] -= 1
        if not left[0]:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


# The utterances need 7680, 512, 25088, 0, 13824, 512, 19456, 12288, 25088, 512 bytes: 104960; their lines about 400.
@pytest.mark.parametrize(
    ("disk", "limit", "again"),
    [
        (limited, 0, 9),
        (limited, 100, 9),
        (limited, 7680, 9),
        (limited, 20_000, 8),
        (limited, 35_000, 6),
        (limited, 104_960, 1),
        (limited, 105_100, 1),
        (lossy, 1, 9),  # the header
        (lossy, 2, 9),  # the data
        (lossy, 3, 1),  # the index
        (lossy, 4, 0),  # the mark
    ],
)
def test_a_full_disk(
    folder: Path,
    model: Model,
    monkeypatch: pytest.MonkeyPatch,
    disk: Callable[[Path, int, pytest.MonkeyPatch], None],
    limit: int,
    again: int,
) -> None:
    with monkeypatch.context() as patch:
        disk(folder, limit, patch)
        why = f"^the disk of {folder} is full: .* are stored and .* are free; make room there and begin again"
        with pytest.raises(InputError, match=why):
            create(folder, model, waves())
    with pytest.raises(InputError, match=r"not finished|is no feature store"):
        FeatureStore.open(folder)
    seen = Seen()
    holds(create(folder, model, waves(), transform=seen), extracted(model, waves()))
    assert len(seen.keys) == again


def test_another_error_of_the_disk(folder: Path, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(descriptor: int, data: memoryview, offset: int) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pwrite", broken)
    with pytest.raises(InputError, match=f"^{folder} cannot be written: Input/output error$"):
        create(folder, model, waves())


# Several processes


BUILDER = """
import sys
import torch, zoo
from tests import test_store as t

torch.set_num_threads(1)
model = zoo.load(t.ROOT / "examples" / "hubert_tiny.pt")
print("ready", flush=True)
sys.stdin.readline()
seen = t.Seen()
store = zoo.FeatureStore.create(sys.argv[1], model, t.waves(), transform=seen, progress=False)
print(len(seen.keys), len(store), float(store["u2"].double().sum()))
"""


@pytest.mark.slow
def test_one_builds_and_the_others_wait(folder: Path) -> None:
    builders = [
        subprocess.Popen(
            [sys.executable, "-c", BUILDER, str(folder)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for builder in builders:
        assert builder.stdout is not None and builder.stdout.readline() == "ready\n"
    for builder in builders:
        assert builder.stdin is not None
        builder.stdin.write("go\n")
        builder.stdin.flush()
    found = [builder.communicate()[0].split() for builder in builders]
    assert sorted(int(computed) for computed, _, _ in found) == [0, 9]
    assert {(count, total) for _, count, total in found} == {("9", found[0][2])}


# Models of others


@dataclass
class Foreign:
    """What zoo.extract needs of a model, and nothing else: no torch module, no configuration."""

    takes: str = "waveforms"
    sample_rate: int = 8000
    min_samples: int = 80
    widths: tuple[int, ...] = (6, 6)

    def layer_indices(self, layers: Sequence[int] | None) -> tuple[int, ...]:
        return (0, 1) if layers is None else tuple(layers)

    def modules(self) -> Iterator[Any]:
        return iter(())

    def eval(self) -> Foreign:
        return self

    def __call__(self, waveforms: list[torch.Tensor], layers: tuple[int, ...]) -> Any:
        frames = torch.tensor([len(wave) // 80 for wave in waveforms])
        states = []
        for layer in layers:
            x = torch.zeros(len(waveforms), int(frames.max()), self.widths[layer])
            for row, wave, count in zip(x, waveforms, frames):
                row[:count] = wave[: count * 80].view(-1, 80)[:, : x.shape[2]] + layer
            states.append(x)
        return SimpleNamespace(hidden_states=states, lengths=frames)


class Measured(Foreign):
    """One that says how large its features are as well."""

    width = 6

    def frame_count(self, samples: int) -> int:
        return samples // 80


@pytest.mark.parametrize("pool", [None, "mean"])
@pytest.mark.parametrize("kind", [Foreign, Measured])
def test_a_model_of_others(folder: Path, pool: str | None, kind: type[Foreign]) -> None:
    items = waves()
    store = create(folder, kind(), items, pool=pool)
    expected = {
        key: torch.stack([wave[: len(wave) // 80 * 80].view(-1, 80)[:, :6] + layer for layer in (0, 1)])
        for key, wave in items.items()
    }
    holds(store, expected if pool is None else {k: x.mean(1, keepdim=True) for k, x in expected.items()}, 1e-6)
    assert create(folder, kind(), items, pool=pool).keys() == store.keys()
    seconds = [len(wave) / 8000 for wave in items.values()]
    if kind is Measured:
        assert FeatureStore.estimate(Measured(), seconds, pool=pool) == store.size_bytes
        with pytest.raises(InputError, match="more than budget_bytes = 10"):
            create(folder.with_name("small"), Measured(), items, pool=pool, budget_bytes=10)
    else:
        with pytest.raises(
            InputError, match=r"^Foreign does not say how large .* it needs frame_count\(samples\), and"
        ):
            FeatureStore.estimate(kind(), seconds)


def test_layers_of_other_widths(folder: Path) -> None:
    with pytest.raises(InputError, match=r"^the hidden states of 'u0' differ in shape \(\(62, 6\), \(62, 9\)\); store"):
        create(folder, Foreign(widths=(6, 9)), {"u0": waves()["u0"]})
    assert create(folder, Foreign(widths=(6, 9)), waves(), layers=[1]).width == 9


def test_a_model_that_takes_features(folder: Path) -> None:
    with pytest.raises(InputError, match="a Foreign model takes features of another model"):
        create(folder, Foreign(takes="features"), waves())
    wavec_u = zoo.build("wav2vec_u", input_dim=16, discriminator_dim=16)
    with pytest.raises(InputError, match="a wav2vec_u model takes features of another model"):
        create(folder, wavec_u, waves())


def test_progress_counts_what_is_missing(folder: Path, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.test_extract import Terminal

    interrupted(folder, model, 4)
    written = Terminal()
    monkeypatch.setattr(sys, "stderr", written)
    FeatureStore.create(folder, model, waves())
    assert "/6" in written.getvalue() or "/5" in written.getvalue()


def test_only_refused_utterances_reach_the_disk_first(
    folder: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The width is not known yet when the index is begun."""
    monkeypatch.setattr(_store, "SYNC_SECONDS", 0)
    items = {"a": torch.zeros(3), "b": torch.zeros(3), **waves()}
    store = create(folder, model, items, batch_seconds=0.01)
    holds(store, extracted(model, waves()))
    assert list(store.errors) == ["a", "b", SHORT]


def test_a_transform_that_writes_into_one_buffer(folder: Path, model: Model) -> None:
    buffer = torch.empty(4, 60, 32)

    def into(key: str, x: torch.Tensor) -> torch.Tensor:
        return buffer[:, : x.shape[1]].copy_(x)

    holds(create(folder, model, waves(), transform=into), extracted(model, waves()))
