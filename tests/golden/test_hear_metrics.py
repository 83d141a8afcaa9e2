"""The metrics of HEAR give what its own kit gave in a thousand cases each; variants that are wrong do not."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.golden import hear_cases as cases
from tests.golden import store
from tests.golden.compare import TOLERANCES
from zoo.benchmark import metrics

DATA = Path(__file__).parent / "hear" / "metrics"


@cache
def recorded() -> tuple[dict[str, Any], Mapping[str, np.ndarray]]:
    return json.loads(DATA.with_suffix(".json").read_text(encoding="utf-8")), store.read(DATA.with_suffix(".npz"))


def event_scores(metric: Callable[..., float], **options: Any) -> Callable[..., tuple[float, ...]]:
    """The metric, and precision and recall of the scores that it is of."""

    def compute(found: Any, wanted: Any) -> tuple[float, ...]:
        scores = metrics.event_scores(found, wanted, **options)
        return metric(found, wanted), scores.precision, scores.recall

    return compute


METRICS: Mapping[str, tuple[Callable[[int], Any], Callable[..., Any]]] = {
    "top1_acc": (cases.clips, metrics.top1_acc),
    "pitch_acc": (cases.clips, metrics.pitch_acc),
    "chroma_acc": (cases.clips, metrics.chroma_acc),
    "mAP": (cases.clips, metrics.mean_average_precision),
    "d_prime": (cases.clips, metrics.d_prime),
    "aucroc": (cases.clips, metrics.aucroc),
    "event_onset_200ms_fms": (cases.events, event_scores(metrics.event_onset_200ms_fms, collar_s=0.2)),
    "event_onset_50ms_fms": (cases.events, event_scores(metrics.event_onset_50ms_fms, collar_s=0.05)),
    "event_onset_offset_50ms_20perc_fms": (
        cases.events,
        event_scores(metrics.event_onset_offset_50ms_20perc_fms, collar_s=0.05, offset_share=0.2),
    ),
    "segment_1s_er": (cases.events, metrics.segment_1s_er),
}


def disagreements(name: str, compute: Callable[..., Any] | None = None) -> list[str]:
    """Cases in which a metric (None: the zoo's) is not as recorded; NaN and infinity have to be the same too."""
    draw, own = METRICS[name]
    wrong = []
    for case, want in enumerate(recorded()[1][name]):
        got = np.atleast_1d((compute or own)(*draw(case)))
        finite = np.isfinite(want)
        same = got.shape == want.shape and np.array_equal(got[~finite], want[~finite], equal_nan=True)
        if not same or (finite.any() and not TOLERANCES["metric"].excess(got[finite], want[finite]) <= 1):
            wrong.append(f"{name}, case {case}: got {got}, want {want}")
    return wrong


SLOW = {"mAP", "d_prime", "aucroc"}  # scikit-learn is called for every class


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in METRICS])
def test_metric(name: str) -> None:
    wrong = disagreements(name)
    assert not wrong, "\n".join([f"{len(wrong)} of {cases.CASES}", *wrong[:10]])


@cache
def recorded_events() -> list[list[tuple[float, ...]]]:
    """Of each case, index of the label, start and end of its events."""
    arrays = recorded()[1]
    ends = arrays["frames/count"].cumsum()[:-1]
    return [[tuple(event) for event in part.tolist()] for part in np.split(arrays["frames/events"], ends)]


def differing(compute: Callable[..., Any]) -> list[int]:
    """Cases in which events are not, to the bit and in their order, as recorded."""
    wrong = []
    for case, want in enumerate(recorded_events()):
        rows, times, median, shortest = cases.frames(case)
        names = [str(index) for index in range(len(rows[0]))]
        got = compute(rows, times, names, median, shortest)
        if [(float(event["label"]), event["start"], event["end"]) for event in got] != want:
            wrong.append(case)
    return wrong


def test_events_from_frames() -> None:
    assert not differing(metrics.events_from_frames)


def test_all_that_is_recorded_is_compared() -> None:
    document, arrays = recorded()
    assert arrays.keys() == METRICS.keys() | {"frames/count", "frames/events"}
    assert document["cases"] == cases.CASES
    assert all(len(arrays[name]) == cases.CASES for name in (*METRICS, "frames/count"))
    assert len(arrays["frames/events"]) == arrays["frames/count"].sum() > 2 * cases.CASES


def test_the_cases_meet_what_is_rare() -> None:
    document, arrays = recorded()
    # Cases without a finite value are there, but not most.
    assert 100 < document["not finite"]["aucroc"] < document["not finite"]["d_prime"] < 0.6 * cases.CASES
    d_prime = arrays["d_prime"]
    assert np.isposinf(d_prime).sum() > 20 and np.isneginf(d_prime).sum() > 0
    precision, recall = arrays["event_onset_50ms_fms"][:, 1:].T
    assert np.isnan(precision).sum() > 20 and np.isnan(recall).sum() > 20
    assert (arrays["segment_1s_er"] > 1e9).sum() > 5  # false events and no reference
    empty = sum(not any(hits) for case in range(cases.CASES) for hits in zip(*cases.clips(case)[1]))
    crowded = 0
    for case in range(cases.CASES):
        found, wanted = cases.events(case)
        for events in wanted.values():
            crowded += any(
                a is not b and a["label"] == b["label"] and a["start"] <= b["start"] < a["end"]
                for a in events
                for b in events
            )
        crowded += not found.keys() & wanted.keys()
    assert empty > 100 and crowded > 100


# --- canaries: a variant that a reader may take for the metric is caught ------------------------------------------


def last_of_equal(found: Any, wanted: Any) -> float:
    return float(np.mean([len(p) - 1 - np.argmax(p[::-1]) == np.argmax(t) for p, t in zip(found, wanted)]))


def octaves_of(tones: int) -> Callable[..., float]:
    return lambda found, wanted: float(
        np.mean([np.argmax(p) % tones == np.argmax(t) % tones for p, t in zip(found, wanted)])
    )


def of_classes(metric: Callable[..., float], combine: Callable[..., Any]) -> Callable[..., float]:
    """A metric of each class alone, combined otherwise."""

    def compute(found: Any, wanted: Any) -> float:
        p, t = np.array(found, dtype=float), np.array(wanted)
        some = [k for k in range(t.shape[1]) if t[:, k].any() and (metric is not metrics.aucroc or not t[:, k].all())]
        return float(combine([metric(p[:, [k]], t[:, [k]]) for k in some])) if some else math.nan

    return compute


def pooled_precision(found: Any, wanted: Any) -> float:
    return metrics.mean_average_precision(np.reshape(found, (-1, 1)), np.reshape(wanted, (-1, 1)))


def quantile_of_the_mean(found: Any, wanted: Any) -> float:
    area = metrics.aucroc(found, wanted)
    return math.sqrt(2) * float(metrics._library("scipy.special").ndtri(area))


def patched(name: str, **changes: Any) -> Callable[..., Any]:
    def compute(found: Any, wanted: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            for what, change in changes.items():
                patch.setattr(metrics, what, change)
            return METRICS[name][1](found, wanted)

    return compute


def pairing(
    greedy: bool = False, closed: bool = True, share: float | None = None, seconds: bool = True
) -> Callable[..., int]:
    """Pairs in plain loops: first come, first served or as many as possible (by augmenting paths)."""

    def paired(found: Any, wanted: Any, collar: float, given: float | None) -> int:
        scale = 1.0 if seconds else 1000.0
        part = given if share is None else share

        def near(f: Any, w: Any) -> bool:
            onset = abs(scale * w[0] - scale * f[0])
            if not (onset <= scale * collar if closed else onset < scale * collar):
                return False
            return given is None or abs(w[1] - f[1]) <= max(collar, part * (w[1] - w[0]))

        taken: dict[int, int] = {}

        def place(w: int, seen: set[int]) -> bool:
            for f in range(len(found)):
                if near(found[f], wanted[w]) and f not in seen:
                    seen.add(f)
                    if f not in taken or (not greedy and place(taken[f], seen)):
                        taken[f] = w
                        return True
            return False

        return sum(place(w, set()) for w in range(len(wanted)))

    return paired


def mean_over_files(found: Any, wanted: Any) -> tuple[float, ...]:
    compute = METRICS["event_onset_200ms_fms"][1]
    return tuple(np.mean([compute({name: events}, wanted) for name, events in found.items()], axis=0))


def all_files(name: str) -> Callable[..., Any]:
    """Files without a prediction counted as files without predicted events."""
    return lambda found, wanted: METRICS[name][1]({**dict.fromkeys(wanted, ()), **found}, wanted)


def zero_for_nothing(found: Any, wanted: Any) -> tuple[float, ...]:
    return tuple(0.0 if math.isnan(x) else x for x in METRICS["event_onset_200ms_fms"][1](found, wanted))


def whole_seconds(**rounding: Callable[[float], int]) -> Callable[..., Any]:
    return patched("segment_1s_er", math=SimpleNamespace(**{**vars(math), **rounding}))


def false_and_missed(found: Any, wanted: Any) -> float:
    """Without substitutions: a wrong label is one too many and one lacking."""
    errors: Counter[bool] = Counter()
    for name, events in found.items():
        sides = [
            {
                (str(e["label"]), second)
                for e in side
                for second in range(math.floor(e["start"] / 1000), math.ceil(e["end"] / 1000))
            }
            for side in (events, wanted.get(name, ()))
        ]
        errors[True] += len(sides[0] ^ sides[1])
        errors[False] += len(sides[1])
    return float(errors[True] / (errors[False] + np.spacing(1)))


CANARIES: list[tuple[str, str, Callable[..., Any]]] = [
    ("top1_acc", "the last of equal ones", last_of_equal),
    ("pitch_acc", "octaves are right", metrics.chroma_acc),
    ("chroma_acc", "octaves are wrong", metrics.top1_acc),
    ("chroma_acc", "eleven tones", octaves_of(11)),
    ("mAP", "pooled over classes", pooled_precision),
    ("mAP", "empty classes left out", of_classes(metrics.mean_average_precision, np.mean)),
    ("mAP", "area under the ROC curve", metrics.aucroc),
    ("aucroc", "empty classes left out", of_classes(metrics.aucroc, np.mean)),
    ("d_prime", "of the mean area", quantile_of_the_mean),
    ("event_onset_200ms_fms", "first come, first served", patched("event_onset_200ms_fms", _paired=pairing(True))),
    ("event_onset_200ms_fms", "open collar", patched("event_onset_200ms_fms", _paired=pairing(closed=False))),
    ("event_onset_200ms_fms", "half the collar", METRICS["event_onset_50ms_fms"][1]),
    ("event_onset_200ms_fms", "mean over files", mean_over_files),
    ("event_onset_200ms_fms", "all files of the reference", all_files("event_onset_200ms_fms")),
    ("event_onset_200ms_fms", "nothing predicted is 0", zero_for_nothing),
    ("event_onset_50ms_fms", "in milliseconds", patched("event_onset_50ms_fms", _paired=pairing(seconds=False))),
    ("event_onset_offset_50ms_20perc_fms", "onsets alone", METRICS["event_onset_50ms_fms"][1]),
    (
        "event_onset_offset_50ms_20perc_fms",
        "collar alone",
        patched("event_onset_offset_50ms_20perc_fms", _paired=pairing(share=0.0)),
    ),
    (
        "event_onset_offset_50ms_20perc_fms",
        "half of the length",
        patched("event_onset_offset_50ms_20perc_fms", _paired=pairing(share=0.5)),
    ),
    ("segment_1s_er", "begun seconds left out", whole_seconds(floor=math.ceil)),
    ("segment_1s_er", "last second left out", whole_seconds(ceil=math.floor)),
    ("segment_1s_er", "a wrong label counts twice", false_and_missed),
    ("segment_1s_er", "all files of the reference", all_files("segment_1s_er")),
]


@pytest.mark.parametrize(
    ("name", "variant", "compute"),
    [pytest.param(*each, marks=pytest.mark.slow if each[0] in SLOW else ()) for each in CANARIES],
    ids=lambda value: value if type(value) is str else "",
)
def test_a_wrong_variant_is_caught(name: str, variant: str, compute: Callable[..., Any]) -> None:
    # It is wrong in some cases, and not a wreck that is wrong in all.
    assert 3 <= len(disagreements(name, compute)) < 0.95 * cases.CASES


@pytest.mark.parametrize("name", [name for name in METRICS if name.endswith("fms")])
def test_the_plain_pairing_of_the_canaries_is_right(name: str) -> None:
    assert not disagreements(name, patched(name, _paired=pairing()))


def loops(
    above: Callable[[float], bool] = lambda p: p > 0.5,
    rounding: Callable[[float], int] = round,
    upper: bool = True,
    late: bool = True,
    mirror: Callable[[int, int], int] = lambda i, n: min(i % (2 * n), 2 * n - 1 - i % (2 * n)),
    hops: int = 0,
    keep: Callable[[float, float], bool] = lambda length, shortest: length >= shortest,
    by_start: bool = True,
) -> Callable[..., list[Any]]:
    """Events from the medians themselves, in plain loops."""

    def compute(rows: Any, times: Any, names: Any, median: float, shortest: float) -> list[Any]:
        ordered = sorted(zip(times, rows))
        times, hop = [time for time, _ in ordered], float(np.diff([time for time, _ in ordered]).mean())
        width, events = rounding(median / hop), []
        for index, name in enumerate(names):
            track = [row[index] for _, row in ordered]
            if width:
                begin = -(width // 2) if late else -((width - 1) // 2)
                middle, count = width // 2 if upper else (width - 1) // 2, len(track)
                around = [track[mirror(begin + t, count)] for t in range(count + width - 1)]
                track = [sorted(around[t : t + width])[middle] for t in range(count)]
            first = None
            for t, active in enumerate([*map(above, track), False]):
                if active and first is None:
                    first = t
                if not active and first is not None:
                    start, end = times[first], times[t - 1] + hops * hop
                    if keep(end - start, shortest):
                        events.append({"label": name, "start": start, "end": end})
                    first = None
        return sorted(events, key=lambda event: event["start"]) if by_start else events

    return compute


FRAME_CANARIES: dict[str, Callable[..., Any]] = {
    "a half is active": loops(above=lambda p: p >= 0.5),
    "half of a frame upwards": loops(rounding=lambda x: math.floor(x + 0.5)),
    "whole frames": loops(rounding=math.floor),
    "lower median": loops(upper=False),
    "even widths lean early": loops(late=False),
    "no filter": loops(rounding=lambda x: 0),
    "ends repeated": loops(mirror=lambda i, n: min(max(i, 0), n - 1)),
    "ends mirrored once": loops(mirror=lambda i, n: abs((i + n - 1) % (2 * n - 2) - (n - 1)) if n > 1 else 0),
    "a hop longer": loops(hops=1),
    "longer than the shortest": loops(keep=lambda length, shortest: length > shortest),
    "by label": loops(by_start=False),
}


@pytest.mark.parametrize("variant", FRAME_CANARIES)
def test_wrong_events_are_caught(variant: str) -> None:
    assert 3 <= len(differing(FRAME_CANARIES[variant])) < 0.95 * cases.CASES


def test_the_plain_loops_of_the_canaries_are_right() -> None:
    assert not differing(loops())
