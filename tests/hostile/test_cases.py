"""Every hostile file is refused in one sentence, runs and imports nothing, writes nothing, and costs little."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.cases import CASES, DATA
from tests.hostile.runner import Runner

SECONDS = 2.0
MEMORY = 64  # MiB above what the process has at the start
# Genuine files of every family and layout, and some that are none: what they make the process import and allocate is
# there before the first case.
GENUINE = [*sorted(DATA.glob("*.pt")), *sorted(DATA.glob("s3prl/*.ckpt")), DATA / "wav2vec_u" / "plain.pt"]
GENUINE += [DATA / "hf" / "ctc", DATA / "hf" / "bin", DATA / "README.md", DATA / "absent.pt"]


class Process:
    """A runner that knows the process's size at the start, and starts it anew after a case that did not answer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.start()

    def start(self) -> None:
        self.runner = Runner()
        for path in GENUINE:
            for do in ("convert", "inspect", "load"):
                output = self.folder / "out.safetensors"
                output.unlink(missing_ok=True)
                answer = self.ask(do=do, path=str(path), folder=str(self.folder))
        self.size = answer["before"]

    def ask(self, **request: Any) -> dict[str, Any]:
        try:
            return self.runner.ask(**request)
        except AssertionError:
            self.runner.close()
            self.start()
            raise


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    found = Process(tmp_path_factory.mktemp("warm"))
    yield found
    found.runner.close()


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Everything below a folder, with what changes when a file is written to."""
    states = {str(path): path.lstat() for path in folder.rglob("*")}
    return {name: (s.st_size, s.st_mtime_ns) for name, s in states.items() if not stat.S_ISDIR(s.st_mode)}


def test_there_are_many_cases() -> None:
    assert len(CASES) >= 150


@pytest.mark.parametrize("name", CASES)
def test_refused(name: str, process: Process, tmp_path: Path) -> None:
    case = CASES[name]
    (tmp_path / "in").mkdir()
    path = case.make(tmp_path / "in")
    here = tmp_path / "here"
    here.mkdir()
    before = listing(tmp_path)
    for do in ("convert", "load") if case.tensors else ("convert", "inspect", "load"):
        request = {"do": do, "path": str(path), "folder": str(here)}
        answer = process.ask(**request)
        for _ in range(2):  # the processor may be shared with others
            if answer["seconds"] >= SECONDS:
                answer = min(answer, process.ask(**request), key=lambda a: a["seconds"])
        if do == "load":
            assert str(answer["status"]).startswith("ZooError "), answer
            sentence, words = answer["status"], case.loaded
            assert answer["error"] == ""
        else:
            assert answer["status"] == 1, answer
            sentence, words = answer["error"].removesuffix("\n"), case.words
            assert answer["error"] == f"{sentence}\n" and sentence.startswith("zoo.convert: ")
            assert sentence.isprintable() and len(sentence) < 1200
        assert answer["out"] == ""
        assert "\n" not in sentence.replace(str(path), "") and re.search(words, sentence), sentence
        assert answer["events"] == []
        assert answer["seconds"] < SECONDS
        assert answer["peak"] - process.size < MEMORY, answer["before"]
        assert listing(tmp_path) == before


SEEN = {
    "import xmlrpc.client": "import ",
    "import os; os.system('true')": "os.system ",
    "import subprocess; subprocess.run(['true'])": "subprocess.Popen ",
    "eval('1')": "compile ",
    "exec('1')": "exec ",
    "open('ran', 'w').close()": "open ",
    "import os; os.close(os.open('ran', os.O_WRONLY | os.O_CREAT))": "open ",
    "import os; os.mkdir('folder')": "os.mkdir ",
    "import os; open('ran', 'w').close(); os.rename('ran', 'run')": "os.rename ",
    "import socket; socket.socket().close()": "socket.__new__ ",
    "import pickle; pickle.loads(b'cos\\ngetcwd\\n)R.')": "pickle.find_class ",
}


@pytest.mark.parametrize("code", SEEN)
def test_the_watch_sees(code: str, process: Process) -> None:
    """What a payload could do is noted: without this, no case above could fail."""
    answer = process.ask(do="misbehave", path=code, folder=str(process.folder))
    assert answer["status"] == 0
    assert any(event.startswith(SEEN[code]) for event in answer["events"]), answer


def test_time_and_memory_are_measured(process: Process) -> None:
    answer = process.ask(do="misbehave", path="import time; time.sleep(0.5)", folder=str(process.folder))
    assert 0.5 <= answer["seconds"] < 5 and answer["peak"] - process.size < MEMORY
    answer = process.ask(do="misbehave", path="bytearray(b'x' * (100 << 20))", folder=str(process.folder))
    assert 150 < answer["peak"] - answer["before"] < 300
    answer = process.ask(do="misbehave", path="1", folder=str(process.folder))
    assert answer["peak"] - answer["before"] < 20
