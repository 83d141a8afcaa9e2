"""`python -m zoo fetch`: models into the cache, whole or not at all."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import zoo
from tests.exporting import DATA
from tests.hub import models
from tests.hub import server as twists
from tests.hub.models import HUBERT, WAVLM, config_of, folder, registered, same_weights, tiny
from tests.hub.server import Repository, Server
from zoo import __main__, _registry
from zoo.models._family import Source


@pytest.fixture(autouse=True)
def served(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Three names: one that can be had, one that is damaged, one whose address is dead."""
    monkeypatch.setenv("ZOO_MIRROR", server.url)
    server.files["/example.org/one.pt"] = HUBERT.read_bytes()
    server.files["/example.org/damaged.pt"] = HUBERT.read_bytes()[:30_000]
    config = config_of(HUBERT)
    names = ("one", "damaged", "missing")
    presets = [tiny(name, config, Source("fairseq", f"https://example.org/{name}.pt")) for name in names]
    dead = tiny("dead", config, Source("fairseq", "https://example.org/dead.pt", dead="gone since 2020"))
    with registered(*presets, dead):
        yield


def fetch(*arguments: str) -> int:
    return __main__.main(["fetch", *arguments])


def left(cache: Path) -> set[str]:
    """Files of the cache, but for those that say that something is not finished."""
    unfinished = (".lock", ".part", ".part.json")
    return {path.name for path in cache.rglob("*") if path.is_file() and not path.name.endswith(unfinished)}


def test_a_name(server: Server, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fetch("one") == 0
    out, err = capsys.readouterr()
    (line,) = out.splitlines()
    path = Path(line.partition(": ")[2])
    assert line.startswith("one: ") and path.is_file() and cache in path.parents and err == ""
    assert fetch("one", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"done": {"one": str(path)}, "failed": {}}
    assert len(server.requests) == 1
    same_weights(zoo.load("one", local_files_only=True), HUBERT)
    same_weights(zoo.load(path), HUBERT)


def test_another_folder_as_a_user_would_carry_it(
    server: Server, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fetched where there is a network, used where there is none."""
    assert fetch("one", "--cache-dir", str(tmp_path / "here")) == 0
    assert not cache.exists()
    (tmp_path / "here").rename(tmp_path / "there")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "there"))
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    same_weights(zoo.load("one"), HUBERT)


@pytest.mark.parametrize("name", ["damaged", "missing", "dead", "no-such-name", "hf:../..", "hf:org/none"])
def test_what_fails_leaves_nothing(name: str, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fetch(name) == 1
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and name in err and "Traceback" not in err
    assert not any("safetensors" in file for file in left(cache))
    if name != "damaged":  # which came whole, as far as anybody could know
        assert left(cache) == set()


@pytest.mark.parametrize(
    "way", [twists.cut(10_000), twists.page(), twists.status(503), twists.saying(X_Linked_Size="9")]
)
def test_a_transfer_that_fails_leaves_nothing(
    server: Server, cache: Path, way: twists.Twist, capsys: pytest.CaptureFixture[str]
) -> None:
    server.always("/example.org/one.pt", lambda request, answer: way(request, answer).saying(ETag="W/weak"))
    assert fetch("one") == 1
    assert left(cache) == set()
    server.always("/example.org/one.pt", twists.normal())
    assert fetch("one") == 0


def test_what_came_damaged_can_be_fetched_again(
    server: Server, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetch("damaged") == 1
    assert "--refresh" in capsys.readouterr().err
    server.files["/example.org/damaged.pt"] = HUBERT.read_bytes()
    assert fetch("damaged", "--refresh") == 0
    same_weights(zoo.load("damaged"), HUBERT)


def test_some_fail(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The others are fetched all the same."""
    assert fetch("missing", "one", "damaged", "one", "--json") == 1
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert list(result["done"]) == ["one"] and set(result["failed"]) == {"missing", "damaged"}
    assert len(err.splitlines()) == 2


def test_a_family(server: Server, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All of it, but what is known to be dead."""
    family = _registry.families()["hubert"]
    presets = []
    for name in ("a", "b", "c"):
        server.files[f"/example.org/{name}.pt"] = HUBERT.read_bytes()
        presets.append(tiny(name, config_of(HUBERT), Source("fairseq", f"https://example.org/{name}.pt")))
    only = dataclasses.replace(family, presets=(*presets, _registry.find("dead")[1]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(_registry.families(), "hubert", only)
        _registry._presets.cache_clear()
        assert fetch("--all", "hubert", "--json") == 0
    _registry._presets.cache_clear()
    assert set(json.loads(capsys.readouterr().out)["done"]) == {"a", "b", "c"}


def test_a_file_that_the_user_has(server: Server, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in (HUBERT, DATA / "converted_hubert.pt"):
        assert fetch("dead", "--from", str(file)) == 0
        model = zoo.load("dead")
        assert model.provenance["name"] == "dead" and model.config == config_of(HUBERT)
        same_weights(model, HUBERT)
    assert not server.requests


def test_a_state_dict_that_the_user_has(server: Server, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "bare.pth").write_bytes(models.torchaudio(HUBERT, tmp_path))
    assert fetch("dead", "--from", str(tmp_path / "bare.pth")) == 0
    same_weights(zoo.load("dead"), HUBERT)


def test_another_model_that_the_user_has(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text").write_text("no checkpoint")
    for file in (WAVLM, tmp_path / "text", tmp_path / "gone", tmp_path):
        assert fetch("dead", "--from", str(file)) == 1
        out, err = capsys.readouterr()
        assert out == "" and len(err.splitlines()) == 1 and str(file) in err
    assert left(cache) == set()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "give names"),
        (("--all", "none"), "none"),
        (("one", "damaged", "--from", "x.pt"), "one name"),
        (("hf:org/repo", "--from", "x.pt"), "hf:org/repo"),
        (("--all", "baseline"), "baseline"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], words: str, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fetch(*arguments) == 1
    assert words in capsys.readouterr().err and not cache.exists()


def test_refresh(server: Server, cache: Path) -> None:
    assert fetch("one") == 0
    assert fetch("one", "--refresh") == 0
    assert len(server.requests) == 2


def test_a_refresh_that_fails_keeps_what_is_there(server: Server, cache: Path) -> None:
    assert fetch("one") == 0
    server.always("/example.org/one.pt", twists.status(404))
    assert fetch("one", "--refresh") == 1
    same_weights(zoo.load("one", local_files_only=True), HUBERT)


def test_a_repository(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    server.repositories["org/repo"] = Repository(folder(DATA / "hf" / "base_safetensors"))
    assert fetch("hf:org/repo") == 0
    same_weights(zoo.load("hf:org/repo", local_files_only=True), DATA / "hf" / "base_safetensors")
