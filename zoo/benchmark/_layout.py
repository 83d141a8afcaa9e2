"""`check-data` and `miniature`: what a corpus folder must hold, and a small one that holds it."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from zoo.benchmark._task import Task, corpus_root
from zoo.errors import InputError, ZooError

ADVICE = "; `python -m zoo.benchmark check-data"
"""How parsers end their complaints; here it has been taken."""


@dataclass(frozen=True)
class Check:
    """What `check-data` found of one task.

    Attributes:
        task: its name.
        root: folder that was looked at.
        complete: everything is there in the official number.
        usable: the corpus can be read.
        lines: what was found beside what is in the official release.
    """

    task: str
    root: str
    complete: bool
    usable: bool
    lines: list[str]


def check(task: Task, data: Path) -> Check:
    """Compare a folder with the task's layout, and read the corpus."""
    layout, root = task.layout, corpus_root(task, data)
    complete = usable = data.is_dir()
    lines = (
        [] if usable else [f"{data} is {'a file' if data.exists() else 'not there'}; give the folder of the corpora"]
    )
    for pattern, official in layout.files.items():
        found = sum(1 for _ in root.glob(pattern))
        complete &= found == official
        usable &= found > 0
        word = "ok" if found == official else "missing" if not found else "other number"
        lines.append(f"{word}: {pattern}: {found} files, {official} in the official release")
    try:
        task = task if task.read is None else task.read(root)
        recipe = task.recipes["official"]
        folds = {"fold": task.folds[0]} if task.folds and recipe.procedure is None else {}
        corpus = task.corpus(root, **{**recipe.corpus_options, **folds})
        for split, official in layout.items.items():
            found = len(corpus.get(split, {}))
            complete &= found == official
            usable &= found > 0 or not official
            word = "ok" if found == official else "missing" if not found else "other number"
            lines.append(f"{word}: split {split}: {found} items, {official} in the official release")
    except ZooError as error:
        complete = usable = False
        lines.append(f"missing: {str(error).partition(ADVICE)[0]}")
    return Check(task.name, str(root), complete, usable, lines if complete else lines + _get(task))


def _get(task: Task) -> list[str]:
    return [f"get it: {task.layout.source}", f"licence: {task.layout.licence}"]


def miniature(task: Task, output: Path) -> Path:
    """Write a small corpus in the layout of the official one.

    Args:
        task: whose.
        output: folder for the corpora of all tasks, side by side.

    Returns:
        The folder of this corpus.

    Raises:
        InputError: when it cannot be written; nothing is left half-written.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".zoo-", dir=output) as name:
            made = Path(name)
            task.miniature(made)
            for path in sorted(made.iterdir()):
                _move(path, output / path.name)
    except OSError as error:
        raise InputError(f"{output} cannot take the miniature of {task.name}: {error.strerror}") from None
    return output / task.layout.folder


def _move(path: Path, place: Path) -> None:
    """Put a file or folder in its place: whole, unless there is one, whose content is joined."""
    if path.is_dir() and place.is_dir():
        for inner in sorted(path.iterdir()):
            _move(inner, place / inner.name)
    else:
        os.replace(path, place)
