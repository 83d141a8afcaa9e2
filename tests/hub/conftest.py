"""Servers, an empty cache, and an environment that says nothing of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub.server import Server
from zoo import _download

VARIABLES = """ZOO_CACHE ZOO_MIRROR ZOO_OFFLINE HF_HUB_OFFLINE HF_ENDPOINT HF_TOKEN XDG_CACHE_HOME NETRC
REQUESTS_CA_BUNDLE CURL_CA_BUNDLE HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY""".split()


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(_download, "BACKOFF_S", 0.001)
    monkeypatch.setattr(_download, "READ_TIMEOUT_S", 5)


@pytest.fixture
def cache(environment: None) -> Path:
    return Path(os.environ["ZOO_CACHE"])


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture
def other() -> Iterator[Server]:
    """Another port is another origin."""
    with Server() as running:
        yield running


@pytest.fixture
def secure(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server(tls=True) as running:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(Path(__file__).with_name("loopback.pem")))
        yield running
