"""What lies in the cache: where it is, when it is used, and how it is known to be what was put there."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

import zoo
from tests.hub.models import HUBERT, WAVLM, config_of, folder, registered, same_weights, tiny
from tests.hub.processes import child, without_privileges
from tests.hub.server import Repository, Server
from tests.hub.test_sources import numbers
from zoo import _cache, _hub, _native
from zoo.errors import DownloadError, ZooError
from zoo.models._family import Source

FILES = {"one": HUBERT, "two": HUBERT, "other": WAVLM}


@pytest.fixture(autouse=True)
def names(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Names of models, "one" and "two" of one configuration, in a mirror."""
    monkeypatch.setenv("ZOO_MIRROR", server.url)
    server.files = {f"/example.org/{name}.pt": path.read_bytes() for name, path in FILES.items()}
    presets = [
        tiny(name, config_of(path), Source("", f"https://example.org/{name}.pt")) for name, path in FILES.items()
    ]
    with registered(*presets):
        yield


def native(cache: Path, name: str = "one") -> Path:
    return cache / "native" / f"v{_hub.CONVERTER}" / f"{name}.safetensors"


def original(cache: Path, name: str = "one") -> Path:
    return cache / "files" / "example.org" / f"{name}.pt"


def flip(path: Path) -> None:
    """One bit in the middle, as a disk or a hand might."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def loads(server: Server, requests: int, name: str = "one", **options: object) -> None:
    """The right model comes, after so many requests."""
    before = len(server.requests)
    same_weights(zoo.load(name, **options), FILES[name])
    assert len(server.requests) - before == requests


def test_the_folder_is_chosen_at_the_time_of_the_call(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    monkeypatch.delenv("ZOO_CACHE")
    for number, (expected, setting) in enumerate(
        [
            (home / ".cache" / "zoo", {}),
            (tmp_path / "xdg" / "zoo", {"XDG_CACHE_HOME": str(tmp_path / "xdg")}),
            (tmp_path / "own", {"ZOO_CACHE": str(tmp_path / "own")}),
            (home / "tilde", {"ZOO_CACHE": "~/tilde"}),
        ]
    ):
        for name, value in setting.items():
            monkeypatch.setenv(name, value)
        assert _cache.root() == expected and not expected.exists()
        loads(server, requests=1)
        assert native(expected).is_file(), number
    loads(server, requests=1, cache_dir=tmp_path / "argument")
    loads(server, requests=1, cache_dir="~/argument")
    assert native(tmp_path / "argument").is_file() and native(home / "argument").is_file()
    monkeypatch.setenv("ZOO_CACHE", "")
    assert _cache.root() == tmp_path / "xdg" / "zoo", "what is empty is not set"


def test_a_model_is_fetched_and_converted_once(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads(server, requests=1)
    assert {path.name for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"} == {
        "one.pt", "one.pt.json", "one.safetensors", "one.safetensors.json",
    }  # fmt: skip
    record = json.loads(original(cache).with_name("one.pt.json").read_text())
    assert record["url"] == "https://example.org/one.pt" and record["size"] == HUBERT.stat().st_size

    def refuse(*arguments: object, **others: object) -> None:
        raise AssertionError("it is converted already")

    with monkeypatch.context() as patch:
        patch.setattr(_hub, "open_conversion", refuse)
        loads(server, requests=0)
    monkeypatch.setattr(_hub, "CONVERTER", _hub.CONVERTER + 1)
    loads(server, requests=0)
    assert native(cache).is_file(), "converted again by another version, from the file that is there"


def test_another_configuration_is_converted_again(server: Server, cache: Path) -> None:
    loads(server, requests=1)
    before = native(cache).stat().st_mtime_ns
    changed = dataclasses.replace(config_of(HUBERT), dropout=0.25)
    with registered(tiny("one", changed, Source("", "https://example.org/one.pt"))):
        assert zoo.load("one").config.dropout == 0.25
    assert native(cache).stat().st_mtime_ns != before and len(server.requests) == 1


def test_a_changed_bit_is_noticed(server: Server, cache: Path) -> None:
    loads(server, requests=1)
    flip(native(cache))
    with pytest.warns(UserWarning, match="damaged or replaced"):
        loads(server, requests=0)
    flip(native(cache))
    flip(original(cache))
    with pytest.warns(UserWarning, match="damaged or replaced"):
        loads(server, requests=1)
    loads(server, requests=0)


def test_a_swapped_file_is_noticed(server: Server, cache: Path) -> None:
    for name in ("one", "two"):
        loads(server, requests=1, name=name)
    one, two, third = native(cache), native(cache, "two"), cache / "third"
    one.rename(third)
    two.rename(one)
    third.rename(two)
    for name in ("one", "two"):
        with pytest.warns(UserWarning, match="damaged or replaced"):
            model = zoo.load(name)
        assert model.provenance["name"] == name
    assert len(server.requests) == 2


def test_a_file_swapped_with_its_record_is_noticed(server: Server, cache: Path) -> None:
    for name in ("one", "two"):
        loads(server, requests=1, name=name)
    for end in ("", ".json"):
        shutil.copy2(f"{native(cache, 'two')}{end}", f"{native(cache)}{end}")
    assert zoo.load("one").provenance["name"] == "one"
    for end in ("", ".json"):
        shutil.copy2(f"{original(cache, 'two')}{end}", f"{original(cache)}{end}")
        native(cache).unlink(missing_ok=True)
    assert zoo.load("one").provenance["url"] == "https://example.org/one.pt"
    assert len(server.requests) == 3


@pytest.mark.parametrize("damage", [b"", b"short", None])
def test_a_damaged_file_is_made_again(server: Server, cache: Path, damage: bytes | None) -> None:
    loads(server, requests=1)
    for requests, path in enumerate([native(cache), original(cache)]):
        if damage is None:
            path.unlink()
        else:
            path.write_bytes(damage)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            if requests:
                native(cache).unlink()
            loads(server, requests=requests)


@pytest.mark.parametrize(
    "record", ["", "{}", "[]", "null", "[" * 60_000, '{"size": "x"}', " " * 100_000, '{"surprise": 1}', None, "\udcff"]
)
def test_a_file_without_a_sound_record_is_not_used(server: Server, cache: Path, record: str | None) -> None:
    loads(server, requests=1)
    for path in (native(cache), original(cache)):
        beside = path.with_name(f"{path.name}.json")
        beside.unlink() if record is None else beside.write_text(record, errors="surrogateescape")
    loads(server, requests=1)
    loads(server, requests=0)


def test_a_copied_cache_is_used(server: Server, cache: Path, tmp_path: Path) -> None:
    """Without its times, as some tools copy: everything is hashed once."""
    loads(server, requests=1)
    shutil.copytree(cache, tmp_path / "copy", copy_function=shutil.copyfile)
    for path in (tmp_path / "copy").rglob("*.safetensors"):
        os.utime(path, (1, 1))
    loads(server, requests=0, cache_dir=tmp_path / "copy")
    record = _cache.read_record(native(tmp_path / "copy"))
    assert record is not None and record.mtime_ns == 10**9, "and remembered"


def test_a_damaged_file_that_cannot_be_replaced(server: Server, cache: Path) -> None:
    loads(server, requests=1)
    flip(native(cache))
    original(cache).unlink()
    with pytest.warns(UserWarning, match="damaged or replaced"), pytest.raises(DownloadError) as caught:
        zoo.load("one", local_files_only=True)
    assert "one" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.warns(UserWarning, match="damaged or replaced"):
        loads(server, requests=1)


def read_only(path: Path) -> None:
    for item in (path, *path.rglob("*")):
        item.chmod(0o555 if item.is_dir() else 0o444)


@pytest.fixture
def shared(server: Server, cache: Path) -> Iterator[Path]:
    """A cache that holds one model and cannot be written."""
    loads(server, requests=1)
    read_only(cache)
    yield cache
    for item in (cache, *cache.rglob("*")):
        item.chmod(0o755)


def test_modes_bind_the_superuser_too_in_these_tests(shared: Path) -> None:
    with pytest.raises(PermissionError):
        without_privileges(lambda: (shared / "new").write_text("x"))


def test_a_shared_cache_that_cannot_be_written(server: Server, shared: Path) -> None:
    without_privileges(lambda: loads(server, requests=0))


def test_what_a_shared_cache_lacks(server: Server, shared: Path) -> None:
    with pytest.raises(DownloadError) as caught:
        without_privileges(lambda: zoo.load("other"))
    sentence = str(caught.value)
    assert str(shared) in sentence and "ZOO_CACHE" in sentence and "Permission denied" in sentence
    assert len(server.requests) == 1, "it is known before anything is asked for"


def test_a_shared_cache_of_files_that_have_no_times(server: Server, shared: Path) -> None:
    os.utime(native(shared), (1, 1))
    without_privileges(lambda: loads(server, requests=0))


def test_a_shared_cache_of_originals_alone(server: Server, shared: Path) -> None:
    native(shared).unlink()
    without_privileges(lambda: loads(server, requests=0))
    assert not native(shared).exists()


def test_a_damaged_file_of_a_shared_cache(server: Server, shared: Path) -> None:
    native(shared).chmod(0o644)
    flip(native(shared))
    native(shared).chmod(0o444)
    with pytest.warns(UserWarning, match="damaged or replaced"):
        without_privileges(lambda: loads(server, requests=0))


def test_a_shared_cache_of_repositories(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZOO_MIRROR")
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    server.repositories["org/repo"] = Repository(folder(HUBERT.parent / "hf" / "base_safetensors"))
    first = zoo.load("hf:org/repo")
    asked = len(server.requests)
    read_only(cache)
    again = without_privileges(lambda: zoo.load("hf:org/repo"))
    for item in (cache, *cache.rglob("*")):
        item.chmod(0o755)
    assert len(server.requests) == asked
    assert all(a.equal(b) for a, b in zip(numbers(first), numbers(again)))


def test_the_cache_is_no_folder(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for place in ("file", "file/below"):
        with pytest.raises(DownloadError) as caught:
            zoo.load("one", cache_dir=tmp_path / place)
        assert "ZOO_CACHE" in str(caught.value) and "\n" not in str(caught.value)
    assert not server.requests


def test_a_disk_that_is_full_when_it_is_converted(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **others: object) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(_native, "write_safetensors", full)
        loads(server, requests=1)  # in memory
    assert {path.suffix for path in (cache / "native").rglob("*") if path.is_file()} <= {".lock"}
    loads(server, requests=0)
    assert native(cache).is_file()


def test_an_interrupted_conversion_leaves_nothing(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object, **others: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(_native, "write_safetensors", interrupted)
        zoo.load("one")
    assert {path.suffix for path in (cache / "native").rglob("*") if path.is_file()} <= {".lock"}
    loads(server, requests=0)


LOAD = """
import zoo
from zoo import _download
_download.BACKOFF_S = 0.01
print("ready", flush=True)
zoo.load("hf:org/repo")
"""


def test_two_processes_fetch_and_convert_once(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZOO_MIRROR")
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    files = folder(HUBERT.parent / "hf" / "sharded")
    server.repositories["org/repo"] = Repository(files)
    processes = [child(LOAD) for _ in range(2)]
    assert [process.wait() for process in processes] == [(0, ""), (0, "")]
    bodies = sum(request.sent for request in server.requests if request.path.startswith("/cdn/"))
    assert bodies == sum(len(content) for name, content in files.items() if name.endswith(".safetensors"))
    before = len(server.requests)
    zoo.load("hf:org/repo", local_files_only=True)
    assert len(server.requests) == before


def test_a_killed_process_leaves_no_lock(server: Server, cache: Path) -> None:
    code = (
        "from pathlib import Path; from zoo._cache import locked\nwith locked(Path(sys.argv[1])):\n"
        "    print('ready', flush=True); sys.stdin.read()"
    )
    process = child(code, str(native(cache)))
    process.wait_until_ready()
    process.kill()
    loads(server, requests=1)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/",
        "https://example.org",
        "https://example.org/../one.pt",
        "https://example.org/a/%2e%2e/%2E%2E/one.pt",
        "https://example.org/" + "../" * 9 + "one.pt",
        "https://example.org/" + "%2E%2e/" * 5 + "one.pt",
        "https://example.org/a/..",
        "https://example.org/./one.pt",
        "https://example.org/..%2f..%2fone.pt",
        "https://example.org/%2fetc%2fpasswd",
        "https://example.org/a\\..\\one.pt",
        "https://example.org/one%00.pt",
        "https://example.org/" + "a" * 5000,
        "https://example.org/" + "%C3%A9" * 200,
        "https://../one.pt",
        "https://..%2f..%2f/one.pt",
        "https://[::1/one.pt",
        "https://example.org:port/one.pt",
        "https:///one.pt",
        "hf:..//one.pt",
        "file:///etc/passwd",
        "/etc/passwd",
        "\x00",
        "",
    ],
)
def test_no_address_leads_out_of_the_cache(server: Server, cache: Path, url: str) -> None:
    """Although the server has a file for each."""
    root, originals = cache.parent, cache / "files"
    before = {path for path in root.rglob("*") if originals not in (path, *path.parents) and path != cache}
    server.anything = HUBERT.read_bytes()
    try:
        path = _hub.download_url(url, progress=False)
    except ZooError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000
    else:
        assert path.read_bytes() == server.anything and ".." not in path.parts
        assert path.parent.parent == originals, "a name of one part may look odd"
    assert {path for path in root.rglob("*") if originals not in (path, *path.parents) and path != cache} == before


def test_addresses_that_differ_have_files_that_differ(server: Server, cache: Path) -> None:
    """By host, port, case, query, and by what is quoted in them."""
    urls = [
        "https://example.org/one.pt", "https://example.org/ONE.pt", "https://example.org/one.pt?id=1",
        "https://example.org/one.pt?id=2", "https://example.com/one.pt", "https://example.org:444/one.pt",
        "https://example.org/a%2Fone.pt", "https://example.org/a/one.pt", "https://example.org/%E2%82%AC.pt",
    ]  # fmt: skip
    places = {_cache.place(cache, url) for url in urls}
    assert len(places) == len(urls) and all(cache in place.parents for place in places)


def test_the_file_of_an_address(server: Server, cache: Path) -> None:
    """What drop-ins of other toolkits use."""
    path = _hub.download_url("https://example.org/one.pt", progress=False)
    assert path == original(cache) and path.read_bytes() == HUBERT.read_bytes()
    assert _hub.download_url("https://example.org/one.pt", local_files_only=True) == path
    assert len(server.requests) == 1
    server.files["/example.org/one.pt"] = WAVLM.read_bytes()
    assert _hub.download_url("https://example.org/one.pt", refresh=True).read_bytes() == WAVLM.read_bytes()
    with pytest.raises(DownloadError, match="404"):
        _hub.download_url("https://example.org/gone.pt", progress=False)


def test_a_file_stands_where_a_folder_is_needed(server: Server, cache: Path) -> None:
    server.files["/example.org/a"] = server.files["/example.org/a/b"] = HUBERT.read_bytes()
    _hub.download_url("https://example.org/a", progress=False)
    with pytest.raises(DownloadError) as caught:
        _hub.download_url("https://example.org/a/b", progress=False)
    assert "\n" not in str(caught.value)
