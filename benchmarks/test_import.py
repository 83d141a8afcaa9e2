"""What `import zoo` costs a program that has imported torch already."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

ROOT = Path(__file__).resolve().parent.parent
LIMIT_S = 0.060
ROUNDS = 9
CHILD = "import time, torch; start = time.perf_counter(); import zoo; print(time.perf_counter() - start)"


class ChildClock:
    """A clock that advances by what a fresh interpreter measured, so that its start and torch is not counted."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def run_child(self) -> None:
        done = subprocess.run([sys.executable, "-c", CHILD], cwd=ROOT, capture_output=True, text=True, check=True)
        self.now_s += float(done.stdout)


clock = ChildClock()


@pytest.mark.benchmark(group="import zoo, after torch", timer=clock)
def test_import_zoo(benchmark: BenchmarkFixture) -> None:
    benchmark.pedantic(clock.run_child, rounds=ROUNDS, warmup_rounds=1)
    median_s = benchmark.stats.stats.median
    assert 0 < median_s <= LIMIT_S, f"import zoo takes {median_s * 1e3:.0f} ms over import torch"
