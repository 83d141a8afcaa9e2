"""One file over http from a server that misbehaves: what is tried again, continued, refused, and never half-written."""

from __future__ import annotations

import base64
import email.utils
import errno
import hashlib
import io
import os
import random
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hub import server as twists
from tests.hub.processes import child, wait_for
from tests.hub.server import Answer, Request, Server, Twist
from zoo import _download
from zoo._cache import read_record
from zoo._download import download
from zoo.errors import DownloadError

CONTENT = random.Random(6).randbytes(300_000)
CHANGED = random.Random(7).randbytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PATH = "/folder/model.pt"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "files" / "model.pt"


@pytest.fixture
def url(server: Server) -> str:
    server.files[PATH] = CONTENT
    return server.url + PATH


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What would have been slept."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept


def left(folder: Path) -> set[str]:
    """What is in the folder beside locks."""
    return {path.name for path in folder.glob("*") if path.suffix != ".lock"} if folder.is_dir() else set()


def arrives(url: str, target: Path, content: bytes = CONTENT, **known: object) -> None:
    """The file comes whole, with its record and nothing else."""
    record = download(url, target, **known)
    assert target.read_bytes() == content
    assert (record.size, record.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert record == read_record(target) and record.mtime_ns == target.stat().st_mtime_ns
    assert left(target.parent) == {target.name, f"{target.name}.json"}


def refused(url: str, target: Path, *words: str, **known: object) -> str:
    """It ends in one sentence that holds the words, and no file; a finished one is left as it was."""
    with pytest.raises(DownloadError) as caught:
        download(url, target, **known)
    sentence = str(caught.value)
    assert sentence and "\n" not in sentence and len(sentence) < 1000 and "Traceback" not in sentence
    for word in words:
        assert word in sentence, sentence
    assert left(target.parent) <= {f"{target.name}.part", f"{target.name}.part.json"}
    return sentence


def test_a_file_arrives_once(server: Server, url: str, target: Path) -> None:
    arrives(url, target)
    assert len(server.requests) == 1
    arrives(url, target)  # from now on without the network
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "answers",
    [
        [twists.cut(0)],
        [twists.cut(1000)],
        [twists.cut(100), twists.cut(100), twists.cut(100)],
        [twists.reset(0)],
        [twists.reset(5000)],
        [twists.chunked()],
        [twists.chunked(at=1000)],
        [twists.status(503)] * 4,
        [twists.status(500), twists.status(502), twists.status(504), twists.status(408)],
        [twists.status(429)],
        [twists.status(429, Retry_After="0")],
        [twists.status(429, Retry_After="-5")],
        [twists.status(503, Retry_After="soon")],
        [twists.status(503, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT")],
        [twists.status(503, Retry_After="9" * 5000)],
        [twists.cut(1000), twists.status(503), twists.cut(1000)],
        [twists.cut(1000), twists.whole()],
        [twists.cut(1000), twists.status(416)],
        [twists.cut(1000), twists.saying(Content_Range="bytes 0-298999/300000")],
        [twists.cut(1000), twists.saying(Content_Range="bytes 999-299999/300000")],
        [twists.cut(1000), twists.saying(Content_Range="bytes 1000-299999/400000")],
        [twists.cut(1000), twists.saying(Content_Range="nonsense")],
        [twists.claiming(len(CONTENT) + 10)],
    ],
    ids=lambda answers: None,
)
def test_what_goes_wrong_for_a_while_is_tried_again(
    server: Server, url: str, target: Path, pauses: list[float], answers: list[Twist]
) -> None:
    server.twist(PATH, *answers)
    arrives(url, target)
    assert len(answers) <= len(server.requests) <= len(answers) + 2
    assert all(0 <= pause <= _download.MAX_PAUSE_S for pause in pauses)


def test_a_cut_download_is_continued(server: Server, url: str, target: Path) -> None:
    server.twist(PATH, twists.cut(100_000), twists.cut(50_000))
    arrives(url, target)
    assert [request.headers["Range"] for request in server.requests] == [None, "bytes=100000-", "bytes=150000-"]
    assert {request.headers["If-Range"] for request in server.requests[1:]} == {twists.etag(CONTENT)}
    assert server.bodies(PATH) == len(CONTENT)


def test_a_server_that_knows_no_ranges_is_read_from_the_beginning(server: Server, url: str, target: Path) -> None:
    server.twist(PATH, twists.cut(100_000), twists.whole())
    arrives(url, target)
    assert server.requests[1].headers["Range"] and server.requests[1].sent == len(CONTENT)


def changed_in_spite_of_if_range(request: Request, answer: Answer) -> Answer:
    """The rest of another file, although only the rest of the first one was asked for."""
    return Answer(206, body=CHANGED[100_000:]).saying(
        ETag=twists.etag(CHANGED), Content_Range=f"bytes 100000-{len(CHANGED) - 1}/{len(CHANGED)}"
    )


@pytest.mark.parametrize("second", [twists.instead(CHANGED), changed_in_spite_of_if_range])
def test_two_versions_of_a_file_are_never_mixed(server: Server, url: str, target: Path, second: Twist) -> None:
    server.twist(PATH, twists.cut(100_000), second)
    server.always(PATH, twists.instead(CHANGED))
    arrives(url, target, CHANGED)


def test_a_file_without_validator_is_not_continued(server: Server, url: str, target: Path) -> None:
    def unmarked(request: Request, answer: Answer) -> Answer:
        return Answer(body=answer.content, cut=100_000).saying(Accept_Ranges="bytes")

    server.twist(PATH, unmarked)
    arrives(url, target)
    assert server.requests[1].headers["Range"] is None


def test_a_weak_validator_is_not_used(server: Server, url: str, target: Path) -> None:
    server.twist(PATH, lambda request, answer: twists.cut(9)(request, answer).saying(ETag='W/"1"'))
    arrives(url, target)
    assert server.requests[1].headers["If-Range"] is None


@pytest.mark.parametrize("silence", [twists.hang, lambda never: twists.hold(1000, never)], ids=["headers", "body"])
def test_a_silent_server_is_left(
    server: Server, url: str, target: Path, silence: Callable[..., Twist], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_download, "READ_TIMEOUT_S", 0.1)
    server.twist(PATH, silence(threading.Event()))
    arrives(url, target)
    assert len(server.requests) >= 2


def test_a_slow_drip_is_dropped_and_continued(
    server: Server, url: str, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_download, "SLOW_AFTER_S", 0.1)
    monkeypatch.setattr(_download, "SLOW_BYTES_PER_S", 1_000_000)
    server.twist(PATH, twists.drip(1000, 0.01))
    arrives(url, target)
    assert len(server.requests) >= 2 and server.requests[1].headers["Range"]


def test_a_drip_that_never_ends_is_given_up(
    server: Server, url: str, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_download, "SLOW_AFTER_S", 0.02)
    monkeypatch.setattr(_download, "SLOW_BYTES_PER_S", 1_000_000)
    server.always(PATH, lambda request, answer: Answer(body=CONTENT, piece=1, pause_s=0.01))  # no validator: no gain
    refused(url, target, "bytes a second")


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
def test_it_is_given_up_after_some_attempts(server: Server, url: str, target: Path, code: int) -> None:
    server.always(PATH, twists.status(code))
    refused(url, target, str(code), server.url)
    assert len(server.requests) == _download.ATTEMPTS


def test_pauses_double_and_a_server_may_ask_for_longer_ones(
    server: Server, url: str, target: Path, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_download, "BACKOFF_S", 1.0)
    server.always(PATH, twists.status(503))
    refused(url, target)
    assert len(pauses) == _download.ATTEMPTS - 1
    for number, pause in enumerate(pauses):
        assert 0 < pause <= 2**number and pause >= 2**number / 4
    soon = email.utils.formatdate(time.time() + 20, usegmt=True)
    for asked, lowest, highest in (("7", 7, 7), ("86400", 60, 60), (soon, 15, 21)):
        pauses.clear()
        server.twist(PATH, twists.status(429, Retry_After=asked))
        server.always(PATH, twists.normal())
        arrives(url, target.with_name(asked[:4]).joinpath("model.pt"))
        assert len(pauses) == 1 and lowest <= pauses[0] <= highest


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410, 451])
def test_a_refusal_is_final(server: Server, url: str, target: Path, code: int) -> None:
    server.always(PATH, twists.status(code))
    refused(url, target, str(code), server.url)
    assert len(server.requests) == 1


def partial(headers: str) -> Twist:
    """A part of the file, although all of it was asked for."""
    return lambda request, answer: Answer(206, body=CONTENT[:100]).saying(
        ETag=twists.etag(CONTENT), Content_Range=headers
    )


@pytest.mark.parametrize(
    "answer",
    [
        twists.status(204, b""),
        twists.status(304, b""),
        twists.status(300, b"several\n"),
        partial("bytes 0-99/300000"),
        partial("bytes 0-99/*"),
        partial(""),
        twists.claiming(len(CONTENT) + 10),
        twists.cut(0),
        twists.zipped(),
        lambda request, answer: Answer(body=b""),
    ],
)
def test_what_is_no_whole_file_is_none(server: Server, url: str, target: Path, answer: Twist) -> None:
    server.always(PATH, answer)
    refused(url, target, server.url)


@pytest.mark.parametrize(
    "answer",
    [
        twists.page(),
        twists.page("text/html"),
        twists.page("Text/HTML;charset=utf-8", b"anything"),
        twists.page("application/xhtml+xml"),
        twists.page(None),
        twists.page("application/octet-stream"),
        twists.page("application/octet-stream", b"\n \t<HTML>\n" + bytes(1000)),
        twists.page("application/octet-stream", b"\xef\xbb\xbf<!DOCTYPE HTML>" + bytes(1000)),
        twists.page("application/octet-stream", b"<!-- a comment --><html>" + bytes(1000)),
        twists.page("application/octet-stream", b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>"),
        twists.page("application/octet-stream", b"<head><title>x</title></head>"),
        lambda request, answer: Answer(body=twists.PAGE, chunked=True, piece=1),
    ],
)
def test_a_web_page_is_no_checkpoint(server: Server, url: str, target: Path, answer: Twist) -> None:
    server.always(PATH, answer)
    refused(url, target, "web page")
    assert left(target.parent) == set()


def test_a_redirect_is_followed(server: Server, other: Server, target: Path) -> None:
    other.files["/x"] = CONTENT
    server.always("/a", twists.redirect("b?c=1", 301))
    server.always("/b", twists.redirect("//" + server.url.partition("//")[2] + "/c", 307))
    server.always("/c", twists.redirect(other.url + "/x", 308))
    arrives(server.url + "/a", target)
    assert [request.target for request in server.requests] == ["/a", "/b?c=1", "/c"]


def test_a_redirected_file_is_continued(server: Server, other: Server, target: Path) -> None:
    """The address that a redirect gives may be another every time, as signed ones are."""
    other.files["/x"] = CONTENT
    server.twist("/a", twists.redirect(other.url + "/x?signature=1"), twists.redirect(other.url + "/x?signature=2"))
    other.twist("/x", twists.cut(100_000))
    arrives(server.url + "/a", target)
    assert [request.headers["Range"] for request in other.requests] == [None, "bytes=100000-"]


def test_redirects_have_an_end(server: Server, target: Path) -> None:
    server.always("/a", twists.redirect("/b"))
    server.always("/b", twists.redirect("/a"))
    refused(server.url + "/a", target, "from one address to the next")
    assert len(server.requests) == _download.MAX_REDIRECTS + 1
    for number in range(100):
        server.always(f"/{number}", twists.redirect(f"/{number + 1}"))
    server.files["/100"] = CONTENT
    refused(server.url + "/0", target, "from one address to the next")
    arrives(f"{server.url}/{100 - _download.MAX_REDIRECTS}", target)


@pytest.mark.parametrize(
    "location",
    [
        "http://example.org/model.pt",
        "//example.org/model.pt",
        "http://127.0.0.1.example.org/model.pt",
        "http://127.0.0.1@example.org/model.pt",
        "http://localhost.example.org/",
        "http://0.0.0.0/",
        "http://2130706433/",
        "http://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
        "ftp://127.0.0.1/model.pt",
        "data:application/octet-stream;base64,AAAA",
        "javascript:alert(1)",
        "http://[::1",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1:port/",
        "https://",
        "http://127.0.0.1\\@example.org/",
        "http://exa mple.org/",
    ],
)
def test_a_redirect_leads_to_no_other_place(server: Server, url: str, target: Path, location: str) -> None:
    server.always(PATH, twists.redirect(location))
    refused(url, target, server.url)
    assert len(server.requests) == 1 and left(target.parent) == set()


def test_a_redirect_never_leads_from_https_to_http(secure: Server, server: Server, target: Path) -> None:
    server.files["/x"] = secure.files["/x"] = CONTENT
    secure.always("/a", twists.redirect(server.url + "/x"))
    refused(secure.url + "/a", target, "from https to http")
    assert not server.requests
    server.always("/up", twists.redirect(secure.url + "/x"))
    arrives(server.url + "/up", target)


def test_an_unknown_certificate_is_refused(target: Path) -> None:
    with Server(tls=True) as strange:
        strange.files["/x"] = CONTENT
        refused(strange.url + "/x", target, "certificate")
        assert not strange.requests


@pytest.mark.parametrize(
    "address",
    [
        "http://example.org/model.pt",
        "ftp://example.org/x",
        "file:///etc/passwd",
        "model.pt",
        "",
        "https://",
        "http://[",
    ],
)
def test_an_address_is_https_or_this_machine(target: Path, address: str) -> None:
    refused(address, target)


def test_no_other_host_is_reached(target: Path) -> None:
    """Nothing else is looked up or connected to in tests: this is what happens to one that tries."""
    refused("https://example.org/model.pt", target, "example.org", "cannot be reached")


def test_nobody_answers(target: Path) -> None:
    with Server() as gone:
        pass
    refused(gone.url + PATH, target, gone.url, "cannot be reached")


@pytest.mark.parametrize(
    "answers",
    [
        [twists.status(404)],
        [twists.status(403)],
        [twists.page()],
        [twists.redirect("ftp://example.org/")],
        [twists.status(503)] * 5,
        [twists.cut(100_000), *[twists.status(503)] * 4],
        [twists.cut(100_000), twists.status(404)],
        [twists.instead(CHANGED)] * 2,
    ],
    ids=range(8),
)
def test_what_a_mirror_fails_to_give_is_fetched_from_where_it_is(
    server: Server, secure: Server, target: Path, answers: list[Twist], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From its beginning: who knows whether the mirror had the same file?"""
    monkeypatch.setenv("ZOO_MIRROR", f"{server.url}/mirror")
    secure.files[PATH] = CONTENT
    copy = f"/mirror/127.0.0.1:{secure.port}{PATH}"
    server.files[copy] = CONTENT
    server.twist(copy, *answers)
    arrives(secure.url + PATH, target, sha256=SHA256)
    assert len(server.requests) == len(server.of(copy)) == len(answers)
    assert [request.headers["Range"] for request in secure.requests] == [None]
    target.unlink()
    arrives(secure.url + PATH, target)
    assert len(secure.requests) == 1, "the mirror is asked first again"


def test_a_server_without_ranges_that_always_breaks_off(server: Server, url: str, target: Path) -> None:
    server.always(PATH, lambda request, answer: twists.cut(100_000)(request, twists.whole()(request, answer)))
    refused(url, target, "the connection was lost")
    assert len(server.requests) == _download.ATTEMPTS


BASE64 = base64.b64encode(hashlib.sha256(CONTENT).digest()).decode()
WRONG = "0" * 64


@pytest.mark.parametrize(
    "headers",
    [
        {"X_Linked_Etag": f'"{SHA256}"', "X_Linked_Size": str(len(CONTENT))},
        {"X_Linked_Etag": f'"{"a" * 40}"'},  # a git hash, of a small file
        {"Repr_Digest": f"sha-256=:{BASE64}:"},
        {"Repr_Digest": f"sha-512=:AAAA:, sha-256=:{BASE64}:"},
        {"Repr_Digest": "sha-256=:%%%:"},
        {"Digest": f"SHA-256={BASE64}"},
        {"Digest": "md5=AAAA"},
        {"ETag": '"' + WRONG + '"'},  # says nothing about how it is made
    ],
)
def test_what_the_server_says_of_the_file_fits(server: Server, url: str, target: Path, headers: dict[str, str]) -> None:
    server.always(PATH, twists.saying(**headers))
    arrives(url, target, sha256=SHA256, size=len(CONTENT))


WRONG64 = base64.b64encode(bytes(32)).decode()


@pytest.mark.parametrize(
    ("headers", "known"),
    [
        ({}, {"sha256": WRONG}),
        ({"X_Linked_Etag": f'"{WRONG}"'}, {}),
        ({"X_Linked_Etag": f'"{WRONG.upper()}"'}, {}),
        ({"Repr_Digest": f"sha-256=:{WRONG64}:"}, {}),
        ({"Digest": f"SHA-256={WRONG64}"}, {}),
        ({"X_Linked_Size": "299999"}, {}),
        ({}, {"size": 299_999}),
        ({}, {"size": 300_001}),
    ],
)
@pytest.mark.parametrize("way", [twists.normal(), twists.chunked()])
def test_what_does_not_fit_is_thrown_away(
    server: Server, url: str, target: Path, headers: dict[str, str], known: dict[str, object], way: Twist
) -> None:
    server.always(PATH, lambda request, answer: way(request, answer).saying(**headers))
    refused(url, target, server.url, **known)
    assert left(target.parent) == set(), "or it would be continued for ever"
    server.always(PATH, twists.normal())
    arrives(url, target)


def test_the_hash_of_the_first_answer_counts(server: Server, other: Server, target: Path) -> None:
    """It is the hub that knows a file; where it sends to could serve anything."""
    other.files["/x"] = CHANGED
    other.always("/x", twists.saying(X_Linked_Etag=f'"{hashlib.sha256(CHANGED).hexdigest()}"'))
    server.always("/a", twists.status(302, b"", Location=other.url + "/x", X_Linked_Etag=f'"{SHA256}"'))
    refused(server.url + "/a", target, SHA256)


def test_a_swapped_part_is_noticed(server: Server, url: str, target: Path) -> None:
    """What lies there may have been changed before it is continued."""
    server.twist(PATH, twists.cut(100_000), *[twists.status(503)] * 9)
    refused(url, target)
    part = target.with_name("model.pt.part")
    assert part.stat().st_size == 100_000
    part.write_bytes(bytes(100_000))
    server.forget()
    arrives(url, target, sha256=SHA256)


@pytest.mark.parametrize(
    "state", [b"", b"[]", b"{}", b"[" * 100_000, b'{"address": 3}', b"\xff\xfe", b'{"total": "x"}']
)
def test_a_broken_note_about_a_part_is_nothing(server: Server, url: str, target: Path, state: bytes) -> None:
    target.parent.mkdir()
    target.with_name("model.pt.part").write_bytes(bytes(1000))
    target.with_name("model.pt.part.json").write_bytes(state)
    arrives(url, target)


@pytest.mark.parametrize("length", [len(CONTENT), len(CONTENT) + 1])
def test_a_part_as_long_as_the_file(server: Server, url: str, target: Path, length: int) -> None:
    """Killed after the last byte, before the file was in its place; or longer than the file is now."""
    server.twist(PATH, twists.cut(100_000), *[twists.status(503)] * 9)
    refused(url, target)
    target.with_name("model.pt.part").write_bytes((CONTENT + b"x")[:length])
    server.forget()
    arrives(url, target)


def test_many_threads_fetch_once(server: Server, url: str, target: Path) -> None:
    server.always(PATH, twists.drip(60_000, 0.01))
    threads = [threading.Thread(target=download, args=(url, target)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.requests) == 1
    arrives(url, target)


FETCH = """
from pathlib import Path
from zoo._download import download
print("ready", flush=True)
download(sys.argv[1], Path(sys.argv[2]))
"""


def test_two_processes_fetch_once(server: Server, url: str, target: Path) -> None:
    ready = threading.Event()
    server.always(PATH, twists.hold(100_000, ready))
    processes = [child(FETCH, url, str(target)) for _ in range(2)]
    for process in processes:
        process.wait_until_ready()
    wait_for(lambda: server.bodies(PATH) >= 100_000)
    time.sleep(0.1)  # for the other one to come to the lock
    ready.set()
    for process in processes:
        assert process.wait() == (0, "")
    assert len(server.requests) == 1 and server.bodies(PATH) == len(CONTENT)
    arrives(url, target)


def test_a_killed_download_is_continued(server: Server, url: str, target: Path) -> None:
    never = threading.Event()
    part = target.with_name("model.pt.part")
    server.twist(PATH, twists.hold(100_000, never))
    process = child(FETCH, url, str(target))
    wait_for(lambda: part.exists() and part.stat().st_size == 100_000)
    process.kill()
    assert left(target.parent) == {"model.pt.part", "model.pt.part.json"}
    arrives(url, target)
    assert [request.headers["Range"] for request in server.requests] == [None, "bytes=100000-"]
    assert server.requests[1].sent == len(CONTENT) - 100_000


def test_an_interrupted_download_is_continued(
    server: Server, url: str, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(time, "sleep", interrupt)
        server.twist(PATH, twists.cut(100_000))
        with pytest.raises(KeyboardInterrupt):
            download(url, target)
    arrives(url, target)
    assert server.requests[1].headers["Range"] == "bytes=100000-"


def test_a_full_disk_is_noticed_before_the_first_byte(
    server: Server, url: str, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")
    free = len(CONTENT) + _download.SPARE_BYTES - 1
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free))
        refused(url, target, "free", "ZOO_CACHE")
    assert left(target.parent) == set()
    assert len(server.requests) == 1, "another address would not help"
    arrives(url, target)


def test_a_disk_that_fills_while_writing(
    server: Server, url: str, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open

    class Full:
        """A file on a disk that is full after 100 000 bytes."""

        def __init__(self, file: io.BufferedWriter) -> None:
            self.file = file

        def write(self, piece: bytes) -> int:
            if self.file.tell() + len(piece) > 100_000:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return self.file.write(piece)

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *error: object) -> None:
            self.file.close()

    def full(path: Path, mode: str = "r", *more: object, **others: object) -> object:
        file = opened(path, mode, *more, **others)  # type: ignore[call-overload]
        return Full(file) if path.suffix == ".part" and mode == "ab" else file

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        patch.setattr(_download, "CHUNK_BYTES", 10_000)
        refused(url, target, "No space left", "ZOO_CACHE")
    assert len(server.requests) == 1
    arrives(url, target)
    assert server.requests[1].headers["Range"], "what was received is kept"


def test_a_file_that_may_not_grow(server: Server, url: str, target: Path) -> None:
    """The operating system itself refuses to write on."""
    process = child(
        "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))" + FETCH,
        url,
        str(target),
    )
    status, errors = process.wait()
    assert status == 1 and "cannot be written" in errors
    assert left(target.parent) == {"model.pt.part", "model.pt.part.json"}
    arrives(url, target)


def test_the_folder_is_a_file(server: Server, url: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DownloadError, match="ZOO_CACHE"):
        download(url, tmp_path / "file" / "files" / "model.pt")
    assert not server.requests and (tmp_path / "file").read_text() == "x"


@pytest.mark.parametrize("bypass", [False, True])
def test_the_proxy_of_the_environment_is_used(
    server: Server, other: Server, url: str, target: Path, bypass: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    other.files[PATH] = CONTENT
    monkeypatch.setenv("HTTP_PROXY", other.url)
    if bypass:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    arrives(url, target)
    assert [request.target for request in other.requests] == ([] if bypass else [url])
    assert len(server.requests) == int(bypass)


def test_https_goes_through_the_proxy_too(other: Server, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", other.url)
    refused("https://example.org/model.pt", target, "proxy")
    assert {(request.method, request.target) for request in other.requests} == {("CONNECT", "example.org:443")}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("terminal", "progress"), [(True, True), (True, False), (False, True)])
def test_the_progress_bar_is_for_terminals(
    url: str, target: Path, terminal: bool, progress: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stderr = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    download(url, target, progress=progress)
    assert ("model.pt" in stderr.getvalue()) == (terminal and progress)
    assert stderr.getvalue() == "" or (terminal and progress)


def test_what_an_address_hides_is_not_shown(server: Server, target: Path) -> None:
    host = server.url.partition("//")[2]
    address = f"http://user:secret1@{host}/folder/gone.pt?token=secret2#secret3"
    sentence = refused(address, target, host, "404")
    assert "secret" not in sentence and "user" not in sentence
    server.always("/r", twists.redirect(f"http://user:secret1@{host}:99999/x?token=secret2"))
    assert "secret" not in refused(f"{server.url}/r", target)
    with pytest.raises(DownloadError) as caught:
        download("http://user:secret1@example.org/x?token=secret2", target)
    assert "secret" not in str(caught.value)
    server.files["/ok"] = CONTENT
    download(f"http://user:secret1@{host}/ok#secret3", target)
    assert "secret" not in target.with_name("model.pt.json").read_text()


def test_passwords_of_a_netrc_file_are_not_used(
    server: Server, url: str, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home" / ".netrc").write_text("machine 127.0.0.1 login someone password secret\n")
    (tmp_path / "home" / ".netrc").chmod(0o600)
    arrives(url, target)
    assert server.requests[0].headers["Authorization"] is None


def test_a_file_that_is_there_is_fetched_again_where_another_is_known(server: Server, url: str, target: Path) -> None:
    arrives(url, target)
    server.files[PATH] = CHANGED
    arrives(url, target, CHANGED, sha256=hashlib.sha256(CHANGED).hexdigest())
