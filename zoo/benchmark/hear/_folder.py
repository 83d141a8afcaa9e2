"""HEAR's format on disk, which is all that a task is.

A folder holds `task_metadata.json`, `labelvocabulary.csv`, for each split `{split}.json`, and the audio in
`{sample rate}/{split}/`. Format: hearpreprocess 2021.1.1.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.benchmark._task import Corpus, Item
from zoo.errors import InputError

METADATA, VOCABULARY = "task_metadata.json", "labelvocabulary.csv"
TRAIN_VALID_TEST, FOLDS = "trainvaltest", ("new_split_kfold", "presplit_kfold")


@dataclass(frozen=True, kw_only=True)
class Folder:
    """What a folder says of its task.

    Attributes:
        name: of the folder.
        task_name: what its metadata call the task; that of a released archive can be another task's.
        event: an embedding for each frame is used, else one for a clip.
        multilabel: any number of labels, else exactly one.
        split_mode: "trainvaltest", "new_split_kfold" or "presplit_kfold".
        splits: their names, in order.
        clip_s: length of a clip in seconds; None where they differ.
        metrics: the first one counts.
        select_by_score: the first metric decides when training stops, else the loss.
        postprocessing: of events, each a length of the median filter and a least duration in milliseconds.
        limits: what the folder changes of the grid, such as {"max_epochs": 50}.
        labels: in the order of the outputs.
    """

    name: str
    task_name: str
    event: bool
    multilabel: bool
    split_mode: str
    splits: tuple[str, ...]
    clip_s: float | None
    metrics: tuple[str, ...]
    select_by_score: bool = True
    postprocessing: tuple[tuple[float, float], ...] = ()
    limits: Mapping[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()

    @property
    def folds(self) -> tuple[str, ...]:
        """Names of the folds; none where train, valid and test are given."""
        return () if self.split_mode == TRAIN_VALID_TEST else tuple(sorted(self.splits))

    @property
    def partitions(self) -> tuple[tuple[tuple[str, ...], str, str], ...]:
        """What is trained on, validated on and tested on, one after the other.

        Fold i tests what was trained on the others but fold i + 1, which validates.
        """
        if not self.folds:
            return ((("train",), "valid", "test"),)
        count = len(self.folds)
        found = []
        for i, test in enumerate(self.folds):
            valid = self.folds[(i + 1) % count]
            found.append((tuple(fold for fold in self.folds if fold not in (test, valid)), valid, test))
        return tuple(found)


def read(root: Path) -> Folder:
    """What a folder says of its task.

    Raises:
        InputError: it is none of HEAR's, or not of this format.
    """
    data = json.loads((root / METADATA).read_text(encoding="utf-8"))
    with open(root / VOCABULARY, newline="", encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: int(row["idx"]))
    parameters: Mapping[str, Any] = data.get("evaluation_params") or {}
    grid: Mapping[str, Sequence[float]] = parameters.get("event_postprocessing_grid") or {}
    limits: Mapping[str, Sequence[Any]] = parameters.get("task_specific_param_grid") or {}
    return Folder(
        name=root.name,
        task_name=data["task_name"],
        event=data["embedding_type"] == "event",
        multilabel=data["prediction_type"] == "multilabel",
        split_mode=data["split_mode"],
        splits=tuple(data["splits"]),
        clip_s=data.get("sample_duration"),
        metrics=tuple(data["evaluation"]),
        select_by_score=data.get("use_scoring_for_early_stopping", True),
        postprocessing=tuple(
            (median, least) for median in grid.get("median_filter_ms", ()) for least in grid.get("min_duration", ())
        ),
        limits={name: values[0] for name, values in limits.items()},
        labels=tuple(row["label"] for row in rows),
    )


def corpus(root: Path, *, fold: str | None = None, rate: int = 16_000) -> Corpus:
    """Clips with `labels`, or with `events` (label, start and end in milliseconds).

    Args:
        root: the task's folder.
        fold: the one that is tested, for "train", "valid" and "test"; None: the splits as they are on disk.
        rate: of the audio that is preferred, in Hz; else that of the highest rate is taken.

    Raises:
        InputError: something is missing, or not of this format.
    """
    folder = read(root)
    rates = sorted(int(path.name) for path in root.iterdir() if path.is_dir() and path.name.isdecimal())
    if not rates:
        raise InputError(f"{root} has no folder of audio such as 16000 or 48000; unpack the archive again")
    chosen = rate if rate in rates else rates[-1]
    splits = {split: _items(root, folder, split, chosen) for split in folder.splits}
    if fold is None or not folder.folds:
        return splits
    train, valid, test = next(one for one in folder.partitions if one[2] == fold)
    names = {"train": train, "valid": (valid,), "test": (test,)}
    return {
        split: {f"{one}/{key}": item for one in ones for key, item in splits[one].items()}
        for split, ones in names.items()
    }


def _items(root: Path, folder: Folder, split: str, rate: int) -> dict[str, Item]:
    listed = json.loads((root / f"{split}.json").read_text(encoding="utf-8"))
    audio = root / str(rate) / split
    found: dict[str, Item] = {}
    for name, said in listed.items():
        item: Item = {"wav_path": str(audio / name), "rate": rate}
        if folder.event:
            item["events"] = [{**event, "label": str(event["label"])} for event in said]
        else:
            item["labels"] = [str(label) for label in said]
        found[name] = item
    return found
