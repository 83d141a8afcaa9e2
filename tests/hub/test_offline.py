"""Without the network: one sentence for what is not there, no request, and what is there loads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import zoo
from tests.exporting import DATA
from tests.hub.models import HUBERT, config_of, folder, registered, same_weights, tiny
from tests.hub.server import Repository, Server
from zoo import __main__, _hub
from zoo.errors import DownloadError
from zoo.models._family import Source

URL = "https://example.org/one.pt"
REPOSITORY = DATA / "hf" / "base_safetensors"
WAYS = [
    ("local_files_only=True", {}, True),
    ("ZOO_OFFLINE=1", {"ZOO_OFFLINE": "1"}, False),
    ("HF_HUB_OFFLINE=1", {"HF_HUB_OFFLINE": "1"}, False),
    ("ZOO_OFFLINE=true", {"ZOO_OFFLINE": "true"}, False),
    ("HF_HUB_OFFLINE=YES", {"HF_HUB_OFFLINE": "YES"}, False),
    ("ZOO_OFFLINE=On", {"ZOO_OFFLINE": "On"}, False),
]


@pytest.fixture(autouse=True)
def served(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("ZOO_MIRROR", server.url)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    server.files["/example.org/one.pt"] = HUBERT.read_bytes()
    server.repositories["org/repo"] = Repository(folder(REPOSITORY))
    with registered(
        tiny("one", config_of(HUBERT), Source("fairseq", URL)),
        tiny("of-hub", config_of(REPOSITORY), Source("huggingface", "hf:org/repo")),
    ):
        yield


NAMES = {"one": HUBERT, "of-hub": REPOSITORY, "hf:org/repo": REPOSITORY}


@pytest.mark.parametrize(("reason", "setting", "argument"), WAYS)
@pytest.mark.parametrize("name", NAMES)
def test_offline(
    server: Server,
    cache: Path,
    name: str,
    reason: str,
    setting: dict[str, str],
    argument: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        for variable, value in setting.items():
            patch.setenv(variable, value)
        with pytest.raises(DownloadError) as caught:
            zoo.load(name, local_files_only=argument)
    sentence = str(caught.value)
    assert reason in sentence and name in sentence and str(cache) in sentence and "\n" not in sentence
    assert sentence.count(reason) == 1
    assert not server.requests and not cache.exists()
    zoo.load(name)
    asked = len(server.requests)
    assert asked
    for variable, value in setting.items():
        monkeypatch.setenv(variable, value)
    same_weights(zoo.load(name, local_files_only=argument), NAMES[name])
    assert len(server.requests) == asked


@pytest.mark.parametrize("value", ["", "0", "false", "no", "off"])
def test_off_is_off(server: Server, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_OFFLINE", value)
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    zoo.load("one")
    assert server.requests


def test_an_original_that_is_there_is_converted(server: Server) -> None:
    _hub.download_url(URL, progress=False)
    same_weights(zoo.load("one", local_files_only=True), HUBERT)
    assert len(server.requests) == 1


def test_the_file_of_an_address(server: Server) -> None:
    with pytest.raises(DownloadError) as caught:
        _hub.download_url("https://user:secret@example.org/one.pt?token=secret", local_files_only=True)
    assert "example.org/one.pt" in str(caught.value) and "secret" not in str(caught.value)
    assert not server.requests


def test_the_command(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    assert __main__.main(["fetch", "one"]) == 1
    assert "ZOO_OFFLINE=1" in capsys.readouterr().err
    assert not server.requests and not cache.exists()
    assert __main__.main(["fetch", "one", "--from", str(HUBERT)]) == 0
    assert __main__.main(["fetch", "one"]) == 0
    assert not server.requests
