"""HEAR's recipe "zoo": targets, losses and metrics by hand, parts of recordings, and runs end to end."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import zoo
from tests.benchmark import hear_folders, toys
from zoo.benchmark import _upstream, metrics
from zoo.benchmark._data import Kept
from zoo.benchmark._run import Options, Result, Run
from zoo.benchmark._task import Item, select
from zoo.benchmark.hear._folder import Folder
from zoo.benchmark.hear._zoo import Events, Scenes
from zoo.errors import InputError

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(__file__).parents[2]
HUBERT = ROOT / "examples" / "hubert_tiny.pt"


def folder(*names: str, labels: Sequence[str] = hear_folders.LABELS, **changes: Any) -> Folder:
    """One that is nowhere, with these metrics."""
    said: dict[str, Any] = {"event": False, "multilabel": False, "split_mode": "trainvaltest", "clip_s": 1.0, **changes}
    splits = ("train", "valid", "test")
    return Folder(name="f", task_name="f", splits=splits, metrics=names, labels=tuple(labels), **said)


def scenes(*names: str, **changes: Any) -> Scenes:
    return Scenes({}, 320, folder=folder(*names, **changes))


def said(*labels: Sequence[str]) -> dict[str, Item]:
    return {str(i): {"labels": list(one)} for i, one in enumerate(labels)}


def run(name: str, data: Path, output: Path, **options: Any) -> Result:
    """Recipe zoo with a small upstream and head, in this process."""
    upstream, lines = options.pop("upstream", toys.Upstream()), options.pop("lines", [])
    given = {"recipe": "zoo", "steps": 4, "progress": False, "downstream_options": {"hidden_size": 8}, **options}
    return Run(select(name, data)[0], upstream, data, output, Options(**given), lines.append).run()


# --- clips ---------------------------------------------------------------------------------------------------------


def test_targets_of_clips() -> None:
    one = scenes("mAP", multilabel=True)
    assert one.output_size == 3
    assert [one.target(item).tolist() for item in said(["10"], ["mid", "low"], []).values()] == [
        [0, 0, 1],
        [1, 1, 0],
        [0, 0, 0],
    ]


@pytest.mark.parametrize("multilabel", [False, True])
def test_loss_of_clips(multilabel: bool) -> None:
    one, y = scenes("mAP", multilabel=multilabel), torch.randn(4, 3)
    items = said(["10"], ["low"], ["mid"], ["mid"]) if not multilabel else said(["10"], [], ["low", "mid"], ["mid"])
    targets = [one.target(item) for item in items.values()]
    total, weight = one.loss(None, y, torch.ones(4, dtype=torch.long), targets)
    want = F.cross_entropy(y, torch.tensor([2, 0, 1, 1]))
    if multilabel:
        chosen = torch.tensor([[0, 0, 1], [0, 0, 0], [1, 1, 0], [0, 1, 0]]).bool()
        want = -torch.where(chosen, y.sigmoid(), 1 - y.sigmoid()).log().mean()
    assert weight == 4
    torch.testing.assert_close(total / weight, want)
    # A head that answers for every frame: the mean over the valid ones.
    lengths = torch.tensor([3, 5, 1, 2])
    frames = torch.randn(4, 5, 3)
    for row, n, mean in zip(frames, lengths.tolist(), y):
        row[:n] += mean - row[:n].mean(0)
    torch.testing.assert_close(one.loss(None, frames, lengths, targets)[0] / 4, want)
    again = torch.stack(one.predict(frames, lengths, list(items.values())))
    torch.testing.assert_close(again, y.sigmoid() if multilabel else y.softmax(1))


@pytest.mark.parametrize("multilabel", [False, True])
def test_metrics_of_clips(multilabel: bool) -> None:
    names = ("aucroc", "mAP", "d_prime", "chroma_acc", "top1_acc")
    one = scenes(*names, multilabel=multilabel)
    items = said(["10"], ["low"], ["mid"], ["mid"], ["10"])
    y = torch.randn(5, 3, generator=torch.Generator().manual_seed(2))
    found = one.predict(y, torch.ones(5), list(items.values()))
    probabilities, wanted = torch.stack(found), torch.eye(3)[[2, 0, 1, 1, 2]]
    values = one.metrics("test", dict(zip(items, found)), items)
    assert values == {
        "aucroc": metrics.aucroc(probabilities, wanted),
        "mAP": metrics.mean_average_precision(probabilities, wanted),
        "d_prime": metrics.d_prime(probabilities, wanted),
        "chroma_acc": metrics.chroma_acc(probabilities, wanted),
        "top1_acc": metrics.top1_acc(probabilities, wanted),
    }
    assert list(values) == list(names)
    # In the order of the items, whatever that of the predictions is.
    assert one.metrics("test", dict(reversed(list(zip(items, found)))), items) == values


def test_confusion() -> None:
    one, items = scenes("top1_acc"), said(["low"], ["mid"], ["mid"], ["10"])
    found = {key: torch.eye(3)[k] for key, k in zip(items, (0, 2, 1, 1))}
    assert one.confusion(found, items) == (["low", "mid", "10"], [[1, 0, 0], [0, 1, 1], [0, 1, 0]])
    assert scenes("mAP", multilabel=True).confusion(found, items) is None


def test_chance_of_clips() -> None:
    """By hand, and what the metric gives for saying the same of every clip."""
    items = said(["low"], ["mid"], ["mid"], ["mid"], ["10"])
    wanted = torch.eye(3)[[0, 1, 1, 1, 2]]
    same = torch.tensor([[0.2, 0.6, 0.2]]).expand(5, 3)
    for name, value in (("top1_acc", 0.6), ("mAP", (0.2 + 0.6 + 0.2) / 3), ("aucroc", 0.5), ("d_prime", 0.0)):
        assert scenes(name).chance(items) == pytest.approx(value)
        assert metrics.HEAR_SCENES[name](same, wanted) == pytest.approx(value)
    # Pitches 1, 13 and 25 are one chroma; the most frequent pitch is 2.
    pitches, clips = [str(i) for i in range(30)], said(["1"], ["13"], ["25"], ["2"], ["2"])
    assert scenes("chroma_acc", labels=pitches).chance(clips) == 0.6
    assert scenes("pitch_acc", labels=pitches).chance(clips) == 0.4
    several = said(["low", "mid"], ["mid"], [], [])
    assert scenes("mAP", multilabel=True).chance(several) == pytest.approx((1 / 4 + 2 / 4 + 0) / 3)


# --- events --------------------------------------------------------------------------------------------------------


def events(
    *names: str,
    upstream: Any = None,
    chunk_s: float | None = 4.0,
    postprocessing: Sequence[tuple[float, float]] = ((0.0, 0.0),),
) -> Events:
    one = _upstream.load(toys.Upstream() if upstream is None else upstream, {}, padding="exact", device=None)
    names = names or ("event_onset_200ms_fms", "segment_1s_er")
    where = folder(*names, event=True, multilabel=True, postprocessing=tuple(postprocessing))
    return Events({}, one.hop_length, folder=where, upstream=one, chunk_s=chunk_s)


def recording(seconds: float, *found: tuple[str, float, float]) -> Item:
    listed = [{"label": label, "start": start, "end": end} for label, start, end in found]
    return {"waveform": torch.zeros(round(seconds * 16_000)), "events": listed}


def test_parts_of_recordings() -> None:
    one = events()
    whole = {"a": recording(9.5, ("low", 0, 5000)), "b": recording(4.0), "c": recording(0.001)}
    parts = one.items("train", whole)
    assert list(parts) == ["a#0-64000", "a#64000-128000", "a#128000-152000", "b#0-64000", "c#0-16"]
    # As much more is heard as a frame needs.
    assert [(part["start_s"], part["part_s"], part["end_s"]) for part in parts.values()] == [
        (0, 4, 4.025),
        (4, 4, 8.025),
        (8, 1.5, 9.5),
        (0, 4, 4),
        (0, 0.001, 0.001),
    ]
    assert [part["recording"] for part in parts.values()] == ["a", "a", "a", "b", "c"]
    assert all(part["events"] == whole[part["recording"]]["events"] for part in parts.values())
    # The upstream needs 400 samples; one that does not say so is asked for a frame.
    rests = {"a": recording(4 + 399 / 16_000), "b": recording(4 + 400 / 16_000)}
    assert list(one.items("test", rests)) == ["a#0-64000", "b#0-64000", "b#64000-64400"]
    rests = {"a": recording(4 + 319 / 16_000), "b": recording(4 + 320 / 16_000)}
    assert list(events(upstream=toys.upstream_pair).items("test", rests)) == [
        *("a#0-64000", "b#0-64000"),
        "b#64000-64320",
    ]
    assert events(chunk_s=None).items("test", whole) == whole


def test_targets_of_frames() -> None:
    """Middles of frames are at 10, 30, 50 ms and so on; an event ends with the frame at its end."""
    one = events()
    item = recording(0.2, ("low", 30, 70), ("mid", 30.1, 69.9), ("low", 50, 90), ("10", 190, 190))
    target = one.target(item)
    assert target.shape == (10, 3)
    assert target[:, 0].tolist() == [0, 1, 1, 1, 1, 0, 0, 0, 0, 0]
    assert target[:, 1].tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 0, 0]
    assert target[:, 2].tolist() == [0] * 9 + [1]
    assert not one.target(recording(0.2)).any()
    parts = one.items("train", {"a": recording(9.5, ("mid", 4030, 4070), ("low", 3990, 4010), ("10", 9480, 9500))})
    first, second, third = (one.target(part) for part in parts.values())
    assert [len(target) for target in (first, second, third)] == [200, 200, 75]
    assert first.nonzero().tolist() == [[199, 0]]
    assert second.nonzero().tolist() == [[0, 0], [1, 1], [2, 1], [3, 1]]
    assert third.nonzero().tolist() == [[74, 2]]


def test_targets_of_a_model_of_the_zoo() -> None:
    """Its first frame has its middle at sample 200, 12.5 ms."""
    one = events(upstream=zoo.load(HUBERT))
    parts = one.items("train", {"a": recording(8.0, ("low", 4032.5, 4052.5))})
    targets = [one.target(part) for part in parts.values()]
    assert [target.nonzero().tolist() for target in targets] == [[], [[1, 0], [2, 0]]]
    assert all(len(target) >= one.upstream.frame_count(64_000) for target in targets)


def test_loss_of_frames() -> None:
    """Over valid frames; what stands in the padding, or past a recording's end, does not matter."""
    one = events()
    items = [recording(0.1, ("low", 0, 45)), recording(0.06, ("mid", 25, 100))]
    targets = [one.target(item) for item in items]
    y = torch.randn(2, 6, 3)
    logits = torch.cat([y[0, :5], y[1, :3]])
    wanted = torch.zeros(8, 3)
    wanted[[0, 1], 0] = 1
    wanted[[6, 7], 1] = 1
    want = -torch.where(wanted.bool(), logits.sigmoid(), 1 - logits.sigmoid()).log().mean()
    y[0, 5:], y[1, 3:] = math.nan, math.nan
    for lengths in ([5, 3], [6, 6]):
        total, weight = one.loss(None, y, torch.tensor(lengths), targets)
        assert weight == 8
        torch.testing.assert_close(total / weight, want)
        found = one.predict(y, torch.tensor(lengths), items)
        assert [len(row) for row in found] == [5, 3]
        torch.testing.assert_close(torch.cat(found), logits.sigmoid())
    fewer, weight = one.loss(None, y, torch.tensor([4, 3]), targets)
    assert weight == 7
    kept = [0, 1, 2, 3, 5, 6, 7]
    torch.testing.assert_close(fewer / 7, F.binary_cross_entropy_with_logits(logits[kept], wanted[kept]))


def test_parts_are_joined() -> None:
    """Events that go on in the next part are found whole, also where the upstream gives no frame where parts meet."""
    names = ("event_onset_offset_50ms_20perc_fms", "event_onset_50ms_fms", "segment_1s_er")
    one = events(*names, postprocessing=[(250.0, 250.0)])
    whole = {
        "a": recording(9.5, ("low", 3500, 4600), ("mid", 7000, 9400), ("10", 100, 900)),
        "b": recording(5.0, ("low", 3900, 4950)),
    }
    parts = one.items("valid", whole)
    found = {key: one.target(part).float() for key, part in parts.items()}
    assert [len(found[f"a#{span}"]) for span in ("0-64000", "64000-128000", "128000-152000")] == [200, 200, 75]
    perfect = one.metrics("valid", found, parts)
    assert perfect == {**dict.fromkeys(names[:2], 1.0), names[2]: 0.0, "median_filter_ms": 250.0, "min_duration": 250.0}
    less = {key: row[:199] for key, row in found.items()}
    assert one.metrics("valid", less, parts) == perfect
    backwards = dict(reversed(list(parts.items())))
    assert one.metrics("valid", found, backwards) == perfect
    lost = {key: row for key, row in found.items() if key != "a#64000-128000"}
    assert one.metrics("valid", lost, {key: parts[key] for key in lost})[names[0]] < 1


def probabilities(one: Events, seconds: float, *found: tuple[str, float, float]) -> Tensor:
    return one.target(recording(seconds, *found))


@pytest.mark.parametrize("primary", ["event_onset_200ms_fms", "segment_1s_er"])
def test_validation_chooses_the_postprocessing(primary: str) -> None:
    """Which decides about the test set, and is not decided by it."""
    other = {"event_onset_200ms_fms": "segment_1s_er", "segment_1s_er": "event_onset_200ms_fms"}[primary]
    choices = [(0.0, 100.0), (0.0, 500.0), (0.0, 1000.0)]
    one = events(primary, other, chunk_s=None, postprocessing=choices)
    long, short = ("low", 500.0, 1300.0), ("low", 3100.0, 3400.0)
    blips = {"x": recording(5.0, long)}, {"x": probabilities(one, 5.0, long, short)}
    brief = {"x": recording(5.0, short)}, {"x": probabilities(one, 5.0, short)}
    best, worst = {"event_onset_200ms_fms": (1.0, 0.0), "segment_1s_er": (0.0, 1.0)}[primary]
    for (valid, found), least, value in ((blips, 500.0, worst), (brief, 100.0, best)):
        chosen = one.metrics("valid", found, valid)
        assert (chosen[primary], chosen["min_duration"], chosen["median_filter_ms"]) == (best, least, 0.0)
        tested = one.metrics("test", brief[1], brief[0])
        assert (tested[primary], tested["min_duration"]) == (pytest.approx(value), least)
    # Of equal ones the kit takes the longest.
    nothing = {"x": torch.zeros(250, 3)}
    assert one.metrics("valid", nothing, brief[0])["min_duration"] == 1000.0


def test_nothing_found() -> None:
    items = {"x": recording(2.0, ("low", 100, 900))}
    for primary, chance in (("event_onset_50ms_fms", 0.0), ("segment_1s_er", 1.0)):
        one = events(primary, *{"event_onset_50ms_fms", "segment_1s_er"} - {primary}, chunk_s=None)
        values = one.metrics("test", {"x": torch.zeros(100, 3)}, items)
        assert values["event_onset_50ms_fms"] == 0.0 and values["segment_1s_er"] == pytest.approx(1.0)
        assert one.chance(items) == chance == pytest.approx(values[primary])
        assert one.confusion({}, items) is None


# --- runs ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four folders, one at 48 kHz; not to be changed."""
    root = tmp_path_factory.mktemp("hear")
    hear_folders.write(root / "pitches-v1-full", "scene", folds=3)
    hear_folders.write(root / "chords-v1-full", "multilabel")
    hear_folders.write(root / "beeps-v1-full", "event", clips=3, seconds=9.5)
    hear_folders.write(root / "far-v1-full", "event", clips=3, seconds=5.0, rate=48_000)
    return root


def test_folds(data: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    result = run("hear/pitches", data, tmp_path, lines=lines, steps=60, lr=1e-2)
    folds = result.details["folds"]
    assert list(folds) == ["fold00", "fold01", "fold02"]
    for split in ("valid", "test"):
        assert set(result.metrics[split]) == {"top1_acc", "mAP", "d_prime", "aucroc"}
        for name, value in result.metrics[split].items():
            assert value == pytest.approx(np.mean([one["metrics"][split][name] for one in folds.values()]), nan_ok=True)
    assert result.value == result.metrics["test"]["top1_acc"]
    assert result.chance == pytest.approx(1 / 3)
    for one in folds.values():
        assert len(one["layer_weights"]) == toys.STATES and sum(one["layer_weights"]) == pytest.approx(1)
        assert len(set(one["layer_weights"])) > 1  # they are learned
        assert one["items"] == {"train": 6, "valid": 6, "test": 6}
        assert one["confusion"]["labels"] == list(hear_folders.LABELS)
        assert [sum(row) for row in one["confusion"]["counts"]] == [2, 2, 2]
    assert result.details["features"] == "pooled store"
    assert result.config["head"].endswith("UtteranceMLP") and result.config["layers"] == [0, 1, 2]
    for fold in folds:
        losses = [record["loss"] for record in result.curve if record["fold"] == fold and "loss" in record]
        assert len(losses) == 60 and sum(losses[-5:]) < 0.5 * sum(losses[:5])
    left = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    heads = [f"hear_pitches-v1-full/{one}/head.safetensors" for one in folds]
    assert left == sorted([*heads, "hear_pitches-v1-full.json", "hear_pitches-v1-full/run.json"])


def test_several_labels_and_limit(data: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    result = run("hear/chords", data, tmp_path, lines=lines, limit=4)
    assert set(result.metrics) == {"valid", "test"} and set(result.metrics["test"]) == {"mAP", "aucroc"}
    assert result.primary["name"] == "mAP"
    assert result.details["confusion"] is None and len(result.details["layer_weights"]) == toys.STATES
    assert any("train 4 (4 s), valid 4 (4 s), test 4 (4 s)" in line for line in lines)
    assert run("hear/chords", data, tmp_path / "all", limit=6).curve != result.curve


def test_events(data: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    result = run("hear/beeps", data, tmp_path, lines=lines, steps=12)
    assert set(result.metrics["test"]) == {*hear_folders.METRICS["event"], "median_filter_ms", "min_duration"}
    for name in ("median_filter_ms", "min_duration"):
        assert result.metrics["test"][name] == result.metrics["valid"][name]
    assert result.primary["name"] == "event_onset_200ms_fms" and result.chance == 0
    assert result.details["features"] == "frame store"
    assert len(result.details["layer_weights"]) == toys.STATES
    assert result.config["head"].endswith("FrameMLP") and result.config["objective_options"] == {"chunk_s": 4.0}
    assert any("train 9 (29 s), valid 9 (29 s), test 9 (29 s)" in line for line in lines)
    assert {"hear_beeps-v1-full", "hear_beeps-v1-full.json"} == {path.name for path in tmp_path.iterdir()}
    whole = run("hear/beeps", data, tmp_path / "whole", objective_options={"chunk_s": None}, lines=lines)
    assert "train 3 (28 s), valid 3 (28 s), test 3 (28 s)" in lines[-2] + lines[-3] + lines[-4] + lines[-5]
    assert whole.curve[0] != result.curve[0]


@pytest.mark.parametrize("name", ["pitches", "beeps"])
def test_a_store_gives_what_on_the_fly_gives(name: str, data: Path, tmp_path: Path) -> None:
    stored = run(f"hear/{name}", data, tmp_path / "stored", lr=1e-2)
    fly = run(f"hear/{name}", data, tmp_path / "fly", lr=1e-2, store_gb=0)
    assert (stored.details["features"] != "on the fly", fly.details["features"]) == (True, "on the fly")
    assert toys.losses(fly) == pytest.approx(toys.losses(stored), abs=1e-5)
    for split, values in stored.metrics.items():
        assert fly.metrics[split] == pytest.approx(values, abs=1e-5, nan_ok=True)


class Centred(nn.Module):
    """As a centred short-time Fourier transform: a frame at 0, and one at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(320, 6, generator=torch.Generator().manual_seed(1)))

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return F.pad(waveforms, (160, 479)).unfold(1, 320, 320) @ self.weight, lengths // 320 + 1


@pytest.mark.parametrize(
    "options", [{"upstream": Centred()}, {"padding": "reference"}], ids=["more frames", "frames of the padding"]
)
def test_frames_past_the_end_of_a_part(options: dict[str, Any], data: Path, tmp_path: Path) -> None:
    result = run("hear/beeps", data, tmp_path, **options)
    assert all(math.isfinite(value) for values in result.metrics.values() for value in values.values())


def test_recordings_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    place = hear_folders.write(tmp_path / "data" / "beeps-v1-full", "event", clips=3, seconds=5.0)
    (place / "16000" / "train" / "train-1.wav").write_bytes(b"no audio")
    (place / "16000" / "test" / "test-0.wav").unlink()
    result = run("hear/beeps", tmp_path / "data", tmp_path / "out")
    assert {name: one["count"] for name, one in result.details["excluded"].items()} == {
        "train": 1,
        "valid": 0,
        "test": 1,
    }
    assert "train-1.wav" in result.details["excluded"]["train"]["examples"][0]


def test_a_validation_set_without_a_class(tmp_path: Path) -> None:
    """Has no area under the curve: the last evaluation counts, and no learning rate can be chosen."""
    place = hear_folders.write(tmp_path / "data" / "pitches-v1-full", "scene", evaluation=["aucroc", "mAP"])
    names = json.loads((place / "valid.json").read_text())
    (place / "valid.json").write_text(json.dumps({name: ["low"] for name in names}))
    result = run("hear/pitches", tmp_path / "data", tmp_path / "out")
    assert math.isnan(result.metrics["valid"]["aucroc"]) and result.metrics["valid"]["mAP"] == pytest.approx(1 / 3)
    assert 0 <= result.value <= 1
    assert result.details["best_step"] == 4 and result.details["skipped_updates"] == 0
    assert "valid: nothing of 2 of 3 classes: mid, 10" in result.details["notes"]
    with pytest.raises(InputError, match="aucroc has no value on the split 'valid', so no learning rate can be chosen"):
        run("hear/pitches", tmp_path / "data", tmp_path / "grid", lr_grid=[1e-1, 1e-2])


def test_fine_tuning_keeps_what_was_resampled(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[Any, ...]] = []
    loads, there = zoo.load_audio, []

    def load_audio(path: Any, *arguments: Any, **options: Any) -> Tensor:
        read.append((path, *options.values()))
        there.append(len(list((tmp_path / "kept").rglob("audio/*.npy"))))
        return loads(path, *arguments, **options)

    monkeypatch.setattr(zoo, "load_audio", load_audio)
    options = {"steps": 6, "finetune": True, "lr": 1e-1}
    upstream = toys.Upstream()
    before = upstream.weight.detach().clone()
    result = run("hear/far", data, tmp_path / "kept", upstream=upstream, **options)
    assert result.details["features"] == "on the fly"
    assert torch.equal(upstream.weight, before)  # the caller's
    assert "train: 6 of 6 resampled from 48000 Hz (soxr HQ)" in result.details["notes"]
    # Two parts of each of nine recordings, once but for what is asked for again while it is being read.
    assert len(set(read)) == 18 and len(read) <= 24
    assert max(there) >= 12
    assert not list((tmp_path / "kept").rglob("*.npy")) and not list((tmp_path / "kept").rglob("features"))
    read.clear()
    again = run("hear/far", data, tmp_path / "not", store_gb=0, **options)
    assert len(read) > 36
    assert toys.losses(again) == toys.losses(result) and again.metrics == result.metrics
    frozen = run("hear/far", data, tmp_path / "frozen", steps=6, lr=1e-1, store_gb=0)
    assert toys.losses(frozen)[0] == pytest.approx(toys.losses(result)[0], abs=1e-6)
    assert abs(toys.losses(frozen)[-1] - toys.losses(result)[-1]) > 1e-4  # the upstream has learned


def test_kept_audio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "a.wav")
    soundfile.write(path, 0.1 * np.random.Generator(np.random.Philox(3)).standard_normal(48_000), 48_000)
    spans = [(0.0, None), (0.0, 0.5), (0.5, 1.0)]
    want = [zoo.load_audio(path, 16_000, start_s=start, end_s=end) for start, end in spans]
    kept = Kept(tmp_path / "kept", 64_128 + 32_128 + 32_127)  # 4 bytes a sample and a header of 128
    assert all(torch.equal(kept.read(path, 16_000, *span), one) for span, one in zip(spans, want))
    assert sorted(file.stat().st_size for file in (tmp_path / "kept").iterdir()) == [32_128, 64_128]
    assert Kept(tmp_path / "kept", 100_000).left == 100_000 - 96_256  # what was kept before counts
    assert len(kept.read(path, 8_000, 0.0, 0.5)) == 4_000
    calls: list[float] = []
    loads = zoo.load_audio
    monkeypatch.setattr(zoo, "load_audio", lambda *a, **o: calls.append(o["start_s"]) or loads(*a, **o))  # type: ignore[func-returns-value]
    assert all(torch.equal(kept.read(path, 16_000, *span), one) for span, one in zip(spans, want))
    assert calls == [0.5]


def test_kept_audio_never_exceeds_its_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor counts twice what several threads read at once."""
    together = Barrier(4)

    def load_audio(path: str, rate: int, **span: Any) -> Tensor:
        together.wait(timeout=60)
        return torch.zeros(1000)

    monkeypatch.setattr(zoo, "load_audio", load_audio)
    kept = Kept(tmp_path / "kept", 10 * 4128 + 4127)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda path: kept.read(path, 16_000, 0.0, None), "aaaa"))
        assert kept.left == 9 * 4128 + 4127
        list(threads.map(lambda path: kept.read(path, 16_000, 0.0, None), "bcdefghijklm"))
    assert len(list((tmp_path / "kept").iterdir())) == 10 and kept.left == 4127


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pitches", "beeps", "far"])
def test_with_a_model_of_the_zoo(name: str, data: Path, tmp_path: Path) -> None:
    """A grid of learning rates, a store, the winner, which learns what it is shown."""
    options = {"steps": 200, "lr_grid": [1e-2, 1e-3], "downstream_options": {"hidden_size": 64}}
    result = run(f"hear/{name}", data, tmp_path, upstream=str(HUBERT), **options)
    assert {record["learning_rate"] for record in result.curve} == {1e-2, 1e-3}
    losses = toys.losses(result, result.details["learning_rate"])
    assert losses[-1] < 0.5 * losses[0]
