"""The command lines as a user types them: what they print, where they write, and how they end."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import zoo
import zoo.__main__
import zoo._commands.extract
import zoo.convert
from zoo import _native
from zoo.converters._unpickle import LazyTensor

ROOT = Path(__file__).resolve().parent.parent
CHECKPOINT = ROOT / "examples" / "hubert_tiny.pt"
AUDIO = ROOT / "examples" / "audio"
DIGIT = AUDIO / "0_theo_0.wav"
LAYERS = 3
COMMANDS = {"zoo": zoo.__main__.main, "zoo.convert": zoo.convert.main}

Run = Callable[..., tuple[int, str, str]]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in an empty folder; gives its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def call(command: str, *arguments: object) -> tuple[int, str, str]:
        status = COMMANDS[command]([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return call


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    assert zoo.convert.main([str(CHECKPOINT), "-o", str(path)]) == 0
    return path


def process(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def files(folder: Path) -> dict[str, str]:
    """Path -> hash of everything below a folder, hidden files too."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def index(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "index.jsonl").read_text().splitlines()]


def recording(path: Path, samples: int = 4000, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = 0.1 * np.random.default_rng(seed).standard_normal(samples)
    with path.open("wb") as file:  # an opened file: the name need not be one that soundfile can encode
        soundfile.write(file, wave, 16000, format=path.suffix[1:].upper())
    return path


def alone(path: Path) -> tuple[torch.Tensor, ...]:
    """Hidden states that Python gives for one file."""
    (item,) = zoo.extract(zoo.load(CHECKPOINT), [path], progress=False)
    return item.hidden_states


# list, info


def test_list(run: Run) -> None:
    status, out, err = run("zoo", "list")
    assert (status, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()] == zoo.list_models()
    status, out, _ = run("zoo", "list", "*hubert*")
    assert [line.split()[0] for line in out.splitlines()] == zoo.list_models("*hubert*") != zoo.list_models()


def test_list_as_json(run: Run) -> None:
    status, out, err = run("zoo", "list", "hubert_*", "--json")
    assert (status, err) == (0, "")
    records = json.loads(out)
    assert [record["name"] for record in records] == zoo.list_models("hubert_*")
    assert all(record["sources"] and record["licence"] and record["parameters"] for record in records)


def test_info(run: Run) -> None:
    status, out, err = run("zoo", "info", "hubert_base")
    assert (status, err) == (0, "")
    facts = dict(line.split(": ", 1) for line in out.splitlines() if ": " in line)
    assert facts["name"] == "hubert_base"
    assert (facts["layers"], facts["width"], facts["sample_rate"]) == ("12", "768", "16000")
    assert "https://dl.fbaipublicfiles.com/hubert/hubert_base_ls960.pt" in out
    assert not re.search(r"[{}\[\]]|None|True|False", out)


def test_info_as_json(run: Run) -> None:
    status, out, err = run("zoo", "info", "hubert", "--json")
    assert (status, err) == (0, "")
    record = json.loads(out)
    assert record["name"] == "hubert_base" and "hubert" in record["aliases"]
    assert record["config"]["num_layers"] == record["layers"] == 12


# convert


def test_convert_writes_beside_the_user(run: Run, tmp_path: Path) -> None:
    status, out, err = run("zoo.convert", CHECKPOINT)
    assert (status, err) == (0, "")
    assert list(files(tmp_path)) == ["hubert_tiny.safetensors"]
    assert "output: hubert_tiny.safetensors\n" in out
    assert zoo.load("hubert_tiny.safetensors").config == zoo.load(CHECKPOINT).config


def test_convert_as_json(run: Run, tmp_path: Path) -> None:
    status, out, err = run("zoo.convert", CHECKPOINT, "-o", "with space ü.safetensors", "--json")
    assert (status, err) == (0, "")
    record = json.loads(out)
    assert (record["output"], record["dialect"], record["family"]) == ("with space ü.safetensors", "fairseq", "hubert")
    with safe_open(tmp_path / record["output"], framework="pt") as file:
        assert record["tensors"] == len(file.keys())
    model = zoo.load(tmp_path / record["output"])
    assert record["parameters"] == sum(tensor.numel() for tensor in model.state_dict().values())
    assert record["heads"] == ["final_proj", "label_embs_concat"]


def test_convert_twice_gives_the_same_bytes(run: Run, tmp_path: Path) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        assert run("zoo.convert", CHECKPOINT, "-o", name)[0] == 0
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(CHECKPOINT, tmp_path / "elsewhere" / "renamed.bin")
    done = process("zoo.convert", "elsewhere/renamed.bin", "-o", "c.safetensors", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert len({files(tmp_path)[f"{name}.safetensors"] for name in "abc"}) == 1


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_convert_dtype(run: Run, tmp_path: Path, dtype: str) -> None:
    assert run("zoo.convert", CHECKPOINT, "--dtype", dtype)[0] == 0
    stored = load_file(tmp_path / "hubert_tiny.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {getattr(torch, dtype)}
    model, original = zoo.load("hubert_tiny.safetensors"), zoo.load(CHECKPOINT)
    for name, tensor in original.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor.to(getattr(torch, dtype)).float())


def test_convert_keeps_integers(run: Run, tmp_path: Path) -> None:
    source = ROOT / "tests" / "data" / "hubert_batch_norm.pt"
    assert run("zoo.convert", source, "--dtype", "float16")[0] == 0
    stored = load_file(tmp_path / "hubert_batch_norm.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16, torch.int64}


def test_force_replaces(run: Run, tmp_path: Path) -> None:
    target = tmp_path / "hubert_tiny.safetensors"
    target.write_text("precious")
    assert run("zoo.convert", CHECKPOINT)[0] == 1
    assert target.read_text() == "precious"
    assert run("zoo.convert", CHECKPOINT, "--force")[0] == 0
    assert _native.is_safetensors(target)
    assert list(files(tmp_path)) == ["hubert_tiny.safetensors"]


def test_force_leaves_what_a_link_points_at(run: Run, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "link.safetensors").symlink_to("precious")
    assert run("zoo.convert", CHECKPOINT, "-o", "link.safetensors", "--force")[0] == 0
    assert (tmp_path / "precious").read_text() == "precious"
    assert not (tmp_path / "link.safetensors").is_symlink()


def test_the_source_may_be_a_link(run: Run, tmp_path: Path) -> None:
    (tmp_path / "my model.pt").symlink_to(CHECKPOINT)
    assert run("zoo.convert", "my model.pt")[0] == 0
    assert (tmp_path / "my model.safetensors").is_file()


def test_inspect(run: Run, tmp_path: Path) -> None:
    status, out, err = run("zoo.convert", "--inspect", CHECKPOINT)
    assert (status, err) == (0, "")
    assert "dialect: fairseq\n" in out and "fairseq.data.dictionary.Dictionary" in out
    status, out, err = run("zoo.convert", "--inspect", CHECKPOINT, "--json")
    record = json.loads(out)
    assert record["sha256"] == hashlib.sha256(CHECKPOINT.read_bytes()).hexdigest()
    assert record["config"]["num_layers"] == LAYERS
    assert record["container"] == "zip"
    assert "fairseq.data.dictionary.Dictionary" in record["classes"]
    assert files(tmp_path) == {}


def test_inspect_reads_no_tensor(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: object) -> None:
        raise RuntimeError("a tensor was read")

    for name in ("load", "pieces"):
        monkeypatch.setattr(f"zoo.converters._unpickle.LazyTensor.{name}", load)
    assert run("zoo.convert", "--inspect", CHECKPOINT)[0] == 0
    assert run("zoo.convert", "--dry-run", CHECKPOINT)[0] == 0


def test_dry_run(run: Run, tmp_path: Path, native: Path) -> None:
    status, out, err = run("zoo.convert", "--dry-run", CHECKPOINT)
    assert (status, err) == (0, "")
    assert "post_extract_proj.weight -> feature_projection.projection.weight [32, 16]\n" in out
    status, out, err = run("zoo.convert", "--dry-run", CHECKPOINT, "--json")
    plan = json.loads(out)
    with safe_open(native, framework="pt") as file:
        assert {pair["target"] for pair in plan["tensors"]} == set(file.keys())
    assert plan["dropped"] == {}
    assert files(tmp_path) == {}


# extract


def test_extract_a_folder(run: Run, tmp_path: Path, native: Path) -> None:
    """Folders are mirrored; stems may repeat; names may hold spaces, dots and any letter; other files are left."""
    names = ["a.wav", "a.flac", "B.WAV", "deep/er/a.wav", "deep/with space.ogg", "ünï/音声.wav", "v1.2.wav"]
    for i, name in enumerate(names):
        recording(tmp_path / "data" / name, 3000 + 400 * i, seed=i)
    for name in ("notes.md", "a.txt", "deep/labels.json", "headerless.raw"):
        (tmp_path / "data" / name).write_bytes(b"no audio")
    status, out, err = run("zoo", "extract", "data", "-o", "out", "--model", native)
    assert (status, out, err) == (0, "7 of 7 files extracted to out\n", "")
    assert set(files(tmp_path / "out")) == {f"{name}.safetensors" for name in names} | {"index.jsonl"}
    records = index(tmp_path / "out")
    assert [record["source"] for record in records] == sorted((f"data/{name}" for name in names), key=Path)
    for record in records:
        states = load_file(tmp_path / "out" / record["output"])
        expected = alone(tmp_path / record["source"])
        assert list(states) == [f"hidden_states.{layer}" for layer in range(LAYERS + 1)]
        for state, other in zip(states.values(), expected):
            torch.testing.assert_close(state, other, rtol=0, atol=1e-5)
        assert record["frames"] == len(expected[0])
        assert record["seconds"] == soundfile.info(str(tmp_path / record["source"])).duration


def test_extract_one_file(run: Run, tmp_path: Path, native: Path) -> None:
    status, out, err = run("zoo", "extract", DIGIT, "-o", "new/out", "--model", native, "--json")
    assert (status, err) == (0, "")
    assert json.loads(out) == {"output": "new/out", "done": 1, "failed": 0}
    assert set(files(tmp_path / "new" / "out")) == {"0_theo_0.wav.safetensors", "index.jsonl"}


def test_extract_from_the_original_checkpoint(run: Run, tmp_path: Path, native: Path) -> None:
    for model, out in ((native, "a"), (CHECKPOINT, "b")):
        assert run("zoo", "extract", AUDIO, "-o", out, "--model", model)[0] == 0
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_extract_twice_gives_the_same_bytes(run: Run, tmp_path: Path, native: Path) -> None:
    assert run("zoo", "extract", AUDIO, "-o", "a", "--model", native)[0] == 0
    done = process("zoo", "extract", AUDIO, "-o", "b", "--model", native, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "6 of 6 files extracted to b\n", "")
    first = files(tmp_path / "a")
    assert len(first) == 7
    assert first == files(tmp_path / "b")


def test_extract_a_list(run: Run, tmp_path: Path, native: Path) -> None:
    """One path a line, relative to the current folder or absolute, as editors save it; names start where paths part."""
    recording(tmp_path / "data" / "x" / "a.wav")
    recording(tmp_path / "data" / "y" / "b.wav")
    elsewhere = recording(tmp_path / "data" / "y" / "z" / "c d.wav")
    text = f"\ufeffdata/x/a.wav\r\n\r\n  data/x/../y/b.wav \r\n{elsewhere}\r\n"
    (tmp_path / "My List.TXT").write_text(text, encoding="utf-8", newline="")
    status, out, err = run("zoo", "extract", "My List.TXT", "-o", "out", "--model", native)
    assert (status, out, err) == (0, "3 of 3 files extracted to out\n", "")
    assert [record["output"] for record in index(tmp_path / "out")] == [
        "x/a.wav.safetensors",
        "y/b.wav.safetensors",
        "y/z/c d.wav.safetensors",
    ]
    assert index(tmp_path / "out")[0]["source"] == "data/x/a.wav"


def test_a_list_cannot_lead_out_of_the_output(run: Run, tmp_path: Path, native: Path, monkeypatch: Any) -> None:
    recording(tmp_path / "above.wav")
    recording(tmp_path / "here" / "below.wav")
    monkeypatch.chdir(tmp_path / "here")
    Path("list.txt").write_text("below.wav\n../above.wav\n")
    assert run("zoo", "extract", "list.txt", "-o", "out", "--model", native)[0] == 0
    assert set(files(tmp_path / "here" / "out")) == {
        "index.jsonl",
        "above.wav.safetensors",
        "here/below.wav.safetensors",
    }
    assert len(files(tmp_path)) == 6


def test_a_list_may_repeat_itself(run: Run, tmp_path: Path, native: Path) -> None:
    (tmp_path / "list.lst").write_text(f"{DIGIT}\n{DIGIT}\n")
    assert run("zoo", "extract", "list.lst", "-o", "out", "--model", native)[0] == 0
    assert len(index(tmp_path / "out")) == 2
    assert len(files(tmp_path / "out")) == 2


def test_extract_follows_links(run: Run, tmp_path: Path, native: Path) -> None:
    """Corpora are often put together of links; one that leads back up is not followed for ever."""
    recording(tmp_path / "corpus" / "a.wav")
    (tmp_path / "data" / "sub").mkdir(parents=True)
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "corpus")
    (tmp_path / "data" / "one.wav").symlink_to(tmp_path / "corpus" / "a.wav")
    (tmp_path / "data" / "sub" / "loop").symlink_to(tmp_path / "data")
    (tmp_path / "corpus" / "loop").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    status, out, err = run("zoo", "extract", "data", "-o", "out", "--model", native)
    assert (status, out) == (1, "2 of 3 files extracted to out\n")
    assert err == "zoo extract: data/gone.wav cannot be used: there is no such file\n"
    assert set(files(tmp_path / "out")) == {"index.jsonl", "linked/a.wav.safetensors", "one.wav.safetensors"}


def test_the_output_may_lie_in_the_source(run: Run, tmp_path: Path, native: Path, monkeypatch: Any) -> None:
    recording(tmp_path / "data" / "a.wav")
    monkeypatch.chdir(tmp_path / "data")
    for form in ("safetensors", "npy"):
        assert run("zoo", "extract", ".", "-o", "out", "--model", native, "--format", form, "--force")[0] == 0
        assert [record["output"] for record in index(Path("out"))] == [f"a.wav.{form}"]


def test_a_name_of_broken_bytes(run: Run, tmp_path: Path, native: Path) -> None:
    name = os.fsdecode(b"\xff\x1b[31m.wav")
    recording(tmp_path / "data" / name)
    recording(tmp_path / "data" / f"short{name}", 100)
    status, out, err = run("zoo", "extract", "data", "-o", f"out{name}", "--model", native)
    assert (status, out) == (1, "1 of 2 files extracted to out\\udcff\\x1b[31m.wav\n")
    assert err.startswith("zoo extract: data/short\\udcff\\x1b[31m.wav cannot be used: ")
    assert index(tmp_path / f"out{name}")[0]["source"] == f"data/short{name}"


def test_long_names(run: Run, tmp_path: Path, native: Path) -> None:
    recording(tmp_path / "data" / f"{'x' * 230}.wav")
    assert run("zoo", "extract", "data", "-o", "out", "--model", native)[0] == 0


def test_npy(run: Run, tmp_path: Path, native: Path) -> None:
    arguments = ("--model", native, "--format", "npy", "--layers=2,0,-1,2")
    status, _, err = run("zoo", "extract", DIGIT, "-o", "out", *arguments)
    assert (status, err) == (0, "")
    array = np.load(tmp_path / "out" / "0_theo_0.wav.npy")
    expected = alone(DIGIT)
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, torch.stack([expected[layer] for layer in (2, 0, 3, 2)]).numpy())


@pytest.mark.parametrize(("layers", "kept"), [("all", [0, 1, 2, 3]), ("last", [3]), ("0,2", [0, 2]), ("-4,-1", [0, 3])])
def test_layers(run: Run, tmp_path: Path, native: Path, layers: str, kept: list[int]) -> None:
    assert run("zoo", "extract", DIGIT, "-o", "out", "--model", native, f"--layers={layers}")[0] == 0
    states = load_file(tmp_path / "out" / "0_theo_0.wav.safetensors")
    assert list(states) == [f"hidden_states.{layer}" for layer in kept]
    for layer, state in zip(kept, states.values()):
        assert torch.equal(state, alone(DIGIT)[layer])


@pytest.mark.parametrize("form", ["safetensors", "npy"])
def test_weighted_sum(run: Run, tmp_path: Path, native: Path, form: str) -> None:
    weights = [0.5, -2, 0.25, 3]
    (tmp_path / "weights.json").write_text(json.dumps(weights))
    arguments = ("--model", native, "--layers", "weighted:weights.json", "--format", form)
    assert run("zoo", "extract", DIGIT, "-o", "out", *arguments)[0] == 0
    expected = sum(weight * state.double() for weight, state in zip(weights, alone(DIGIT)))
    if form == "npy":
        (summed,) = torch.from_numpy(np.load(tmp_path / "out" / "0_theo_0.wav.npy"))
    else:
        states = load_file(tmp_path / "out" / "0_theo_0.wav.safetensors")
        assert list(states) == ["hidden_states.weighted"]
        summed = states["hidden_states.weighted"]
    torch.testing.assert_close(summed, expected.float(), rtol=1e-5, atol=1e-5)


def test_padding_reference(run: Run, tmp_path: Path, native: Path) -> None:
    """The option reaches the model: base models of fairseq give a shorter file other numbers in a batch."""
    recording(tmp_path / "data" / "a.wav", 4000)
    recording(tmp_path / "data" / "b.wav", 8000, seed=1)
    for padding in ("exact", "reference"):
        arguments = ("--model", native, "--padding", padding, "--layers", "last")
        assert run("zoo", "extract", "data", "-o", padding, *arguments)[0] == 0
    exact, reference = (load_file(tmp_path / p / "a.wav.safetensors") for p in ("exact", "reference"))
    assert (exact["hidden_states.3"] - reference["hidden_states.3"]).abs().max() > 1e-4


def test_one_failure_among_several(run: Run, tmp_path: Path, native: Path) -> None:
    recording(tmp_path / "data" / "a.wav")
    recording(tmp_path / "data" / "b.wav", 100)
    (tmp_path / "data" / "c.flac").write_text("<html>")
    recording(tmp_path / "data" / "d.wav")
    status, out, err = run("zoo", "extract", "data", "-o", "out", "--model", native, "--json")
    assert status == 1
    assert json.loads(out) == {"output": "out", "done": 2, "failed": 2}
    assert [line.split(" cannot be used: ")[0] for line in err.splitlines()] == [
        "zoo extract: data/b.wav",
        "zoo extract: data/c.flac",
    ]
    records = index(tmp_path / "out")
    assert [sorted(record) for record in records] == [
        ["frames", "output", "seconds", "source"],
        ["error", "source"],
        ["error", "source"],
        ["frames", "output", "seconds", "source"],
    ]
    assert [f"zoo extract: {record['error']}" for record in records if "error" in record] == err.splitlines()
    assert set(files(tmp_path / "out")) == {"a.wav.safetensors", "d.wav.safetensors", "index.jsonl"}


def test_force_writes_anew(run: Run, tmp_path: Path, native: Path) -> None:
    arguments = ("zoo", "extract", DIGIT, "-o", "out", "--model", native, "--layers")
    assert run(*arguments, "last")[0] == 0
    before = files(tmp_path)
    assert run(*arguments, "0")[0] == 1
    assert files(tmp_path) == before
    assert run(*arguments, "0", "--force")[0] == 0
    assert files(tmp_path) != before


# Whole or not at all


class Killed(BaseException):
    """Stands for whatever ends a program: Ctrl-C, a full disk, a bug."""


@pytest.mark.parametrize("error", [Killed(), KeyboardInterrupt(), OSError(28, "No space left on device")])
@pytest.mark.parametrize("existing", [False, True])
def test_a_conversion_that_is_interrupted(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, existing: bool
) -> None:
    loads = 0
    pieces = LazyTensor.pieces

    def failing(self: LazyTensor) -> Iterator[memoryview]:
        nonlocal loads
        loads += 1
        if loads == 30:
            raise error
        return pieces(self)

    if existing:
        (tmp_path / "hubert_tiny.safetensors").write_text("precious")
    before = files(tmp_path)
    monkeypatch.setattr(LazyTensor, "pieces", failing)
    if isinstance(error, OSError):
        status, out, err = run("zoo.convert", CHECKPOINT, "--force")
        assert (status, out) == (1, "")
        assert err == "zoo.convert: hubert_tiny.safetensors cannot be written: No space left on device\n"
    elif isinstance(error, KeyboardInterrupt):
        assert run("zoo.convert", CHECKPOINT, "--force") == (130, "", "zoo.convert: interrupted\n")
    else:
        with pytest.raises(type(error)):
            run("zoo.convert", CHECKPOINT, "--force")
    assert loads == 30
    assert files(tmp_path) == before


def test_an_extraction_that_is_interrupted(
    run: Run, tmp_path: Path, native: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was finished is whole, what was not is not there, and there is no index that would claim otherwise."""
    saved = 0
    save = zoo._commands.extract.save

    def failing(states: dict[str, torch.Tensor]) -> bytes:
        nonlocal saved
        saved += 1
        if saved == 3:
            raise Killed
        return save(states)

    monkeypatch.setattr(zoo._commands.extract, "save", failing)
    with pytest.raises(Killed):
        run("zoo", "extract", AUDIO, "-o", "out", "--model", native)
    written = files(tmp_path / "out")
    assert len(written) == 2
    for name in written:
        assert name.endswith(".safetensors") and len(load_file(tmp_path / "out" / name)) == LAYERS + 1
    monkeypatch.setattr(zoo._commands.extract, "save", save)
    assert run("zoo", "extract", AUDIO, "-o", "out", "--model", native)[0] == 0
    assert len(index(tmp_path / "out")) == 6


@pytest.mark.slow  # tests/hostile/test_output.py kills at more moments
def test_a_killed_process_leaves_no_half_file(tmp_path: Path) -> None:
    script = f"""
import os, signal, zoo.convert
from zoo.converters._unpickle import LazyTensor
pieces, count = LazyTensor.pieces, iter(range(100))
def dying(self):
    if next(count) == 30:
        os.kill(os.getpid(), signal.SIGKILL)
    return pieces(self)
LazyTensor.pieces = dying
zoo.convert.main([{str(CHECKPOINT)!r}, "-o", "out.safetensors"])
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
    )
    assert done.returncode == -9, done.stderr
    assert not (tmp_path / "out.safetensors").exists()
    assert all(name.startswith(".zoo-") for name in files(tmp_path))


# Exit codes and help


@pytest.mark.parametrize(("module", "argument", "code"), [("zoo", "info", 2), ("zoo.convert", "nothing.pt", 1)])
def test_a_process_ends_with_the_code_of_main(module: str, argument: str, code: int, tmp_path: Path) -> None:
    done = process(module, argument, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(f"usage: python -m {module} " if code == 2 else f"{module}: ")
    assert files(tmp_path) == {}


def test_version(run: Run) -> None:
    assert run("zoo", "--version") == (0, f"{zoo.__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("zoo", "-h"), ["list", "info", "extract"]),
        (("zoo", "list", "-h"), ["pattern", "--json"]),
        (("zoo", "info", "-h"), ["name", "--json"]),
        (
            ("zoo", "extract", "-h"),
            ["FILE|DIR|LIST", "-o OUT", "--model", "--layers", "weighted:FILE", "--format", "--padding", "--device"],
        ),
        (
            ("zoo.convert", "-h"),
            ["SOURCE", "-o OUT", "--to", "--dtype", "--dry-run", "--inspect", "--force", "--json"],
        ),
    ],
)
def test_help(run: Run, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: list[str]) -> None:
    """Every argument is explained, on lines that fit a terminal."""
    monkeypatch.setenv("COLUMNS", "80")
    status, out, err = run(*arguments)
    assert (status, err) == (0, "")
    assert out.startswith(f"usage: python -m {arguments[0]}")
    assert all(word in out for word in words)
    assert all(len(line) <= 80 for line in out.splitlines())
    entries = re.findall(r"\n  (\S.*(?:\n   .*)*)", out[out.index("\npositional") :])
    assert len(entries) >= 3
    for entry in entries:
        assert len(re.split(r"\s{2,}", entry)) > 1, f"not explained: {entry}"


def test_a_reader_that_has_enough_is_no_error() -> None:
    """`python -m zoo list | head -1` ends without a message."""
    command = [sys.executable, "-m", "zoo", "list", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
