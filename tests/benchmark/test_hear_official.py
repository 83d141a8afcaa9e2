"""HEAR's official recipe end to end: rows in the kit's order, the grid, folds, and a run that goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import zoo
from tests.benchmark import hear_folders, toys
from tests.golden import hear_cases
from zoo.benchmark import _upstream, hear_api
from zoo.benchmark._run import Options, Result, Run
from zoo.benchmark._task import Given, select
from zoo.benchmark.hear import _folder, _official, _predictor
from zoo.errors import InputError

GOLDEN = Path(__file__).parent.parent / "golden" / "hear"


def run(name: str, folder: Path, output: Path, **options: Any) -> Result:
    """With the small upstream of toys, in this process."""
    lines = options.pop("lines", [])
    upstream = options.pop("upstream", toys.Upstream())
    return Run(select(name, folder)[0], upstream, folder, output, Options(**options), lines.append).run()


@pytest.mark.parametrize("kind", ["scene", "event"])
def test_rows_are_the_kits(kind: str) -> None:
    """Order of files over all splits, and targets of every row; recorded by make_hear_embeddings.py."""
    recorded = json.loads((GOLDEN / "embeddings.json").read_text())[kind]
    arrays = np.load(GOLDEN / "embeddings.npz")
    splits = hear_cases.folder(kind == "event")
    key = "events" if kind == "event" else "labels"
    corpus = {split: {name: {key: said} for name, said in files.items()} for split, files in splits.items()}
    frames = 49 if kind == "event" else 1
    number = {name: i for i, name in enumerate(name for files in splits.values() for name in files)}

    def features(split: str) -> Any:
        return ((name, torch.full((2, frames, 3), float(number[name]))) for name in splits[split])

    folder = _folder.Folder(
        name="toy",
        task_name="toy",
        event=kind == "event",
        multilabel=kind == "event",
        split_mode="new_split_kfold",
        splits=tuple(splits),
        clip_s=1.0,
        metrics=("top1_acc",),
        labels=tuple(hear_cases.LABELS),
    )
    given = Given(
        corpus=corpus,
        features=features,
        times=lambda count: torch.arange(count, dtype=torch.float64) * 20 + 12.5,
        chance=lambda split: 0.0,
        device=torch.device("cpu"),
        folder=Path(),
        log=lambda line: None,
        progress=lambda done, total: None,
    )
    found = _official._rows(given, folder)
    assert list(found) == list(recorded)
    for split, files in recorded.items():
        rows = found[split]
        assert rows.x.shape[1] == 6  # two states side by side
        assert rows.x[:, 0].tolist() == [number[name] for name in files for _ in range(frames)]
        assert torch.equal(rows.targets, torch.from_numpy(arrays[f"{kind}/{split}"]).float())
        if kind == "event":
            assert list(rows.times) == files
            assert rows.events == {name: splits[split][name] for name in files}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three folders, one below `tasks`, one at 48 kHz; not to be changed."""
    root = tmp_path_factory.mktemp("hear")
    hear_folders.write(root / "pitches-v1-full", "scene", folds=4)
    hear_folders.write(root / "chords-v1-full", "multilabel", rate=48_000)
    limits = {"task_specific_param_grid": {"max_epochs": [4], "check_val_every_n_epoch": [2]}}
    hear_folders.write(root / "tasks" / "beeps-v1-full", "event", clips=3, evaluation_params=limits)
    return root


def test_folds(data: Path, tmp_path: Path) -> None:
    """The winner of the grid on the first partition is trained on the others, and the mean of their tests counts."""
    lines: list[str] = []
    result = run("hear/pitches", data, tmp_path, lines=lines, steps=12)
    tests = [f"fold{i:02}" for i in range(4)]
    assert result.task == "hear/pitches-v1-full"
    assert list(result.metrics) == ["test", *tests]
    for name in ("top1_acc", "mAP", "aucroc", "loss"):
        assert result.metrics["test"][name] == pytest.approx(np.mean([result.metrics[one][name] for one in tests]))
    assert result.primary == {"name": "top1_acc", "value": result.metrics["test"]["top1_acc"]}
    assert result.chance == pytest.approx(1 / 3)
    chosen = result.details["chosen"]
    points = [_predictor.Point(**one["point"]) for one in chosen["grid"]]
    assert tuple(points) == _predictor.GRID
    values = [one["valid"] for one in chosen["grid"]]
    assert chosen["winner"] == values.index(max(values))
    assert [one["splits"] for one in chosen["partitions"]] == [
        {
            "train": [one for one in tests if one not in (tests[i], tests[(i + 1) % 4])],
            "valid": tests[(i + 1) % 4],
            "test": tests[i],
        }
        for i in range(4)
    ]
    assert {one["point"]["hidden_layers"] for one in chosen["partitions"]} == {points[chosen["winner"]].hidden_layers}
    assert result.config["layers"] == [toys.STATES - 1]
    assert result.details["features"] == "pooled store"
    assert {one["partition"] for one in result.curve} == {0, 1, 2, 3}
    left = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    heads = [f"hear_pitches-v1-full/{one}/head.safetensors" for one in tests]
    assert left == sorted([*heads, "hear_pitches-v1-full.json", "hear_pitches-v1-full/run.json"])
    assert any("point " in line and " is best" in line for line in lines)


def test_events(data: Path, tmp_path: Path) -> None:
    result = run("hear/beeps", data, tmp_path)
    assert list(result.metrics) == ["test"]
    assert set(result.metrics["test"]) == {"event_onset_200ms_fms", "segment_1s_er", "loss"}
    assert result.details["features"] == "frame store"
    chosen = result.details["chosen"]
    assert {one["epochs"] for one in chosen["grid"]} <= {2, 4}  # what the folder says, or stopped without an event
    assert [record["epoch"] for record in result.curve if record["learning_rate"] == 1e-4] == [1, 3][: len(chosen)]


def test_audio_of_another_rate_is_resampled_and_named(data: Path, tmp_path: Path) -> None:
    result = run("hear/chords", data, tmp_path, steps=2)
    assert "test: 6 of 6 resampled from 48000 Hz (soxr HQ)" in result.details["notes"]
    assert result.config["steps"] == 2
    assert {one["epochs"] for one in result.details["chosen"]["grid"]} == {2}


def test_goes_on_after_the_trainings_that_are_finished(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"steps": 6}
    whole = run("hear/pitches", data, tmp_path / "whole", **options)
    put, left = _official.Saved.put, [5]

    def stops(self: Any, *arguments: Any) -> None:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        put(self, *arguments)

    monkeypatch.setattr(_official.Saved, "put", stops)
    with pytest.raises(KeyboardInterrupt):
        run("hear/pitches", data, tmp_path / "cut", **options)
    monkeypatch.setattr(_official.Saved, "put", put)
    assert len(list((tmp_path / "cut").rglob("checkpoint-*"))) == 4
    lines: list[str] = []
    again = run("hear/pitches", data, tmp_path / "cut", lines=lines, **options)
    assert repr(again.metrics) == repr(whole.metrics)  # which have NaN
    assert again.curve == whole.curve
    assert repr(again.details["chosen"]) == repr(whole.details["chosen"])
    assert sum("after epoch" in line for line in lines) == 8 - 4 + 3
    assert not list((tmp_path / "cut").rglob("checkpoint-*"))


def test_embeddings_are_those_of_the_api(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What heareval would be given by hear_api is what the official recipe trains on."""
    seen: dict[str, Any] = {}

    def procedure(given: Given, *, folder: Any) -> Any:
        split = folder.splits[0]
        seen.update(rows=dict(given.features(split)), corpus=given.corpus[split], times=given.times)
        raise InputError("seen")

    monkeypatch.setattr(_official, "procedure", procedure)
    for name, layers in (("pitches", None), ("beeps", (0, 2))):
        with pytest.raises(InputError, match="seen"):
            run(f"hear/{name}", data, tmp_path / name, upstream="examples/hubert_tiny.pt", layers=layers)
        model = hear_api.load_model("examples/hubert_tiny.pt", layer=-1 if layers is None else list(layers))
        for key, item in seen["corpus"].items():
            audio = zoo.load_audio(item["wav_path"])[None]
            found = seen["rows"][key].transpose(0, 1).flatten(1)
            if layers is None:
                torch.testing.assert_close(found, hear_api.get_scene_embeddings(audio, model), atol=2e-5, rtol=0)
            else:
                expected, times = hear_api.get_timestamp_embeddings(audio, model)
                torch.testing.assert_close(found, expected[0], atol=2e-5, rtol=0)
                assert torch.equal(seen["times"](len(found)), times[0])


def test_long_audio_runs_in_chunks() -> None:
    """As in the API, whatever stands beside it in the batch."""
    model = zoo.load("examples/hubert_tiny.pt")
    generator = torch.Generator().manual_seed(1)
    audio = [0.1 * torch.randn(count, generator=generator) for count in (20_000, 70_001, 16_000)]
    upstream = _upstream.load(model, {}, padding="exact", device=None, chunk_s=2.0)
    own = hear_api.load_model("examples/hubert_tiny.pt", layer="all", chunk_s=2.0)
    with torch.no_grad():
        found = upstream(audio)
    assert found.lengths.tolist() == [model.frame_count(len(one)) for one in audio]
    for row, (one, count) in enumerate(zip(audio, found.lengths.tolist())):
        states = torch.cat([state[row, :count] for state in found.hidden_states], 1)
        torch.testing.assert_close(states, own(one[None])[0][0], atol=2e-5, rtol=0)
    whole = _upstream.load(model, {}, padding="exact", device=None)
    with torch.no_grad():
        assert not torch.allclose(whole(audio[1:2]).hidden_states[-1][0], found.hidden_states[-1][1], atol=1e-3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"finetune": True}, "finetune was asked for; the recipe 'official' of hear/pitches-v1-full has a procedure"),
        ({"lr_grid": [0.1, 0.2]}, "lr_grid was asked for; the recipe"),
        ({"recipe": "v0.4"}, "recipe 'v0.4' was asked for; hear/pitches-v1-full has official, miniature, zoo"),
        ({"layers": [7]}, "layers [7] were asked for"),
    ],
)
def test_refused(options: dict[str, Any], said: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        run("hear/pitches", data, tmp_path, **options)
    assert str(caught.value).startswith(said)


def test_a_learning_rate_takes_the_place_of_the_grids(data: Path, tmp_path: Path) -> None:
    result = run("hear/pitches", data, tmp_path, steps=1, lr=0.5, lr_grid=False)
    points = [one["point"] for one in result.details["chosen"]["grid"]]
    assert [(one["hidden_layers"], one["initialization"]) for one in points] == [
        (1, "xavier_normal_"),
        (2, "xavier_uniform_"),
        (2, "xavier_normal_"),
    ]
    assert {one["learning_rate"] for one in points} == {0.5}
    assert result.config["learning_rate"] == 0.5
