"""One file over http: mirrors, retries, resume, and every check that can be made before it is used."""

from __future__ import annotations

import dataclasses
import email.utils
import hashlib
import ipaddress
import json
import os
import random
import re
import shutil
import sys
import time
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from zoo._cache import Record, locked, shown_url, verified, without_user, write_record
from zoo._native import replacing
from zoo.errors import CacheError, DownloadError, InputError, cut

if TYPE_CHECKING:
    import requests

ATTEMPTS = 5  # in a row without progress, for each address
PROGRESS_BYTES = 1 << 16
UNREACHABLE_ATTEMPTS = 2  # where nobody answers at all
BACKOFF_S = 1.0
MAX_PAUSE_S = 60.0
CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 30.0
SLOW_BYTES_PER_S = 1024
SLOW_AFTER_S = 60.0
MAX_REDIRECTS = 10
CHUNK_BYTES = 1 << 20
SPARE_BYTES = 64 << 20  # that a download leaves free on the disk
MAX_STATE_BYTES = 1 << 16

HUB = "https://huggingface.co"
AGAIN = {408, 425, 429, 500, 502, 503, 504}
MISSING = {404, 410}
SHA256 = re.compile(r"[0-9a-f]{64}")
COMMIT = re.compile(r"[0-9a-f]{40}")
HEAD_BYTES = 512


class Failure(Exception):
    """Why an address did not give the file.

    Attributes:
        again: how many attempts in a row may fail like this before the next address is tried.
        pause: seconds that the server asks to wait.
        status: of the server's answer, where that is the reason.
    """

    def __init__(self, reason: str, *, again: int = 1, pause: float | None = None, status: int | None = None) -> None:
        super().__init__(reason)
        self.again, self.pause, self.status = again, pause, status


def download(
    url: str,
    target: Path,
    *,
    sha256: str | None = None,
    size: int | None = None,
    progress: bool = True,
    refresh: bool = False,
    authority: str | None = None,
) -> Record:
    """Fetch a file, unless it is there already.

    Args:
        url: https, or http to this machine.
        target: where it goes, whole or not at all.
        sha256: what it must be, where known.
        size: what it must be, where known.
        progress: show a bar, if stderr is a terminal.
        refresh: fetch it even if it is there.
        authority: the `served_by` of the file's siblings; when that has no such file, nobody else is asked.

    Returns:
        The file's record, which lies beside it.

    Raises:
        DownloadError: when no address gives it; `status` is the last answer's, if that was the reason.
    """
    there = None if refresh else verified(target, url)
    if there is None or sha256 not in (None, there.sha256):
        with locked(target):
            there = None if refresh else verified(target, url)  # another process may have been first
            if there is None or sha256 not in (None, there.sha256):
                there = _from_anywhere(url, target, sha256, size, progress, authority)
    return there


def _from_anywhere(
    url: str, target: Path, sha256: str | None, size: int | None, progress: bool, authority: str | None
) -> Record:
    import requests

    failures: list[tuple[str, Failure]] = []
    with requests.Session() as session:
        for address in addresses(url):
            transfer = Transfer(session, url, address, target, sha256, size, progress)
            try:
                return transfer.run()
            except Failure as failure:
                failures.append((address, failure))
                if failure.status in MISSING and served_by(address) == authority:
                    failures = failures[-1:]
                    break
    error = DownloadError("; ".join(f"{shown_url(address)}: {failure}" for address, failure in failures))
    error.status = failures[-1][1].status if len({failure.status for _, failure in failures}) == 1 else None
    raise error


def endpoint() -> str:
    """Address of Hugging Face: $HF_ENDPOINT, or its own.

    Raises:
        DownloadError: when it is set to something else than an address.
    """
    return _configured("HF_ENDPOINT") or HUB


def _configured(name: str) -> str | None:
    """An address that an environment variable gives, without a slash at its end."""
    value = os.environ.get(name, "").strip().rstrip("/")
    if not value:
        return None
    try:
        _check_scheme(value)
    except Failure as failure:
        raise DownloadError(f"{name} cannot be used: {failure}") from None
    return value


def addresses(url: str) -> list[str]:
    """Where a URL's file is looked for, in order: in the mirror $ZOO_MIRROR, then where it says.

    Raises:
        DownloadError: when it is no address, or the mirror or Hugging Face's endpoint is set to something else.
    """
    try:
        _check_scheme(url)
    except Failure as failure:
        raise DownloadError(f"{shown_url(url)} cannot be fetched: {failure}") from None
    if url == HUB or url.startswith(f"{HUB}/"):
        url = endpoint() + url[len(HUB) :]
    mirror, parts = _configured("ZOO_MIRROR"), urlsplit(url)
    if mirror is None or parts.scheme != "https":
        return [url]
    query = f"?{parts.query}" if parts.query else ""
    return [f"{mirror}/{parts.netloc.rpartition('@')[2]}{parts.path}{query}", url]


def is_loopback(host: str | None) -> bool:
    """Whether a host is this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def _check_scheme(url: str, before: str | None = None) -> None:
    """Refuse an address that is neither https nor http to this machine, and a step down from https."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise Failure("it is no address" if before is None else "it leads to what is no address") from None
    what = "it" if before is None else "it leads to an address that"
    if parts.scheme not in ("http", "https") or not host:
        raise Failure(f"{what} is neither https nor http ({cut(parts.scheme or 'no scheme', 20)})")
    if parts.scheme == "http" and before is not None and urlsplit(before).scheme == "https":
        raise Failure("it leads from https to http, where anybody could change the file")
    if parts.scheme == "http" and not is_loopback(host):
        raise Failure(f"{what} is plain http, which is taken from this machine only; use https")


def served_by(address: str) -> str:
    """Scheme, host and port of an address."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def token() -> str | None:
    """The Hugging Face token of the environment.

    Raises:
        DownloadError: when it cannot be one; it is not shown.
    """
    value = os.environ.get("HF_TOKEN", "").strip()
    if not value:
        return None
    if not re.fullmatch(r"[!-~]+", value):
        raise DownloadError("HF_TOKEN holds characters that no token has; set it again, without spaces or line breaks")
    return value


@dataclass(frozen=True)
class Said:
    """What servers say about a file, the first on the way counting."""

    etag: str = ""
    sha256: str = ""
    size: int | None = None
    commit: str = ""


@dataclass
class Part:
    """An unfinished download: its file, and where its bytes came from."""

    path: Path
    address: str = ""
    etag: str = ""
    sha256: str = ""
    total: int | None = None

    @property
    def state(self) -> Path:
        """Where it is remembered what the bytes are of."""
        return self.path.with_name(f"{self.path.name}.json")

    @classmethod
    def found(cls, path: Path) -> Part:
        """The part that an earlier run left, or an empty one."""
        part = cls(path)
        try:
            if part.state.stat().st_size <= MAX_STATE_BYTES:
                part = cls(path, **json.loads(part.state.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, RecursionError):
            part = cls(path)
        return part

    def save(self) -> None:
        """Remember where the bytes come from, before they do."""
        data = dataclasses.asdict(self)
        del data["path"]
        with replacing(self.state) as file:
            file.write(json.dumps(data).encode())

    def length(self) -> int:
        """Bytes that are there."""
        try:
            return self.path.stat().st_size
        except OSError:
            return 0

    def discard(self) -> None:
        """Begin anew."""
        for path in (self.path, self.state):
            path.unlink(missing_ok=True)


@dataclass
class Transfer:
    """The way of a file from one address."""

    session: requests.Session
    url: str
    address: str
    target: Path
    sha256: str | None
    size: int | None
    progress: bool

    def run(self) -> Record:
        """Fetch it, as often as it takes.

        Raises:
            Failure: when it is given up.
        """
        part = Part.found(self.target.with_name(f"{self.target.name}.part"))
        longest, failed = part.length(), Counter[int]()  # since there was progress
        while True:
            try:
                return self._attempt(part)
            except Failure as failure:
                if part.length() >= longest + PROGRESS_BYTES:
                    failed.clear()
                longest = max(longest, part.length())
                failed[failure.again] += 1
                if failed[failure.again] >= failure.again or failed.total() >= ATTEMPTS:
                    raise
                pause = BACKOFF_S * 2 ** (failed.total() - 1) * random.uniform(0.5, 1)
                time.sleep(min(MAX_PAUSE_S, pause if failure.pause is None else failure.pause))

    def _attempt(self, part: Part) -> Record:
        start = part.length() if self._continues(part) else 0
        headers = {}
        if start:
            headers["Range"] = f"bytes={start}-"
            if part.etag:
                headers["If-Range"] = part.etag
        answer, said = self._open(headers)
        with closing(answer):
            if answer.status_code == 416:  # what is there is not part of what the server has
                part.discard()
                raise Failure("it has fewer bytes than were received before", again=2)
            begun = answer.status_code == 206
            if begun and not start:
                raise Failure("it gives a part of the file, where all of it was asked for")
            remaining = _length(answer.headers.get("Content-Length"))
            total = None if remaining is None else remaining + (start if begun else 0)
            if begun:
                first, whole = _content_range(answer.headers.get("Content-Range", ""))
                if first != start or (whole is not None and total not in (None, whole)):
                    part.discard()
                    raise Failure("it continues at another place than it was asked to", again=2)
                total = whole if total is None else total
            if begun and (
                part.total not in (None, total) or part.sha256 != said.sha256 or said.etag not in ("", part.etag)
            ):
                part.discard()
                raise Failure("the file has changed meanwhile", again=2)
            if not begun:
                part.discard()
                start = 0
            self._check_before(answer, total, said, start)
            part.address, part.etag, part.sha256, part.total = self.address, said.etag, said.sha256, total
            with _writing(part.state):
                part.save()
            expected = next((size for size in (total, self.size, said.size) if size is not None), None)
            digest = self._receive(answer, part, start, expected)
        return self._finish(part, digest, said)

    def _continues(self, part: Part) -> bool:
        """Whether the bytes that are there can be continued from this address without mixing two files."""
        same = part.address == self.address and (part.etag or part.sha256)
        return bool(same or (self.sha256 is not None and part.sha256 == self.sha256))

    def _open(self, headers: Mapping[str, str]) -> tuple[requests.Response, Said]:
        """Follow redirects one by one to an answer with a body."""
        import requests

        address, before, said = self.address, None, Said()
        for _ in range(MAX_REDIRECTS + 1):
            _check_scheme(address, before)
            parts = urlsplit(address)
            host = parts.netloc.rpartition("@")[2]
            try:
                answer = self.session.get(
                    urlunsplit((parts.scheme, host, parts.path, parts.query, "")),
                    headers={
                        "Accept-Encoding": "identity",
                        "User-Agent": "speech-ssl-zoo",
                        **headers,
                        **self._authorization(address, first=before is None),
                    },
                    auth=no_netrc,
                    stream=True,
                    allow_redirects=False,
                    timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S),
                )
            except (requests.RequestException, OSError, ValueError) as error:
                raise _unanswered(error) from None
            said = _listen(said, answer)
            if not answer.is_redirect:
                if failure := _refusal(answer):
                    answer.close()
                    raise failure
                return answer, said
            answer.close()
            address, before = urljoin(address, answer.headers["Location"]), address
        raise Failure(f"it leads from one address to the next more than {MAX_REDIRECTS} times")

    @staticmethod
    def _authorization(address: str, first: bool) -> dict[str, str]:
        """The header that proves who asks: the token for Hugging Face's endpoint alone, a mirror's own user."""
        parts = urlsplit(address)
        if _origin(address) == _origin(endpoint()):
            secret = token()
            return {} if secret is None else {"Authorization": f"Bearer {secret}"}
        if first and parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            return {"Authorization": f"Basic {b64encode(pair.encode()).decode()}"}
        return {}

    def _check_before(self, answer: requests.Response, total: int | None, said: Said, start: int) -> None:
        """Refuse what cannot be the file before its first byte is taken."""
        kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind in ("text/html", "application/xhtml+xml"):
            raise Failure("it gives a web page instead of the file")
        if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise Failure("it gives the file compressed, which was not asked for")
        for expected in (self.size, said.size):
            if None not in (expected, total) and expected != total:
                raise Failure(f"it has {total} bytes instead of {expected}")
        chunked = "chunked" in answer.headers.get("Transfer-Encoding", "").lower()
        if total is None and not chunked and self.size is None and said.size is None:
            raise Failure("it does not say how long the file is, so that a part could pass for the whole")
        needed = (total or self.size or said.size or 0) - start
        free = shutil.disk_usage(self.target.parent).free
        if free < needed + SPARE_BYTES:
            raise CacheError(
                f"{self.target.name} needs {needed / 1e6:.0f} MB, but {self.target.parent} has {free / 1e6:.0f} MB "
                "free; free some, or name another folder with ZOO_CACHE or cache_dir"
            )

    def _receive(self, answer: requests.Response, part: Part, start: int, expected: int | None) -> str:
        """Take the body of a file of so many bytes, where known; returns the hash of all of it."""
        from tqdm import tqdm

        digest, count = hashlib.sha256(), start
        with _writing(part.path), part.path.open("ab") as file:
            if start:
                with part.path.open("rb") as there:
                    while piece := there.read(CHUNK_BYTES):
                        digest.update(piece)
            bar = tqdm(
                total=expected,
                initial=start,
                unit="B",
                unit_scale=True,
                desc=self.target.name,
                file=sys.stderr,
                disable=not (self.progress and sys.stderr.isatty()),
            )
            with bar:
                for piece in _pieces(answer):
                    file.write(piece)
                    digest.update(piece)
                    count += len(piece)
                    bar.update(len(piece))
        if expected is not None and count != expected:
            if count > expected:
                part.discard()
            raise Failure(f"it ended after {count} of {expected} bytes", again=ATTEMPTS)
        return digest.hexdigest()

    def _finish(self, part: Part, digest: str, said: Said) -> Record:
        """Check what came and put the file into its place."""
        with part.path.open("rb") as file:
            head = file.read(HEAD_BYTES)
        if not head:
            raise Failure("it gives an empty file")
        if _is_markup(head):
            part.discard()
            raise Failure("it gives a web page instead of the file")
        for expected, whose in ((self.sha256, "known for it"), (said.sha256, "that the server states")):
            if expected and digest != expected:
                part.discard()
                raise Failure(f"its sha256 is {digest} instead of {expected} {whose}", again=2)
        status = part.path.stat()
        known = {"served_by": served_by(self.address), "commit": said.commit}
        record = Record(without_user(self.url), status.st_size, digest, status.st_mtime_ns, **known)
        with _writing(self.target):
            write_record(self.target, record)
            os.replace(part.path, self.target)
        part.discard()
        return record


def no_netrc(request: Any) -> Any:
    """Keeps requests from looking for passwords in ~/.netrc."""
    return request


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turns a full or broken disk into one sentence."""
    try:
        yield
    except (OSError, InputError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CacheError(
            f"{path} cannot be written: {reason}; free some space or name another folder with ZOO_CACHE or cache_dir, "
            "and ask again: what has been received is kept"
        ) from None


def _is_markup(head: bytes) -> bool:
    """Whether a file begins as a web page or an error in XML does, and no checkpoint: those have zeros early."""
    return head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<") and 0 not in head[:8]


def _pieces(answer: requests.Response) -> Iterator[bytes]:
    """The body as it arrives; raises Failure when it stops or drips."""
    import urllib3

    read: Callable[[int], bytes] = getattr(answer.raw, "read1", answer.raw.read)
    since, received = time.monotonic(), 0
    while True:
        try:
            piece = read(CHUNK_BYTES)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise Failure(f"the connection was lost ({innermost_reason(error)})", again=ATTEMPTS) from None
        if not piece:
            return
        yield piece
        received += len(piece)
        elapsed = time.monotonic() - since
        if elapsed >= SLOW_AFTER_S:
            if received < SLOW_BYTES_PER_S * elapsed:
                raise Failure(f"it sends less than {SLOW_BYTES_PER_S} bytes a second", again=ATTEMPTS)
            since, received = time.monotonic(), 0


def innermost_reason(error: BaseException) -> str:
    """What happened, from the innermost cause, without addresses: those may hold secrets."""
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    text = getattr(error, "strerror", None)
    return cut(text, 80) if isinstance(text, str) else type(error).__name__


def _unanswered(error: Exception) -> Failure:
    """Why there was no answer."""
    import requests

    if isinstance(error, requests.exceptions.SSLError):
        return Failure(f"its certificate cannot be checked ({innermost_reason(error)})")
    if isinstance(error, requests.exceptions.ProxyError):
        return Failure(
            f"the proxy of the environment does not serve it ({innermost_reason(error)})", again=UNREACHABLE_ATTEMPTS
        )
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return Failure(f"nobody answers within {CONNECT_TIMEOUT_S:g} s", again=UNREACHABLE_ATTEMPTS)
    if isinstance(error, requests.exceptions.Timeout):
        return Failure(f"there was no answer for {READ_TIMEOUT_S:g} s", again=ATTEMPTS)
    if isinstance(error, requests.exceptions.ConnectionError):
        dropped = any(isinstance(e, (ConnectionResetError, ConnectionAbortedError)) for e in _causes(error))
        aborted = dropped or "RemoteDisconnected" in (type(e).__name__ for e in _causes(error))
        if aborted:
            return Failure("the connection was dropped before an answer", again=ATTEMPTS)
        return Failure(f"it cannot be reached ({innermost_reason(error)})", again=UNREACHABLE_ATTEMPTS)
    return Failure(f"it cannot be asked ({type(error).__name__})")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _refusal(answer: requests.Response) -> Failure | None:
    """Why an answer has no body to take, None when it has."""
    status, code = answer.status_code, answer.headers.get("X-Error-Code", "")
    if status in (200, 206, 416):
        return None
    says = f"the server answers {status}"
    if status in AGAIN:
        pause = _retry_after(answer.headers.get("Retry-After"))
        return Failure(says, again=ATTEMPTS, pause=pause, status=status)
    if status in (401, 403) and _origin(answer.url) == _origin(endpoint()):
        what = "it is kept behind terms" if code == "GatedRepo" else "there is none of this name, or it is private"
        return Failure(f"{says}: {what}; accept the terms there, if any, and set HF_TOKEN", status=status)
    if status in MISSING:
        return Failure(
            f"{says}: there is no such {'revision' if code == 'RevisionNotFound' else 'file'}", status=status
        )
    return Failure(says, status=status)


def _retry_after(text: str | None) -> float | None:
    """Seconds that a server asks to wait: a number, or a date."""
    if not text:
        return None
    if text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def _length(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"\d{1,18}", text) else None


def _content_range(text: str) -> tuple[int | None, int | None]:
    """First byte and length of the whole file, from `bytes FIRST-LAST/WHOLE`."""
    found = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", text)
    return (None, None) if found is None else (int(found[1]), _length(found[2]))


def _listen(said: Said, answer: requests.Response) -> Said:
    """Add what an answer says about the file. Of validators the last counts, which the body belongs to."""
    headers = answer.headers
    linked = headers.get("X-Linked-ETag", "").strip('"').lower()
    stated = linked if SHA256.fullmatch(linked) else _stated_digest(headers)
    etag, commit = headers.get("ETag", ""), headers.get("X-Repo-Commit", "")
    return Said(
        etag="" if etag.startswith("W/") else etag,
        sha256=said.sha256 or stated,
        size=said.size if said.size is not None else _length(headers.get("X-Linked-Size")),
        commit=said.commit or (commit if COMMIT.fullmatch(commit) else ""),
    )


def _stated_digest(headers: Mapping[str, str]) -> str:
    """SHA-256 in hexadecimal from `Repr-Digest` (RFC 9530) or `Digest` (RFC 3230); empty when there is none."""
    for name, pattern in (("Repr-Digest", r"sha-256=:([^:]+):"), ("Digest", r"sha-256=([^,\s]+)")):
        if found := re.search(pattern, headers.get(name, ""), re.IGNORECASE):
            try:
                value = b64decode(found[1], validate=True).hex()
            except ValueError:
                continue
            if SHA256.fullmatch(value):
                return value
    return ""
