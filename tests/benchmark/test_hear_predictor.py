"""HEAR's prediction stage gives what its own kit gave, one predictor at a time and many."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.golden import store
from tests.golden.hear_prediction_cases import CASES
from zoo.benchmark.hear import _predictor
from zoo.benchmark.hear._predictor import (
    GRID,
    Point,
    Protocol,
    Rows,
    Stage,
    Trained,
    initial,
    own_seed,
    parameters,
    stage,
)
from zoo.errors import InputError

pytestmark = pytest.mark.usefixtures("one_thread")  # as the kit was run; several add up in another order

DATA = Path(__file__).parents[1] / "golden" / "hear" / "predictions"
SLOW = [name for name in CASES if name != "quick"]
TOLERANCE = 0.005  # what is asked for
# Standard deviation of the first metric over 3, 6, 2 and 5 seeds: the kit's random numbers are one draw, those of
# many at a time are another.
NOISE = {"multiclass": 0.0066, "multilabel": 0.0032, "dcase": 0.061, "maestro": 0.022}


@cache
def recorded() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    return json.loads(DATA.with_suffix(".json").read_text(encoding="utf-8")), store.read(DATA.with_suffix(".npz"))


@cache
def given(name: str) -> tuple[dict[str, Rows], Protocol]:
    """A case as the stage takes it."""
    case = CASES[name]()
    metadata, event = case.metadata, case.metadata["embedding_type"] == "event"
    rows = {}
    for split in metadata["splits"]:
        made = case.split(split)
        targets = torch.tensor([[float(label in labels) for label in case.labels] for labels in made.labels])
        times = {file: np.array(values) for file, values in made.times.items()}
        rows[split] = Rows(torch.from_numpy(made.x), targets, times, made.events)
    names = sorted(metadata["splits"])
    partitions: list[tuple[tuple[str, ...], str, str]] = [(("train",), "valid", "test")]
    if metadata["split_mode"] != "trainvaltest":
        pairs = [(test, names[(index + 1) % len(names)]) for index, test in enumerate(names)]
        partitions = [(tuple(x for x in names if x not in pair), pair[1], pair[0]) for pair in pairs]
    more = metadata.get("evaluation_params", {})
    limits = more.get("task_specific_param_grid", {})
    choices = more.get("event_postprocessing_grid", {"median_filter_ms": [250], "min_duration": [125, 250]})
    every = 10 if metadata["task_name"] == "dcase2016_task2" else 3
    return rows, Protocol(
        labels=tuple(case.labels),
        prediction=metadata["prediction_type"],
        event=event,
        metrics=tuple(metadata["evaluation"]),
        partitions=tuple(partitions),
        use_scoring=metadata.get("use_scoring_for_early_stopping", True),
        postprocessing=tuple(product(choices["median_filter_ms"], choices["min_duration"])) if event else (),
        max_epochs=limits.get("max_epochs", [500])[0],
        check_every=limits.get("check_val_every_n_epoch", [every])[0],
        patience=limits.get("patience", [20])[0],
    )


@cache
def found(name: str, many: bool) -> Stage:
    return stage(*given(name), many=many)


def differences(name: str, many: bool) -> dict[str, float]:
    """By how much the scores of a case, averaged over partitions, are off; infinite where only one is a number."""
    scores = recorded()[0]["cases"][name]["scores"]
    mean = scores.get("aggregated_scores") or {f"{key}_mean": value for key, value in scores["test"].items()}
    off = {}
    for metric in given(name)[1].metrics:
        ours, theirs = found(name, many).mean(metric), mean[f"test_{metric}_mean"]
        same = ours == theirs or (math.isnan(ours) and math.isnan(theirs))
        off[metric] = 0.0 if same else abs(ours - theirs) if math.isfinite(ours - theirs) else math.inf
    return off


def agrees(name: str, tolerance: float = TOLERANCE) -> None:
    """One at a time: every training and every score is the kit's."""
    ours, theirs = found(name, many=False), recorded()[0]["cases"][name]
    trained = [*ours.tried, *(each.trained for each in ours.tested[1:])]
    assert [each.point.as_dict() for each in trained] == [
        {key: each[key] for key in Point(0, 0, "").as_dict()} for each in theirs["trainings"]
    ]
    assert ours.winner == theirs["winner"]
    # On the machine that recorded, all differ by less than 2e-3. Another one's rounding may move the best epoch.
    assert [each.valid for each in trained] == pytest.approx([x["valid"] for x in theirs["trainings"]], abs=tolerance)
    chosen = [list(x["postprocessing"].values()) for x in theirs["trainings"]]
    assert [list(each.postprocessing or ()) for each in trained] == chosen
    assert differences(name, many=False)[given(name)[1].metrics[0]] <= tolerance
    if [each.best_epoch for each in trained] == [each["best epoch"] for each in theirs["trainings"]]:
        assert [each.epochs for each in trained] == [each["epochs"] for each in theirs["trainings"]]
        for each in ours.tested:
            expected = {metric: theirs["scores"][each.split][f"test_{metric}"] for metric in each.scores}
            assert each.scores == pytest.approx(expected, abs=tolerance, nan_ok=True)


def test_grid() -> None:
    normal, uniform = "xavier_normal_", "xavier_uniform_"
    assert [(point.hidden_layers, point.learning_rate, point.initialization) for point in GRID] == [
        (1, 1e-4, normal),
        (2, 1e-3, uniform),
        (1, 1e-3, normal),
        (1, 3.2e-4, normal),
        (2, 3.2e-4, normal),
        (2, 3.2e-4, uniform),
        (2, 3.2e-3, normal),
        (2, 3.2e-3, uniform),
    ]
    for case in recorded()[0]["cases"].values():
        tried = case["trainings"][: len(GRID)]
        assert [{key: each[key] for key in GRID[0].as_dict()} for each in tried] == [each.as_dict() for each in GRID]


def test_quick_case_is_the_kits() -> None:
    agrees("quick", tolerance=1 / 59 + 1e-6)  # a clip; on the machine that recorded nothing differs
    ours, theirs = found("quick", many=False), recorded()[0]["cases"]["quick"]
    for each in ours.tested:
        probabilities = recorded()[1][f"quick/{each.split}/probabilities"]
        assert np.abs(each.probabilities.numpy() - probabilities).mean() < 2e-3
    assert math.isnan(ours.tested[2].scores["aucroc"])  # a label is lacking
    assert ours.mean("aucroc") == pytest.approx(theirs["scores"]["aggregated_scores"]["test_aucroc_mean"], abs=1e-3)
    assert ours.deviation("mAP") == pytest.approx(theirs["scores"]["aggregated_scores"]["test_mAP_std"], abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_cases_are_the_kits(name: str) -> None:
    agrees(name)


def alone(rows: dict[str, Rows], protocol: Protocol, trained: Trained) -> _predictor.Tested:
    """A predictor by itself, as the kit would train it, with the random numbers that it has among many."""
    only = replace(protocol, partitions=(protocol.partitions[trained.partition],))
    seed = own_seed(42, trained.point, trained.partition)
    return stage(rows, only, points=[trained.point], seed=seed).tested[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["multilabel", "maestro"])
def test_many_at_a_time_are_as_one(name: str) -> None:
    rows, protocol = given(name)
    many = found(name, many=True)
    single = [alone(rows, protocol, trained) for trained in many.tried]
    valid = [each.trained.valid for each in single]
    assert [each.valid for each in many.tried] == pytest.approx(valid, abs=TOLERANCE)
    assert many.winner == valid.index((min if protocol.lower else max)(valid))
    single = [single[many.winner], *(alone(rows, protocol, each.trained) for each in many.tested[1:])]
    for metric in protocol.metrics:
        scores = [each.scores[metric] for each in single]
        assert many.mean(metric) == pytest.approx(np.mean(scores), abs=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_many_at_a_time_are_near_the_kit(name: str) -> None:
    primary = given(name)[1].metrics[0]
    assert differences(name, many=True)[primary] <= max(TOLERANCE, 3 * NOISE[name])


@pytest.mark.parametrize(("width", "layers", "count"), [(1024, 1, 1_061_898), (1024, 2, 2_113_546)])
def test_parameter_counts(width: int, layers: int, count: int) -> None:
    assert parameters(initial(Point(layers, 1e-3, "xavier_normal_"), width, 10, torch.Generator())) == count


# --- made-up rows ----------------------------------------------------------------------------------------------------

LABELS = ("a", "b", "c")
SCENES = Protocol(
    labels=LABELS,
    prediction="multiclass",
    event=False,
    metrics=("top1_acc",),
    partitions=((("x", "y"), "z", "w"), (("z", "w"), "x", "y")),
    max_epochs=4,
    check_every=2,
)


def scenes(count: int = 20) -> dict[str, Rows]:
    generator = torch.Generator().manual_seed(0)
    rows = {}
    for name in "xyzw":
        wanted = torch.arange(count) % 3
        x = torch.randn(count, 4, generator=generator)
        x[:, 0] += wanted
        rows[name] = Rows(x, torch.eye(3)[wanted])
    return rows


def events(scale: float = 1.0) -> tuple[dict[str, Rows], Protocol]:
    """Frames of which each has the label "a" every other second, and a protocol of two choices."""
    times = 20.0 * np.arange(300)
    active = torch.from_numpy(times // 1000 % 2 == 1)
    x = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
    x[active, 0] += 4
    targets = torch.stack([active.float(), torch.zeros(300)], 1)
    reference = [{"label": "a", "start": 1000.0 * n, "end": 1000.0 * n + 980} for n in (1, 3, 5)]
    split = Rows(scale * x, targets, {"f.wav": times}, {"f.wav": reference})
    return dict.fromkeys(("train", "valid", "test"), split), Protocol(
        labels=("a", "b"),
        prediction="multilabel",
        event=True,
        metrics=("event_onset_200ms_fms", "segment_1s_er"),
        partitions=((("train",), "valid", "test"),),
        postprocessing=((250.0, 125.0), (250.0, 250.0)),
        max_epochs=30,
        check_every=10,
    )


def same(first: Trained, second: Trained) -> bool:
    """Whether two predictors are so bit for bit."""
    return first.record() == second.record() and all(
        torch.equal(first.state[name], value) for name, value in second.state.items()
    )


class Kept(dict[str, Any]):
    """What is saved, until there is so much of it."""

    def __init__(self, most: int = 99) -> None:
        super().__init__()
        self.most = most

    def put(self, key: str, record: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        if len(self) >= self.most:
            raise KeyboardInterrupt
        self[key] = json.loads(json.dumps(record)), {name: value.clone() for name, value in tensors.items()}


@pytest.mark.parametrize("many", [False, True])
def test_goes_on_where_it_ended(many: bool) -> None:
    whole = stage(scenes(), SCENES, points=GRID[:3], many=many)
    kept = Kept(most=2)
    with pytest.raises(KeyboardInterrupt):
        stage(scenes(), SCENES, points=GRID[:3], many=many, saved=kept)
    kept.most = 99
    again = stage(scenes(), SCENES, points=GRID[:3], many=many, saved=kept)
    assert all(map(same, whole.tried, again.tried))
    for one, other in zip(whole.tested, again.tested, strict=True):
        assert same(one.trained, other.trained) and one.scores == other.scores
        assert torch.equal(one.probabilities, other.probabilities)
    assert len(kept) == 4


def test_many_learn_as_one() -> None:
    protocol = replace(SCENES, max_epochs=12)
    for trained in stage(scenes(), protocol, many=True).tried[::3]:
        one = alone(scenes(), protocol, trained).trained
        assert one.record() | {"curve": []} == trained.record() | {"curve": []}
        assert np.array(one.curve) == pytest.approx(np.array(trained.curve), abs=1e-4)


def test_companions_do_not_matter() -> None:
    protocol = replace(SCENES, max_epochs=12, patience=2)  # so that some are dropped before others
    together = stage(scenes(), protocol, many=True).tried
    assert len({each.epochs for each in together}) > 1
    for index in (0, 3, 6):
        alone = stage(scenes(), protocol, points=[GRID[index]], many=True).tried[0]
        assert same(alone, together[index])


def test_folds_of_other_sizes() -> None:
    rows = scenes() | {"w": scenes(31)["w"]}
    partitions = (*SCENES.partitions, (("x", "z"), "y", "w"), (("y", "z"), "w", "x"))
    alone = stage(rows, replace(SCENES, partitions=partitions[:2]), points=GRID[:1], many=True)
    together = stage(rows, replace(SCENES, partitions=partitions), points=GRID[:1], many=True)
    assert len(together.tested) == 4
    assert all(same(one.trained, other.trained) for one, other in zip(alone.tested, together.tested))


def test_random_numbers_of_the_caller() -> None:
    before = torch.get_rng_state()
    stage(scenes(), SCENES, points=GRID[:1])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("count", [1, 1025])
def test_one_row_left_over(count: int) -> None:
    rows = {name: Rows(torch.zeros(count, 4), torch.eye(3)[[0] * count]) for name in "xyzw"}
    protocol = replace(SCENES, partitions=((("x",), "z", "w"),))
    with pytest.raises(InputError, match=f"of the {count} training rows of x one is left over"):
        stage(rows, protocol)


def test_nothing_predicted_ends_a_point() -> None:
    rows, protocol = events(scale=1e-6)
    silent = replace(rows["train"], targets=torch.zeros(300, 2))  # nothing to learn: no event is ever predicted
    done = stage({**rows, "train": silent}, protocol, points=GRID[2:4])
    assert [(each.valid, each.best_epoch, each.epochs) for each in done.tried] == [(-math.inf, 9, 10)] * 2
    assert done.winner == 0 and math.isnan(done.tested[0].scores["event_onset_200ms_fms"])
    assert done.tested[0].scores["segment_1s_er"] == 1.0


def test_postprocessing_of_the_best_epoch() -> None:
    done = stage(*events(), points=GRID[2:3])
    assert done.tried[0].valid == 1.0
    assert done.tried[0].postprocessing == (250.0, 250.0)  # both are right: the longer
    assert done.tested[0].scores["event_onset_200ms_fms"] == 1.0
    assert [event["label"] for event in done.tested[0].events["f.wav"]] == ["a"] * 3


def test_steps_are_capped() -> None:
    done = stage(scenes(), SCENES, points=GRID[:2], max_steps=1)
    assert [(each.epochs, each.best_epoch) for each in done.tried] == [(1, 0)] * 2


def protocols() -> Sequence[Any]:
    return [
        ({"metrics": ("segment_1s_er",)}, "a scene task is scored by .* got 'segment_1s_er'"),
        ({"metrics": ()}, "got no metric"),
        ({"prediction": "binary"}, "a prediction is 'multiclass' or 'multilabel', got 'binary'"),
        ({"partitions": ((("x",), "q", "w"),)}, "a partition needs split q, but there are only x, y, z, w"),
        ({"labels": ("a", "b")}, r"targets are \(rows, labels\)"),
    ]


@pytest.mark.parametrize(("change", "message"), protocols())
def test_refuses_protocols(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        stage(scenes(), replace(SCENES, **change))


def test_refuses_rows() -> None:
    rows = scenes()
    broken = replace(rows["z"], x=rows["z"].x.clone().index_fill_(0, torch.tensor([3]), math.nan))
    with pytest.raises(InputError, match="embeddings are finite, got NaN or infinity in z"):
        stage({**rows, "z": broken}, SCENES)
    with pytest.raises(InputError, match="got 2 in row 0 of y"):
        stage({**rows, "y": replace(rows["y"], targets=1 - rows["y"].targets)}, SCENES)
    rows, protocol = events()
    with pytest.raises(InputError, match="got 0 for 300 in train"):
        stage({**rows, "train": replace(rows["train"], times={})}, protocol)
    with pytest.raises(InputError, match="choices of post-processing"):
        stage(rows, replace(protocol, use_scoring=False))


def test_log_and_progress() -> None:
    lines: list[str] = []
    parts: list[tuple[float, int]] = []
    stage(scenes(), SCENES, points=GRID[:2], log=lines.append, progress=lambda *part: parts.append(part))
    assert len(lines) == 4 and "point" in lines[2]
    assert [part for part, _ in parts] == sorted(part for part, _ in parts)
    assert parts[-1] == (3.0, 3)
