"""HEAR's format on disk, which is all that a task is.

A folder holds `task_metadata.json`, `labelvocabulary.csv`, for each split `{split}.json`, and the audio in
`{sample rate}/{split}/`. Format: hearpreprocess 2021.1.1.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from zoo.benchmark import metrics
from zoo.benchmark._task import Corpus, Item
from zoo.benchmark.metrics import Event
from zoo.errors import InputError, cut, shown

ADVICE = "; `python -m zoo.benchmark check-data` says what belongs there"
METADATA, VOCABULARY = "task_metadata.json", "labelvocabulary.csv"
TRAIN_VALID_TEST, FOLDS = "trainvaltest", ("new_split_kfold", "presplit_kfold")
LIMITS = ("max_epochs", "check_val_every_n_epoch", "patience")  # of training, that a folder may set
MOST = 1e12  # no number in a folder is as large
_OVERRIDES = {"dcase2016_task2": {"check_val_every_n_epoch": 10}}  # the kit's, by what the metadata call the task
_POSTPROCESSING = {"median_filter_ms": [250.0], "min_duration": [125.0, 250.0]}  # the kit's, where a folder has none


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

    def target(self, item: Item) -> Tensor:
        """(V,) fp32, 1 for each of a clip's labels."""
        target = torch.zeros(len(self.labels))
        target[[self.labels.index(label) for label in item["labels"]]] = 1
        return target


def within(data: Path) -> dict[str, Path]:
    """HEAR's folders by their names: `data` itself, those in it, and those below `tasks` in it."""
    inner = (path.parent for pattern in ("*", "tasks/*") for path in sorted(data.glob(f"{pattern}/{METADATA}")))
    found: dict[str, Path] = {}
    for place in (data, *inner):
        if (place / METADATA).is_file():
            found.setdefault(_name(place), place)
    return found


def _name(root: Path) -> str:
    """Of a folder, also where it is given as `.`."""
    return os.path.basename(os.path.abspath(root))


def read(root: Path, name: str | None = None) -> Folder:
    """What a folder says of its task.

    Args:
        root: the folder.
        name: what it must be called.

    Raises:
        InputError: it is none of HEAR's, another one, or not of this format.
    """
    if name not in (None, _name(root)) or not (root / METADATA).is_file():
        there = cut(", ".join(sorted(within(root)))) or "none"
        raise InputError(
            f"the folder {cut(name or _name(root))} in HEAR's format was looked for in {root}, where there is "
            f"{there}{ADVICE}"
        )
    said = _Said(root / METADATA, _json(root / METADATA, dict))
    event = said.one_of("embedding_type", ("scene", "event")) == "event"
    multilabel = said.one_of("prediction_type", ("multiclass", "multilabel")) == "multilabel"
    if event and not multilabel:
        said.refuse("prediction_type", "multilabel, as embedding_type is event")
    known = metrics.HEAR_EVENTS if event else metrics.HEAR_SCENES
    names = said.names("evaluation")
    if unknown := [name for name in names if name not in known]:
        said.refuse("evaluation", f"metrics of {', '.join(known)}, and not {cut(unknown[0])}")
    mode = said.one_of("split_mode", (TRAIN_VALID_TEST, *FOLDS))
    splits = said.names("splits")
    if mode == TRAIN_VALID_TEST and set(splits) != {"train", "valid", "test"}:
        said.refuse("splits", "train, valid and test, as split_mode is trainvaltest")
    if mode != TRAIN_VALID_TEST and len(splits) < 3:
        said.refuse("splits", "three folds at least: to test, to validate and to train")
    if any(not _is_name(split) for split in splits):
        said.refuse("splits", "names of folders")
    task_name, clip_s = said.value.get("task_name"), said.value.get("sample_duration")
    if not isinstance(task_name, str) or not task_name:
        said.refuse("task_name", "a text")
    if clip_s is not None and not (_is_number(clip_s) and clip_s > 0):
        said.refuse("sample_duration", "seconds, or null where clips differ")
    by_score = said.value.get("use_scoring_for_early_stopping", True)
    if not isinstance(by_score, bool):
        said.refuse("use_scoring_for_early_stopping", "true or false")
    parameters = said.mapping(said.value, "evaluation_params")
    limits = dict(_OVERRIDES.get(task_name, {}))
    for key, values in said.mapping(parameters, "task_specific_param_grid", LIMITS).items():
        if len(said.numbers(values, key)) > 1 or not isinstance(values[0], int) or values[0] < 1:
            raise InputError(
                f"{said.path} has {shown(values)} as {key}; it must be a list of one whole number from 1 on"
            )
        limits[key] = values[0]
    grid = said.mapping(parameters, "event_postprocessing_grid", tuple(_POSTPROCESSING)) or _POSTPROCESSING
    medians, durations = (said.numbers(grid.get(key), key) for key in _POSTPROCESSING)
    if event and not by_score and len(medians) * len(durations) > 1:
        raise InputError(
            f"{said.path} has {len(medians) * len(durations)} choices in event_postprocessing_grid; it must be one, as "
            "use_scoring_for_early_stopping is false and so no score decides between them"
        )
    return Folder(
        name=_name(root),
        task_name=task_name,
        event=event,
        multilabel=multilabel,
        split_mode=mode,
        splits=splits,
        clip_s=clip_s,
        metrics=names,
        select_by_score=by_score,
        postprocessing=tuple((median, least) for median in medians for least in durations) if event else (),
        limits=limits,
        labels=_labels(root / VOCABULARY, 1 if multilabel else 2),
    )


class _Said:
    """A JSON object that a caller wrote, and complaints about it.

    Args:
        path: of its file.
        value: what it holds.
    """

    def __init__(self, path: Path, value: Mapping[str, Any]) -> None:
        self.path, self.value = path, value

    def refuse(self, key: str, wanted: str) -> NoReturn:
        """Complain about a value."""
        found = shown(self.value[key]) if key in self.value else "nothing"
        raise InputError(f"{self.path} has {found} as {key}; it must be {wanted}{ADVICE}")

    def one_of(self, key: str, known: Sequence[str]) -> str:
        """A word among those that are known."""
        value = self.value.get(key)
        if not isinstance(value, str) or value not in known:
            self.refuse(key, " or ".join(known))
        return value

    def names(self, key: str) -> tuple[str, ...]:
        """Words, each once."""
        value = self.value.get(key)
        if not isinstance(value, list) or not value or not all(isinstance(one, str) and one for one in value):
            self.refuse(key, "a list of names")
        if len(set(value)) < len(value):
            self.refuse(key, "a list of names, each once")
        return tuple(value)

    def mapping(self, outer: Mapping[str, Any], key: str, known: Sequence[str] = ()) -> Mapping[str, Any]:
        """An object in an object, with no keys but those that are known, if any are; empty where there is none."""
        value = outer.get(key)
        if value is not None and (not isinstance(value, dict) or (known and not value.keys() <= set(known))):
            what = f"an object of {', '.join(known)}" if known else "an object"
            raise InputError(f"{self.path} has {shown(value)} as {key}; it must be {what}{ADVICE}")
        return value or {}

    def numbers(self, value: object, key: str) -> tuple[float, ...]:
        """Finite numbers that are not negative, one at least."""
        values = value if isinstance(value, list) else []
        if not values or not all(_is_number(one) and one >= 0 for one in values):
            raise InputError(f"{self.path} has {shown(value)} as {key}; it must be a list of numbers from 0 on{ADVICE}")
        return tuple(values)


def _labels(path: Path, least: int) -> tuple[str, ...]:
    """The vocabulary, in the order of its indices."""
    text = _text(path)
    try:
        if "\0" in text:  # which csv takes from Python 3.11 on
            raise csv.Error("line contains NUL")
        rows = list(csv.reader(io.StringIO(text), strict=True))
    except csv.Error as error:
        raise InputError(f"{path} is no CSV ({error}){ADVICE}") from None
    if not rows or [cell.strip() for cell in rows[0]] != ["idx", "label"]:
        raise InputError(f"{path} does not begin with idx,label; it must list the labels{ADVICE}")
    rows = [row for row in rows[1:] if row]
    if any(len(row) != 2 or not row[1].strip() for row in rows):
        raise InputError(f"{path} has a line that is not an index and a label{ADVICE}")
    if sorted(row[0] for row in rows) != sorted(map(str, range(len(rows)))):
        raise InputError(
            f"{path} has {len(rows)} labels; their indices must be 0 to {len(rows) - 1}, each once{ADVICE}"
        )
    labels = tuple(label for _, label in sorted(rows, key=lambda row: int(row[0])))
    if len(set(labels)) < len(labels) or len(labels) < least:
        raise InputError(
            f"{path} has {len(set(labels))} labels in {len(labels)} lines; {least} are needed, each once{ADVICE}"
        )
    return labels


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
    if fold is not None and fold not in folder.folds:
        there = f"the folds {', '.join(folder.folds)}" if folder.folds else "no folds"
        raise InputError(f"fold {shown(fold)} was asked for; {root} has {there}")
    rates = [
        int(path.name)
        for path in root.iterdir()
        if re.fullmatch("[1-9][0-9]{3,5}", path.name) and any((path / split).is_dir() for split in folder.splits)
    ]
    if not rates:
        raise InputError(f"{root} has no folder of audio, such as 16000/{folder.splits[0]}{ADVICE}")
    chosen = rate if rate in rates else max(rates)
    splits = {split: _items(root, folder, split, chosen) for split in folder.splits}
    if fold is None:
        return splits
    train, valid, test = next(one for one in folder.partitions if one[2] == fold)
    names = {"train": train, "valid": (valid,), "test": (test,)}
    return {
        split: {f"{one}/{key}": item for one in ones for key, item in splits[one].items()}
        for split, ones in names.items()
    }


def lacking(folder: Folder, corpus: Corpus) -> list[str]:
    """Of each split that does not have every class, a sentence that says so."""
    said = []
    for split, items in corpus.items():
        there = {label for item in items.values() for label in item.get("labels", ())}
        there |= {event["label"] for item in items.values() for event in item.get("events", ())}
        missing = [label for label in folder.labels if label not in there]
        if missing:
            said.append(
                f"{split}: nothing of {len(missing)} of {len(folder.labels)} classes: {cut(', '.join(missing))}"
            )
    return said


def _items(root: Path, folder: Folder, split: str, rate: int) -> dict[str, Item]:
    path, audio = root / f"{split}.json", root / str(rate) / split
    if not audio.is_dir():
        raise InputError(f"{root} has no folder {rate}/{split}, with the audio of {split}.json{ADVICE}")
    known = set(folder.labels)
    found: dict[str, Item] = {}
    for name, said in _json(path, dict).items():
        where = f"{path}: {cut(name)!r}"
        if not _is_name(name):
            raise InputError(f"{where} is no name of a file in {audio}{ADVICE}")
        if not isinstance(said, list):
            raise InputError(
                f"{where} has {shown(said)}; it must be a list of {'events' if folder.event else 'labels'}"
            )
        item: Item = {"wav_path": str(audio / name), "rate": rate}
        if folder.event:
            item["events"] = [_event(where, event, known) for event in said]
        else:
            item["labels"] = [_label(where, label, known) for label in said]
            if len(said) != 1 and not folder.multilabel:
                raise InputError(f"{where} has {len(said)} labels; prediction_type is multiclass, so it must be one")
        found[name] = item
    if not found:
        raise InputError(f"{path} lists no file; every split needs some{ADVICE}")
    return found


def _label(where: str, label: object, known: Collection[str]) -> str:
    """A label as the vocabulary has it; a number counts as its text, 21.0 as that of 21 too."""
    texts = [str(label)] if isinstance(label, str) or _is_number(label) else []
    texts += [str(int(label))] if isinstance(label, float) and label.is_integer() else []
    for text in texts:
        if text in known:
            return text
    raise InputError(f"{where} has the label {shown(label)}, which is not among the {len(known)} of {VOCABULARY}")


def _event(where: str, event: object, known: Collection[str]) -> Event:
    """Label, start and end in milliseconds."""
    if not isinstance(event, dict) or not {"label", "start", "end"} <= event.keys():
        raise InputError(f"{where} has the event {shown(event)}; it must have label, start and end")
    start, end = event["start"], event["end"]
    if not _is_number(start) or not _is_number(end) or not 0 <= start <= end:
        raise InputError(
            f"{where} has an event from {shown(start)} to {shown(end)} ms; it must start at 0 or later and then end"
        )
    return {"label": _label(where, event["label"], known), "start": float(start), "end": float(end)}


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < MOST


def _is_name(text: str) -> bool:
    """Whether this names something in a folder, and nowhere else; JSON can hold what no file is called."""
    whole = not any("\ud800" <= c <= "\udfff" for c in text)
    return whole and text not in ("", ".", "..") and not set(text) & {"/", "\\", "\0"}


def _json(path: Path, kind: type) -> Any:
    """What a file of JSON holds."""
    text = _text(path)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON ({cut(str(error))}){ADVICE}") from None
    if not isinstance(value, kind):
        raise InputError(f"{path} holds {shown(value)}; it must be an object{ADVICE}")
    return value


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path.parent} has no {path.name}{ADVICE}") from None
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "no UTF-8"
        raise InputError(f"{path} cannot be read ({why}){ADVICE}") from None
