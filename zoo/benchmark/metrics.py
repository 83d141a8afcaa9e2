"""The metrics of SUPERB and of HEAR.

SUPERB's are equal to those of s3prl 0.4.18 and, for diarization, of NIST's md-eval as dscore runs it; HEAR's to those
of its kit, heareval 2021.1.3. All are fractions, never percent. `tests/golden/make_superb_metrics.py` and
`make_hear_metrics.py` record what the references give. Where a reference divides by zero or fails, an `InputError`
says why, but where HEAR's kit gives NaN or infinity, so do these; deviations are stated where they are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import groupby
from types import ModuleType
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.errors import InputError

Turn = tuple[str, float, float]  # speaker, start and end in seconds
Array = npt.ArrayLike | Tensor


class Event(TypedDict):
    """What sounds from when to when, as the `{split}.json` of HEAR's event tasks lists it.

    Attributes:
        label: Its label; a number is the same label as its digits.
        start: Onset in milliseconds.
        end: Offset in milliseconds.
    """

    label: str | int
    start: float
    end: float


Events = Mapping[str, Sequence[Event]]  # of each file


def _library(name: str) -> ModuleType:
    """A module of the extra `benchmark`, imported when it is needed."""
    try:
        return import_module(name)
    except ImportError as error:
        package = name.partition(".")[0].replace("sklearn", "scikit-learn")
        raise InputError(
            f"this metric needs {package}, which cannot be imported ({error}): pip install {package}, or the zoo's "
            "extra 'benchmark'"
        ) from error


# --- recognition -------------------------------------------------------------------------------------------------


def wer(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Word error rate: edits over reference words, both summed over all utterances.

    Words are what white space parts, so an empty text has none: an empty reference adds the hypothesised words as
    errors and nothing to the divisor. That is the ASR of s3prl's `downstream/asr`; its v0.4 parts texts at single
    spaces, as `per` does.

    Raises:
        InputError: Not as many hypotheses as references, or no reference has a word.
    """
    return _error_rate([text.split() for text in hypotheses], [text.split() for text in references], "words")


def cer(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Character error rate: edits over reference characters, spaces included, both summed over all utterances.

    An empty reference adds the hypothesised characters as errors and nothing to the divisor (s3prl `metric.cer`).

    Raises:
        InputError: Not as many hypotheses as references, or no reference has a character.
    """
    return _error_rate(hypotheses, references, "characters")


def per(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Phone error rate: edits over reference phones, both summed over all utterances.

    Texts are parted at every single space, as s3prl's `metric.per` and `metric.wer` do: a leading, trailing or double
    space makes an empty phone, and an empty text is one empty phone, also in the divisor.

    Raises:
        InputError: Not as many hypotheses as references, or none.
    """
    return _error_rate([text.split(" ") for text in hypotheses], [text.split(" ") for text in references], "phones")


def _error_rate(hypotheses: Sequence[Sequence[str]], references: Sequence[Sequence[str]], units: str) -> float:
    """Edits over the length of the references, over the whole corpus."""
    distance = _library("rapidfuzz.distance").Levenshtein.distance
    errors = sum(distance(hypothesis, reference) for hypothesis, reference in _pairs(hypotheses, references))
    return _ratio(errors, sum(map(len, references)), f"the references have no {units}")


def _pairs(first: Sequence[Any], second: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    """Items that belong together; there must be as many of both, and some."""
    if len(first) != len(second):
        raise InputError(
            f"a metric compares equally many items, got {len(first)} and {len(second)}; give one for each reference"
        )
    if not len(first):
        raise InputError("a metric needs at least one item, got none; check that the split is not empty")
    return zip(first, second)


def _ratio(errors: float, total: float, nothing: str) -> float:
    if not total:
        raise InputError(f"an error rate is a share of the reference, but {nothing}; check the corpus")
    return float(errors / total)


# --- slots -------------------------------------------------------------------------------------------------------

# A slot in a marked-up text: "B-type value E-type". As in s3prl, its end is the first "E-type" that follows, also if
# that begins a longer word.
_SLOT = re.compile(r"B-(\S+) (.+?) E-\1")


def slot_type_f1(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """F1 of the set of slot types of an utterance (repeats ignored), averaged over utterances.

    1 where neither side has a slot, 0 where one has none. Source: s3prl `metric/slot_filling.py`, which fails on values
    or types with `:` or `;` in them; here they are like any others.

    Args:
        hypotheses: Texts in which `B-type ` and ` E-type` stand around the value of a slot.
        references: The same.

    Raises:
        InputError: Not as many hypotheses as references, or none.
    """
    scores = []
    for hypothesis, reference in _pairs(hypotheses, references):
        found, wanted = _slots(hypothesis, clean=True).keys(), _slots(reference).keys()
        both = len(found) + len(wanted)
        scores.append(2 * len(found & wanted) / both if both else 1.0)
    return sum(scores) / len(scores)


def slot_value_cer(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Character error rate of slot values, over all reference values.

    Each reference value is compared with the closest hypothesised value of its type, which may serve again, or with an
    empty one if there is none; surplus values cost nothing. Arguments and source as in `slot_type_f1`.

    Raises:
        InputError: Not as many hypotheses as references, or the references have no slot.
    """
    return _slot_value_error_rate(hypotheses, references, list, missing=[])


def slot_value_wer(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Word error rate of slot values, parted at single spaces; otherwise as `slot_value_cer`."""
    return _slot_value_error_rate(hypotheses, references, lambda value: value.split(" "), missing=[""])


def _slot_value_error_rate(
    hypotheses: Sequence[str], references: Sequence[str], split: Any, missing: Sequence[str]
) -> float:
    distance = _library("rapidfuzz.distance").Levenshtein.distance
    errors = total = 0
    for hypothesis, reference in _pairs(hypotheses, references):
        found = _slots(hypothesis, clean=True)
        for kind, values in _slots(reference).items():
            for value in map(split, values):
                distances = [distance(split(other), value) for other in found.get(kind, ())]
                # The reference takes no value whose error rate is 100 (not percent) or more.
                errors += min((d for d in distances if d < 100 * len(value)), default=distance(missing, value))
                total += len(value)
    return _ratio(errors, total, "the references have no slots")


def slot_edit_f1(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """F1 of slots with the right value, pooled over all types and utterances.

    A reference value that the hypothesis has under its type is a true positive; any other is a false negative, and a
    false positive too if the hypothesis has its type. Values of types that the reference lacks are false positives.
    Source: `slot_edit_f1_full` of s3prl `metric/slot_filling.py`. Arguments as in `slot_type_f1`.

    Raises:
        InputError: Not as many hypotheses as references, or neither has a slot.
    """
    right = wrong = 0
    for hypothesis, reference in _pairs(hypotheses, references):
        found, wanted = _slots(hypothesis, clean=True), _slots(reference)
        wrong += sum(len(values) for kind, values in found.items() if kind not in wanted)
        for kind, values in wanted.items():
            hits = sum(value in found.get(kind, ()) for value in values)
            right += hits
            wrong += (len(values) - hits) * (2 if kind in found else 1)
    return _ratio(2 * right, 2 * right + wrong, "neither references nor hypotheses have slots")


def _slots(text: str, clean: bool = False) -> dict[str, list[str]]:
    """The values of each type in a marked-up text; `clean` removes the markers inside a value."""
    slots: dict[str, list[str]] = {}
    for kind, value in _SLOT.findall(re.sub(" +", " ", text)):
        if clean:
            value = re.sub(r" E-\S+", "", re.sub(r"B-\S+ ", "", value))
        slots.setdefault(kind, []).append(value)
    return slots


# --- classification and verification -----------------------------------------------------------------------------


def accuracy(predictions: Sequence[object], labels: Sequence[object]) -> float:
    """Share of predictions that equal their label; a label may be anything, as the three slots of an intent.

    Raises:
        InputError: Not as many predictions as labels, or none.
    """
    same = [prediction == label for prediction, label in _pairs(predictions, labels)]
    return float(sum(same) / len(same))


def eer(scores: Array, labels: Array) -> float:
    """Equal error rate: the x in [0, 1] with 1 - x equal to the linearly interpolated true positive rate at x.

    Source: s3prl `metric.compute_eer`: scikit-learn's ROC curve and scipy's root finding.

    Args:
        scores: (N,), higher for trials of the same speaker.
        labels: (N,), 1 for those, else 0.

    Raises:
        InputError: Lengths differ, a score is not finite, or not both kinds of trials are there.
    """
    return _equal_error(scores, labels)[0]


def eer_threshold(scores: Array, labels: Array) -> float:
    """The score at the equal error rate, interpolated as in `eer`.

    The first point of the ROC curve, where nothing is accepted, counts as the highest score: its own is infinite in
    today's scikit-learn, and the reference's threshold with it.
    """
    return _equal_error(scores, labels)[1]


def _equal_error(scores: Array, labels: Array) -> tuple[float, float]:
    score, label = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if score.ndim != 1 or score.shape != label.shape:
        raise InputError(
            f"the equal error rate needs one score for each label, got shapes {score.shape} and {label.shape}"
        )
    if not np.isfinite(score).all():
        raise InputError("the equal error rate needs finite scores, got NaN or infinity; check the embeddings")
    if set(np.unique(label)) != {0, 1}:
        raise InputError(
            f"the equal error rate needs trials labelled 1 and trials labelled 0, got {sorted(set(label.tolist()))}"
        )
    false_positive, true_positive, thresholds = _library("sklearn.metrics").roc_curve(label, score, pos_label=1)
    rate = _library("scipy.optimize").brentq(lambda x: 1.0 - x - np.interp(x, false_positive, true_positive), 0.0, 1.0)
    return float(rate), float(np.interp(rate, false_positive, np.minimum(thresholds, score.max())))


# --- diarization -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DiarizationErrors:
    """Speaker time in seconds; where two speak at once, time counts twice.

    Attributes:
        scored: Time of the reference's speakers.
        miss: Reference speakers beyond the number that the system has.
        false_alarm: System speakers beyond the number that the reference has.
        confusion: Speakers on both sides that are not the same.
    """

    scored: float
    miss: float
    false_alarm: float
    confusion: float

    @property
    def rate(self) -> float:
        """The diarization error rate.

        Raises:
            InputError: The reference has no speech.
        """
        return _ratio(self.miss + self.false_alarm + self.confusion, self.scored, "the reference has no speech")


def der(reference: Mapping[str, Sequence[Turn]], system: Mapping[str, Sequence[Turn]]) -> float:
    """Diarization error rate over all recordings, as `diarization_errors` counts."""
    return diarization_errors(reference, system).rate


def diarization_errors(
    reference: Mapping[str, Sequence[Turn]], system: Mapping[str, Sequence[Turn]]
) -> DiarizationErrors:
    """Counts as NIST's md-eval version 22 does for dscore: no collar, overlapped speech scored, pooled.

    In each recording, system speakers are paired with reference speakers so that most time agrees. Turns of a speaker
    that overlap are joined; then onsets and durations are rounded to milliseconds, as dscore writes them for md-eval.
    As there, a recording without reference turns does not count, whatever the system says of it.

    Args:
        reference: For each recording, turns as (speaker, start, end) in seconds.
        system: The same; a recording that it lacks has no turns.

    Raises:
        InputError: A turn does not end after it starts, or starts before 0.
    """
    parts = [_recording_errors(name, turns, system.get(name, ())) for name, turns in reference.items() if turns]
    scored, miss, false_alarm, confusion = (sum(part) / 1000 for part in zip(*parts)) if parts else (0.0,) * 4
    return DiarizationErrors(scored, miss, false_alarm, confusion)


def _recording_errors(name: str, reference: Sequence[Turn], system: Sequence[Turn]) -> tuple[int, int, int, int]:
    """Scored, missed, false and confused speaker time of a recording, in milliseconds: integers, thus exact."""
    for speaker, start, stop in (*reference, *system):
        if not 0 <= start < stop < math.inf:
            raise InputError(
                f"a turn starts at 0 s or later and ends after that; in recording {name}, "
                f"one of speaker {speaker} is from {start} to {stop} s: leave it out or correct it"
            )
    end = max(_milliseconds(stop) for _, _, stop in (*reference, *system))
    sides = [_spans(turns, end) for turns in (reference, system)]
    edges = np.unique([edge for side in sides for spans in side for span in spans for edge in span])
    active = [np.zeros((len(side), len(edges) - 1), dtype=np.int64) for side in sides]  # (speakers, pieces)
    for side, rows in zip(sides, active):
        for spans, row in zip(side, rows):
            for start, stop in spans:
                row[np.searchsorted(edges, start) : np.searchsorted(edges, stop)] = 1
    lengths = np.diff(edges)
    wanted, found = (rows.sum(0) for rows in active)
    agreed = (active[0] * lengths) @ active[1].T
    correct = agreed[_library("scipy.optimize").linear_sum_assignment(agreed, maximize=True)].sum()
    return (
        int(lengths @ wanted),
        int(lengths @ np.maximum(wanted - found, 0)),
        int(lengths @ np.maximum(found - wanted, 0)),
        int(lengths @ np.minimum(wanted, found) - correct),
    )


def _spans(turns: Sequence[Turn], end: int) -> list[list[tuple[int, int]]]:
    """Of each speaker, the joined turns from start to stop in milliseconds."""
    sides = []
    for _, group in groupby(sorted(turns), key=lambda turn: turn[0]):
        joined: list[list[float]] = []
        for _, start, stop in group:
            if joined and start < joined[-1][1]:
                joined[-1][1] = max(joined[-1][1], stop)
            else:
                joined.append([start, stop])
        onsets = [(_milliseconds(start), _milliseconds(stop - start)) for start, stop in joined]
        sides.append([(onset, min(onset + duration, end)) for onset, duration in onsets])
    return sides


def _milliseconds(seconds: float) -> int:
    return round(1000 * round(seconds, 3))


def frame_der(predicted: Array, reference: Array) -> float:
    """Diarization error rate of the frames of one chunk, by which v0.4 selects checkpoints on the dev set.

    Speakers are paired as training does: the order of least binary cross entropy. Source: s3prl `metric/diarization.py`
    and `downstream/diarization`, which average it over chunks.

    Args:
        predicted: (T, S), logits, a speaker being active above 0; or booleans, paired for most agreement.
        reference: (T, S), 1 or True where a speaker is active.

    Returns:
        Missed, false and confused speaker frames over reference speaker frames. 0 where nobody speaks, as there.

    Raises:
        InputError: The shapes differ or are not (T, S).
    """
    found, wanted = _aligned(predicted, reference)
    if not wanted.any():
        return 0.0
    both, speakers, active = (found & wanted).sum(1), wanted.sum(1), found.sum(1)
    # Misses and false alarms are what one side has more than the other, confusion what is left of the smaller one.
    return int((torch.maximum(speakers, active) - both).sum()) / int(speakers.sum())


def best_permutation_accuracy(predicted: Array, reference: Array) -> float:
    """Share of right cells (frame, speaker) of one chunk, by which v0.3 selects checkpoints on the dev set.

    Arguments, pairing, source and errors as in `frame_der`; also 0 where nobody speaks, as there.
    """
    found, wanted = _aligned(predicted, reference)
    return float((found == wanted).double().mean()) if wanted.any() else 0.0


def _aligned(predicted: Array, reference: Array) -> tuple[Tensor, Tensor]:
    """Booleans (T, S) of both, the reference's columns in the order that fits the prediction best."""
    logits, wanted = torch.as_tensor(predicted), torch.as_tensor(reference).bool()
    if logits.ndim != 2 or logits.shape != wanted.shape:
        raise InputError(
            f"predicted and reference activity are both (frames, speakers), "
            f"got {tuple(logits.shape)} and {tuple(wanted.shape)}"
        )
    logits = (2.0 * logits.double() - 1.0 if logits.dtype == torch.bool else logits.double()).cpu()
    wanted = wanted.cpu()
    # softplus(x) - x y is the cross entropy of logit x; what does not depend on the pairing is left out.
    agreement = logits.T @ wanted.double()
    _, order = _library("scipy.optimize").linear_sum_assignment(agreement.numpy(), maximize=True)
    return logits > 0, wanted[:, torch.from_numpy(order)]


# --- query by example --------------------------------------------------------------------------------------------


def mtwv(
    scores: Array,
    targets: Array,
    *,
    target_prior: float = 0.0008,
    false_alarm_cost: float = 1.0,
    miss_cost: float = 100.0,
    missing: float = -10.0,
) -> float:
    """Maximum term-weighted value: 1 - P_miss - beta P_fa, averaged over queries, at the best threshold for all.

    beta = false_alarm_cost / miss_cost * (1 / target_prior - 1), 12.49 unless told. P_miss is the share of a query's
    matching documents that score below the threshold, P_fa that of the others that do not. A threshold above all
    scores gives 0, so this is never less. Definition: MediaEval 2013, Rodriguez-Fuentes and Penagarikano, "MediaEval
    2013 Spoken Web Search task: system performance measures". The constants are those of the scoring script of QUESST
    2015; those of the 2014 package, which SUPERB runs, have not been read: compare them before quoting.

    Args:
        scores: (queries, documents), NaN for a trial that was not reported.
        targets: (queries, documents), 1 or True where the document contains the query. Queries without any are left
            out of the average: they cannot be missed.
        target_prior: Prior probability of a match.
        false_alarm_cost: Cost of a false alarm.
        miss_cost: Cost of a miss.
        missing: The score of a trial that was not reported.

    Raises:
        InputError: The shapes differ or are not (queries, documents), or no query has a match.
    """
    score = torch.as_tensor(scores, dtype=torch.float64).cpu().nan_to_num(nan=missing)
    target = torch.as_tensor(targets).bool().cpu()
    if score.ndim != 2 or score.shape != target.shape:
        raise InputError(
            f"scores and targets are both (queries, documents), got {tuple(score.shape)} and {tuple(target.shape)}"
        )
    occurring = target.any(1)
    if not occurring.any():
        raise InputError("a term-weighted value needs queries that occur, but no query has a match; check the corpus")
    score, target = score[occurring], target[occurring]
    beta = false_alarm_cost / miss_cost * (1 / target_prior - 1)
    matches = target.sum(1, keepdim=True).double()
    others = (target.shape[1] - matches).clamp_min(1)  # none: then no weight is taken
    gain = torch.where(target, 1 / matches, -beta / others).flatten() / len(score)
    order = score.flatten().argsort(descending=True)
    ranked = score.flatten()[order]
    last = F.pad(ranked[:-1] != ranked[1:], (0, 1), value=True)  # trials of one score are accepted together
    return max(0.0, float(gain[order].cumsum(0)[last].max()))


# --- HEAR: rows of classes ---------------------------------------------------------------------------------------


def top1_acc(probabilities: Array, targets: Array) -> float:
    """Share of rows whose largest probability stands where the largest target does; of equal ones the first counts.

    Source of this and the metrics below: heareval 2021.1.3 `score.py`.

    Args:
        probabilities: (N, V).
        targets: (N, V), 0 or 1; several classes of a row may be 1.

    Raises:
        InputError: The shapes differ or are not (N, V), or values are not finite or not targets.
    """
    found, wanted = _rows(probabilities, targets)
    return float((found.argmax(1) == wanted.argmax(1)).mean())


pitch_acc = top1_acc  # of classes that are pitches


def chroma_acc(probabilities: Array, targets: Array) -> float:
    """Share of rows whose largest probability stands at an index that is right modulo 12, octaves apart.

    So classes have to be consecutive pitches. Arguments and errors as in `top1_acc`.
    """
    found, wanted = _rows(probabilities, targets)
    return float((found.argmax(1) % 12 == wanted.argmax(1) % 12).mean())


def mean_average_precision(probabilities: Array, targets: Array) -> float:
    """Average precision of each class against the rest, as scikit-learn sums it in steps, averaged over classes.

    A class without a positive row counts as 0, as scikit-learn has it from 1.1 on; until 1.0 the mean was NaN.
    HEAR's name is mAP. Arguments and errors as in `top1_acc`.
    """
    found, wanted = _rows(probabilities, targets)
    precision = _library("sklearn.metrics").average_precision_score
    return float(np.mean([precision(hit, score) if hit.any() else 0.0 for hit, score in zip(wanted.T, found.T)]))


def aucroc(probabilities: Array, targets: Array) -> float:
    """Area under the ROC curve of each class against the rest, averaged over classes.

    NaN if a class has no positive or no negative row. Arguments and errors as in `top1_acc`.
    """
    return float(_areas(probabilities, targets).mean())


def d_prime(probabilities: Array, targets: Array) -> float:
    """sqrt(2) times the normal quantile of the area under the ROC curve of each class, averaged over classes.

    NaN where `aucroc` is; infinite if a class is told from the rest without an error, minus infinite if always
    mistaken, and NaN if there are classes of both kinds. Arguments and errors as in `top1_acc`.
    """
    quantiles = _library("scipy.special").ndtri(_areas(probabilities, targets))
    with np.errstate(invalid="ignore"):
        return float((math.sqrt(2.0) * quantiles).mean())


def _areas(probabilities: Array, targets: Array) -> npt.NDArray[np.float64]:
    """(V,), the area under the ROC curve of each class; NaN where targets are all the same."""
    found, wanted = _rows(probabilities, targets)
    area = _library("sklearn.metrics").roc_auc_score
    classes = zip(wanted.T, found.T)
    return np.array([area(hit, score) if hit.any() and not hit.all() else math.nan for hit, score in classes])


def _rows(probabilities: Array, targets: Array) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Both sides (N, V)."""
    found, wanted = _numbers(probabilities), _numbers(targets)
    if found.ndim != 2 or found.shape != wanted.shape or not found.size:
        raise InputError(
            f"probabilities and targets are both (rows, classes) and not empty, got {found.shape} and {wanted.shape}"
        )
    if not np.isin(wanted, (0, 1)).all():
        raise InputError("targets are 0 or 1 for each class, got other numbers; give them one-hot, not as indices")
    return found, wanted == 1


# --- HEAR: events ------------------------------------------------------------------------------------------------


def events_from_frames(
    probabilities: Array, timestamps_ms: Array, labels: Sequence[str], median_filter_ms: float, min_duration_ms: float
) -> list[Event]:
    """The events of a file: where the running median of a label's probability is above 0.5 for long enough.

    An event starts and ends with the timestamps of its first and last frame. The median is over the odd or even number
    of frames that is nearest to `median_filter_ms` by the mean distance of timestamps (half to even); of an even number
    it is the upper one, and they begin half of it before the frame. Ends are mirrored, the last frame doubled. Source:
    heareval 2021.1.3 `predictions/task_predictions.py`, which fails on one frame (here it is not smoothed) and errs
    where a file is shorter than an eighth of the median, since SciPy then reads beyond it.

    Args:
        probabilities: (T, V).
        timestamps_ms: (T,), in any order; the events are the same.
        labels: V names.
        median_filter_ms: Length of the median; 0 for none.
        min_duration_ms: Least distance of first and last timestamp.

    Returns:
        Events by start, those of one start in the order of labels.

    Raises:
        InputError: Shapes do not fit, values are not finite, or two frames have the same timestamp.
    """
    probability, times = (_numbers(x) for x in (probabilities, timestamps_ms))
    if not times.size or probability.shape != (times.size, len(labels)) or times.ndim != 1:
        raise InputError(
            f"events need probabilities (frames, labels), one timestamp a frame and one name a label, "
            f"got {probability.shape}, {times.shape} and {len(labels)} names"
        )
    order = times.argsort(kind="stable")
    times, active = times[order], probability[order] > 0.5
    gaps = np.diff(times)
    if not gaps.all():
        raise InputError(
            f"frames have timestamps of their own, got {times[:-1][gaps == 0][0]} ms twice; give those of one file"
        )
    width = round(median_filter_ms / float(gaps.mean())) if len(gaps) else 0
    if width > 0:
        # The median of `width` values is above 0.5 if so many of them are: filtered are counts, not probabilities.
        ends = ((width // 2, width - 1 - width // 2), (0, 0))
        total = np.pad(active, ends, mode="symmetric").cumsum(0)
        total = np.pad(total, ((1, 0), (0, 0)))
        active = total[width:] - total[:-width] >= width - width // 2
    edges = np.diff(np.pad(active.T, ((0, 0), (1, 1))).astype(np.int8))  # (labels, frames + 1)
    (label, first), (_, after) = np.nonzero(edges == 1), np.nonzero(edges == -1)
    start, end = times[first], times[after - 1]
    kept = np.flatnonzero(end - start >= min_duration_ms)
    kept = kept[start[kept].argsort(kind="stable")]
    return [{"label": labels[label[i]], "start": float(start[i]), "end": float(end[i])} for i in kept]


@dataclass(frozen=True)
class EventScores:
    """Share of right events: among all predicted ones, among all of the reference, and the harmonic mean of both."""

    f_measure: float
    precision: float
    recall: float


def event_onset_200ms_fms(predictions: Events, references: Events) -> float:
    """F-measure of `event_scores` with onsets up to 0.2 s apart."""
    return event_scores(predictions, references, collar_s=0.2).f_measure


def event_onset_50ms_fms(predictions: Events, references: Events) -> float:
    """F-measure of `event_scores` with onsets up to 0.05 s apart."""
    return event_scores(predictions, references, collar_s=0.05).f_measure


def event_onset_offset_50ms_20perc_fms(predictions: Events, references: Events) -> float:
    """F-measure of `event_scores`: onsets up to 0.05 s apart, offsets up to 0.05 s or a fifth of the length."""
    return event_scores(predictions, references, collar_s=0.05, offset_share=0.2).f_measure


def event_scores(
    predictions: Events, references: Events, *, collar_s: float, offset_share: float | None = None
) -> EventScores:
    """Event-based precision and recall over all files and labels, as sed_eval 0.2.1 counts under HEAR's kit.

    A predicted event is right if it is paired with one of the reference that has its label and starts at most
    `collar_s` from it, in seconds of float64; as many as possible are paired. Nothing predicted: precision and
    F-measure are NaN; nothing in the reference: recall and F-measure are. Nothing right otherwise: all are 0.

    Args:
        predictions: The events of each file.
        references: The same; only files among the predictions count, and one that is lacking has no events.
        collar_s: Largest distance of onsets, in seconds.
        offset_share: Also offsets have to be near: `collar_s` or this share of the reference's length, whichever is
            more. None: they do not matter.

    Raises:
        InputError: There is no file, or an event lacks something or does not end after it starts.
    """
    right = predicted = wanted = 0
    for found, reference in _files(predictions, references):
        right += sum(_paired(found[k], reference[k], collar_s, offset_share) for k in found.keys() & reference.keys())
        predicted += sum(map(len, found.values()))
        wanted += sum(map(len, reference.values()))
    precision, recall = (right / total if total else math.nan for total in (predicted, wanted))
    both = precision + recall  # 0 or NaN: so is the F-measure
    return EventScores(2 * precision * recall / both if both else 0.0, precision, recall)


def segment_1s_er(predictions: Events, references: Events) -> float:
    """Segment-based error rate in segments of one second, as sed_eval 0.2.1 counts under HEAR's kit.

    A label is active in every second that one of its events touches. Labels that are wrong, lacking and too many, over
    those of the reference, summed over segments and files: 1 if nothing is predicted, and it may be more. As there, a
    reference without events divides by 2.2e-16. Arguments, files that count and errors as in `event_scores`.
    """
    substituted = deleted = inserted = total = 0
    for sides in _files(predictions, references):
        labels = sorted(sides[0].keys() | sides[1].keys())
        seconds = max((math.ceil(spans[:, 1].max()) for side in sides for spans in side.values()), default=0)
        found, wanted = (np.zeros((len(labels), seconds), dtype=bool) for _ in sides)
        for active, side in zip((found, wanted), sides):
            for row, label in zip(active, labels):
                for start, end in side.get(label, ()):
                    row[math.floor(start) : math.ceil(end)] = True
        more = wanted.sum(0) - found.sum(0)  # (seconds,)
        substituted += int((np.minimum(found.sum(0), wanted.sum(0)) - (found & wanted).sum(0)).sum())
        deleted += int(more.clip(min=0).sum())
        inserted -= int(more.clip(max=0).sum())
        total += int(wanted.sum())
    return sum(float(errors / (total + np.spacing(1))) for errors in (substituted, deleted, inserted))


HEAR_SCENES = {
    "top1_acc": top1_acc,
    "pitch_acc": pitch_acc,
    "chroma_acc": chroma_acc,
    "mAP": mean_average_precision,
    "d_prime": d_prime,
    "aucroc": aucroc,
}
"""Metrics of clips by HEAR's names, of probabilities and targets."""
HEAR_EVENTS = {
    "event_onset_200ms_fms": event_onset_200ms_fms,
    "event_onset_50ms_fms": event_onset_50ms_fms,
    "event_onset_offset_50ms_20perc_fms": event_onset_offset_50ms_20perc_fms,
    "segment_1s_er": segment_1s_er,
}
"""Metrics of recordings, of predicted and reference events."""
HEAR_LOWER = frozenset({"segment_1s_er"})
"""Those of which less is better."""

Spans = npt.NDArray[np.float64]  # (events, 2), onsets and offsets in seconds


def _files(predictions: Events, references: Events) -> Iterator[tuple[dict[str, Spans], dict[str, Spans]]]:
    """Predicted and reference events of each file, by label."""
    if not predictions:
        raise InputError("event scores need the predictions of at least one file, got none; files may have no events")
    for name, events in predictions.items():
        yield _by_label(name, events), _by_label(name, references.get(name, ()))


def _by_label(name: str, events: Sequence[Event]) -> dict[str, Spans]:
    """Of each label, its events."""
    found: dict[str, list[tuple[float, float]]] = {}
    for event in events:
        try:
            label, start, end = str(event["label"]), event["start"] / 1000.0, event["end"] / 1000.0
        except (KeyError, TypeError) as error:
            raise InputError(
                f"an event has label, start and end, the times in milliseconds; in file {name}, one is {event!r}"
            ) from error
        if not 0 <= start <= end < math.inf:
            raise InputError(
                f"an event starts at 0 ms or later and ends no earlier; in file {name}, one is {event!r}: correct it"
            )
        found.setdefault(label, []).append((start, end))
    return {label: np.array(spans) for label, spans in found.items()}


def _paired(found: Spans, wanted: Spans, collar: float, share: float | None) -> int:
    """How many events can be paired."""
    near = np.abs(wanted[:, :1] - found[:, 0]) <= collar  # (wanted, found)
    if share is not None:
        near &= np.abs(wanted[:, 1:] - found[:, 1]) <= np.maximum(collar, share * (wanted[:, 1:] - wanted[:, :1]))
    graph = _library("scipy.sparse").csr_matrix(near)
    return int((_library("scipy.sparse.csgraph").maximum_bipartite_matching(graph) >= 0).sum())


def _numbers(values: Array) -> npt.NDArray[np.float64]:
    """Finite numbers of any kind as float64, which holds those of fewer bits exactly."""
    plain = values.detach().cpu().double() if isinstance(values, Tensor) else values
    numbers: npt.NDArray[np.float64] = np.asarray(plain, dtype=np.float64)
    if not np.isfinite(numbers).all():
        raise InputError("a metric needs finite numbers, got NaN or infinity; check the embeddings and the predictor")
    return numbers
