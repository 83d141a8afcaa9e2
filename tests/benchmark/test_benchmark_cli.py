"""The command line: what goes to stdout and stderr, exit codes, and every command of docs/benchmark.md as it stands."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from zoo.benchmark import __main__ as command_line
from zoo.benchmark import tasks
from zoo.benchmark.__main__ import main

ROOT = Path(__file__).resolve().parent.parent.parent
TASKS = [name for name in tasks() if name.startswith("superb/")]
PAGE = (ROOT / "docs" / "benchmark.md").read_text(encoding="utf-8")
RUN = ["run", "superb/ks", "--upstream", "fbank_no_cmvn", "--recipe", "miniature", "--steps", "3"]


def test_all_ten_tasks() -> None:
    assert sorted(TASKS) == sorted(f"superb/{name}" for name in "pr asr ks qbe sid asv sd ic sf er".split())


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    assert [line.split()[0] for line in lines] == list(tasks())
    assert all("recipes: official, " in line for line in lines)
    assert main(["list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["task"] for row in rows] == list(tasks())
    assert all(set(row) == {"task", "title", "metric", "recipes", "corpus"} for row in rows)


def test_run(miniatures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The result is on stdout, the plan before it on stderr; again, nothing is done."""
    command = [*RUN, "--data", str(miniatures), "-o", str(tmp_path)]
    assert main(command) == 0
    captured = capsys.readouterr()
    result = tmp_path / "superb_ks.json"
    written = json.loads(result.read_text())
    line = f"superb/ks: accuracy {written['primary']['value']:.4f} (chance {written['chance']:.4f}), {result}\n"
    assert captured.out == line
    plan = captured.err.splitlines()
    assert plan[0] == "superb/ks: 3 steps of 16 x 1, learning rate 0.01"
    assert re.fullmatch(r"superb/ks: train 24 \(\d+ s\), valid \d+ \(\d+ s\), test 24 \(\d+ s\)", plan[1])
    assert re.fullmatch(r"superb/ks: pooled store, \d+ k?B, made in about \d+ s", plan[2])
    pinned = "task upstream status primary metrics chance config seeds data_fingerprint versions curve".split()
    assert set(pinned) <= set(written)
    assert main([*command, "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == [written]
    assert captured.err == f"superb/ks: finished before, {result}\n"


def test_all_carries_on(miniatures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Tasks without a corpus fail in a sentence each, the others finish."""
    for name in ("speech_commands_v0.01", "speech_commands_test_set_v0.01", "VoxCeleb1"):
        shutil.copytree(miniatures / name, tmp_path / "data" / name)
    here = ("superb/ks", "superb/sid")
    command = ["run", "superb/all", *RUN[2:], "--data", str(tmp_path / "data"), "-o", str(tmp_path / "out")]
    (tmp_path / "data" / "VoxCeleb1" / "voxceleb1_test_v2.txt").unlink()
    assert main(command) == 1
    captured = capsys.readouterr()
    assert [line.split(":")[0] for line in captured.out.splitlines()] == list(here)
    failed = [line for line in captured.err.splitlines() if line.startswith("zoo.benchmark run ")]
    assert [line.split()[2].rstrip(":") for line in failed] == [name for name in TASKS if name not in here]
    assert sorted(path.name for path in (tmp_path / "out").glob("*.json")) == ["superb_ks.json", "superb_sid.json"]


def test_interrupted(
    miniatures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(run: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command_line.Run, "run", interrupt)
    assert main([*RUN, "--data", str(miniatures), "-o", str(tmp_path)]) == 130
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "zoo.benchmark run: interrupted; the same command goes on from the last checkpoint\n"


@pytest.mark.parametrize("command", ["list", "run", "check-data", "miniature", "report"])
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: python -m zoo.benchmark {command} ")
    described = re.findall(r"^  (--?[a-z][\w-]*)(.*)$", text, re.MULTILINE)
    assert "--json" in [name for name, _ in described]
    assert main(["--help"]) == 0
    assert re.search(rf"^    {command}\s+\S", capsys.readouterr().out, re.MULTILINE)


def test_no_warnings(miniatures: Path, tmp_path: Path) -> None:
    """With warnings as errors, in a process of its own; nothing but the plan and the result is said."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "zoo.benchmark", *RUN, "--data", str(miniatures), "-o", str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 1
    assert all(line.startswith("superb/ks: ") for line in done.stderr.splitlines())


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    lines = [line for block in blocks("sh") for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if not line.startswith("pip install ")]


@pytest.mark.slow
def test_page(tmp_path: Path) -> None:
    """Every command of the page that needs no download, in its order; among them the four examples of hooks."""
    for name in ("examples", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    parts, *_ = blocks("python")  # the others need MTEB or X-ARES
    (tmp_path / "parts.py").write_text(parts)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    found = commands()
    assert len(found) > 15
    for command in found:
        words = shlex.split(command)
        assert words[0] == "python", command
        words[0] = sys.executable
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        if words[2:4] == ["zoo.benchmark", "run"] and words[4] != "superb/all":
            results = tmp_path / words[words.index("-o") + 1]
            [output] = results.glob(f"{words[4].replace('/', '_')}*.json")  # of HEAR's the name may be cut
            assert json.loads(output.read_text())["status"] == "finished"
    example = re.search(r"`(superb/ks: accuracy [\d.]+ \(chance [\d.]+\)), results/superb_ks.json`", PAGE)
    result = json.loads((tmp_path / "results" / "superb_ks.json").read_text())
    assert example is not None
    assert example[1] == f"superb/ks: accuracy {result['primary']['value']:.4f} (chance {result['chance']:.4f})"


def test_the_page_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    """Those of `run` that are in the help; hooks are named together."""
    main(["run", "--help"])
    options = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", capsys.readouterr().out))
    hooks = {f"--{hook}{end}" for hook in (*command_line.HOOKS, "upstream", "objective") for end in ("", "-options")}
    for option in sorted(options - hooks - {"--help", "--output"}):
        assert f"{option}`" in PAGE or f"{option} " in PAGE or f"{option}=" in PAGE, option
