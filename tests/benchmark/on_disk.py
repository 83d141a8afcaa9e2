"""What a folder holds, and corpora that are made once more."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def contents(folder: Path) -> dict[str, bytes]:
    """Relative path -> bytes of every file."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def made_backwards(tasks: Sequence[str], folder: Path) -> None:
    """Miniatures from another process with other hashes of strings, task by task from the last to the first."""
    code = "import sys; from zoo.benchmark.__main__ import main\n"
    code += "for task in sys.argv[2:]: assert main(['miniature', task, '-o', sys.argv[1]]) == 0"
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code, str(folder), *reversed(tasks)], env=environment, check=True)
