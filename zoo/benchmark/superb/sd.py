"""Speaker diarization on Libri2Mix: who speaks in each frame.

Shapes: B batch, T frames, S speakers.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from zoo.benchmark import heads, losses, metrics, synthesis
from zoo.benchmark._task import Corpus, Item, Layout, Recipe, Selection, Task
from zoo.benchmark.corpora import kaldi_recordings
from zoo.benchmark.objectives import Objective, duration_s
from zoo.errors import InputError, cut

RATE = 16_000
CHUNK_FRAMES = 2_000
TOLERANCE_FRAMES = 2  # between what the upstream gives and what the recording's duration promises, as in v0.4
THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
MEDIANS = (1, 11)  # frames
LAYOUT = Layout(
    folder="Libri2Mix",
    files={
        f"{split}/{name}": 1
        for split in ("train", "dev", "test")
        for name in ("wav.scp", "segments", "utt2spk", "reco2dur", "rttm")
    },
    items={"train": 13_900, "valid": 3_000, "test": 3_000},
    source="generate_librimix_sd.sh and prepare_diarization.py of https://github.com/s3prl/LibriMix make the Kaldi "
    "folders train, dev and test, and the audio that their wav.scp name, from LibriSpeech and WHAM noise",
    licence="LibriSpeech CC BY 4.0, WHAM noise CC BY-NC 4.0, LibriMix MIT",
)


def corpus(root: Path) -> Corpus:
    """Kaldi folders `train`, `dev` and `test`, with wav.scp, segments, utt2spk, reco2dur and rttm.

    Raises:
        InputError: a file is missing, or not of this format.
    """
    root = Path(root)
    for path in (root / split / name for split in ("train", "dev", "test") for name in ("reco2dur", "rttm")):
        if not path.is_file():
            raise InputError(
                f"speaker diarization was to be read from {root}, which has no {path.relative_to(root)}; `python -m "
                "zoo.benchmark check-data` says what belongs there"
            )
    return {name: kaldi_recordings(root / split) for name, split in (("train",) * 2, ("valid", "dev"), ("test",) * 2)}


class Diarization(Objective):
    """Activity of every speaker in every frame, whatever their order: permutation-free binary cross entropy.

    Recordings are cut into chunks of 2000 frames, whose ids are `recording#first-last` in samples at 16 kHz. A
    prediction is the chunk's logits (T, S). Frames are the upstream's own, so that a chunk has as many of them as
    labels when recipes ask for `frames="ceil"`; that is also how both versions of the reference fill the one frame that
    most upstreams lack.

    Deviations, which recordings of one chunk hardly meet: a segment that begins before and ends after a chunk is
    labelled in it, which the reference forgets; one of less than half a frame at the edge of a chunk is not, where it
    labels the whole chunk; and nothing is said of the padding behind a recording's last chunk, which it scores.

    Args:
        corpus: recordings with `segments`, (speaker, start, end) in seconds; `turns`, the same from an rttm file, and
            `duration_s` if known.
        hop_samples: samples between frames.
        rounded_reference: test against segments with two decimals (v0.4), and not against what the rttm says.
    """

    def __init__(self, corpus: Corpus, hop_samples: int, *, rounded_reference: bool = False) -> None:
        self.hop = hop_samples
        self.rounded = rounded_reference
        self.output_size = max((len(_speakers(item)) for item in corpus.get("train", {}).values()), default=0)
        if not self.output_size:
            raise InputError(
                "diarization needs recordings with segments, (speaker, start, end) in seconds; training has none"
            )

    def items(self, split: str, items: Mapping[str, Item]) -> dict[str, Item]:
        """Chunks of recordings; samples that fill no frame are left out."""
        chunks = {}
        for name, item in items.items():
            total = int(duration_s(item) * RATE / self.hop)
            for start in range(0, total, CHUNK_FRAMES):
                stop = min(start + CHUNK_FRAMES, total)
                chunks[f"{name}#{start * self.hop}-{stop * self.hop}"] = {
                    **item,
                    "recording": name,
                    "frames": (start, stop),
                    "start_s": start * self.hop / RATE,
                    "end_s": stop * self.hop / RATE,
                }
        return chunks

    def target(self, item: Item) -> Tensor:
        """Labels (T, S), speakers in the order of their names; a segment's edges are rounded to the nearest frame."""
        speakers = _speakers(item)
        if len(speakers) > self.output_size:
            raise InputError(
                f"a recording has {len(speakers)} speakers, more than the {self.output_size} of any in the training "
                f"set: {cut(str(item.get('wav_path')))}"
            )
        first, last = item["frames"]
        labels = torch.zeros(last - first, self.output_size)
        for speaker, start_s, end_s in item["segments"]:
            start, stop = (round(edge * RATE / self.hop) - first for edge in (start_s, end_s))
            labels[max(start, 0) : max(stop, 0), speakers.index(speaker)] = 1
        return labels

    def check(self, split: str, item: Item) -> None:
        """Refuse what has no target; a test needs none, whoever speaks in it."""
        if split != "test":
            self.target(item)

    def label_length(self, item: Item) -> int:
        """Frames of a chunk."""
        first, last = item["frames"]
        return int(last - first)

    def loss(self, module: nn.Module | None, y: Tensor, y_len: Tensor, targets: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """`losses.pit_bce` of the logits (B, T, S)."""
        lengths = [len(target) for target in targets]
        logits = pad_sequence([_fitted(*one) for one in zip(y.float(), y_len.tolist(), lengths)], batch_first=True)
        labels = pad_sequence(list(targets), batch_first=True).to(y.device)
        total, count = losses.pit_bce(logits, labels, torch.tensor(lengths, device=y.device))
        return total, count.to(total)

    def predict(self, y: Tensor, y_len: Tensor, items: Sequence[Item]) -> list[Any]:
        """Logits (T, S) of each chunk."""
        lengths = [self.label_length(item) for item in items]
        return [_fitted(*one).cpu() for one in zip(y.float(), y_len.tolist(), lengths)]

    def metrics(self, split: str, predictions: Mapping[str, Any], items: Mapping[str, Item]) -> dict[str, float]:
        """Of the test set `der`, the least over thresholds and median filters, and which they are.

        Of other splits `accuracy`, the share of right cells (frame, speaker), and `frame_der`: means over chunks.
        """
        if split != "test":
            pairs = [(predictions[name], self.target(item)) for name, item in items.items()]
            return {
                "accuracy": float(np.mean([metrics.best_permutation_accuracy(*pair) for pair in pairs])),
                "frame_der": float(np.mean([metrics.frame_der(*pair) for pair in pairs])),
            }
        reference = self._reference(items)
        activity = {name: (parts, hop) for name, parts, hop in recordings(predictions) if name in reference}
        found = {}
        for threshold in THRESHOLDS:
            for median in MEDIANS:
                system = {name: turns(parts, hop, threshold, median) for name, (parts, hop) in activity.items()}
                found[threshold, median] = metrics.der(reference, system)
        threshold, median = min(found, key=lambda pair: found[pair])
        return {"der": found[threshold, median], "threshold": threshold, "median_filter": float(median)}

    def chance(self, items: Mapping[str, Item]) -> float:
        """The least diarization error rate of saying the same of every frame: so many speakers, or none."""
        reference = self._reference(items)
        ends: dict[str, float] = {}
        for item in items.values():
            ends[item["recording"]] = max(item["end_s"], ends.get(item["recording"], 0.0))
        rates = [
            metrics.der(reference, {name: [(str(k), 0.0, end_s) for k in range(n)] for name, end_s in ends.items()})
            for n in range(self.output_size + 1)
        ]
        return min(rates)

    def _reference(self, items: Mapping[str, Item]) -> dict[str, list[tuple[str, float, float]]]:
        found = {}
        for item in items.values():
            said: list[tuple[str, float, float]] = item["segments"]
            if not self.rounded:
                said = item.get("turns", said)
            else:
                said = [(who, round(start, 2), round(start, 2) + round(end - start, 2)) for who, start, end in said]
            found[item["recording"]] = [(who, start, end) for who, start, end in said if end > start]
        return found


def _speakers(item: Item) -> list[str]:
    return sorted({speaker for speaker, _, _ in item.get("segments", ())})


def _fitted(y: Tensor, length: int, frames: int) -> Tensor:
    """Logits (frames, S) of (T, S), of which `length` are valid: the last one repeated, or some left out."""
    if abs(length - frames) > TOLERANCE_FRAMES or not length:
        raise InputError(
            f"a chunk of {frames} frames got {length} from the head; the recording is shorter than its duration says, "
            'or the recipe does not ask for frames="ceil"'
        )
    y = y[: min(length, frames)]
    return torch.cat([y, y[-1:].expand(frames - len(y), -1)])


def recordings(predictions: Mapping[str, Any]) -> Iterator[tuple[str, NDArray[np.float32], int]]:
    """From the logits of chunks each recording, the probabilities (T, S) of all its chunks, and the hop in samples."""
    chunks: dict[str, list[tuple[int, int, NDArray[np.float32]]]] = {}
    for key, logits in predictions.items():
        name, _, span = key.rpartition("#")
        start, stop = map(int, span.split("-"))
        chunks.setdefault(name, []).append((start, stop, np.asarray(logits, dtype=np.float32)))
    for name, parts in sorted(chunks.items()):
        parts.sort(key=lambda part: part[0])
        start, stop, logits = parts[0]
        yield name, 1 / (1 + np.exp(-np.concatenate([part[2] for part in parts]))), (stop - start) // len(logits)


def turns(
    probabilities: NDArray[np.float32], hop: int, threshold: float, median: int
) -> list[tuple[str, float, float]]:
    """Turns (speaker, start, end) in seconds, onset and duration with two decimals as rttm files have them.

    Args:
        probabilities: (T, S).
        hop: samples between frames.
        threshold: above which a speaker speaks.
        median: frames of a median filter over time, odd, which takes what lies outside for silence.
    """
    active = (probabilities > np.float32(threshold)).astype(np.int64)
    sums = np.cumsum(np.pad(active, ((median // 2 + 1, median // 2), (0, 0))), axis=0)
    active = (2 * (sums[median:] - sums[:-median]) > median).astype(np.int64)
    changes = np.diff(np.pad(active, ((1, 1), (0, 0))), axis=0).T  # (S, T + 1)
    said = []
    for speaker, row in enumerate(changes):
        for start, stop in zip(np.flatnonzero(row > 0).tolist(), np.flatnonzero(row < 0).tolist()):
            onset, duration = round(start * (hop / RATE), 2), round((stop - start) * (hop / RATE), 2)
            if duration > 0:
                said.append((str(speaker), onset, onset + duration))
    return said


def submission(folder: Path, fold: str | None, predictions: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes scoring/predictions/<recording>.h5 with the probabilities (T, S) as T_hat, and frame_shift, the hop.

    Raises:
        InputError: h5py is not installed.
    """
    try:
        h5py: Any = import_module("h5py")
    except ImportError:
        raise InputError(
            "the submission of superb/sd is made of HDF5 files, which h5py writes; install it with `pip install h5py`"
        ) from None
    for name, probabilities, hop in recordings(predictions["test"]):
        buffer = io.BytesIO()
        with h5py.File(buffer, "w") as file:
            file.create_dataset("T_hat", data=probabilities)
        synthesis.write_bytes(folder / "scoring" / "predictions" / f"{name}.h5", buffer.getvalue())
        synthesis.write_text(folder / "frame_shift", f"{hop}\n")


# What is said in a turn.
_PHRASES = ("the old man", "was in london", "by the river", "find it today", "she was in")
# Which of the two speaks in each turn.
_PATTERNS = ((0, 1, 0), (0, 1, 1), (0, 0, 1), (0, 1))


def miniature(root: Path) -> None:
    """Writes a small corpus below `root`: mixtures of 4 s of two speakers, who take turns, pause and overlap."""
    folder = root / LAYOUT.folder
    for first, (split, audio, count) in enumerate(
        (("train", "train-100", 24), ("dev", "dev", 12), ("test", "test", 12))
    ):
        tables: dict[str, list[str]] = {name: [] for name in ("wav.scp", "segments", "utt2spk", "reco2dur", "rttm")}
        spoken: dict[str, list[str]] = {}
        for k in range(count):
            name, seed = f"{split}-{k:04}", 1000 * first + 10 * k
            draw = [int(raw % 1000) for raw in np.random.Philox(key=seed).random_raw(8).tolist()]
            voices = [2 * (k % 4) + (k // 4 + place) % 2 for place in range(2)]
            wave, now = np.zeros(4 * RATE, dtype=np.float32), draw[0] * 6
            for turn, place in enumerate(_PATTERNS[draw[1] % len(_PATTERNS)]):
                speaker, utterance = f"speaker{voices[place]}", f"speaker{voices[place]}_{name}_{turn}"
                phones = synthesis.pronounce(_PHRASES[(k + turn) % len(_PHRASES)])
                part = synthesis.synthesise(phones, speaker=voices[place], seed=seed + turn)[: len(wave) - now]
                wave[now : now + len(part)] += part
                start_s, end_s = now / RATE, (now + len(part)) / RATE
                tables["segments"].append(f"{utterance} {name} {start_s:.2f} {end_s:.2f}\n")
                tables["utt2spk"].append(f"{utterance} {speaker}\n")
                spoken.setdefault(speaker, []).append(utterance)
                tables["rttm"].append(
                    f"SPEAKER {name} 1 {start_s:.6f} {end_s - start_s:.6f} <NA> <NA> {speaker} <NA> <NA>\n"
                )
                # From 0.2 s before this one's end to 0.4 s after it.
                now += len(part) + RATE // 10 * (draw[2 + turn] % 7 - 2)
            path = f"wav16k/max/{audio}/mix_both/{name}.wav"
            synthesis.write_audio(folder / path, wave)
            tables["wav.scp"].append(f"{name} ../{path}\n")
            tables["reco2dur"].append(f"{name} {len(wave) / RATE:.6f}\n")
        tables["spk2utt"] = [f"{speaker} {' '.join(names)}\n" for speaker, names in spoken.items()]
        for table, rows in tables.items():
            synthesis.write_text(folder / split / table, "".join(sorted(rows)))


OFFICIAL = Recipe(
    selection=Selection(metric="accuracy", higher_is_better=True),
    head=heads.Diarizer,
    steps=30_000,
    batch_size=8,
    accumulate=4,
    learning_rate=1e-4,
    grid=(1e-2, 1e-3, 1e-4, 1e-5),
    grid_share=0.5,
    evaluate_every=500,
    save_every=500,
    frames="ceil",
)

TASK = Task(
    name="superb/sd",
    title="Speaker diarization",
    metric="der",
    higher_is_better=False,
    corpus=corpus,
    objective=Diarization,
    recipes={
        "official": OFFICIAL,
        "v0.4": replace(
            OFFICIAL,
            selection=Selection(metric="frame_der", higher_is_better=False),
            objective_options={"rounded_reference": True},
        ),
        "miniature": replace(
            OFFICIAL,
            head_options={"hidden_size": 32},
            steps=200,
            accumulate=1,
            learning_rate=1e-2,
            grid=(1e-2, 1e-3),
            evaluate_every=50,
            save_every=50,
        ),
    },
    layout=LAYOUT,
    miniature=miniature,
    submission=submission,
)
