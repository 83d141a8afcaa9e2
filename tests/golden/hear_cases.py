"""Random cases for the metrics of HEAR, the same for the reference and for the zoo, drawn as those of SUPERB are."""

from __future__ import annotations

from typing import Any

from tests.golden.superb_cases import Draw

CASES = 1000
LABELS = ["clearthroat", "cough", "7", "ü"]
COLLARS = [50.0, 200.0]


def clips(case: int) -> tuple[list[list[float]], list[list[int]]]:
    """Probabilities (N, V), often tied, and targets (N, V); classes without or with nothing but positives are met."""
    draw = Draw("clips", case)
    count, classes = 1 + draw.below(draw.of([8, 60, 60])), draw.of([1, 2, 2, 2, 3, 3, 4, 13])
    digits, gap = draw.of([1, 2, 6]), draw.of([0.0, 0.0, 0.1, 0.3, 1.0])
    if draw.chance(0.5):
        among = draw.of([classes, classes, max(1, classes - 1)])  # the last class may be missing
        wanted = [row % among if row < among else draw.below(among) for row in range(count)]
        targets = [[int(column == label) for column in range(classes)] for label in wanted]
    else:
        share = draw.of([0.2, 0.4, 0.7])
        targets = [[int(draw.chance(share)) for _ in range(classes)] for _ in range(count)]
    return [[round((draw.random() + gap * hit) / (1 + gap), digits) for hit in row] for row in targets], targets


def events(case: int) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """Of each file, predicted and reference events, crowded and often just as far apart as is allowed."""
    draw = Draw("events", case)
    step, digits, span = draw.of([10, 20, 50, 1]), draw.of([0, 0, 3]), draw.of([300, 1500, 6000])
    silent, nothing = draw.of([0.0, 0.2]), draw.chance(0.03)
    labels = [*LABELS[:2], 7] if draw.chance(0.2) else LABELS[: 1 + draw.below(4)]

    def time(most: float) -> float:
        return round(most * draw.random(), digits) if digits else float(step * draw.below(int(most / step) + 1))

    def event() -> dict[str, Any]:
        start = time(span)
        return {"label": draw.of(labels), "start": start, "end": start + time(draw.of([0, 100, 400, 3000]))}

    def moved(event: dict[str, Any]) -> dict[str, Any]:
        """Onset and offset shifted by nothing, by as much as is allowed, by a little more or less, or by any time."""
        length, sign = event["end"] - event["start"], draw.of([-1, 1])
        shifts = [0.0, *COLLARS, 49.0, 51.0, 199.0, 201.0, time(300)]
        start = max(0.0, event["start"] + sign * draw.of(shifts))
        end = max(start, event["end"] + draw.of([-1, 1]) * draw.of([*shifts, 0.2 * length, 0.2 * length + 1]))
        return {"label": draw.of(labels) if draw.chance(0.1) else event["label"], "start": start, "end": end}

    predictions, references = {}, {}
    for index in range(1 + draw.below(3)):
        wanted = [] if draw.chance(silent) else draw.many(8, event, least=1)
        found = [moved(one) for one in wanted if draw.chance(0.8)] + (draw.many(4, event) if draw.chance(0.5) else [])
        if not draw.chance(0.1):  # else there is no prediction for it, and it does not count
            predictions[f"f{index}.wav"] = [] if nothing else found
        if wanted or draw.chance(0.5):
            references[f"f{index}.wav"] = wanted
    return predictions or {"g.wav": []}, references


def frames(case: int) -> tuple[list[list[float]], list[float], float, float]:
    """Probabilities (T, V), many of them 0.5, timestamps (T,) in ms, and the lengths of median and shortest event."""
    draw = Draw("frames", case)
    # SciPy's filter, and so the kit, reads beyond the file where a median is eight times as long.
    count, labels, hop = 5 + draw.below(80), 1 + draw.below(3), draw.of([10.0, 12.5, 20.0, 25.0, 50.0, 20.0001, 7.3])
    digits, change = draw.of([1, 3]), draw.of([0.05, 0.2, 0.5])
    rows, level = [], [draw.random() for _ in range(labels)]
    for _ in range(count):
        level = [draw.random() if draw.chance(change) else one for one in level]
        rows.append([0.5 if draw.chance(0.05) else round(min(1.0, one + 0.1 * draw.random()), digits) for one in level])
    first = draw.of([0.0, 12.5])
    times = [first + hop * index for index in range(count)]
    if draw.chance(0.2):
        rows, times = rows[::-1], times[::-1]
    return rows, times, draw.of([0.0, 150.0, 250.0, 250.0, 30.0, 3.0 * count * hop]), draw.of([0.0, 50.0, 125.0, 250.0])


def folder(event: bool) -> dict[str, dict[str, list[Any]]]:
    """Of each split of a folder, its files with a label, or with events, which overlap and end just at a frame."""
    draw = Draw("folder", int(event))

    def one() -> dict[str, Any]:
        start = draw.of([12.5 + 20 * draw.below(40), float(draw.below(800)), 0.0])
        length = draw.of([0.0, 20.0, 60.0, 20.00005, 19.9998, 300.0 * draw.random()])
        return {"label": draw.of(LABELS), "start": start, "end": start + length}

    return {
        split: {f"{split}-{index}.wav": (draw.many(9, one) if event else [draw.of(LABELS)]) for index in range(count)}
        for split, count in {"fold00": 11, "fold01": 7, "fold02": 1, "fold03": 8}.items()
    }
