"""A loopback server that serves what it is given and misbehaves when it is told to.

It stands for every other host: with `ZOO_MIRROR` set to its address a file `/HOST/PATH` is `https://HOST/PATH`, and as
`HF_ENDPOINT` it is a Hugging Face hub. Every request is recorded.

What the hub does is taken from huggingface_hub 1.x (`file_download.py`, `utils/_http.py`) and from what its servers
were seen to answer: weights are a redirect to another host whose `X-Linked-Etag` is their sha256, small files a
relative redirect to `/api/resolve-cache/`, whose `X-Linked-Etag` is a git hash; `X-Error-Code` says what is missing.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

CERTIFICATE = Path(__file__).with_name("loopback.pem")  # for 127.0.0.1 and localhost, with its key; trusted by no one
COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>Please sign in.</body></html>\n"
LONGEST_HANG_S = 20


@dataclass
class Request:
    """What came in, and what was answered.

    Attributes:
        target: as it stands in the request line; a proxy is given a whole address.
        status: of the answer.
        sent: bytes of the answer's body that were written.
    """

    method: str
    target: str
    headers: Message
    status: int = 0
    sent: int = 0

    @property
    def path(self) -> str:
        return urlsplit(self.target).path


@dataclass(frozen=True)
class Answer:
    """An answer and how it is written.

    Attributes:
        content: the whole file, of which `body` may be a part.
        length: what Content-Length says; None: the body's.
        cut: bytes of the body after which the connection ends.
        reset: it ends by a reset.
        chunked: the body is written in chunks, without a length.
        pause_s: between pieces of `piece` bytes.
        hold: what is waited for before anything is written after `cut` bytes, or before the headers when `silent`.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | memoryview = b""
    content: bytes | memoryview = b""
    length: int | None = None
    cut: int | None = None
    reset: bool = False
    chunked: bool = False
    piece: int = 1 << 16
    pause_s: float = 0.0
    hold: threading.Event | None = None
    silent: bool = False

    def saying(self, **headers: str) -> Answer:
        """With more headers; `_` stands for `-`."""
        return replace(self, headers={**self.headers, **{k.replace("_", "-"): v for k, v in headers.items()}})


Twist = Callable[[Request, Answer], Answer]


def normal() -> Twist:
    return lambda request, answer: answer


def saying(**headers: str) -> Twist:
    return lambda request, answer: answer.saying(**headers)


def status(code: int, body: bytes = b"no\n", **headers: str) -> Twist:
    return lambda request, answer: Answer(code, body=body).saying(Content_Type="text/plain", **headers)


def redirect(location: str, code: int = 302) -> Twist:
    return status(code, b"", Location=location)


def cut(at: int) -> Twist:
    """The connection ends after `at` bytes of the body."""
    return lambda request, answer: replace(answer, cut=at)


def reset(at: int) -> Twist:
    return lambda request, answer: replace(answer, cut=at, reset=True)


def hold(at: int, until: threading.Event) -> Twist:
    """The rest is written when `until` is set."""
    return lambda request, answer: replace(answer, cut=at, hold=until)


def hang(until: threading.Event) -> Twist:
    """No header is written before `until` is set."""
    return lambda request, answer: replace(answer, hold=until, silent=True)


def drip(piece: int, pause_s: float) -> Twist:
    return lambda request, answer: replace(answer, piece=piece, pause_s=pause_s)


def claiming(length: int) -> Twist:
    """A Content-Length that is not the body's."""
    return lambda request, answer: replace(answer, length=length)


def whole() -> Twist:
    """No idea of ranges: all of the file, whatever is asked for."""
    return lambda request, answer: replace(
        answer,
        status=200,
        body=answer.content,
        headers={k: v for k, v in answer.headers.items() if k not in ("Content-Range", "Accept-Ranges")},
    )


def instead(content: bytes, **headers: str) -> Twist:
    """Another file, whole, under its own ETag."""
    return lambda request, answer: Answer(body=content, content=content).saying(ETag=etag(content), **headers)


def page(content_type: str | None = "text/html; charset=utf-8", body: bytes = PAGE) -> Twist:
    said = {"Content_Type": content_type} if content_type else {}
    return lambda request, answer: Answer(body=body).saying(**said)


def chunked(at: int | None = None) -> Twist:
    """Written in chunks; with `at`, without an end."""
    return lambda request, answer: replace(answer, chunked=True, cut=at)


def zipped() -> Twist:
    return lambda request, answer: replace(answer, body=gzip.compress(bytes(answer.body))).saying(
        Content_Encoding="gzip"
    )


def etag(content: bytes | memoryview) -> str:
    return f'"{hashlib.sha256(content).hexdigest()[:32]}"'


@dataclass(frozen=True)
class Repository:
    """A repository of the hub; `token` and `gated` say who may read it, `past` what earlier commits have."""

    files: Mapping[str, bytes]
    commit: str = COMMIT
    revisions: tuple[str, ...] = ("main",)
    token: str | None = None
    gated: bool = False
    past: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict)


class Server:
    """The server; a context manager.

    Attributes:
        files: path -> content. A path is what stands in the address, unquoted; a `Path` is read when asked for.
        repositories: "org/name" -> what the hub has.
        anything: what is at every other path; None: nothing.
        cdn: the server to which the hub sends for weights.
        requests: everything that came in, in its order.
    """

    def __init__(self, *, tls: bool = False) -> None:
        self.files: dict[str, bytes | Path] = {}
        self.repositories: dict[str, Repository] = {}
        self.anything: bytes | None = None
        self.cdn: Server = self
        self.requests: list[Request] = []
        self.stopped = threading.Event()
        self._twists: dict[str, deque[Twist]] = {}
        self._always: dict[str, Twist] = {}
        self._lock = threading.Lock()
        self._server = _Listener(("127.0.0.1", 0), _handler(self))
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(CERTIFICATE)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port: int = self._server.server_address[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"

    def __enter__(self) -> Server:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stopped.set()
        self._server.shutdown()
        self._server.server_close()

    def twist(self, path: str, *twists: Twist) -> None:
        """What happens to the next requests of a path, one after the other."""
        self._twists.setdefault(path, deque()).extend(twists)

    def always(self, path: str, twist: Twist) -> None:
        """What happens to every request of a path beyond those of `twist`."""
        self._always[path] = twist

    def forget(self) -> None:
        """Misbehave no more."""
        self._twists.clear()
        self._always.clear()

    def of(self, path: str) -> list[Request]:
        """Requests of a path."""
        return [request for request in self.requests if unquote(request.path) == path]

    def bodies(self, path: str) -> int:
        """How many bytes of a path's bodies were written in all."""
        return sum(request.sent for request in self.of(path))

    def answer(self, request: Request) -> Answer:
        path = unquote(request.path)
        with self._lock:
            self.requests.append(request)
            queue = self._twists.get(path)
            twist = queue.popleft() if queue else self._always.get(path)
        if request.method not in ("GET", "HEAD"):
            return Answer(405 if request.method != "CONNECT" else 502, body=b"no\n")
        answer = self._proper(request, path)
        return answer if twist is None else twist(request, answer)

    def _proper(self, request: Request, path: str) -> Answer:
        content = self.files.get(path, self.anything)
        if content is not None:
            return _serve(content if isinstance(content, bytes) else memoryview(content.read_bytes()), request)
        return self._hub(request) or Answer(404, body=b"Not Found\n").saying(Content_Type="text/plain")

    def _hub(self, request: Request) -> Answer | None:
        """What the hub says to an address of a repository's file."""
        found = re.fullmatch(r"(/huggingface\.co)?/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", request.path)
        cached = re.fullmatch(r"(/huggingface\.co)?/api/resolve-cache/models/([^/]+/[^/]+)/([^/]+)/(.+)", request.path)
        found = found or cached
        if found is None or not self.repositories:
            return None
        prefix, name, revision, file = (unquote(part or "") for part in found.groups())
        repository = self.repositories.get(name)
        given = request.headers.get("Authorization")
        if repository is None or (repository.token and not repository.gated and given != f"Bearer {repository.token}"):
            if given and (repository is None or repository.token):
                return _refusal(401, "", "Invalid username or password.")
            return _refusal(401, "RepoNotFound", "Repository not found")
        if repository.gated and given != f"Bearer {repository.token}":
            return _refusal(403 if given else 401, "GatedRepo", f"Access to model {name} is restricted")
        if revision in repository.past:
            repository = replace(repository, files=repository.past[revision], commit=revision)
        if revision not in (*repository.revisions, repository.commit):
            return _refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if file not in repository.files:
            return _refusal(404, "EntryNotFound", "Entry not found").saying(X_Repo_Commit=repository.commit)
        content = repository.files[file]
        sha256 = hashlib.sha256(content).hexdigest()
        if cached:
            return _serve(content, request).saying(X_Repo_Commit=repository.commit, ETag=f'"{_git_hash(content)}"')
        if file.endswith(WEIGHTS):
            self.cdn.files[f"/cdn/{sha256}"] = content
            location, linked = f"{self.cdn.url}/cdn/{sha256}?Signature=signed&Expires=1", sha256
        else:
            linked = _git_hash(content)
            location = f"{prefix}/api/resolve-cache/models/{name}/{repository.commit}/{quote(file)}?etag=%22{linked}%22"
        return Answer(302 if file.endswith(WEIGHTS) else 307, body=f"Redirecting to {location}".encode()).saying(
            Location=location,
            ETag=f'"{linked}"',
            X_Linked_Etag=f'"{linked}"',
            X_Linked_Size=str(len(content)),
            X_Repo_Commit=repository.commit,
        )


def _git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _refusal(code: int, error: str, message: str) -> Answer:
    said = {"X_Error_Code": error} if error else {}
    return Answer(code, body=message.encode()).saying(
        Content_Type="text/plain; charset=utf-8", X_Error_Message=message, **said
    )


def _serve(content: bytes | memoryview, request: Request) -> Answer:
    """A file, or the part of it that is asked for."""
    tag = etag(content)
    whole = Answer(body=content, content=content).saying(
        Content_Type="application/octet-stream", ETag=tag, Accept_Ranges="bytes"
    )
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
    if asked is None or request.headers.get("If-Range", tag) != tag:
        return whole
    start, end = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
    if start > end:
        return replace(whole, status=416, body=b"").saying(Content_Range=f"bytes */{len(content)}")
    return replace(whole, status=206, body=content[start : end + 1]).saying(
        Content_Range=f"bytes {start}-{end}/{len(content)}"
    )


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is what these tests are about."""


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # or a body waits 40 ms for the answer to its headers

        def log_message(self, *what: object) -> None:
            """Silent."""

        def _handle(self) -> None:
            request = Request(self.command, self.path, self.headers)
            answer = server.answer(request)
            request.status = answer.status
            if answer.silent and answer.hold is not None:
                _wait(answer.hold, server.stopped)
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if answer.chunked:
                self.send_header("Transfer-Encoding", "chunked")
            else:
                self.send_header("Content-Length", str(len(answer.body) if answer.length is None else answer.length))
            self.end_headers()
            if self.command != "HEAD":
                self._write(request, answer)

        def _write(self, request: Request, answer: Answer) -> None:
            cut = len(answer.body) if answer.cut is None else min(answer.cut, len(answer.body))
            self._pieces(request, answer, 0, cut)
            if answer.hold is not None and not answer.silent:
                _wait(answer.hold, server.stopped)
                self._pieces(request, answer, cut, len(answer.body))
                cut = len(answer.body)
            if answer.reset:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
            if answer.chunked and cut == len(answer.body):
                self.wfile.write(b"0\r\n\r\n")
            self.close_connection = cut < len(answer.body) or answer.length is not None

        def _pieces(self, request: Request, answer: Answer, start: int, end: int) -> None:
            for at in range(start, end, answer.piece):
                piece = bytes(answer.body[at : min(at + answer.piece, end)])
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if answer.chunked else piece)
                request.sent += len(piece)
                if answer.pause_s and server.stopped.wait(answer.pause_s):
                    return

        do_GET = do_HEAD = do_POST = do_CONNECT = _handle

    return Handler


def _wait(event: threading.Event, stopped: threading.Event) -> None:
    """For either."""
    for _ in range(LONGEST_HANG_S * 100):
        if event.wait(0.01) or stopped.is_set():
            return
