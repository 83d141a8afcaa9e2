"""python -m zoo doctor: what it finds on good and bad machines. Only this machine is asked."""

from __future__ import annotations

import json
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import zoo.__main__
from zoo import _cache
from zoo._commands import doctor

PROXIES = [name for kind in ("http", "https", "all", "no") for name in (f"{kind}_proxy", f"{kind}_proxy".upper())]
Run = Callable[..., tuple[int, dict[str, list[dict[str, Any]]]]]


class Forbids(BaseHTTPRequestHandler):
    """Answers everything with 403, and remembers the headers."""

    def do_HEAD(self) -> None:
        self.server.seen.append((self.path, dict(self.headers)))
        self.send_response(403)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    found = ThreadingHTTPServer(("127.0.0.1", 0), Forbids)
    found.seen = []
    thread = threading.Thread(target=found.serve_forever, args=(0.01,))
    thread.start()
    yield found
    found.shutdown()
    found.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def only_this_machine(
    server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setattr(doctor, "RELEASES", address)
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `doctor`; gives its exit code, and what it found by part of the machine."""

    def call(*arguments: object) -> tuple[int, dict[str, list[dict[str, Any]]]]:
        status = zoo.__main__.main(["doctor", "--json", *map(str, arguments)])
        printed = capsys.readouterr()
        assert printed.err == ""
        content = json.loads(printed.out)
        assert content["ok"] == (status == 0)
        found: dict[str, list[dict[str, Any]]] = {}
        for finding in content["findings"]:
            found.setdefault(finding["what"], []).append(finding)
            assert finding["result"] in ("ok", "note", "problem")
            assert finding["advice"] or finding["result"] == "ok" or finding["what"] in ("network", "HF_TOKEN")
        return status, found

    return call


def unused_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def test_a_good_machine(run: Run, tmp_path: Path) -> None:
    status, found = run()
    assert status == 0
    # A GPU that is there, or that torch was built for, is a line more.
    assert {name for name in found if not name.startswith(("cuda", "mps"))} == {
        "zoo", "torch", "threads", "cpu", "libsndfile", "soxr", "cache", "disk", "HF_TOKEN", "network",
    }  # fmt: skip
    assert torch.__version__ in found["torch"][0]["detail"]
    assert "float32" in found["cpu"][0]["detail"]
    assert "FLAC" in found["libsndfile"][0]["detail"]
    assert found["cache"][0]["detail"] == f"{tmp_path / 'cache'} (from ZOO_CACHE) does not exist yet"
    assert not (tmp_path / "cache").exists()
    assert "can be reached" in found["network"][0]["detail"]


def test_as_people_read_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert zoo.__main__.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("zoo: ok; ") and "\nnetwork: ok; http://127.0.0.1:" in out


@pytest.mark.parametrize(
    ("settings", "arguments", "why"),
    [
        ({"ZOO_CACHE": "own"}, [], "own (from ZOO_CACHE)"),
        ({"ZOO_CACHE": "", "XDG_CACHE_HOME": "shared"}, [], "shared/zoo (from XDG_CACHE_HOME)"),
        ({"ZOO_CACHE": "", "HOME": "home"}, [], "home/.cache/zoo (the usual place)"),
        ({"ZOO_CACHE": "own"}, ["--cache-dir", "given"], "given (from --cache-dir)"),
    ],
)
def test_where_the_cache_is_and_why(
    settings: dict[str, str], arguments: list[str], why: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in settings.items():
        monkeypatch.setenv(name, value and str(tmp_path / value))
    found = run(*(str(tmp_path / a) if not a.startswith("-") else a for a in arguments))[1]
    assert f"{tmp_path}/{why}" in found["cache"][0]["detail"]


def test_what_is_in_the_cache(run: Run, tmp_path: Path) -> None:
    native = tmp_path / "cache" / "native" / "v1" / "model.safetensors"
    native.parent.mkdir(parents=True)
    native.write_bytes(bytes(10))
    _cache.write_record(native, _cache.Record("", 10, "", 0))
    part = tmp_path / "cache" / "files" / "host" / "model.pt.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(10))
    status, found = run()
    assert status == 0 and "holds 1 models" in found["cache"][0]["detail"]
    assert found["cache"][1]["result"] == "note" and str(part) in found["cache"][1]["detail"]
    assert "delete" in found["cache"][1]["advice"]


def test_a_cache_that_cannot_be_made(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "file" / "cache"))
    status, found = run()
    assert status == 1 and "is no folder" in found["cache"][0]["detail"]


@pytest.mark.parametrize(("there", "result"), [(True, "note"), (False, "problem")])
def test_a_cache_that_cannot_be_written(
    there: bool, result: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that others keep is a place to read from; one that is not there is none."""
    if there:
        (tmp_path / "cache").mkdir()
    monkeypatch.setattr(doctor, "_is_writable", lambda folder: False)  # root may write anywhere
    status, found = run()
    assert found["cache"][0]["result"] == result and status == (result == "problem")
    assert "ZOO_CACHE" in found["cache"][0]["advice"]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    assert doctor._is_writable(tmp_path) and not doctor._is_writable(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 10**12 - 10**9, 10**9))
    status, found = run()
    assert status == 0 and found["disk"][0]["result"] == "note" and "1.0 GB" in found["disk"][0]["detail"]


def test_nobody_answers(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{unused_port()}")
    status, found = run()
    assert status == 1
    assert [finding["result"] for finding in found["network"]] == ["problem", "ok"]
    assert "Connection refused" in found["network"][0]["detail"] and "ZOO_MIRROR" in found["network"][0]["advice"]
    native = tmp_path / "cache" / "native" / "v1" / "model.safetensors"
    native.parent.mkdir(parents=True)
    native.write_bytes(b"")
    _cache.write_record(native, _cache.Record("", 0, "", 0))
    assert run()[0] == 0  # models that are there can be used


def test_offline_nobody_is_asked(run: Run, monkeypatch: pytest.MonkeyPatch, server: ThreadingHTTPServer) -> None:
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    monkeypatch.setattr(socket.socket, "connect", None)
    status, found = run()
    assert status == 0 and server.seen == []
    assert "ZOO_OFFLINE=1 forbids it" in found["network"][0]["detail"]


def test_secrets_are_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], server: ThreadingHTTPServer
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_hush1")
    monkeypatch.setenv("https_proxy", "http://me:hush2@proxy.example.org:3128")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("ZOO_MIRROR", f"http://me:hush3@127.0.0.1:{server.server_port}/mirror")
    assert zoo.__main__.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "hush" not in out
    assert "HF_TOKEN: ok; is set\n" in out
    assert "proxy: ok; https goes through http://proxy.example.org:3128\n" in out
    assert "proxy: ok; none is used for 127.0.0.1\n" in out
    assert server.seen and not any("Authorization" in headers for _, headers in server.seen)


def test_a_mirror_is_asked_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_MIRROR", "https://me:hush@mirror.example.org/zoo")
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example.org")
    monkeypatch.setattr(doctor, "RELEASES", "https://releases.example.org")
    asked: list[str] = []
    monkeypatch.setattr(doctor, "_unreachable", lambda address: asked.append(address) or "")
    assert run()[0] == 0
    assert asked == [f"https://{name}.example.org" for name in ("mirror", "hub", "releases")]


def test_settings_that_cannot_be(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "two words")
    monkeypatch.setenv("ZOO_MIRROR", "http://example.org")
    status, found = run()
    assert status == 1
    assert found["HF_TOKEN"][0]["result"] == found["network"][0]["result"] == "problem"
    assert "two words" not in str(found) and "ZOO_MIRROR" in found["network"][0]["detail"]


def test_an_old_torch(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    status, found = run()
    assert status == 1 and "torch>=2.6" in found["torch"][0]["advice"]


@pytest.mark.parametrize(("broken", "result"), [(torch.float32, "problem"), (torch.float16, "note")])
def test_a_dtype_that_does_not_work(
    broken: torch.dtype, result: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = doctor._failure
    monkeypatch.setattr(doctor, "_failure", lambda d, dtype: "no" if dtype is broken else original(d, dtype))
    found = run()[1]["cpu"][0]
    works = found["detail"].partition("(")[0].replace(",", "").split()
    assert found["result"] == result and str(broken).removeprefix("torch.") not in works and "bfloat16" in works


def test_products_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor._failure("cpu", torch.float32) == ""
    assert doctor._failure("meta", torch.float32) != ""
    monkeypatch.setattr(torch, "allclose", lambda *args, **options: False)
    assert doctor._failure("cpu", torch.float32) == "it gives wrong numbers"


@pytest.mark.parametrize("part", ["libsndfile", "soxr"])
def test_damaged_audio_libraries(part: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import soundfile
    import soxr

    if part == "libsndfile":
        monkeypatch.setattr(soundfile, "read", lambda file, dtype: (np.zeros(800, dtype=np.float32), 8000))
    else:
        monkeypatch.setattr(soxr, "resample", lambda x, before, after: x)
    status, found = run()
    assert status == 1 and found[part][0]["result"] == "problem" and "pip install" in found[part][0]["advice"]
