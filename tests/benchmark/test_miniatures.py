"""Miniatures are the same bytes each time, small and whole, and every task learns something from its own."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path

import pytest

import zoo
from tests.benchmark.on_disk import made_backwards
from zoo.benchmark import synthesis, tasks
from zoo.benchmark.__main__ import main

TASKS = [name for name in tasks() if name.startswith("superb/")]
LONG = ("superb/asv", "superb/sd")

# By how much the primary metric is better than the stated chance, at least; four seeds were tried.
MARGINS = {
    "superb/asr": 0.5,
    "superb/asv": 0.2,
    "superb/er": 0.4,
    "superb/ic": 0.25,
    "superb/ks": 0.5,
    "superb/pr": 0.35,
    "superb/qbe": 0.5,
    "superb/sd": 0.5,
    "superb/sf": 0.4,
    "superb/sid": 0.5,
}
QUICK = ("superb/ic", "superb/ks", "superb/qbe")


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_every_task_has_a_margin() -> None:
    assert list(MARGINS) == TASKS


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in TASKS])
def test_above_chance(
    name: str, miniatures: Path, upstream: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """End to end, with a small random HuBERT that was converted from fairseq's file."""
    arguments = ["--upstream", str(upstream), "--data", str(miniatures), "-o", str(tmp_path), "--recipe", "miniature"]
    assert main(["run", name, *arguments]) == 0
    assert capsys.readouterr().out.startswith(f"{name}: {tasks()[name].metric} ")
    result = json.loads((tmp_path / f"{name.replace('/', '_')}.json").read_text())
    assert result["status"] == "finished"
    assert result["config"]["recipe"] == "miniature"
    assert result["primary"]["name"] == tasks()[name].metric
    sign = 1 if tasks()[name].higher_is_better else -1
    assert sign * (result["primary"]["value"] - result["chance"]) >= MARGINS[name]


@pytest.mark.parametrize("name", TASKS)
def test_small_and_readable(name: str, miniatures: Path) -> None:
    task = tasks()[name]
    root = miniatures / task.layout.folder
    longest = 4.0 if name in LONG else 1.5
    for recipe in task.recipes.values():
        for fold in task.folds or (None,):
            options = {**recipe.corpus_options, **({"fold": fold} if fold else {})}
            for split, items in task.corpus(root, **options).items():
                heard = [item for item in items.values() if "wav_path" in item]
                assert len({item["wav_path"] for item in heard}) <= 24, split
                for item in heard:
                    waveform = zoo.load_audio(item["wav_path"], start_s=item.get("start_s", 0), end_s=item.get("end_s"))
                    assert 0 < len(waveform) <= longest * 16_000
                    assert 0.01 < waveform.abs().max() <= 1


def test_every_recording_is_readable(miniatures: Path) -> None:
    paths = [path for path in miniatures.rglob("*") if path.suffix in (".wav", ".flac")]
    assert len(paths) > 200
    for path in paths:
        assert len(zoo.load_audio(path)) <= 4.0 * 16_000
    assert not [path for path in miniatures.rglob("*") if path.name.startswith(".")]


@pytest.mark.slow
def test_same_bytes_in_any_order(miniatures: Path, tmp_path: Path) -> None:
    made_backwards(TASKS, tmp_path)
    assert digests(tmp_path) == digests(miniatures)


def test_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is lost comes back, what is there stays the same, and what is somebody else's is left alone."""
    command = ["miniature", "superb/ks", "-o", str(tmp_path), "--json"]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out) == {"superb/ks": str(tmp_path)}
    before = digests(tmp_path)
    next(tmp_path.rglob("*.wav")).unlink()
    next((tmp_path / "speech_commands_v0.01" / "up").iterdir()).write_bytes(b"cut")
    (tmp_path / "speech_commands_v0.01" / "notes.txt").write_text("mine")
    assert main(command) == 0
    after = digests(tmp_path)
    assert after.pop("speech_commands_v0.01/notes.txt") == hashlib.sha256(b"mine").hexdigest()
    assert after == before


@pytest.mark.parametrize(
    ("failure", "status", "said"),
    [
        (KeyboardInterrupt(), 130, "zoo.benchmark miniature: interrupted; the same command begins again\n"),
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
            1,
            "zoo.benchmark miniature: {folder} cannot take the miniature of superb/ic: No space left on device\n",
        ),
    ],
)
def test_nothing_half_written(
    failure: BaseException,
    status: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write, left = synthesis.write_audio, [5]

    def fails(*args: object, **options: object) -> None:
        left[0] -= 1
        if not left[0]:
            raise failure
        write(*args, **options)

    monkeypatch.setattr(synthesis, "write_audio", fails)
    assert main(["miniature", "superb/ic", "-o", str(tmp_path)]) == status
    captured = capsys.readouterr()
    assert captured.err == said.format(folder=tmp_path)
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


def test_output_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "file"
    path.write_text("mine")
    assert main(["miniature", "superb/ks", "-o", str(path)]) == 1
    assert capsys.readouterr().err == f"zoo.benchmark miniature: {path} is a file; give a folder with -o\n"
    assert main(["miniature", "superb/ks", "-o", str(path / "below")]) == 1
    assert "cannot take the miniature of superb/ks: Not a directory\n" in capsys.readouterr().err
    assert path.read_text() == "mine"
