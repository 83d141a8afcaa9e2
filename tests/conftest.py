"""What every test runs under: a fixed seed, no more threads than a small machine has, no network, an empty cache.

At the end of a run the largest differences that tests recorded are printed: the tables of docs/numerics.md.
`--differences FILE` writes them as JSON too, with how many tests passed and failed.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import platform
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.loopback import only_loopback

torch.set_num_threads(min(2, os.cpu_count() or 1, int(os.environ.get("OMP_NUM_THREADS") or 2)))


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only this machine can be reached: a test that would download something fails and says so.

    Those marked `weights`, which nobody runs by default, use the network and the user's cache.
    """
    if request.node.get_closest_marker("weights") is None:
        only_loopback(monkeypatch.setattr)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For models so small that they gain nothing from a second thread, and lose much when the processor is shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


SETTINGS = ("XDG_CACHE_HOME", "ZOO_OFFLINE", "ZOO_MIRROR", "HF_HUB_OFFLINE", "HF_ENDPOINT", "HF_TOKEN")
COUNT = itertools.count()


@pytest.fixture(autouse=True)
def own_cache(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Each test has a cache of its own, and none of the user's settings; but for those marked `weights`."""
    if request.node.get_closest_marker("weights") is not None:
        return
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path_factory.getbasetemp() / f"cache{next(COUNT)}"))


def pytest_collection_finish() -> None:
    """What thousands of tests consist of is there to stay: the garbage collector need not look through it again."""
    gc.collect()
    gc.freeze()


LARGEST = pytest.StashKey[dict[str, dict[str, float]]]()


@pytest.fixture
def record_differences(pytestconfig: pytest.Config) -> Callable[[str, Mapping[str, float]], None]:
    """Remember the largest differences of a family."""

    def record(family: str, largest: Mapping[str, float]) -> None:
        table = pytestconfig.stash.setdefault(LARGEST, {}).setdefault(family, {})
        for stage, value in largest.items():
            table[stage] = max(table.get(stage, 0.0), value)

    return record


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--differences", metavar="FILE", help="write the largest differences that were recorded, as JSON")


def pytest_report_header() -> str:
    if torch.cuda.is_available():
        return f"CUDA: {torch.cuda.get_device_name()}"
    return "CUDA: no GPU here, so the rows of tests/golden/test_conditions.py that need one are not collected"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table, and write it where asked."""
    table = config.stash.get(LARGEST, {})
    if config.getoption("--differences"):
        outcomes = {name: len(terminalreporter.stats.get(name, ())) for name in ("passed", "failed", "error")}
        versions = {"python": platform.python_version(), "torch": torch.__version__, "machine": platform.machine()}
        report = {**versions, **outcomes, "differences": table}
        Path(config.getoption("--differences")).write_text(json.dumps(report, indent=1, sort_keys=True) + "\n")
    if not table:
        return
    stages = sorted({stage for row in table.values() for stage in row})
    terminalreporter.section("largest differences that were recorded")
    terminalreporter.write_line(" " * 20 + "".join(f"{stage:>10s}" for stage in stages))
    for family, row in sorted(table.items()):
        terminalreporter.write_line(f"{family:20s}" + "".join(f"{row.get(s, float('nan')):10.1e}" for s in stages))
