"""HEAR: a task is a folder in the official format on disk; one that is not known here needs no code.

Facts: hearbenchmark.com; Turian et al., "HEAR: Holistic Evaluation of Audio Representations" (arXiv 2203.03022);
hear-eval-kit 2021.1.3 (Apache-2.0).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from zoo.benchmark import metrics
from zoo.benchmark._task import Recipe, Selection, Task
from zoo.benchmark.hear import _folder, _known, _miniature, _official, _zoo
from zoo.benchmark.hear._folder import Folder


def task(folder: Folder) -> Task:
    """The task that a folder describes."""
    known = _known.FOLDERS.get(folder.name)
    metric = folder.metrics[0]
    selection = Selection(metric=metric, higher_is_better=metric not in metrics.HEAR_LOWER)
    official = Recipe(
        selection=selection,
        procedure=_official.procedure,
        procedure_options={"folder": folder},
        pools=not folder.event,
        splits=folder.splits,
        frames="all",
        layers=(-1,),
        chunk_s=_zoo.LONGEST_S,
    )
    return Task(
        name=f"hear/{folder.name}",
        title=folder.name if known is None else known.title,
        metric=metric,
        higher_is_better=selection.higher_is_better,
        corpus=_folder.corpus,
        objective=partial(_zoo.Events if folder.event else _zoo.Scenes, folder=folder),
        recipes={"official": official, "miniature": official, "zoo": _zoo.recipe(folder, selection)},
        layout=_known.layout(folder) if known is None else known.layout,
        miniature=partial(_miniature.write, folder=folder),
        folds=folder.folds,
        read=partial(_read, name=folder.name),
        remarks=partial(_folder.lacking, folder),
    )


def _read(root: Path, name: str) -> Task:
    return task(_folder.read(root, name))


def found(data: Path) -> list[Task]:
    """Tasks whose folders lie in `data`, or below `tasks` in it, or are `data`."""
    return [task(_known.unread(name)) for name in _folder.within(data)]


TASKS = [task(known.folder) for known in _known.FOLDERS.values()]
