"""HEAR's folders: what is read, what is refused in one sentence, how one is found, and what `check-data` says of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.benchmark import hear_folders, toys
from zoo.benchmark import _layout, tasks
from zoo.benchmark.__main__ import main
from zoo.benchmark._run import Options, Run
from zoo.benchmark._task import select
from zoo.benchmark.hear import _folder, _known
from zoo.errors import InputError

Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of their own and one with a known name; not to be changed."""
    root = tmp_path_factory.mktemp("hear")
    small = {"clips": 3, "seconds": 0.1}
    hear_folders.write(root / "pitches-v1-full", "scene", **small)
    hear_folders.write(root / "pitches-v1-small", "scene", **small)
    hear_folders.write(root / "tasks" / "beeps-v1-full", "event", **small)
    hear_folders.write(root / "tasks" / "esc50-v2.0.0-full", "scene", folds=5, **small)
    return root


def said(**changes: Any) -> Damage:
    """Other metadata; None: without them."""

    def damage(root: Path) -> None:
        path = root / _folder.METADATA
        metadata = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({key: value for key, value in metadata.items() if value is not ...}))

    return damage


def parameters(**given: Any) -> Damage:
    return said(evaluation_params=given)


def written(name: str, content: str | bytes) -> Damage:
    return lambda root: (root / name).write_bytes(content.encode() if isinstance(content, str) else content)


def vocabulary(*lines: str) -> Damage:
    return written(_folder.VOCABULARY, "\n".join(("idx,label", *lines)) + "\n")


def listed(**changes: Any) -> Damage:
    """Another content of train.json."""
    return lambda root: (root / "train.json").write_text(json.dumps(changes.get("whole", changes)))


def clip(labels: Any) -> Damage:
    return listed(**{"train-0.wav": labels})


def event(**changes: Any) -> Damage:
    return clip([{"label": "low", "start": 1.0, "end": 2.0} | changes])


# Kind of folder, what is done to it, what the sentence says.
REFUSED: dict[str, tuple[str, Damage, str]] = {
    "no metadata": (
        "scene",
        lambda root: (root / _folder.METADATA).unlink(),
        "was looked for in <root>, where there is none",
    ),
    "metadata: no JSON": ("scene", written(_folder.METADATA, "{"), "task_metadata.json is no JSON (Expecting "),
    "metadata: deep": ("scene", written(_folder.METADATA, "[" * 200_000), "task_metadata.json is no JSON ("),
    "metadata: a list": ("scene", written(_folder.METADATA, "[]"), "task_metadata.json holds []; it must be an object"),
    "metadata: no UTF-8": ("scene", written(_folder.METADATA, b"\xff"), "cannot be read (no UTF-8)"),
    "metadata: a folder": (
        "scene",
        lambda root: ((root / _folder.VOCABULARY).unlink(), (root / _folder.VOCABULARY).mkdir()),
        "labelvocabulary.csv cannot be read (Is a directory)",
    ),
    "no task_name": ("scene", said(task_name=...), "has nothing as task_name; it must be a text"),
    "task_name: a number": ("scene", said(task_name=7), "has 7 as task_name; it must be a text"),
    "no embedding_type": (
        "scene",
        said(embedding_type=...),
        "has nothing as embedding_type; it must be scene or event",
    ),
    "embedding_type": (
        "scene",
        said(embedding_type="frame"),
        "has 'frame' as embedding_type; it must be scene or event",
    ),
    "prediction_type": ("scene", said(prediction_type=["multilabel"]), "as prediction_type; it must be multiclass or"),
    "event of one class": (
        "event",
        said(prediction_type="multiclass"),
        "must be multilabel, as embedding_type is event",
    ),
    "split_mode": ("scene", said(split_mode="kfold"), "it must be trainvaltest or new_split_kfold or presplit_kfold"),
    "splits: none": ("scene", said(splits=[]), "has [] as splits; it must be a list of names"),
    "splits: twice": ("scene", said(splits=["train", "train"]), "as splits; it must be a list of names, each once"),
    "splits: no test": ("scene", said(splits=["train", "valid"]), "it must be train, valid and test, as split_mode is"),
    "splits: two folds": (
        "scene",
        said(split_mode="new_split_kfold", splits=["a", "b"]),
        "it must be three folds at least: to test, to validate and to train",
    ),
    "splits: a path": (
        "scene",
        said(split_mode="new_split_kfold", splits=["a", "b", "../c"]),
        "as splits; it must be names of folders",
    ),
    "evaluation: none": ("scene", said(evaluation=...), "has nothing as evaluation; it must be a list of names"),
    "evaluation: of events": ("scene", said(evaluation=["segment_1s_er"]), "and not segment_1s_er"),
    "evaluation: of scenes": ("event", said(evaluation=["top1_acc"]), "and not top1_acc"),
    "sample_duration: 0": ("scene", said(sample_duration=0), "has 0 as sample_duration; it must be seconds, or null"),
    "sample_duration: NaN": ("scene", said(sample_duration=float("nan")), "has nan as sample_duration; it must be"),
    "sample_duration: text": ("scene", said(sample_duration="5"), "has '5' as sample_duration; it must be seconds"),
    "stopping": (
        "scene",
        said(use_scoring_for_early_stopping="no"),
        "has 'no' as use_scoring_for_early_stopping; it must be true or false",
    ),
    "evaluation_params": ("scene", said(evaluation_params=[1]), "has [1] as evaluation_params; it must be an object"),
    "grid: a list": ("scene", parameters(task_specific_param_grid=[1]), "has [1] as task_specific_param_grid; it must"),
    "grid: unknown": (
        "scene",
        parameters(task_specific_param_grid={"lr": [0.1]}),
        "it must be an object of max_epochs, check_val_every_n_epoch, patience",
    ),
    "epochs: 0": (
        "scene",
        parameters(task_specific_param_grid={"max_epochs": [0]}),
        "has [0] as max_epochs; it must be",
    ),
    "epochs: broken": ("scene", parameters(task_specific_param_grid={"max_epochs": [1.5]}), "has [1.5] as max_epochs"),
    "epochs: two": (
        "scene",
        parameters(task_specific_param_grid={"max_epochs": [1, 2]}),
        "must be a list of one whole",
    ),
    "epochs: bare": (
        "scene",
        parameters(task_specific_param_grid={"max_epochs": 50}),
        "has 50 as max_epochs; it must be",
    ),
    "epochs: true": ("scene", parameters(task_specific_param_grid={"max_epochs": [True]}), "has [True] as max_epochs"),
    "post-processing: unknown": (
        "event",
        parameters(event_postprocessing_grid={"median_filter_ms": [1], "min_duration": [1], "threshold": [0.5]}),
        "it must be an object of median_filter_ms, min_duration",
    ),
    "post-processing: half": (
        "event",
        parameters(event_postprocessing_grid={"median_filter_ms": [1]}),
        "has None as min_duration; it must be a list of numbers",
    ),
    "post-processing: negative": (
        "event",
        parameters(event_postprocessing_grid={"median_filter_ms": [-1], "min_duration": [1]}),
        "has [-1] as median_filter_ms; it must be a list of numbers from 0 on",
    ),
    "post-processing: undecided": (
        "event",
        said(use_scoring_for_early_stopping=False),
        "has 2 choices in event_postprocessing_grid; it must be one, as use_scoring_for_early_stopping is false",
    ),
    "no vocabulary": ("scene", lambda root: (root / _folder.VOCABULARY).unlink(), "has no labelvocabulary.csv"),
    "vocabulary: empty": ("scene", written(_folder.VOCABULARY, ""), "does not begin with idx,label"),
    "vocabulary: long": (
        "scene",
        vocabulary("0,low", "1," + "a" * 200_000),
        "is no CSV (field larger than field limit",
    ),
    "vocabulary: NUL": ("scene", vocabulary("0,low", "1,mi\0d"), "labelvocabulary.csv is no CSV (line contains NUL)"),
    "vocabulary: open quote": ("scene", vocabulary("0,low", '1,"mid'), "is no CSV (unexpected end of data)"),
    "vocabulary: empty label": ("scene", vocabulary("0,low", "1, "), "has a line that is not an index and a label"),
    "vocabulary: three cells": ("scene", vocabulary("0,low,1", "1,mid"), "has a line that is not an index and a label"),
    "vocabulary: a gap": (
        "scene",
        vocabulary("0,low", "2,mid"),
        "has 2 labels; their indices must be 0 to 1, each once",
    ),
    "vocabulary: twice": ("scene", vocabulary("0,low", "1,low"), "has 1 labels in 2 lines; 2 are needed, each once"),
    "vocabulary: one class": ("scene", vocabulary("0,low"), "has 1 labels in 1 lines; 2 are needed"),
    "no audio": ("scene", lambda root: shutil.rmtree(root / "16000"), "has no folder of audio, such as 16000/train"),
    "audio: of a split": ("scene", lambda root: shutil.rmtree(root / "16000" / "valid"), "has no folder 16000/valid"),
    "no list": ("scene", lambda root: (root / "train.json").unlink(), "has no train.json"),
    "list: empty": ("scene", listed(whole={}), "train.json lists no file; every split needs some"),
    "list: a list": ("scene", listed(whole=["train-0.wav"]), "it must be an object"),
    "file: elsewhere": ("scene", listed(**{"../a.wav": ["low"]}), "'../a.wav' is no name of a file in "),
    "file: surrogate": ("scene", listed(**{"\ud800.wav": ["low"]}), "is no name of a file in "),
    "file: NUL": ("scene", listed(**{"\0.wav": ["low"]}), "is no name of a file in "),
    "labels: no list": ("scene", clip("low"), "'train-0.wav' has 'low'; it must be a list of labels"),
    "labels: two": ("scene", clip(["low", "mid"]), "has 2 labels; prediction_type is multiclass, so it must be one"),
    "labels: none": ("scene", clip([]), "has 0 labels; prediction_type is multiclass, so it must be one"),
    "label: unknown": (
        "scene",
        clip(["high"]),
        "has the label 'high', which is not among the 3 of labelvocabulary.csv",
    ),
    "label: true": ("multilabel", clip([True]), "has the label True, which is not among the 3"),
    "label: an object": ("multilabel", clip([{"label": "low"}]), "has the label {'label': 'low'}, which is not among"),
    "label: infinite": ("multilabel", clip([float("inf")]), "has the label inf, which is not among the 3"),
    "events: no list": ("event", clip({}), "'train-0.wav' has {}; it must be a list of events"),
    "event: no end": ("event", clip([{"label": "low", "start": 1}]), "it must have label, start and end"),
    "event: a text": ("event", clip(["low"]), "has the event 'low'; it must have label, start and end"),
    "event: label unknown": ("event", event(label="high"), "has the label 'high', which is not among the 3"),
    "event: negative": ("event", event(start=-1), "has an event from -1 to 2.0 ms; it must start at 0 or later"),
    "event: backwards": (
        "event",
        event(end=0.5),
        "has an event from 1.0 to 0.5 ms; it must start at 0 or later and then end",
    ),
    "event: NaN": ("event", event(end=float("nan")), "has an event from 1.0 to nan ms"),
    "event: text": ("event", event(end="2"), "has an event from 1.0 to '2' ms"),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of each kind, of one clip a split; not to be changed."""
    root = tmp_path_factory.mktemp("sound")
    for kind in hear_folders.METRICS:
        hear_folders.write(root / kind / "own-v1", kind, clips=1, seconds=0.05)
    return root


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, sound: Path, tmp_path: Path) -> None:
    kind, damage, sentence = REFUSED[name]
    root = Path(shutil.copytree(sound / kind / "own-v1", tmp_path / "own-v1"))
    _folder.corpus(root)
    damage(root)
    with pytest.raises(InputError) as error:
        _folder.corpus(root)
    message = str(error.value)
    assert sentence.replace("<root>", str(root)) in message
    assert str(tmp_path) in message
    assert message.isprintable()
    assert len(message) < 500 + 2 * len(str(tmp_path))


@pytest.mark.parametrize(
    ("kind", "damage"),
    {
        "overlapping events": (
            "event",
            clip([{"label": one, "start": 0, "end": end} for one, end in (("low", 9), ("low", 5), ("mid", 9))]),
        ),
        "no event": ("event", clip([])),
        "an event of no length": ("event", event(end=1.0)),
        "no label": ("multilabel", clip([])),
        "a byte order mark": (
            "scene",
            written(_folder.VOCABULARY, "\ufeffidx,label\r\n1,mid\r\n0,low\r\n2,10\r\n\r\n"),
        ),
        "one choice by loss": (
            "event",
            said(
                use_scoring_for_early_stopping=False,
                evaluation_params={"event_postprocessing_grid": {"median_filter_ms": [150], "min_duration": [50]}},
            ),
        ),
        "clips differ": ("scene", said(sample_duration=None)),
    }.values(),
)
def test_legal(kind: str, damage: Damage, sound: Path, tmp_path: Path) -> None:
    """What looks odd and is none the less of this format."""
    root = Path(shutil.copytree(sound / kind / "own-v1", tmp_path / "own-v1"))
    damage(root)
    folder, corpus = _folder.read(root), _folder.corpus(root)
    assert folder.labels == hear_folders.LABELS
    key = "events" if kind == "event" else "labels"
    written = json.loads((root / "train.json").read_text())
    assert list(corpus["train"]) == list(written)
    assert len(corpus["train"]["train-0.wav"][key]) == len(written["train-0.wav"])
    for one, item in zip(written["train-0.wav"], corpus["train"]["train-0.wav"][key]):
        assert item == one


def test_what_the_metadata_decide(sound: Path, tmp_path: Path) -> None:
    """Of MAESTRO as its metadata are, of DCASE as the kit overrides them, and of what says nothing."""
    root = Path(shutil.copytree(sound / "event" / "own-v1", tmp_path / "own-v1"))
    assert _folder.read(root).postprocessing == ((250.0, 125.0), (250.0, 250.0))
    assert _folder.read(root).limits == {}
    assert _folder.read(root).select_by_score
    said(task_name="dcase2016_task2")(root)
    assert _folder.read(root).limits == {"check_val_every_n_epoch": 10}
    said(
        use_scoring_for_early_stopping=False,
        evaluation_params={
            "event_postprocessing_grid": {"median_filter_ms": [150], "min_duration": [50]},
            "task_specific_param_grid": {"max_epochs": [50], "check_val_every_n_epoch": [1]},
        },
    )(root)
    folder = _folder.read(root)
    assert not folder.select_by_score
    assert folder.postprocessing == ((150, 50),)
    assert folder.limits == {"max_epochs": 50, "check_val_every_n_epoch": 1}
    assert _folder.read(sound / "scene" / "own-v1").postprocessing == ()


@pytest.mark.parametrize("label", [21, 21.0, "21"])
def test_numbers_are_labels(label: object, sound: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(sound / "scene" / "own-v1", tmp_path / "own-v1"))
    vocabulary("0,low", "1,mid", "2,10", "3,21", "4,2.5")(root)
    clip([label])(root)
    assert _folder.corpus(root)["train"]["train-0.wav"]["labels"] == ["21"]
    clip([2.5])(root)
    assert _folder.corpus(root)["train"]["train-0.wav"]["labels"] == ["2.5"]
    clip([21.5])(root)
    with pytest.raises(InputError, match=r"the label 21\.5, which is not among the 5"):
        _folder.corpus(root)


def test_folds(data: Path) -> None:
    """Fold i tests, the next validates, the others train in the order of their names."""
    root = data / "tasks" / "esc50-v2.0.0-full"
    f = [f"fold{i:02}" for i in range(5)]
    folder = _folder.read(root)
    assert folder.folds == tuple(f)
    assert folder.partitions == (
        ((f[2], f[3], f[4]), f[1], f[0]),
        ((f[0], f[3], f[4]), f[2], f[1]),
        ((f[0], f[1], f[4]), f[3], f[2]),
        ((f[0], f[1], f[2]), f[4], f[3]),
        ((f[1], f[2], f[3]), f[0], f[4]),
    )
    whole = _folder.corpus(root)
    assert list(whole) == f
    for train, valid, test in folder.partitions:
        corpus = _folder.corpus(root, fold=test)
        assert list(corpus) == ["train", "valid", "test"]
        assert list(corpus["train"]) == [f"{one}/{key}" for one in train for key in whole[one]]
        assert corpus["valid"] == {f"{valid}/{key}": item for key, item in whole[valid].items()}
        assert corpus["test"] == {f"{test}/{key}": item for key, item in whole[test].items()}


def test_unknown_fold(data: Path) -> None:
    with pytest.raises(InputError, match=r"^fold 'fold07' was asked for; .* has the folds fold00, .*, fold04$"):
        _folder.corpus(data / "tasks" / "esc50-v2.0.0-full", fold="fold07")
    with pytest.raises(InputError, match=r"^fold 'test' was asked for; .* has no folds$"):
        _folder.corpus(data / "pitches-v1-full", fold="test")


def test_rates(sound: Path, tmp_path: Path) -> None:
    """The rate that is asked for, else the highest; only what holds a split is a folder of audio."""
    root = Path(shutil.copytree(sound / "scene" / "own-v1", tmp_path / "own-v1"))
    shutil.copytree(root / "16000", root / "48000")
    (root / "96000" / "notes").mkdir(parents=True)
    (root / "44100").write_text("")
    for asked, taken in ((16_000, 16_000), (48_000, 48_000), (96_000, 48_000), (22_050, 48_000)):
        (item,) = _folder.corpus(root, rate=asked)["train"].values()
        assert item == {"wav_path": str(root / str(taken) / "train" / "train-0.wav"), "rate": taken, "labels": ["low"]}


def names(name: str, data: Path) -> list[str]:
    return [task.name for task in select(name, data)]


def test_names(data: Path) -> None:
    """A name may be cut where it is unique; a whole one is meant even where others begin with it."""
    assert names("hear/beeps", data) == ["hear/beeps-v1-full"]
    assert names("hear/pitches-v1-s", data) == ["hear/pitches-v1-small"]
    assert names("hear/esc", data) == ["hear/esc50-v2.0.0-full"]
    with pytest.raises(InputError, match=r"several begin so: hear/pitches-v1-full, hear/pitches-v1-small$"):
        select("hear/pitches", data)
    with pytest.raises(
        InputError, match=r"several begin so: hear/nsynth_pitch-v2\.2\.3-5h, hear/nsynth_pitch-v2\.2\.3-50h$"
    ):
        select("hear/nsynth", data)
    assert names("hear/nsynth_pitch-v2.2.3-5h", data) == ["hear/nsynth_pitch-v2.2.3-5h"]
    with pytest.raises(InputError, match="which is none"):
        select("hear/beeps")


def test_all_begins_with_what_is_known(data: Path) -> None:
    own = ["hear/pitches-v1-full", "hear/pitches-v1-small", "hear/beeps-v1-full"]
    known = list(tasks())
    assert names("all", data) == known + own
    assert names("hear/all", data) == [name for name in known if name.startswith("hear/")] + own
    assert select("hear/esc50", data)[0] is tasks()["hear/esc50-v2.0.0-full"]


@pytest.mark.parametrize(
    ("place", "name"),
    [
        (".", "pitches-v1-full"),
        ("pitches-v1-full", "pitches-v1-full"),
        (".", "beeps-v1-full"),
        ("tasks", "beeps-v1-full"),
        ("tasks/beeps-v1-full", "beeps-v1-full"),
        (".", "esc50-v2.0.0-full"),
        ("tasks/esc50-v2.0.0-full", "esc50-v2.0.0-full"),
        ("tasks/esc50-v2.0.0-full/16000/..", "esc50-v2.0.0-full"),
    ],
)
@pytest.mark.parametrize("inside", [False, True])
def test_where_a_folder_lies(
    place: str, name: str, inside: bool, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In DIR, below `tasks` in it, or DIR itself, also where that is `.`."""
    if inside:
        monkeypatch.chdir(data / place)
    given = "." if inside else str(data / place)
    assert main(["check-data", f"hear/{name}", "--data", given, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["task"] == f"hear/{name}"
    root = next(path for path in (data / name, data / "tasks" / name) if path.is_dir())
    assert Path(found["root"]).samefile(root)
    assert main(["check-data", "hear/all", "--data", given]) == 1
    assert f"\nhear/{name}: " in "\n" + capsys.readouterr().out


@pytest.mark.parametrize("place", ["", "pitches-v1-full", "tasks/beeps-v1-full"])
def test_another_folder_is_not_taken(place: str, data: Path, tmp_path: Path) -> None:
    there = Path(place).name or "beeps-v1-full, esc50-v2.0.0-full, pitches-v1-full, pitches-v1-small"
    for name in ("hear/gunshot", "hear/mridangam_tonic"):
        (task,) = select(name, data / place)
        with pytest.raises(InputError) as error:
            Run(task, toys.Upstream(), data / place, tmp_path, Options(), print)
        sentence = (
            f"the folder {task.layout.folder} in HEAR's format was looked for in {data / place}, where there is {there}"
        )
        assert str(error.value).startswith(f"{sentence}; ")
        found = _layout.check(task, data / place)
        assert not found.usable
        assert f"missing: {sentence}" in found.lines


def test_check_data_of_an_own_folder(sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is usable, but nothing was released that it could be held against."""
    root = Path(shutil.copytree(sound / "scene" / "own-v1", tmp_path / "own-v1"))
    command = ["check-data", "hear/own", "--data", str(tmp_path)]
    shutil.copytree(root / "16000", root / "48000")
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"hear/own-v1: {root}: usable, but not the official release",
        "  ok: task_metadata.json: 1 files, 1 in the official release",
        "  ok: labelvocabulary.csv: 1 files, 1 in the official release",
        *(f"  ok: {split}.json: 1 files, 1 in the official release" for split in ("train", "valid", "test")),
        *(f"  ok: {{rate}}/{split}/*.wav: 1 files" for split in ("train", "valid", "test")),
        *(f"  ok: split {split}: 1 items" for split in ("train", "valid", "test")),
    ]
    for rate in ("16000", "48000"):
        (root / rate / "valid" / "valid-0.wav").unlink()
    assert main(command) == 1
    out = capsys.readouterr().out
    assert out.startswith(f"hear/own-v1: {root}: not usable\n")
    assert "  missing: {rate}/valid/*.wav: 0 files\n" in out
    (root / _folder.VOCABULARY).unlink()
    assert main(command) == 1
    assert f"  missing: {root} has no labelvocabulary.csv\n" in capsys.readouterr().out


def test_check_data_of_a_known_folder(sound: Path, tmp_path: Path) -> None:
    """Complete with the official numbers, whatever the splits hold of which none is known; two rates count once."""
    root = Path(shutil.copytree(sound / "multilabel" / "own-v1", tmp_path / "fsd50k-v1.0-full"))
    (task,) = select("hear/fsd50k")
    assert dict(task.layout.items) == {"train": None, "valid": None, "test": 10_231}
    found = _layout.check(task, tmp_path)
    assert (found.usable, found.complete) == (True, False)
    assert "other number: split test: 1 items, 10231 in the official release" in found.lines
    assert "other number: {rate}/test/*.wav: 1 files, 10231 in the official release" in found.lines
    assert "licence: CC BY 4.0 as a whole" in found.lines
    (known,) = (one for one in _known.FOLDERS.values() if one.folder.name == root.name)
    shutil.copytree(root / "16000", root / "48000")
    soundfile.write(root / "16000" / "train" / "more.wav", np.zeros(800), 16_000)
    small = replace(task, read=None, layout=_known.layout(known.folder, [None, None, 1], "somewhere", "some"))
    found = _layout.check(small, tmp_path)
    assert (found.usable, found.complete) == (True, True)
    assert all(line.startswith("ok: ") for line in found.lines)
    assert "ok: {rate}/train/*.wav: 2 files" in found.lines
    assert "ok: {rate}/test/*.wav: 1 files, 1 in the official release" in found.lines


def test_list_has_the_twenty(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    rows = {row["task"]: row for row in json.loads(capsys.readouterr().out) if row["task"].startswith("hear/")}
    assert list(rows) == [f"hear/{name}" for name in _known.FOLDERS]
    assert len(rows) == 20
    for name, known in _known.FOLDERS.items():
        row = rows[f"hear/{name}"]
        assert (row["title"], row["metric"]) == (known.title, known.folder.metrics[0])
        assert row["recipes"] == ["official", "miniature", "zoo"]
        assert f"hear2021-{name}-48000.tar.gz" in row["corpus"]


def test_a_class_that_lacks_and_a_file_of_another_rate(data: Path, tmp_path: Path) -> None:
    """Both are said in the result; the file is left out of it, and counted."""
    root = Path(shutil.copytree(data / "pitches-v1-full", tmp_path / "data" / "pitches-v1-full"))
    labels = {"valid-0.wav": ["low"], "valid-1.wav": ["mid"]}
    (root / "valid.json").write_text(json.dumps(labels))
    wrong = root / "16000" / "train" / "train-1.wav"
    soundfile.write(wrong, np.random.default_rng(0).uniform(-0.5, 0.5, 4410), 44_100)
    task = select("hear/pitches", root)[0]
    result = Run(task, toys.Upstream(), root, tmp_path / "out", Options(steps=2), [].append).run()
    sentence = f"{wrong} has 44100 Hz in a folder of 16000 Hz; resample it or leave it out"
    assert result.details["excluded"]["train"] == {"count": 1, "examples": [sentence]}
    assert result.details["excluded"]["test"]["count"] == 0
    assert "valid: nothing of 1 of 3 classes: 10" in result.details["notes"]
    assert f"train: 1 of 3 left out, such as: {sentence}" in result.details["notes"]
