"""What loading a model from the cache costs beside reading its tensors and laying out its modules."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from safetensors.torch import load_file

import zoo
from zoo import _cache, _hub
from zoo._digest import Digest

LIMIT = 1.5
ROUNDS = 15


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A cache that holds hubert_base, with random weights, and its native file."""
    options = _hub.Options(cache_dir=tmp_path_factory.mktemp("cache"))
    named = _hub.Named("hubert_base", options)
    named.target.parent.mkdir(parents=True)
    zoo.save(zoo.build("hubert_base"), named.target)
    status, digest = named.target.stat(), Digest(named.target).result()
    record = _cache.Record("benchmark", status.st_size, digest, status.st_mtime_ns, config=named.config_hash)
    _cache.write_record(named.target, record)
    return options.root, named.target


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@pytest.mark.benchmark(group="zoo.load of a cached base model")
def test_cached_load(benchmark: BenchmarkFixture, cached: tuple[Path, Path], ratios: list[str]) -> None:
    root, native = cached

    def least() -> object:
        tensors = load_file(native)
        with torch.device("meta"):
            return zoo.build("hubert_base"), sum(tensor.sum() for tensor in tensors.values())

    def ours() -> object:
        model = zoo.load("hubert_base", cache_dir=root, local_files_only=True)
        return sum(tensor.sum() for tensor in model.state_dict().values())

    for call in (least, ours):
        call()
    times = [(seconds(least), seconds(ours)) for _ in range(ROUNDS)]
    benchmark.pedantic(ours, rounds=ROUNDS)
    ratio = statistics.median(zoo_s / least_s for least_s, zoo_s in times)
    medians = [statistics.median(column) * 1e3 for column in zip(*times)]
    ratios.append(
        f"cached load of hubert_base: {medians[1]:.0f} ms, reading and laying out {medians[0]:.0f} ms: {ratio:.2f}"
    )
    assert ratio <= LIMIT
