"""Event files, read back by TensorBoard's own reader."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.benchmark import made_up
from zoo.benchmark import tensorboard
from zoo.errors import InputError


def scalars(folder: Path) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Run -> tag -> (step, value) of every event file below a folder."""
    found = {}
    for path in sorted(folder.rglob("events.out.tfevents*")):
        reader = EventAccumulator(str(path), size_guidance={"scalars": 0})
        reader.Reload()
        tags = {tag: [(e.step, e.value) for e in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}
        found[str(path.parent.relative_to(folder))] = tags
    return found


def test_every_record_of_a_result_is_in_the_event_files(tmp_path: Path) -> None:
    made = made_up.result("superb/er", curve=made_up.curve("accuracy", ("1", "2")))
    made_up.write(tmp_path / "results", made)
    (folder,) = tensorboard.events([tmp_path / "results"], tmp_path / "events")
    assert folder == tmp_path / "events" / "hubert_base" / "superb_er_official"
    found = scalars(folder)
    rates = ("1", "0.1", "0.01", "0.001", "0.0001")
    assert sorted(found) == sorted(f"lr={rate},fold={fold}" for rate in rates for fold in (1, 2))
    for run, tags in found.items():
        rate, fold = (part.partition("=")[2] for part in run.split(","))
        mine = [r for r in made["curve"] if r["learning_rate"] == float(rate) and r["fold"] == fold]
        loss = [(r["step"], r["loss"]) for r in mine if r.get("loss") is not None]
        valid = [(r["step"], r["accuracy"]) for r in mine if "accuracy" in r]
        assert tags.get("train/loss", []) == [(step, pytest.approx(value)) for step, value in loss]
        assert tags["valid/accuracy"] == [(step, pytest.approx(value)) for step, value in valid]


def test_a_stream_may_have_layers_instead_of_steps_and_numbers_of_any_kind(tmp_path: Path) -> None:
    records = [
        {"layer": 3, "split": "valid", "mtwv": 0.25, "distance": "cosine"},
        {"layer": 4, "split": "valid", "mtwv": math.inf, "distance": "cosine"},
        {"layer": math.nan, "split": "valid", "mtwv": 0.5, "distance": "cosine"},
        {"layer": 5, "split": "../up", "mtwv": math.nan, "distance": "../../../etc"},
    ]
    tensorboard.stream(iter(records), tmp_path / "events")
    found = scalars(tmp_path / "events")
    assert found["distance=cosine"] == {"valid/mtwv": [(3, 0.25), (4, math.inf)]}
    assert sorted(found) == ["distance=.._.._.._etc", "distance=cosine"]
    assert [path.name for path in tmp_path.iterdir()] == ["events"]


def test_epochs_of_a_grid_are_told_apart(tmp_path: Path) -> None:
    made = made_up.hear("hear/dcase2016_task2-hear2021-full", folds=2)
    tensorboard.stream(made["curve"], tmp_path)
    found = scalars(tmp_path)
    assert len(found) == 8 + 1
    tags = found["lr=0.00032,partition=1,hidden_layers=1,initialization=xavier_normal_"]
    assert [step for step, _ in tags["train/loss"]] == list(range(2, 150, 3)) and len(tags) == 2


def test_event_files_are_not_written_twice(tmp_path: Path) -> None:
    made_up.write(tmp_path / "results", made_up.result())
    tensorboard.events([tmp_path / "results"], tmp_path / "events")
    with pytest.raises(InputError, match="has event files already"):
        tensorboard.events([tmp_path / "results"], tmp_path / "events")


def test_without_the_package_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match="pip install tensorboard, or the zoo's extra 'benchmark'"):
        tensorboard.stream([], tmp_path / "events")
    assert not list(tmp_path.iterdir())
