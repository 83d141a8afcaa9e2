"""`check-data` and `miniature`: what a corpus folder must hold, and a small one that holds it."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from zoo.benchmark._task import RATE, Corpus, Task, corpus_root
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
    root, complaint = corpus_root(task, data), ""
    corpus: Corpus = {}
    try:
        task = task if task.read is None else task.read(root)
        recipe = task.recipes["official"]
        folds = {"fold": task.folds[0]} if task.folds and recipe.procedure is None else {}
        corpus = task.corpus(root, **{**recipe.corpus_options, **folds})
    except ZooError as error:
        complaint = f"missing: {str(error).partition(ADVICE)[0]}"
    usable = data.is_dir()
    complete = usable and bool(task.layout.source)
    lines = (
        [] if usable else [f"{data} is {'a file' if data.exists() else 'not there'}; give the folder of the corpora"]
    )
    for pattern, official in task.layout.files.items():
        found = _count(root, pattern)
        complete &= official in (None, found)
        usable &= found > 0
        lines.append(_line(pattern, found, "files", official))
    for split, official in ({} if complaint else task.layout.items).items():
        found = len(corpus.get(split, {}))
        complete &= official in (None, found)
        usable &= found > 0 or official == 0
        lines.append(_line(f"split {split}", found, "items", official))
    if complaint:
        complete = usable = False
        lines.append(complaint)
    return Check(task.name, str(root), complete, usable, lines if complete else lines + _get(task))


def _count(root: Path, pattern: str) -> int:
    """Files; of folders for several sample rates, those of the fullest."""
    found = root.glob(pattern.replace(RATE, "[1-9]*"))
    places = Counter(path.relative_to(root).parts[0] if pattern.startswith(RATE) else "" for path in found)
    return max(places.values(), default=0)


def _line(what: str, found: int, of: str, official: int | None) -> str:
    word = "ok" if official == found else "missing" if not found else "ok" if official is None else "other number"
    return f"{word}: {what}: {found} {of}" + ("" if official is None else f", {official} in the official release")


def _get(task: Task) -> list[str]:
    layout = task.layout
    return [f"get it: {layout.source}", f"licence: {layout.licence}"] if layout.source else []


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
