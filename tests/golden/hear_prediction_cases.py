"""Embeddings with labels for the prediction stage of HEAR, the same for the reference and for the zoo. NumPy only.

Each row is the sum of its labels' directions, of noise, and of a direction that a part of a label has to itself, in
exact arithmetic on the draws of `generator`. Files, labels and events depend on the name of the case alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.golden import generator

HOP_MS = 20.0


@dataclass(frozen=True)
class Split:
    """A split: embeddings (N, D) float32, labels of each row; for events, timestamps and events of each file."""

    x: np.ndarray
    labels: list[list[str]]
    times: dict[str, list[float]]
    events: dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Case:
    """A case.

    Attributes:
        metadata: What the kit reads of `task_metadata.json`.
        classes: Number of labels.
        width: Of embeddings.
        sizes: Clips, or files of `seconds`, of each split.
        noise: What is added to a label's direction, that being 1.
        parts: Directions that a label has besides its own.
        missing: A split, and a label that it lacks.
        seconds: Length of a file of an event task.
    """

    metadata: dict[str, Any]
    classes: int
    width: int
    sizes: Mapping[str, int]
    noise: float
    parts: int = 3
    missing: tuple[str, int] | None = None
    seconds: float = 0.0

    @property
    def name(self) -> str:
        return str(self.metadata["task_name"])

    @property
    def labels(self) -> list[str]:
        return [f"label {index:02}" for index in range(self.classes)]

    def split(self, name: str) -> Split:
        """Makes a split."""
        key = f"{self.name}/{name}"
        if self.metadata["embedding_type"] == "event":
            return self._frames(key, name)
        count = self.sizes[name]
        if self.metadata["prediction_type"] == "multiclass":
            among = [index for index in range(self.classes) if (name, index) != self.missing]
            wanted = np.zeros((count, self.classes), dtype=bool)
            draws = (generator.words(f"{key}/label", count) >> np.uint64(33)).astype(np.int64)
            wanted[np.arange(count), np.array(among)[draws % len(among)]] = True
        else:
            wanted = generator.uniform(f"{key}/label", count * self.classes).reshape(count, -1) > 1 - 4 / self.classes
            wanted[np.arange(count), np.arange(count) % self.classes] = True
        return Split(self._embed(key, wanted), self._named(wanted), {}, {})

    def _frames(self, key: str, name: str) -> Split:
        times = [HOP_MS * index + 12.5 for index in range(round(1000 * self.seconds / HOP_MS))]
        events: dict[str, list[dict[str, Any]]] = {}
        rows = []
        for number in range(self.sizes[name]):
            file = f"{name}-{number:03}.wav"
            events[file] = []
            wanted = np.zeros((len(times), self.classes), dtype=bool)
            for label in range(self.classes):
                end = 0.0
                for gap, length in zip(
                    *[iter(generator.uniform(f"{key}/{number}/{label}", 40).astype(np.float64))] * 2
                ):
                    start = end + round(1700 + 1600 * gap)
                    end = start + round(600 + 450 * length)
                    if end > 1000 * self.seconds:
                        break
                    events[file].append({"label": self.labels[label], "start": float(start), "end": float(end)})
                    wanted[[start <= time < end + 0.0001 for time in times], label] = True
            rows.append(wanted)
        wanted = np.concatenate(rows)
        return Split(self._embed(key, wanted), self._named(wanted), dict.fromkeys(events, times), events)

    def _named(self, wanted: np.ndarray) -> list[list[str]]:
        return [[self.labels[index] for index in np.flatnonzero(row)] for row in wanted]

    def _embed(self, key: str, wanted: np.ndarray) -> np.ndarray:
        count = len(wanted)
        x = sum(generator.uniform(f"{key}/noise{n}", count * self.width).reshape(count, -1) for n in range(3))
        x *= np.float32(self.noise)
        part = (generator.words(f"{key}/part", count) >> np.uint64(33)).astype(np.int64) % self.parts
        for label in range(self.classes):
            own = generator.uniform(f"{self.name}/direction{label}", self.width)
            parts = generator.uniform(f"{self.name}/parts{label}", self.parts * self.width).reshape(self.parts, -1)
            rows = wanted[:, label]
            x[rows] += own
            x[rows] += parts[part[rows]]
        return x


def _metadata(name: str, embedding: str, prediction: str, mode: str, splits: list[str], **more: Any) -> dict[str, Any]:
    return {
        "task_name": name,
        "embedding_type": embedding,
        "prediction_type": prediction,
        "split_mode": mode,
        "splits": splits,
        "sample_duration": 1.0,
        **more,
    }


PARTS = ["train", "valid", "test"]
CLIP_METRICS = ["top1_acc", "mAP", "d_prime", "aucroc"]


def folds(count: int) -> list[str]:
    return [f"fold{index:02}" for index in range(count)]


def quick() -> Case:
    """Two folds more than none, a few epochs, and a fold that lacks a label."""
    limits = {"max_epochs": [7], "check_val_every_n_epoch": [2]}
    metadata = _metadata(
        "quick", "scene", "multiclass", "presplit_kfold", folds(3), evaluation=CLIP_METRICS,
        evaluation_params={"task_specific_param_grid": limits},
    )  # fmt: skip
    return Case(metadata, 5, 24, {"fold00": 60, "fold01": 61, "fold02": 59}, 1.5, missing=("fold02", 3))


def multiclass() -> Case:
    limits = {"max_epochs": [24]}
    metadata = _metadata(
        "multiclass", "scene", "multiclass", "new_split_kfold", folds(5), evaluation=CLIP_METRICS,
        evaluation_params={"task_specific_param_grid": limits},
    )  # fmt: skip
    return Case(metadata, 20, 96, dict.fromkeys(folds(5), 400), 2.5)


def multilabel() -> Case:
    metadata = _metadata(
        "multilabel", "scene", "multilabel", "trainvaltest", PARTS,
        evaluation=["mAP", "d_prime", "aucroc", "top1_acc"],
        evaluation_params={"task_specific_param_grid": {"max_epochs": [45], "patience": [6]}},
    )  # fmt: skip
    return Case(metadata, 16, 64, {"train": 400, "valid": 800, "test": 800}, 2.0)


def dcase() -> Case:
    metadata = _metadata(
        "dcase2016_task2", "event", "multilabel", "trainvaltest", PARTS,
        evaluation=["event_onset_200ms_fms", "segment_1s_er"],
        evaluation_params={"task_specific_param_grid": {"patience": [4]}},
    )  # fmt: skip
    return Case(metadata, 4, 32, {"train": 2, "valid": 12, "test": 12}, 2.0, parts=1, seconds=12.0)


def maestro() -> Case:
    parameters = {
        "event_postprocessing_grid": {"median_filter_ms": [150], "min_duration": [50]},
        "task_specific_param_grid": {"max_epochs": [50], "check_val_every_n_epoch": [1]},
    }
    metadata = _metadata(
        "maestro", "event", "multilabel", "new_split_kfold", folds(3),
        evaluation=["event_onset_50ms_fms", "event_onset_offset_50ms_20perc_fms"],
        evaluation_params=parameters, use_scoring_for_early_stopping=False,
    )  # fmt: skip
    return Case(metadata, 6, 32, dict.fromkeys(folds(3), 2), 1.5, parts=1, seconds=8.0)


CASES: Mapping[str, Callable[[], Case]] = {
    case.__name__: case for case in (quick, multiclass, multilabel, dcase, maestro)
}
