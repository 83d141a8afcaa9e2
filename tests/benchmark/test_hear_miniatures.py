"""Miniatures of HEAR's folders are the same bytes each time, of the archives' format, and enough to learn from."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import soundfile

from tests.benchmark.on_disk import contents, made_backwards
from zoo.benchmark import hear, tasks
from zoo.benchmark.__main__ import main
from zoo.benchmark.hear import _folder, _known
from zoo.errors import InputError

FOLDERS = sorted(_known.FOLDERS)
AT_48_KHZ = ("esc50-v2.0.0-full", "maestro-v3.0.0-5h")

# By how much the primary metric is better than the stated chance, at least; two seeds were tried.
MARGINS = {
    "beehive_states_fold0-v2-full": 0.3,
    "beehive_states_fold1-v2-full": 0.3,
    "beijing_opera-v1.0-hear2021-full": 0.4,
    "dcase2016_task2-hear2021-full": 0.25,
    "esc50-v2.0.0-full": 0.3,
    "fsd50k-v1.0-full": 0.2,
    "gunshot_triangulation-v1.0-full": 0.2,
    "libricount-v1.0.0-hear2021-full": 0.25,
    "maestro-v3.0.0-5h": 0.2,
    "mridangam_stroke-v1.5-full": 0.2,
    "mridangam_tonic-v1.5-full": 0.25,
    "nsynth_pitch-v2.2.3-50h": 0.4,
    "nsynth_pitch-v2.2.3-5h": 0.4,
    "speech_commands-v0.0.2-5h": 0.3,
    "speech_commands-v0.0.2-full": 0.3,
    "tfds_crema_d-1.0.0-full": 0.2,
    "tfds_gtzan-1.0.0-full": 0.2,
    "tfds_gtzan_music_speech-1.0.0-full": 0.2,
    "vocal_imitation-v1.1.3-full": 0.2,
    "vox_lingua_top10-hear2021-full": 0.2,
}
QUICK: dict[str, tuple[str, ...]] = {  # and with which options
    "beijing_opera-v1.0-hear2021-full": (),
    "fsd50k-v1.0-full": (),
    "dcase2016_task2-hear2021-full": ("--steps", "40"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All folders side by side; not to be changed."""
    folder = tmp_path_factory.mktemp("hear")
    assert main(["miniature", "hear/all", "-o", str(folder)]) == 0
    return folder


def test_every_folder_has_a_margin() -> None:
    assert list(MARGINS) == FOLDERS


@pytest.mark.parametrize(
    ("name", "options"),
    [*QUICK.items(), *(pytest.param(name, (), marks=pytest.mark.slow) for name in FOLDERS if QUICK.get(name) != ())],
)
def test_above_chance(
    name: str,
    options: tuple[str, ...],
    made: Path,
    upstream: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """End to end by the official protocol, with a small random HuBERT that was converted from fairseq's file."""
    task = tasks()[f"hear/{name}"]
    arguments = ["--upstream", str(upstream), "--data", str(made), "-o", str(tmp_path), *options]
    assert main(["run", task.name, *arguments]) == 0
    assert capsys.readouterr().out.startswith(f"{task.name}: {task.metric} ")
    result = json.loads((tmp_path / f"hear_{name}.json").read_text())
    assert result["status"] == "finished"
    assert result["config"]["recipe"] == "official"
    assert result["primary"]["name"] == task.metric
    assert task.higher_is_better
    assert result["primary"]["value"] - result["chance"] >= MARGINS[name]


@pytest.mark.parametrize("name", FOLDERS)
def test_format(name: str, made: Path) -> None:
    """Nothing but what the archives have, and it says of the task what they say."""
    root, known = made / name, _known.FOLDERS[name].folder
    read, corpus = _folder.read(root), _folder.corpus(root)
    facts = ("task_name", "event", "multilabel", "split_mode", "splits", "metrics", "partitions")
    assert all(getattr(read, fact) == getattr(known, fact) for fact in facts)
    with open(root / _folder.VOCABULARY, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["idx", "label"]
    assert [int(index) for index, _ in rows[1:]] == list(range(len(rows) - 1))
    labels = [label for _, label in rows[1:]]
    assert labels == sorted(labels, key=int if labels[0].isdecimal() else str)

    rate = 48_000 if name in AT_48_KHZ else 16_000
    files = {_folder.METADATA, _folder.VOCABULARY, *(f"{split}.json" for split in known.splits)}
    heard = []
    for split, items in corpus.items():
        files |= {f"{rate}/{split}/{key}" for key in items}
        said = [event["label"] for item in items.values() for event in item.get("events", ())]
        said += [label for item in items.values() for label in item.get("labels", ())]
        heard.append(set(said))
        for item in items.values():
            audio = soundfile.info(item["wav_path"])
            assert (audio.samplerate, audio.channels, audio.subtype) == (rate, 1, "PCM_16")
            assert audio.duration == read.clip_s or read.clip_s is None
            ends = [event["end"] for event in item.get("events", ())]
            assert all(0 < end <= 1000 * audio.duration for end in ends)
            assert known.event or known.multilabel or len(item["labels"]) == 1
    assert all(labels == heard[0] for labels in heard)
    assert heard[0] == set(labels) or name.startswith("nsynth")
    assert set(contents(root)) == files


def test_ten_minutes(made: Path) -> None:
    assert sum(soundfile.info(path).duration for path in made.rglob("*.wav")) <= 600


@pytest.mark.slow
def test_same_bytes_in_any_order(made: Path, tmp_path: Path) -> None:
    made_backwards([f"hear/{name}" for name in FOLDERS], tmp_path)
    assert contents(tmp_path) == contents(made)


def test_folder_without_one(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        hear.task(_known.unread("mine-v1-full")).miniature(tmp_path)
    assert str(caught.value) == (
        "a miniature of hear/mine-v1-full was asked for, but there is none of it; the 20 folders of HEAR have one"
    )
    assert not list(tmp_path.iterdir())
