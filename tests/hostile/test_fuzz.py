"""Random files, and the corpus: whatever they hold, the command line converts them or refuses them in one sentence."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, seed, settings

from tests.hostile import fuzz
from tests.hostile.test_cases import MEMORY, SECONDS, Process

MINUTES = 3.0


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    found = Process(tmp_path_factory.mktemp("warm"))
    yield found
    found.runner.close()


def check(process: Process, path: Path) -> int:
    """Convert a file, and give the exit status."""
    here = Path(tempfile.mkdtemp(dir=process.folder))
    answer: dict[str, Any] = {"seconds": SECONDS}
    for _ in range(3):  # the processor may be shared with others
        if answer["seconds"] >= SECONDS:
            answer = process.ask(do="convert", path=str(path), folder=str(here), options=["--force"])
    assert answer["status"] in (0, 1), answer
    events = [event for event in answer["events"] if not (answer["status"] == 0 and event.startswith("os.rename "))]
    assert events == []
    assert [left.name for left in here.iterdir()] == (["out.safetensors"] if answer["status"] == 0 else [])
    assert bool(answer["out"]) == (answer["status"] == 0) != bool(answer["error"])
    assert answer["error"].count("\n") == answer["status"] and len(answer["error"]) < 1200 + len(str(path))
    assert answer["error"].rstrip("\n").isprintable()
    assert answer["seconds"] < SECONDS and answer["peak"] - process.size < MEMORY
    loaded = process.ask(do="load", path=str(path), folder=str(here))
    assert loaded["status"] == 0 or str(loaded["status"]).startswith("ZooError "), loaded
    assert loaded["status"] != 0 or answer["status"] == 0 or "not finite" in answer["error"]
    return int(answer["status"])


def test_the_corpus_is_small() -> None:
    files = list(fuzz.CORPUS.iterdir())
    assert len(files) >= 30 and sum(file.stat().st_size for file in files) < 200_000


@pytest.mark.parametrize("name", sorted(path.name for path in fuzz.CORPUS.iterdir()))
def test_the_corpus(name: str, process: Process) -> None:
    check(process, fuzz.CORPUS / name)


def run(kind: str, process: Process, number: int | None, examples: int) -> set[int]:
    """The exit statuses of some random files, the same ones every time."""
    statuses = set()

    @settings(fuzz.SETTINGS, derandomize=number is None, max_examples=examples)
    @given(fuzz.KINDS[kind])
    def one(make: fuzz.Make) -> None:
        with tempfile.TemporaryDirectory() as folder:
            statuses.add(check(process, make(Path(folder))))

    (one if number is None else seed(number)(one))()
    return statuses


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_random_files(kind: str, process: Process) -> None:
    assert 1 in run(kind, process, None, 150)


@pytest.mark.slow
def test_random_files_for_minutes(process: Process) -> None:
    end = time.monotonic() + 60 * MINUTES
    for number in itertools.count():
        for kind in fuzz.KINDS:
            run(kind, process, number, 100)
            if time.monotonic() > end:
                return
