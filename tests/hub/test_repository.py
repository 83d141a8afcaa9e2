"""`hf:org/repo[@revision]`: a hub's answers, revisions, names that would lead elsewhere, and where a token goes."""

from __future__ import annotations

import json
import traceback
from pathlib import Path
from urllib.parse import quote

import pytest

import zoo
from tests.exporting import DATA
from tests.hub import server as twists
from tests.hub.models import HUBERT, config_of, folder, registered, same_weights, tiny
from tests.hub.server import COMMIT, Answer, Repository, Request, Server
from zoo import _download, _hub
from zoo.errors import DownloadError, UnknownModelError, ZooError
from zoo.models._family import Source

BASE = DATA / "hf" / "base_safetensors"
SHARDED = DATA / "hf" / "sharded"
TOKEN = "hf_ThisIsTheSecretThatNobodyMaySee"
SECOND = "f" * 40


@pytest.fixture(autouse=True)
def hub(server: Server, other: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A hub with one repository, whose weights lie on another host."""
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    server.cdn = other
    server.repositories["org/repo"] = Repository(folder(BASE))
    return server


def refused(spec: str, *words: str, kind: type[ZooError] = ZooError) -> str:
    """One sentence, with the words, and no more than it takes."""
    with pytest.raises(kind) as caught:
        zoo.load(spec, progress=False)
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.isprintable() and len(sentence) < 1000
    for word in words:
        assert word in sentence, sentence
    return sentence


def everything(path: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(item.relative_to(path)): item.read_bytes() for item in path.rglob("*") if item.is_file()}


def test_a_repository(hub: Server, other: Server, cache: Path) -> None:
    same_weights(zoo.load("hf:org/repo"), BASE)
    assert (cache / "hf" / "org" / "repo" / COMMIT / "model.safetensors").is_file()
    (weights,) = [request for request in hub.requests if request.path.endswith("model.safetensors")]
    assert weights.path == f"/org/repo/resolve/{COMMIT}/model.safetensors", "of the commit that the settings are of"
    assert len(other.requests) == 1
    assert not [request for request in hub.requests if request.path.endswith(".bin")]
    asked = len(hub.requests)
    model = zoo.load("hf:org/repo")
    same_weights(model, BASE)
    assert len(hub.requests) == asked
    assert model.config.normalize_eps == 1e-7 and model.provenance["url"] == "hf:org/repo"


@pytest.mark.parametrize("revision", ["main", "v1.0", "refs/pr/3", "feature/a+b", "feature_x-1", COMMIT])
def test_a_revision(hub: Server, cache: Path, revision: str) -> None:
    hub.repositories["org/repo"] = Repository(folder(BASE), revisions=(revision,))
    same_weights(zoo.load(f"hf:org/repo@{revision}"), BASE)
    assert hub.requests[0].path == f"/org/repo/resolve/{quote(revision, safe='')}/config.json"
    before = len(hub.requests)
    zoo.load(f"hf:org/repo@{revision}", local_files_only=True)
    assert len(hub.requests) == before
    assert {path.name for path in cache.iterdir()} == {"hf", "native"}


def test_a_branch_stays_what_it_was(hub: Server) -> None:
    first = zoo.load("hf:org/repo")
    changed = DATA / "hf" / "pretraining_prefix"
    hub.repositories["org/repo"] = Repository(folder(changed), commit=SECOND)
    same_weights(zoo.load("hf:org/repo"), BASE)
    same_weights(zoo.load(f"hf:org/repo@{SECOND}"), changed)
    _hub.fetch("hf:org/repo", _hub.Options(progress=False, refresh=True))
    again = zoo.load("hf:org/repo")
    same_weights(again, changed)
    assert first.provenance["sha256"] != again.provenance["sha256"]
    hub.repositories.clear()
    same_weights(zoo.load(f"hf:org/repo@{COMMIT}"), BASE)


def test_a_branch_that_moves_while_it_is_fetched(hub: Server) -> None:
    """All files are of one commit."""

    def push(request: Request, answer: Answer) -> Answer:
        hub.repositories["org/repo"] = Repository(folder(SHARDED), commit=SECOND, past={COMMIT: folder(BASE)})
        return answer

    hub.twist("/org/repo/resolve/main/config.json", push)
    same_weights(zoo.load("hf:org/repo"), BASE)
    same_weights(zoo.load(f"hf:org/repo@{SECOND}"), SHARDED)


def test_a_mirror_that_is_a_folder_of_files(hub: Server, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """It knows no commits; what it lacks beside the settings is not there."""
    monkeypatch.delenv("HF_ENDPOINT")
    server.repositories.clear()
    monkeypatch.setenv("ZOO_MIRROR", f"{server.url}/copies/")
    base = "/copies/huggingface.co/org/repo/resolve/main"
    server.files |= {f"{base}/{name}": content for name, content in folder(BASE).items()}
    same_weights(zoo.load("hf:org/repo"), BASE)
    same_weights(zoo.load("hf:org/repo", local_files_only=True), BASE)


SPECS = """
hf: hf:/ hf:// hf:repo hf:org/ hf:/repo hf:org/repo/ hf:org//repo hf:a/b/c hf:../repo hf:org/.. hf:../.. hf:./repo
hf:org/. hf:org/.repo hf:.org/repo hf:-org/repo hf:org/repo- hf:org/a..b hf:org/a--b hf:org/repo.git hf:org\\repo
hf:org/re\\po hf:org/re%2fpo hf:org/%2e%2e hf:org/repo?x=1 hf:org/repo#x hf:org/repo:x hf:C:/repo hf:org/~ hf:~/repo
hf:org/réPo hf:órg/repo hf:org/repo@ hf:@main hf:org/repo@@ hf:org/repo@.. hf:org/repo@../x
hf:org/repo@a/../b hf:org/repo@/etc hf:org/repo@a//b hf:org/repo@a/ hf:org/repo@a. hf:org/repo@a.lock hf:org/repo@-x
hf:org/repo@a\\b hf:org/repo@a%2fb hf:org/repo@a~1 hf:org/repo@a^ hf:org/repo@a:b hf:org/repo@a?b hf:org/repo@a*
hf:org/repo@a[b hf:org/repo@{a} hf:org/repo@é hf:org/repo@a@b HF:org/repo hf:/etc/passwd hf:https://example.org/a
""".split()
SPECS += [
    "hf:org/re po", "hf:org/re\npo", "hf:org/repo\n", "hf:org/re\0po", "hf: org/repo", "hf:org/repo ",
    "hf:org/repo@a b", "hf:org/repo@a\nb", "hf:org/repo@\0", "hf:org/\udcff",
    "hf:" + "a" * 97 + "/repo", "hf:org/" + "a" * 100_000,
    "hf:org/repo@" + "a" * 100_000, "hf:org/repo@" + "a/" * 90 + "b" * 40, "hf:org/\u202erepo",
    "hf:\uff0e\uff0e/repo", "hf:org/repo@\x1b[31m",
]  # fmt: skip


@pytest.mark.parametrize("spec", SPECS, ids=range(len(SPECS)))
def test_a_name_that_is_none(hub: Server, cache: Path, spec: str) -> None:
    refused(spec)
    assert not hub.requests and not cache.exists()


def test_names_that_look_odd_are_names(hub: Server) -> None:
    for name in ("0/1", "a-b_c.d/e.f-g_h", "Org/" + "r" * 96, "_o/_r"):
        hub.repositories[name] = Repository(folder(BASE))
        same_weights(zoo.load(f"hf:{name}"), BASE)


@pytest.mark.parametrize(
    "commit", ["../../../../evil", "/evil", "..", ".", "", "main", "x" * 40, "A" * 41, "a b", "\x7f"]
)
def test_a_commit_that_is_none(hub: Server, cache: Path, commit: str) -> None:
    """It is a folder's name: only hexadecimal digits make one."""

    def lie(request: Request, answer: Answer) -> Answer:
        return answer.saying(X_Repo_Commit=commit)

    for name in folder(BASE):
        hub.always(f"/org/repo/resolve/main/{name}", lie)
        hub.always(f"/api/resolve-cache/models/org/repo/{COMMIT}/{name}", lie)
    same_weights(zoo.load("hf:org/repo"), BASE)
    assert {path.name for path in (cache / "hf" / "org" / "repo").iterdir() if path.is_dir()} == {".refs", "main"}
    assert {path.name for path in cache.parent.iterdir()} == {"home", "cache"}


SHARDS = [
    "../evil.safetensors", "/tmp/evil.safetensors", "a/../../evil.safetensors", "a/b.safetensors", "a\\b.safetensors",
    "..", ".", "", ".hidden", "evil\0.safetensors", "e" * 300, "évil.safetensors", "evil\n.safetensors", "C:evil",
    "config.json", "config.json.json", "model.safetensors.index.json", "x.lock", "x.part", "%2e%2e%2fevil", 3, None,
    ["a"], {"a": "b"}, "-", "evil.py", "~", "evil.safetensors?x=1", "evil.safetensors#x", "\udcff",
]  # fmt: skip


@pytest.mark.parametrize("shard", SHARDS, ids=range(len(SHARDS)))
def test_an_index_that_names_something_else(hub: Server, cache: Path, shard: object) -> None:
    files = folder(SHARDED)
    index = json.loads(files["model.safetensors.index.json"])
    index["weight_map"]["encoder.layer_norm.weight"] = shard
    files["model.safetensors.index.json"] = json.dumps(index).encode()
    hub.repositories["org/repo"] = Repository(files)
    refused("hf:org/repo", "hf:org/repo")
    named = str(shard).encode(errors="surrogateescape").decode(errors="replace")
    if shard not in ("config.json", "model.safetensors.index.json"):
        assert not [request for request in hub.requests if named and request.path.endswith(quote(named, safe=""))]
    assert {path.name for path in cache.parent.iterdir()} == {"home", "cache"}
    assert not [name for name in everything(cache) if "evil" in name or name.endswith((".py", ".part"))]


@pytest.mark.parametrize(
    "index",
    [b"", b"[]", b"{}", b"null", b'{"weight_map": []}', b'{"weight_map": {}}', b'{"weight_map": "x"}', b"[" * 100_000],
)
def test_an_index_that_is_none(hub: Server, index: bytes) -> None:
    hub.repositories["org/repo"] = Repository(folder(SHARDED) | {"model.safetensors.index.json": index})
    refused("hf:org/repo", "hf:org/repo")


def test_an_index_of_too_many_files(hub: Server, other: Server) -> None:
    names = {f"t{number}": f"model-{number}.safetensors" for number in range(1000)}
    index = json.dumps({"weight_map": names}).encode()
    hub.repositories["org/repo"] = Repository(folder(SHARDED) | {"model.safetensors.index.json": index})
    refused("hf:org/repo", "hf:org/repo", "1000")
    assert not other.requests


@pytest.mark.parametrize(
    "settings",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b'{"model_type": 3}',
        b'{"model_type": "bert"}',
        bytes(9 << 20),
    ],
    ids=range(9),
)
def test_settings_of_no_model(hub: Server, other: Server, settings: bytes) -> None:
    """It is refused before its weights are fetched."""
    hub.repositories["org/repo"] = Repository(folder(BASE) | {"config.json": settings})
    refused("hf:org/repo", "hf:org/repo")
    assert not other.requests


def test_a_repository_with_code(hub: Server) -> None:
    config = json.loads(folder(BASE)["config.json"]) | {"auto_map": {"AutoModel": "modeling.Evil"}}
    hub.repositories["org/repo"] = Repository(folder(BASE) | {"config.json": json.dumps(config).encode()})
    refused("hf:org/repo", "code")


def test_there_are_no_weights(hub: Server) -> None:
    files = {name: content for name, content in folder(BASE).items() if name != "model.safetensors"}
    hub.repositories["org/repo"] = Repository(files)
    refused("hf:org/repo", "hf:org/repo", "weights")


def test_what_the_hub_does_not_have(hub: Server) -> None:
    for spec, words in {
        "hf:org/none": ("hf:org/none", "401", "HF_TOKEN"),
        "hf:org/repo@none": ("hf:org/repo@none", "404", "revision"),
    }.items():
        hub.requests.clear()
        refused(spec, *words, kind=DownloadError)
        assert len(hub.requests) == 1
    hub.repositories["org/empty"] = Repository({"README.md": b"hello"})
    refused("hf:org/empty", "hf:org/empty", "config.json", "404", kind=DownloadError)


def test_the_hub_asks_for_patience(hub: Server) -> None:
    hub.twist("/org/repo/resolve/main/config.json", twists.status(429, Retry_After="0"), twists.status(503))
    hub.twist(f"/org/repo/resolve/{COMMIT}/model.safetensors", twists.status(500))
    same_weights(zoo.load("hf:org/repo"), BASE)


def test_optional_settings_that_cannot_be_asked_for(hub: Server, other: Server) -> None:
    """Without them waveforms might be treated in another way: that there are none has to be said, not guessed."""
    hub.always(f"/org/repo/resolve/{COMMIT}/preprocessor_config.json", twists.status(503))
    refused("hf:org/repo", "503", kind=DownloadError)
    assert not other.requests


def test_weights_that_are_not_what_the_hub_says(hub: Server, other: Server, cache: Path) -> None:
    def lie(request: Request, answer: Answer) -> Answer:
        content = bytes(answer.content[:-1]) + b"x"
        return Answer(body=content, content=content).saying(ETag=twists.etag(content))

    _hub.fetch("hf:org/repo", _hub.Options(progress=False))
    (path,) = {request.path for request in other.requests}
    other.always(path, lie)
    with pytest.raises(DownloadError, match="sha256"):
        zoo.load("hf:org/repo", cache_dir=cache / "second", progress=False)
    assert not [name for name in everything(cache / "second") if name.endswith(("model.safetensors", ".part"))]


def test_a_cut_file_of_the_other_host_is_continued(hub: Server, other: Server) -> None:
    _hub.fetch("hf:org/repo", _hub.Options(progress=False))
    (path,) = {request.path for request in other.requests}
    other.requests.clear()
    other.twist(path, twists.cut(10_000))
    hub.repositories["org/again"] = hub.repositories["org/repo"]
    same_weights(zoo.load("hf:org/again"), BASE)
    assert [request.headers["Range"] for request in other.requests] == [None, "bytes=10000-"]


# Tokens


def seen(server: Server) -> set[str | None]:
    return {request.headers["Authorization"] for request in server.requests}


def hidden(cache: Path, *texts: str) -> None:
    """No part of the token is anywhere."""
    for content in (*everything(cache).values(), *(text.encode() for text in texts)):
        assert b"Secret" not in content and b"Bearer" not in content


def test_a_token_opens_a_private_repository(
    hub: Server,
    other: Server,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    hub.repositories["org/repo"] = Repository(folder(BASE), token=TOKEN)
    refused("hf:org/repo", "401", "HF_TOKEN")
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    assert "hf_another" not in refused("hf:org/repo", "401", "HF_TOKEN")
    monkeypatch.setenv("HF_TOKEN", f"  {TOKEN}\n")  # as a file with it ends
    hub.requests.clear()
    same_weights(zoo.load("hf:org/repo"), BASE)
    assert seen(hub) == {f"Bearer {TOKEN}"}, "also where the hub leads to itself"
    assert other.requests and seen(other) == {None}
    hidden(cache, *capfd.readouterr(), caplog.text)
    assert caplog.text, "what requests says to those who listen"


def test_terms_that_were_not_accepted(hub: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories["org/repo"] = Repository(folder(BASE), token="x", gated=True)
    refused("hf:org/repo", "401", "terms")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert "Secret" not in refused("hf:org/repo", "403", "terms")


@pytest.mark.parametrize(
    "token", ["hf_Secret\nX-Evil: 1", "hf_Secret\r\n\r\nGET /", "hf_Sec ret", "hf_Secret\0", "hf_Sécret"]
)
def test_a_token_that_is_none_is_not_shown(
    hub: Server, cache: Path, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "\0" in token:  # which no environment can hold
        monkeypatch.setattr(_download.os, "environ", {**_download.os.environ, "HF_TOKEN": token})
    else:
        monkeypatch.setenv("HF_TOKEN", token)
    sentence = refused("hf:org/repo", "HF_TOKEN")
    assert "Sec" not in sentence and "Evil" not in sentence and "cret" not in sentence
    assert not hub.requests


@pytest.mark.parametrize("where", ["another port", "another name", "back again"])
def test_a_redirect_takes_no_token_along(
    hub: Server, other: Server, cache: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    base = f"/org/repo/resolve/{COMMIT}/model.safetensors"
    content = folder(BASE)["model.safetensors"]
    hub.files["/stolen"] = other.files["/stolen"] = content
    if where == "another name":
        hub.always(base, twists.redirect(f"http://localhost:{hub.port}/stolen"))
    else:
        hub.always(base, twists.redirect(f"{other.url}/stolen"))
    if where == "back again":
        other.always("/stolen", twists.redirect(f"{hub.url}/stolen"))
    same_weights(zoo.load("hf:org/repo"), BASE)
    led = (hub if where == "another name" else other).of("/stolen")
    assert led and {request.headers["Authorization"] for request in led} == {None}
    hidden(cache)


def test_a_mirror_sees_no_token(hub: Server, other: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_ENDPOINT")
    monkeypatch.setenv("ZOO_MIRROR", other.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    base = "/huggingface.co/org/repo/resolve/main"
    other.files |= {f"{base}/{name}": content for name, content in folder(BASE).items()}
    same_weights(zoo.load("hf:org/repo"), BASE)
    with pytest.raises(DownloadError) as caught:
        zoo.load("hf:org/none")
    assert seen(other) == {None}
    hidden(cache, "".join(traceback.format_exception(caught.value)))


def test_other_hosts_see_no_token(hub: Server, other: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    other.files["/one.pt"] = HUBERT.read_bytes()
    with registered(tiny("one", config_of(HUBERT), Source("fairseq", f"{other.url}/one.pt"))):
        same_weights(zoo.load("one"), HUBERT)
    assert seen(other) == {None}


def test_files_of_the_hub_by_their_address_get_the_token(
    hub: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As registry names have them: those addresses are the configured endpoint's too."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.repositories["org/files"] = Repository({"one.pt": HUBERT.read_bytes()}, token=TOKEN)
    url = "https://huggingface.co/org/files/resolve/main/one.pt"
    with registered(tiny("one", config_of(HUBERT), Source("s3prl_converted", url))):
        same_weights(zoo.load("one"), HUBERT)
    hidden(cache)


@pytest.mark.parametrize("trouble", ["hang", "reset", "status", "html", "redirect", "unreachable"])
def test_trouble_shows_no_token(
    hub: Server, cache: Path, trouble: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(_download, "READ_TIMEOUT_S", 0.05)
    path = "/org/repo/resolve/main/config.json"
    ways = {
        "hang": twists.hang(hub.stopped),
        "reset": lambda request, answer: Answer(body=bytes(99), cut=9, reset=True),
        "status": twists.status(500, TOKEN.encode(), X_Error_Message=TOKEN),
        "html": twists.page(body=TOKEN.encode()),
        "redirect": twists.redirect(f"ftp://{TOKEN}@example.org/?token={TOKEN}"),
    }
    if trouble == "unreachable":
        monkeypatch.setenv("HF_ENDPOINT", "https://example.org")
    else:
        hub.always(path, ways[trouble])
    with pytest.raises(DownloadError) as caught:
        zoo.load("hf:org/repo")
    hidden(cache, "".join(traceback.format_exception(caught.value)), *capfd.readouterr())


# The endpoint and the mirror


@pytest.mark.parametrize("end", ["", "/", "/hub", "/hub/"])
def test_the_endpoint_may_have_a_path(hub: Server, end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url + end)
    hub.repositories.clear()
    base = f"{end.rstrip('/')}/org/files/resolve/main"
    hub.files |= {f"{base}/{name}": content for name, content in folder(BASE).items()}
    same_weights(zoo.load("hf:org/files"), BASE)


@pytest.mark.parametrize("variable", ["HF_ENDPOINT", "ZOO_MIRROR"])
@pytest.mark.parametrize(
    "value",
    ["http://example.org", "ftp://127.0.0.1", "file:///etc", "example.org", "http://[", "http://", "/etc", "https://"],
)
def test_an_endpoint_or_mirror_that_is_none(
    hub: Server, variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    refused("hf:org/repo", variable)
    assert not hub.requests


def test_an_endpoint_over_https(hub: Server, secure: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", secure.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    secure.repositories["org/repo"] = Repository(folder(BASE), token=TOKEN)
    secure.cdn = hub  # plain http
    refused("hf:org/repo", "from https to http")
    secure.cdn = secure
    same_weights(zoo.load("hf:org/repo"), BASE)


def test_a_mirror_is_asked_first(hub: Server, other: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it lacks is looked for where it says."""
    monkeypatch.setenv("ZOO_MIRROR", other.url)
    preset = tiny("one", config_of(HUBERT), Source("fairseq", "https://example.org/one.pt"))
    with registered(preset), pytest.raises(DownloadError) as caught:
        zoo.load("one")
    assert f"{other.url}/example.org/one.pt" in str(caught.value)
    assert "https://example.org/one.pt: it cannot be reached" in str(caught.value)


@pytest.mark.parametrize("spec", ["hf:org/repo", "hf:org/repo@main"])
def test_a_user_and_password_of_a_mirror(
    hub: Server, other: Server, cache: Path, spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are for the mirror, and for nobody's eyes."""
    monkeypatch.delenv("HF_ENDPOINT")
    monkeypatch.setenv("ZOO_MIRROR", other.url.replace("//", "//user:Secret@"))
    base = "/huggingface.co/org/repo/resolve/main"
    other.files |= {f"{base}/{name}": content for name, content in folder(BASE).items()}
    same_weights(zoo.load(spec), BASE)
    assert seen(other) == {"Basic dXNlcjpTZWNyZXQ="}
    other.files.clear()
    with pytest.raises(DownloadError) as caught:
        zoo.load("hf:org/none")
    hidden(cache, "".join(traceback.format_exception(caught.value)))


def test_an_unknown_name_is_not_looked_for(hub: Server) -> None:
    refused("no-such-model", kind=UnknownModelError)
    assert not hub.requests
