"""Recipe "official": the protocol of hear-eval-kit 2021.1.3 on embeddings of the zoo.

Source: the kit's `heareval/embeddings/task_embeddings.py` and `heareval/predictions/task_predictions.py`.

Shapes: N rows (clips, or frames of all recordings), T frames, K hidden states, D width, V labels.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from zoo.benchmark import _files
from zoo.benchmark._task import Given, Outcome
from zoo.benchmark.hear import _predictor
from zoo.benchmark.hear._folder import Folder
from zoo.benchmark.hear._frames import active
from zoo.benchmark.hear._predictor import GRID, Protocol, Rows, Trained
from zoo.benchmark.metrics import Event

SEED = 42  # of the kit
LIMITS = {"max_epochs": "max_epochs", "check_val_every_n_epoch": "check_every", "patience": "patience"}  # theirs, ours
KEPT = ("point", "valid", "best_epoch", "epochs", "postprocessing")  # of a training, in the result


class Saved:
    """Trainings that are finished, in files from which a run goes on.

    Args:
        folder: for them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, key: str) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """What was put there, if anything was."""
        path = self._path(key)
        if not path.exists():
            return None
        tensors, record = _files.read_state(path)
        return record, tensors

    def put(self, key: str, record: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Keep something."""
        _files.write_state(self._path(key), tensors, record)

    def _path(self, key: str) -> Path:
        return self.folder / f"checkpoint-{key}.safetensors"


def procedure(given: Given, *, folder: Folder) -> Outcome:
    """The kit's prediction stage on what one hidden state, or several side by side, say of each clip or frame.

    Grid, order of rows and of grid points are the kit's whatever the run's seed is, which is added to that of the
    weights, 42. A learning rate that was asked for takes the place of the grid's.
    """
    points = GRID
    if given.learning_rate is not None:
        points = tuple(dict.fromkeys(replace(point, learning_rate=given.learning_rate) for point in GRID))
    partitions, many = folder.partitions, given.device.type == "cuda"
    found = _predictor.stage(
        _rows(given, folder),
        _protocol(folder),
        points=points,
        seed=SEED + given.seed,
        device=given.device,
        many=many,
        max_steps=given.steps,
        saved=Saved(given.folder),
        log=given.log,
        progress=given.progress,
    )
    names = list(found.tested[0].scores)
    scores = {"test": {name: found.mean(name) for name in names}}
    if len(found.tested) > 1:
        scores |= {one.split: dict(one.scores) for one in found.tested}
    for one, (_, valid, test) in zip(found.tested, partitions):
        config = {"folder": asdict(folder), "point": one.trained.point.as_dict(), "valid": valid, "test": test}
        place = given.folder / test if len(found.tested) > 1 else given.folder
        _files.write_state(place / "head.safetensors", one.trained.state, {"config": config})
    chosen = {
        "grid": [_kept(one) for one in found.tried],
        "winner": found.winner,
        "partitions": [
            {"splits": {"train": list(train), "valid": valid, "test": test}, **_kept(one.trained)}
            for one, (train, valid, test) in zip(found.tested, partitions)
        ],
        "deviation": {name: found.deviation(name) for name in names},
        "many_at_a_time": many,
    }
    curve = [
        {"partition": one.partition, **one.point.as_dict(), "epoch": epoch, "loss": loss, "valid": value}
        for one in (*found.tried, *(one.trained for one in found.tested[1:]))
        for epoch, loss, value in one.curve
    ]
    return Outcome(
        metrics=scores,
        chance=fmean(given.chance(test) for _, _, test in partitions),
        predictions={},
        curve=curve,
        config=chosen,
    )


def _kept(trained: Trained) -> dict[str, Any]:
    """What a result says of a training."""
    record = trained.record()
    return {name: record[name] for name in KEPT}


def _protocol(folder: Folder) -> Protocol:
    """What the folder prescribes, with the kit's values for what it does not say."""
    limits = {ours: folder.limits[theirs] for theirs, ours in LIMITS.items() if theirs in folder.limits}
    return Protocol(
        labels=folder.labels,
        prediction="multilabel" if folder.multilabel else "multiclass",
        event=folder.event,
        metrics=folder.metrics,
        partitions=folder.partitions,
        use_scoring=folder.select_by_score,
        postprocessing=folder.postprocessing if folder.event else (),
        **limits,
    )


def _rows(given: Given, folder: Folder) -> dict[str, Rows]:
    """Every split in the kit's order: that of its files, shuffled by one generator for all."""
    order = random.Random(0)
    found = {}
    for split in folder.splits:
        items = given.corpus[split]
        files = list(items)
        order.shuffle(files)
        embeddings = {key: states.transpose(0, 1).flatten(1) for key, states in given.features(split)}  # (T, K * D)
        files = [key for key in files if key in embeddings]  # the others are among the excluded
        if folder.event:
            found[split] = _frames(given, folder, {key: (embeddings[key], items[key]["events"]) for key in files})
        else:
            targets = [folder.target(items[key]) for key in files]
            found[split] = Rows(torch.cat([embeddings[key] for key in files]), torch.stack(targets))
    return found


def _frames(given: Given, folder: Folder, files: Mapping[str, tuple[Tensor, Sequence[Event]]]) -> Rows:
    """Rows of recordings, each given by its embeddings (T, D) and events."""
    times = {key: given.times(len(x)) for key, (x, _) in files.items()}
    targets = [active(events, times[key], folder.labels) for key, (_, events) in files.items()]
    return Rows(
        torch.cat([x for x, _ in files.values()]),
        torch.cat(targets),
        {key: one.numpy() for key, one in times.items()},
        {key: list(events) for key, (_, events) in files.items()},
    )
