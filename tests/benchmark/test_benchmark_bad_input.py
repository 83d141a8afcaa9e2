"""Whatever is wrong with a run gives one clear sentence, or is left out, counted and listed in the result.

The sentences are committed in `tests/snapshots/bad_input_benchmark.json`, so that a change of wording is seen and read.
To write them anew: `ZOO_UPDATE_SNAPSHOTS=1 python -m pytest tests/benchmark/test_benchmark_bad_input.py`, then read the
difference.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

import zoo
from tests.benchmark import hear_folders
from zoo.benchmark import _files
from zoo.benchmark.__main__ import main

ROOT = Path(__file__).resolve().parent.parent.parent
SPEECH = ROOT / "examples" / "audio"
SNAPSHOTS = ROOT / "tests" / "snapshots" / "bad_input_benchmark.json"
UPDATE = "ZOO_UPDATE_SNAPSHOTS" in os.environ
HERE = "tests.benchmark.test_benchmark_bad_input"

pytestmark = pytest.mark.filterwarnings("error")


def check(name: str, message: str) -> None:
    """Compare a message with the committed one."""
    committed = json.loads(SNAPSHOTS.read_text(encoding="utf-8")) if SNAPSHOTS.exists() else {}
    if UPDATE:
        committed = {known: text for known, text in committed.items() if known in ALL_NAMES} | {name: message}
        text = json.dumps(committed, indent=1, sort_keys=True, ensure_ascii=False)
        SNAPSHOTS.write_text(text + "\n", encoding="utf-8")
    assert message == committed.get(name)


def steady(message: str, folder: Path) -> str:
    """A message without what differs between machines: the temporary folder and the words of other libraries."""
    message = message.replace(str(folder), "<folder>")
    message = re.sub(r"(cannot read it as audio) \(.*?\)(?=;)", r"\1 (<its words>)", message)
    message = re.sub(r"(are no JSON) \(.*?\)(?=: [{\[])", r"\1 (<its words>)", message)
    return re.sub(r"(device .*, which cannot be used): .*", r"\1: <its words>", message)


# Hooks that are wrong in one way each.


class Frames(nn.Module):
    """An upstream of one state, which keeps to what is asked for."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: torch.Tensor, x_len: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        frames = x[:, : x.shape[1] // 320 * 320].reshape(len(x), -1, 320)[..., : self.width]
        return frames, x_len // 320


def upstream_of_text() -> Callable[..., str]:
    return lambda x, x_len: "features"


def upstream_of_two_dimensions() -> Callable[..., Any]:
    return lambda x, x_len: (x, x_len)


def upstream_that_does_not_grow() -> Callable[..., Any]:
    return lambda x, x_len: (x[:, :64].reshape(len(x), 4, 16), torch.full_like(x_len, 4))


def upstream_number() -> int:
    return 7


def corpus_list() -> list[str]:
    return ["train", "valid", "test"]


def corpus_without_audio() -> dict[str, dict[str, dict[str, Any]]]:
    return {split: {name: {"label": name} for name in "ab"} for split in ("train", "valid", "test")}


def corpus_of_waveforms(shape: int = 1, dtype: str = "float32") -> dict[str, dict[str, dict[str, Any]]]:
    waveform = torch.zeros([4000] * shape if shape < 2 else [2, 4000], dtype=getattr(torch, dtype))
    items = {name: {"waveform": waveform, "label": name} for name in ("a", "b")}
    return dict.fromkeys(("train", "valid", "test"), items)


def head_list(input_size: int, output_size: int) -> list[int]:
    return [input_size, output_size]


class Wide(nn.Module):
    """A head with one output too many or few."""

    def __init__(self, input_size: int, output_size: int, more: int = 1) -> None:
        super().__init__()
        self.linear = nn.Linear(input_size, output_size + more)

    def forward(self, x: torch.Tensor, x_len: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.linear(x.mean(1)), torch.ones_like(x_len)


def no_batches(dataset: Any, split: str, **options: Any) -> list[list[int]]:
    return []


number = 7


# The folder

GOOD = ("0_theo_0", "3_jackson_0", "7_nicolas_0", "9_lucas_1")


def manifest(path: Path, rows: list[tuple[str, ...]], header: str = "id,wav_path,label") -> None:
    path.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, miniatures: Path) -> Path:
    """A folder with bad recordings among good ones, manifests of them, and what else commands need."""
    here = tmp_path_factory.mktemp("user")
    for name in GOOD:
        samples, _ = soundfile.read(SPEECH / f"{name}.wav")
        samples = np.repeat(samples, 2) / max(1e-3, np.abs(samples).max())
        soundfile.write(here / f"{name}.wav", samples, 16_000)
    shutil.copy(SPEECH / "0_theo_0.wav", here / "8khz.wav")
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 8000)
    soundfile.write(here / "stereo.wav", np.stack([samples, samples], 1), 16_000)
    soundfile.write(here / "short.wav", samples[:100], 16_000)
    soundfile.write(here / "empty.wav", samples[:0], 16_000)
    spoilt = samples.astype(np.float32)
    spoilt[4000] = math.nan
    soundfile.write(here / "nan.wav", spoilt, 16_000, subtype="FLOAT")
    (here / "noise.wav").write_bytes(np.random.default_rng(0).bytes(5000))
    soundfile.write(here / "whole.flac", samples, 16_000)
    (here / "cut.flac").write_bytes((here / "whole.flac").read_bytes()[:6000])
    (here / "file.txt").write_text("mine")
    good = [(f"g{i}", f"{name}.wav", "even" if i % 2 else "odd") for i, name in enumerate(GOOD)]
    manifest(here / "good.csv", good)
    bad = ["8khz", "stereo", "short", "empty", "nan", "noise", "missing"]
    rows = [(name, f"{name}.wav", "odd") for name in bad] + [("cut", "cut.flac", "odd")]
    unlabelled = [("label_missing", f"{GOOD[0]}.wav", ""), ("label_unseen", f"{GOOD[0]}.wav", "prime")]
    manifest(here / "bad.csv", [*rows[:4], *good, *rows[4:], unlabelled[0]])
    manifest(here / "bad_test.csv", [*rows[:4], *good, *rows[4:], *unlabelled])
    manifest(here / "only_nan.csv", [("nan", "nan.wav", "odd")])
    manifest(here / "both_nan.csv", [("nan", "nan.wav", "odd"), ("nan2", "nan.wav", "even")])
    manifest(here / "only_cut.csv", [("cut", "cut.flac", "odd")])
    manifest(here / "only_missing.csv", [("missing", "missing.wav", "odd")])
    manifest(here / "unseen.csv", [("a", f"{GOOD[0]}.wav", "prime")])
    manifest(here / "one_class.csv", [(*row[:2], "odd") for row in good])
    manifest(here / "nothing.csv", [])
    manifest(here / "no_path.csv", [row[1:] for row in good], "file,label")
    manifest(here / "ragged.csv", [*good, ("a", "b")])
    said = [("s0", f"{GOOD[0]}.wav", "Z IH R OW"), ("s1", f"{GOOD[1]}.wav", "TH R IY"), ("s2", f"{GOOD[2]}.wav", "")]
    manifest(here / "said.csv", said, "id,wav_path,transcription")
    manifest(here / "unsaid.csv", said[2:], "id,wav_path,transcription")
    for name in ("data", "other"):
        (here / name).mkdir()
    shutil.copytree(miniatures / "speech_commands_v0.01", here / "no_test" / "speech_commands_v0.01")
    of_hear(here / "hear")
    return here


def of_hear(root: Path) -> None:
    """Folders in HEAR's format, one sound and each other one wrong in one way."""
    for name, kind in (
        ("sound", "scene"),
        ("label", "scene"),
        ("rate", "scene"),
        ("fold", "scene"),
        ("event", "event"),
    ):
        hear_folders.write(root / f"{name}-v1", kind, folds=3 if name == "fold" else 0, clips=2, seconds=0.2)
    (root / "label-v1" / "train.json").write_text('{"train-0.wav": ["high"]}')
    (root / "event-v1" / "test.json").write_text('{"test-0.wav": [{"label": "low", "start": 200, "end": 100}]}')
    shutil.rmtree(root / "fold-v1" / "16000" / "fold01")
    (root / "rate-v1" / "16000").rename(root / "rate-v1" / "44100")


RUN = "run superb/sid -o out --recipe miniature --steps 2 --upstream fbank_no_cmvn"


def csv(train: str = "good", valid: str = "good", test: str = "good", run: str = RUN) -> str:
    options = {split: f"{name}.csv" for split, name in (("train", train), ("valid", valid), ("test", test)) if name}
    return f"{run} --corpus zoo.benchmark.corpora:csv --corpus-options {shlex.quote(json.dumps(options))}"


def hooked(hook: str, name: str, options: str = "") -> str:
    given = f" --{hook}-options {shlex.quote(options)}" if options else ""
    base = csv() if hook != "upstream" else csv(run=RUN.replace(" --upstream fbank_no_cmvn", ""))
    if hook == "corpus":
        base = RUN
    return f"{base} --{hook} {name}{given}"


REFUSED = {
    "task: near name": "run superb/kws -o out --upstream fbank",
    "task: no near name": "run qqqq -o out --upstream fbank",
    "task: no suite": "run ks -o out --upstream fbank",
    "check-data: no such task": "check-data superb/xx --data data",
    "miniature: no such task": "miniature superb/xx -o out",
    "recipe": "run superb/ks -o out --upstream fbank --data data --recipe oficial",
    "recipe of another task": "run superb/pr -o out --upstream fbank --data data --recipe zoo",
    "upstream: near name": "run superb/ks -o out --upstream hubert_bse --data data",
    "upstream: not here": "run superb/ks -o out --upstream hubert_base --data data",
    "upstream: a recording": f"run superb/ks -o out --upstream {GOOD[0]}.wav --data data",
    "upstream: no module": hooked("upstream", "nowhere:build"),
    "upstream: no such name": hooked("upstream", f"{HERE}:nothing"),
    "upstream: not callable": hooked("upstream", f"{HERE}:number"),
    "upstream: its options": hooked("upstream", "zoo:build", '{"name": "hubert_base", "colour": "red"}'),
    "upstream: no options": hooked("upstream", "zoo:build"),
    "upstream: gives text": hooked("upstream", f"{HERE}:upstream_of_text"),
    "upstream: gives two dimensions": hooked("upstream", f"{HERE}:upstream_of_two_dimensions"),
    "upstream: does not grow": hooked("upstream", f"{HERE}:upstream_that_does_not_grow"),
    "upstream: is a number": hooked("upstream", f"{HERE}:upstream_number"),
    "options: no JSON": hooked("upstream", "zoo:build", "{name: hubert}"),
    "options: a list": hooked("upstream", "zoo:build", "[1]"),
    "options: deep": hooked("upstream", "zoo:build", "[" * 100_000),
    "layers: too high": f"{csv()} --layers 0,9",
    "steps": csv(run=RUN.replace("--steps 2", "--steps 0")),
    "limit": f"{csv()} --limit 0",
    "seed": f"{csv()} --seed -1",
    "learning rate": f"{csv()} --lr -1",
    "learning rate not finite": f"{csv()} --lr nan",
    "grid and fine-tuning": f"{csv()} --lr-grid --finetune",
    "device": f"{csv()} --device tpu",
    "data: none": "run superb/ks -o out --upstream fbank",
    "data: missing": "run superb/ks -o out --upstream fbank --data nowhere",
    "data: a file": "run superb/ks -o out --upstream fbank --data file.txt",
    "data: empty": "run superb/ks -o out --upstream fbank --data data",
    "data: no test set": "run superb/ks -o out --upstream fbank --data no_test",
    "output: a file": csv().replace("-o out", "-o file.txt"),
    "output: below a file": csv().replace("-o out", "-o file.txt/out"),
    "hear: another folder": "run hear/esc50 -o out --upstream fbank --data hear/sound-v1",
    "hear: no such folder": "run hear/esc50 -o out --upstream fbank --data hear",
    "hear: no folder": "run hear/esc50 -o out --upstream fbank --data data",
    "hear: several": "run hear/mridangam -o out --upstream fbank --data hear",
    "hear: label": "run hear/label -o out --upstream fbank --data hear",
    "hear: event": "run hear/event -o out --upstream fbank --data hear",
    "hear: audio of a fold": "run hear/fold -o out --upstream fbank --data hear",
    "hear: rate of the files": "run hear/rate -o out --upstream fbank --data hear",
    "hear: fine-tuning": "run hear/sound -o out --upstream fbank --data hear --finetune",
    "corpus: no colon": hooked("corpus", "corpora"),
    "corpus: gives a list": hooked("corpus", f"{HERE}:corpus_list"),
    "corpus: its options": hooked("corpus", f"{HERE}:corpus_list", '{"colour": "red"}'),
    "corpus: no audio": hooked("corpus", f"{HERE}:corpus_without_audio"),
    "corpus: waveforms in stereo": hooked("corpus", f"{HERE}:corpus_of_waveforms", '{"shape": 2}'),
    "corpus: waveforms of integers": hooked("corpus", f"{HERE}:corpus_of_waveforms", '{"dtype": "int16"}'),
    "csv: no valid": csv(valid=""),
    "csv: missing": csv(test="nowhere"),
    "csv: no column": csv(train="no_path"),
    "csv: ragged": csv(test="ragged"),
    "split: empty": csv(valid="nothing"),
    "split: training empty": csv(train="nothing"),
    "split: one class": csv(train="one_class"),
    "split: only unseen labels": csv(test="unseen"),
    "split: only missing files": csv(test="only_missing"),
    "split: only NaN in test": csv(test="only_nan"),
    "split: only NaN in training": csv(train="both_nan"),
    "split: only NaN on the fly": f"{csv(test='only_nan')} --store-gb 0",
    "split: only NaN in training on the fly": f"{csv(train='both_nan')} --store-gb 0",
    "split: only a cut file": csv(valid="only_cut"),
    "split: nothing said": csv(
        "said", "said", "unsaid", run="run superb/pr -o out --recipe miniature --steps 2 --upstream fbank_no_cmvn"
    ),
    "downstream: no module": hooked("downstream", "nowhere:Head"),
    "downstream: no nn.Module": hooked("downstream", f"{HERE}:head_list"),
    "downstream: its options": hooked("downstream", f"{HERE}:Wide", '{"colour": "red"}'),
    "downstream: too few outputs": hooked("downstream", f"{HERE}:Wide", '{"more": -1}'),
    "sampler: no batch": hooked("sampler", f"{HERE}:no_batches"),
    "sampler: its options": hooked("sampler", "zoo.benchmark.samplers:shuffled", '{"colour": "red"}'),
    "optimizer: its options": hooked("optimizer", "torch.optim:SGD", '{"colour": "red"}'),
    "optimizer: no such": hooked("optimizer", "torch.optim:Sgd"),
    "scheduler: its options": hooked("scheduler", "torch.optim.lr_scheduler:StepLR", '{"colour": "red"}'),
    "diverged": f"{csv(run=RUN.replace('--steps 2', '--steps 300'))} --lr 1e30",
}
USAGE = {
    "no command": "",
    "no such command": "train",
    "no task": "run",
    "no output": "run superb/ks --upstream fbank",
    "no upstream": "run superb/ks -o out",
    "layers": f"{csv()} --layers first",
    "padding": f"{csv()} --padding most",
    "precision": f"{csv()} --precision fp8",
    "steps": csv(run=RUN.replace("--steps 2", "--steps many")),
    "two learning rates": f"{csv()} --lr 1 --lr-grid",
}
LEFT_OUT = ("pooled store", "on the fly")
FULL = ("run.json", "features", "checkpoint.safetensors", "head.safetensors", "superb_sid.json")
ALL_NAMES = {*REFUSED, *(f"left out: {kind}" for kind in LEFT_OUT), *(f"full disk: {name}" for name in FULL)}


def finished(folder: Path) -> list[Path]:
    """Files that could be taken for the result of a run."""
    return list(folder.rglob("superb_*.json"))


@pytest.mark.parametrize("name", REFUSED)
def test_refused(
    name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    arguments = [str(tmp_path / "out") if one == "out" else one for one in shlex.split(REFUSED[name])]
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    message = captured.err.splitlines()[-1]
    assert message.startswith(f"zoo.benchmark {arguments[0]}: ")
    assert "Traceback" not in captured.err
    assert len(message) < 700
    check(name, steady(steady(message, folder), tmp_path))
    assert not finished(tmp_path)
    assert (folder / "file.txt").read_text() == "mine"


@pytest.mark.parametrize("name", USAGE)
def test_usage(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(folder)
    assert main(shlex.split(USAGE[name])) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("usage: python -m zoo.benchmark")
    assert ": error: " in captured.err.splitlines()[-1]
    assert not (folder / "out").exists()


@pytest.mark.parametrize("kind", LEFT_OUT)
def test_left_out(
    kind: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What cannot be used is left out of every split, counted and listed; resampled files are counted."""
    monkeypatch.chdir(folder)
    store = " --store-gb 0" if kind == "on the fly" else ""
    command = shlex.split(csv("bad", "bad", "bad_test") + store)
    command[command.index("out")] = str(tmp_path)
    assert main(command) == 0
    (path,) = finished(tmp_path)
    result = json.loads(path.read_text())
    assert result["features"] == kind
    assert {split: one["count"] for split, one in result["excluded"].items()} == {"train": 8, "valid": 8, "test": 9}
    assert all(len(one["examples"]) == one["count"] for one in result["excluded"].values())
    notes = [note for note in result["notes"] if "resampled" in note]
    total = {"train": 13, "valid": 13, "test": 14}
    assert notes == [f"{split}: 1 of {total[split]} resampled from 8000 Hz (soxr HQ)" for split in total]
    said = {"excluded": result["excluded"], "notes": result["notes"]}
    check(f"left out: {kind}", steady(json.dumps(said), folder))
    err = capsys.readouterr().err
    assert all(note in err for note in notes)


@pytest.mark.parametrize("name", FULL)
def test_full_disk(
    name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where nothing more can be written a run stops, and with room again it goes on to the result it would have had."""
    monkeypatch.chdir(folder)
    command = shlex.split(csv())
    place = command.index("out")
    command[place] = str(tmp_path / "undisturbed")
    assert main(command) == 0
    command[place] = str(tmp_path / "full")
    with monkeypatch.context() as patch:
        full(name, patch)
        assert main(command) == 1
    captured = capsys.readouterr()
    assert captured.out.count("superb/sid: ") == 1
    message = captured.err.splitlines()[-1]
    assert "No space left on device" in message or "the disk of" in message
    check(f"full disk: {name}", re.sub(r"[\d.]+ [kMG]?B are free", "<n> are free", steady(message, tmp_path)))
    assert not (tmp_path / "full" / "superb_sid.json").exists()
    assert not [path for path in (tmp_path / "full").rglob("*") if path.name.startswith(".zoo-")]
    for store in (tmp_path / "full").rglob("features.bin"):
        if name == "features":
            with pytest.raises(zoo.ZooError, match="not finished"):
                zoo.FeatureStore.open(store.parent)
        else:
            zoo.FeatureStore.open(store.parent)
    assert main(command) == 0
    first, second = (json.loads((tmp_path / run / "superb_sid.json").read_text()) for run in ("undisturbed", "full"))
    first.pop("seconds"), second.pop("seconds")
    assert first == second


def full(name: str, patch: pytest.MonkeyPatch) -> None:
    """A disk that is full when a file of this name is to be written."""
    no_room = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if name == "features":
        pwrite = os.pwrite

        def some(descriptor: int, data: Any, offset: int) -> int:
            if offset:
                raise no_room
            return pwrite(descriptor, data, offset)

        patch.setattr(os, "pwrite", some)
        return
    wanted: list[str] = []
    write, fdopen = _files.write, os.fdopen

    class Full:
        def __init__(self, descriptor: int, mode: str) -> None:
            self.file = fdopen(descriptor, mode)

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *error: object) -> None:
            self.file.close()

        def write(self, data: bytes) -> int:
            self.file.write(data[: len(data) // 2])
            raise no_room

    def remembered(path: Path, data: bytes) -> None:
        wanted[:] = [path.name]
        write(path, data)

    patch.setattr(_files, "write", remembered)
    patch.setattr(os, "fdopen", lambda descriptor, mode: (Full if wanted == [name] else fdopen)(descriptor, mode))


def test_a_cut_checkpoint_is_not_taken_for_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What lies where a result or checkpoint belongs, but is none, is said or replaced."""
    monkeypatch.chdir(folder)
    command = shlex.split(csv())
    command[command.index("out")] = str(tmp_path)
    result = tmp_path / "superb_sid.json"
    result.write_text('{"status": "finis')
    assert main(command) == 0
    assert json.loads(result.read_text())["status"] == "finished"
    result.unlink()
    checkpoint = tmp_path / "superb_sid" / "checkpoint.safetensors"
    checkpoint.write_bytes(b"cut")
    capsys.readouterr()
    assert main(command) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"zoo.benchmark run: {checkpoint} is damaged (" in captured.err
    assert "; delete it, and the run begins again\n" in captured.err
    assert not result.exists()


def test_another_run_is_not_replaced(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    command = shlex.split(csv())
    command[command.index("out")] = str(tmp_path)
    assert main(command) == 0
    before = (tmp_path / "superb_sid.json").read_bytes()
    assert main([*command, "--seed", "1"]) == 1
    assert (
        "is the result of another run (its seed was 0, not 1); give another folder, or force" in capsys.readouterr().err
    )
    assert (tmp_path / "superb_sid.json").read_bytes() == before
    assert main([*command, "--seed", "1", "--force"]) == 0
    assert json.loads((tmp_path / "superb_sid.json").read_text())["seeds"] == {"run": 1}
