"""Recipe "official": the protocol of hear-eval-kit 2021.1.3 on embeddings of the zoo."""

from __future__ import annotations

from zoo.benchmark._task import Given, Outcome
from zoo.benchmark.hear._folder import Folder


def procedure(given: Given, *, folder: Folder) -> Outcome:
    """The kit's prediction stage."""
    raise NotImplementedError
