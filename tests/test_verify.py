"""python -m zoo verify: hash, tensors and numbers of a file, a folder, and of what is in the cache."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import zoo
import zoo.__main__
import zoo.convert
from tests.families import tiny
from zoo import _cache, _hub, _registry
from zoo._cache import Record
from zoo.models._family import Family, Preset, Source

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "hubert_tiny.pt"
FOLDER = ROOT / "tests" / "data" / "hf" / "base_safetensors"
URL = "https://example.org/models/hubert_tiny.pt"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `verify` in an empty folder; gives its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        status = zoo.__main__.main(["verify", *map(str, arguments)])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return call


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def results(out: str) -> dict[str, str]:
    return {line.split(": ")[0]: line.split(": ", 1)[1].split(";")[0] for line in out.splitlines()}


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Gives the registry one more model, hubert_tiny, whose source is the example."""

    def add(**source: object) -> None:
        config = zoo.load(EXAMPLE).config
        sources = (Source("fairseq", URL, **source),)
        family = _registry.families()["hubert"]
        preset = Preset(
            name="hubert_tiny", config=config, parameters=1, data="", licence="MIT", paper="", sources=sources
        )
        everything: dict[str, tuple[Family, Preset]] = {**_registry._presets(), "hubert_tiny": (family, preset)}
        monkeypatch.setattr(_registry, "_presets", lambda: everything)

    return add


def cached() -> Path:
    """The example in the cache, as if it had been fetched; returns the original."""
    path = _cache.place(_cache.root(), URL)
    path.parent.mkdir(parents=True)
    shutil.copy(EXAMPLE, path)
    status = path.stat()
    _cache.write_record(path, Record(URL, status.st_size, sha256(path), status.st_mtime_ns))
    _hub.fetch("hubert_tiny", _hub.Options(local_files_only=True))
    return path


# A file


def test_a_file_nobody_knows(run: Run) -> None:
    shutil.copy(EXAMPLE, "model.pt")
    status, out, err = run("model.pt")
    assert (status, err) == (0, "")
    assert results(out) == {"hash": "not checked", "tensors": "ok", "fingerprint": "not checked"}
    assert sha256(EXAMPLE) in out and "no known one to compare with" in out
    assert "70 tensors (fairseq): 67 fill a parameter each, 3 belong to heads, 0 are dropped" in out
    assert "no recorded values: nothing to compare with; --record writes them" in out


def test_record_then_compare(run: Run, tmp_path: Path) -> None:
    shutil.copy(EXAMPLE, "model.pt")
    status, out, _ = run("model.pt", "--record")
    assert status == 0 and "written to model.pt.fingerprint.json; nothing was compared" in out
    status, out, _ = run("model.pt")
    assert status == 0 and results(out)["fingerprint"] == "ok" and "largest differences: weights 0.0e+00" in out
    status, out, _ = run("model.pt", "--record")
    assert status == 1 and out == ""
    assert run("model.pt", "--record", "--force")[0] == 0
    assert run("model.pt", "--record", "other.json")[0] == 0
    assert run("model.pt", "--against", "other.json")[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pt", "model.pt.fingerprint.json", "other.json"]


def test_another_model_differs(run: Run) -> None:
    model = zoo.load(EXAMPLE)
    zoo.save(model, "model.safetensors")
    assert run("model.safetensors", "--record")[0] == 0
    with torch.no_grad():
        model.encoder.layers[2].attention.k_proj.weight[3, 4] += 1e-3
    zoo.save(model, "model.safetensors")
    status, out, _ = run("model.safetensors")
    assert status == 1 and "fingerprint: failed; encoder.layers.2.attention.k_proj.weight differs by" in out
    status, out, _ = run("model.safetensors", "--json")
    record = json.loads(out)
    assert status == 1 and not record["ok"] and record["is"] == []
    assert [check["result"] for check in record["checks"]] == ["not checked", "ok", "failed"]


def test_what_does_not_fit_is_not_run(run: Run) -> None:
    zoo.save(zoo.load(EXAMPLE), "model.safetensors")
    with safe_open("model.safetensors", "pt") as file:
        metadata = file.metadata()
    save_file({**load_file("model.safetensors"), "encoder.mystery": torch.zeros(3)}, "model.safetensors", metadata)
    status, out, _ = run("model.safetensors", "--record")
    assert status == 1 and results(out) == {"hash": "not checked", "tensors": "failed", "fingerprint": "not checked"}
    assert "encoder.mystery" in out and not Path("model.safetensors.fingerprint.json").exists()


def test_a_folder(run: Run) -> None:
    shutil.copytree(FOLDER, "folder")
    assert run("folder", "--record")[0] == 0
    status, out, _ = run("folder/")
    assert status == 0 and results(out) == {"hash": "not checked", "tensors": "ok", "fingerprint": "ok"}
    assert sha256(FOLDER / "model.safetensors") in out


def test_a_file_is_named_by_a_hash_of_the_registry(run: Run, named: Callable[..., None]) -> None:
    named(sha256=sha256(EXAMPLE), cited="https://example.org")
    shutil.copy(EXAMPLE, "renamed.bin")
    status, out, _ = run("renamed.bin")
    assert status == 0 and "hash: ok; this is hubert_tiny; renamed.bin" in out
    assert json.loads(run("renamed.bin", "--json")[1])["is"] == ["hubert_tiny"]
    assert zoo.convert.main(["renamed.bin", "-o", "native.safetensors"]) == 0
    status, out, _ = run("native.safetensors")
    assert status == 0 and "it says that it was made from hubert_tiny" in out


def test_a_file_is_named_by_what_was_once_fetched(run: Run, named: Callable[..., None]) -> None:
    named()
    cached()
    shutil.copy(EXAMPLE, "renamed.bin")
    assert "hash: ok; this is hubert_tiny; renamed.bin" in run("renamed.bin")[1]


# A name


def test_a_name(run: Run, named: Callable[..., None]) -> None:
    named()
    original = cached()
    native = _hub.Named("hubert_tiny", _hub.Options()).target
    status, out, err = run("hubert_tiny")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert [line.split(";")[0] for line in lines] == [
        "hash: ok", "hash: ok", "tensors: ok", "tensors: ok", "fingerprint: not checked",
    ]  # fmt: skip
    assert str(native) in lines[0] and f"this is hubert_tiny; {original}" in lines[1]
    assert run("hubert_tiny", "--record")[0] == 0
    assert (_cache.root() / "fingerprints" / "hubert_tiny.json").is_file()
    assert "fingerprint: ok; as recorded" in run("hubert_tiny")[1]
    assert run("hubert_tiny", "--record")[0] == 1


@pytest.mark.parametrize("which", ["native", "original"])
@pytest.mark.parametrize("time", ["same", "new"])
def test_one_byte_that_changed_in_the_cache_is_found(
    which: str, time: str, run: Run, named: Callable[..., None]
) -> None:
    """Size and time tell nothing here: the whole file is hashed."""
    named()
    original = cached()
    path = original if which == "original" else _hub.Named("hubert_tiny", _hub.Options()).target
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-5000] ^= 1
    path.write_bytes(content)
    if time == "same":
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    status, out, _ = run("hubert_tiny")
    assert status == 1
    assert f"hash: failed; {path} is damaged or replaced: its sha256 is" in out
    assert "python -m zoo fetch hubert_tiny --refresh" in out
    assert "fingerprint: not checked; what is damaged or does not fit is not run" in out


def test_a_file_that_the_registry_knows_better(run: Run, named: Callable[..., None]) -> None:
    named()
    cached()
    named(sha256="0" * 64, cited="https://example.org/page")
    status, out, _ = run("hubert_tiny")
    assert status == 1 and f"instead of the {'0' * 64} that https://example.org/page states" in out


def test_a_repository(run: Run) -> None:
    commit = "0" * 40
    folder = _cache.root() / "hf" / "org" / "repo" / commit
    shutil.copytree(FOLDER, folder)
    names = [path.name for path in folder.iterdir()]
    for name in names:
        status = (folder / name).stat()
        _cache.write_record(folder / name, Record(URL, status.st_size, sha256(folder / name), status.st_mtime_ns))
    (folder / ".snapshot.json").write_text(json.dumps({"revision": commit, "files": names}))
    name = f"hf:org/repo@{commit}"
    zoo.load(name, local_files_only=True)
    assert run(name, "--record")[0] == 0
    status, out, _ = run(name)
    assert status == 0 and results(out) == {"hash": "ok", "tensors": "ok", "fingerprint": "ok"}
    assert out.count("hash: ok") == 2
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    assert f"hash: failed; {weights} is damaged" in run(name)[1]


def test_a_model_without_weights(run: Run) -> None:
    status, out, _ = run("fbank")
    assert status == 0 and results(out) == {"hash": "not checked", "fingerprint": "not checked"}
    assert run("fbank", "--record", "fbank.json")[0] == 0
    assert "fingerprint: ok" in run("fbank", "--against", "fbank.json")[1]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["hubert_base"], "hubert_base is not in the cache"),
        (["hubert_base"], "python -m zoo fetch hubert_base"),
        (["hf:org/repo"], "hf:org/repo is not in the cache"),
        (["hubert_bsae"], "hubert_bsae does not exist as a path, and there is no model named 'hubert_bsae'; did you"),
        (["none/model.pt"], "none/model.pt does not exist as a path"),
        (["hf:org"], "names no repository"),
        ([EXAMPLE, "--record", "a", "--against", "b"], "--record and --against were both given"),
        ([EXAMPLE, "--record", "missing/a.json"], "the folder missing does not exist"),
    ],
)
def test_what_cannot_be_verified_is_refused(arguments: list[object], sentence: str, run: Run, tmp_path: Path) -> None:
    status, out, err = run(*arguments)
    assert status == 1 and out == "" and err.startswith("zoo verify: ") and sentence in err
    assert err.count("\n") == 1 and list(tmp_path.iterdir()) == []


def test_a_missing_fingerprint_that_was_named_fails(run: Run) -> None:
    status, out, _ = run(EXAMPLE, "--against", "none.json")
    assert status == 1 and "fingerprint: failed; none.json cannot be read" in out


def test_a_model_trained_with_the_zoo(run: Run) -> None:
    zoo.save(tiny("wavlm_base"), "model.safetensors")
    status, out, _ = run("model.safetensors")
    assert status == 0 and "tensors (zoo)" in out
