"""Recipe "zoo"."""

from __future__ import annotations

from zoo.benchmark._task import Corpus, Recipe, Selection
from zoo.benchmark.hear._folder import Folder
from zoo.benchmark.objectives import Objective


class Scenes(Objective):
    """Labels of a clip."""

    def __init__(self, corpus: Corpus, hop_samples: int, *, folder: Folder) -> None:
        self.output_size = len(folder.labels)


class Events(Objective):
    """Labels of each frame."""

    def __init__(self, corpus: Corpus, hop_samples: int, *, folder: Folder) -> None:
        self.output_size = len(folder.labels)


def recipe(folder: Folder, selection: Selection) -> Recipe:
    """How a head is trained on a folder."""
    return Recipe(selection=selection)
