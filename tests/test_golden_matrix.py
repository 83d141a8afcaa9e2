"""scripts/golden_matrix.py: which Python a torch is run with, what its table says, and what it says of what fails."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

SPEC = importlib.util.spec_from_file_location(
    "golden_matrix", Path(__file__).parent.parent / "scripts" / "golden_matrix.py"
)
matrix = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(matrix)

Patch = pytest.MonkeyPatch


def test_every_torch_has_a_python(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(matrix, "interpreters", lambda: dict.fromkeys(("3.10", "3.11", "3.12"), "python"))
    (tmp_path / "py3.12-torch2.9.1").mkdir()
    (tmp_path / "py3.12-torch2.9.1.log").touch()
    found = dict(matrix.cells(["2.6.0", "2.9.1", "2.11.0"], [], tmp_path))
    assert found == {"2.6.0": ["3.10", "3.11", "3.12"], "2.9.1": ["3.12"], "2.11.0": ["3.12", "3.11", "3.10"]}
    both = matrix.cells(["2.6.0", "2.9.1"], ["3.10", "3.12"], tmp_path)
    assert list(both) == [(torch, [python]) for torch in ("2.6.0", "2.9.1") for python in ("3.10", "3.12")]


def test_failures_do_not_stop_the_others(tmp_path: Path, monkeypatch: Patch, capsys: pytest.CaptureFixture) -> None:
    """A torch that has no wheel for the best Python, one that has none, tests that fail, tests that do not run."""

    def run(command: list[object], log: Path, **environment: str) -> int:
        words = [str(word) for word in command]
        log.touch()
        if "venv" in words:
            Path(words[-1]).mkdir()
        if "install" in words:
            return int("torch==9.9" in words or ("torch==2.6" in words and "py3.10" in words[0]))
        if "pytest" in words and "torch2.12" not in words[0]:
            bad = int("torch2.13" in words[0])
            report = {"passed": 5, "failed": bad, "error": 0, "differences": {"hubert": {"single": 1e-6, "loss": 2e-7}}}
            Path(words[words.index("--differences") + 1]).write_text(json.dumps(report))
            return bad
        return int("pytest" in words)

    monkeypatch.setattr(matrix, "run", run)
    monkeypatch.setattr(matrix, "interpreters", lambda: {"3.10": "python3.10", "3.13": "python3.13"})
    assert matrix.main(["2.13", "2.6", "2.12", "9.9", "--folder", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split(" | ")[1:] == [
        "torch 2.6, Python 3.13",
        "torch 2.12, Python 3.10",
        "torch 2.13, Python 3.13",
        "torch 9.9, Python 3.13 or 3.10 |",
    ]
    assert lines[2] == "| hubert | 1.0e-06 / 2.0e-07 | - | 1.0e-06 / 2.0e-07 | - |"
    assert lines[3] == "| passed | 5 of 5 | - | 5 of 6 | - |"
    failures = [line for line in lines if line.startswith("- ")]
    assert len(failures) == 3 and "did not run" in failures[0] and "1 tests fail" in failures[1]
    assert "pip could not install torch==9.9 for python3.10" in failures[2]
    assert (tmp_path / "matrix.md").read_text().splitlines() == lines
    assert len(json.loads((tmp_path / "matrix.json").read_text())) == 4
    assert not (tmp_path / "py3.10-torch2.6").exists()  # what was begun in vain is taken away

    assert matrix.main(["2.6", "--folder", str(tmp_path)]) == 0
    with pytest.raises(SystemExit):
        matrix.main(["newest", "--folder", str(tmp_path)])
    assert "'newest' is no version" in capsys.readouterr().err
