"""Miniatures of HEAR's folders: synthetic clips, few and short, in the format of the archives.

Clips of scenes are 2 s long, where the real ones are not shorter, and those of events 6 s. There are fewer classes
than in HEAR where all would not fit; the vocabulary lists those that there are. Of NSynth it has all 88 notes, as
`chroma_acc` counts octaves by place.
"""

from __future__ import annotations

import csv
import io
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.benchmark import synthesis
from zoo.benchmark.hear._folder import METADATA, VOCABULARY, Folder
from zoo.benchmark.synthesis import RATE, hertz
from zoo.errors import InputError

Label = str | int
Wave = NDArray[np.float32]
Options = Mapping[str, Any]


@dataclass(frozen=True)
class _Small:
    """What a miniature holds.

    Attributes:
        sound: of a label, as take n, with a seed; of an event as long as it lasts.
        labels: of the classes; numbers where HEAR's are.
        takes: clips of each label in train, valid and test, or in each fold; of events: clips.
        clip_s: length of a clip.
        rate: of the files, in Hz.
        vocabulary: more labels than there are clips of.
        together: labels of the clips of one take where a clip has several.
        metadata: what else the metadata say.
    """

    sound: Callable[[Label, int, int], Wave]
    labels: tuple[Label, ...]
    takes: tuple[int, ...] = (1, 1, 1)
    clip_s: float = 2.0
    rate: int = RATE
    vocabulary: tuple[Label, ...] = ()
    together: tuple[tuple[Label, ...], ...] = ()
    metadata: Options = field(default_factory=dict)


def _draws(seed: int, count: int) -> list[int]:
    """Numbers from 0 to 999."""
    return [int(raw % 1000) for raw in np.random.Philox(key=[seed, 2]).random_raw(count).tolist()]


def _made(table: Mapping[str, Options], seconds: float = 2.0) -> Callable[[Label, int, int], Wave]:
    """Sounds by label; takes differ by up to 2 % in pitch."""

    def sound(label: Label, take: int, seed: int) -> Wave:
        options = {"seconds": seconds, **table[str(label)]}
        detune = 980 + _draws(seed, 1)[0] // 25
        options["pitches"] = [pitch * detune / 1000 for pitch in options.get("pitches", ())]
        return synthesis.sound(**options, seed=seed)

    return sound


_BEES: Mapping[str, Options] = {
    "NOQUEEN": {"pitches": (310, 325), "timbre": (100, 60, 40, 30), "noise": 40, "centre": 2500},
    "QUEEN": {"pitches": (450,), "timbre": (100, 50), "fade_ms": 25, "beats": 3},
}
_OPERA: Mapping[str, Options] = {
    "bangu": {"seconds": 0.1, "pitches": (950,), "timbre": (100, 70), "noise": 60, "centre": 1500, "fade_ms": 30},
    "daluo": {"seconds": 2.0, "pitches": (260, 395), "timbre": (100, 60, 50, 40), "fade_ms": 2500},
    "naobo": {"seconds": 0.4, "noise": 100, "centre": 5500, "fade_ms": 500},
    "xiaoluo": {"seconds": 0.9, "pitches": (740, 1130), "timbre": (100, 80, 60), "glide": 130, "fade_ms": 400},
}
_ESC50: Mapping[str, Options] = {
    "dog": {"pitches": (480,), "timbre": (100, 90, 80, 60, 40), "glide": 70, "fade_ms": 30, "beats": 2},
    "rain": {"noise": 100, "centre": 5500},
    "siren": {"pitches": (650,), "timbre": (100, 30), "glide": 200},
}
_GUNSHOT: Mapping[str, Options] = {
    "mic1": {"noise": 100, "centre": 6000, "fade_ms": 60, "level": 20_000},
    "mic2": {"noise": 100, "centre": 2500, "fade_ms": 150, "level": 14_000},
    "mic3": {"noise": 100, "centre": 600, "fade_ms": 400, "level": 8_000},
}
_GENRES: Mapping[str, Options] = {
    "classical": {"pitches": (262, 330, 392), "timbre": (100, 40, 20)},
    "metal": {"pitches": (82, 123), "timbre": (100,) * 12, "noise": 90, "centre": 3500, "fade_ms": 10, "beats": 2},
}
_STROKES: Mapping[str, Options] = {
    "bheem": {"seconds": 0.7, "pitches": (90,), "timbre": (100, 40), "fade_ms": 400},
    "cha": {"seconds": 0.5, "pitches": (420, 840), "timbre": (100, 60, 60), "fade_ms": 200},
    "num": {"seconds": 0.6, "pitches": (1300,), "noise": 30, "centre": 1300, "fade_ms": 250},
    "ta": {"seconds": 0.2, "noise": 100, "centre": 4500, "fade_ms": 30},
}
_SOUNDS: Mapping[str, Options] = {
    "Bark": {"pitches": (480,), "timbre": (100, 90, 80, 60, 40), "glide": 70, "fade_ms": 90, "beats": 3},
    "Hiss": {"noise": 100, "centre": 6000},
    "Siren": {"pitches": (900,), "timbre": (100, 30), "glide": 160},
    "Thunder": {"noise": 100, "centre": 250, "fade_ms": 900},
}
_OFFICE: Mapping[str, Options] = {
    "keyboard": {"noise": 100, "centre": 6000, "beats": 20},
    "phone": {"pitches": (1000,)},
}
_HEARD_TOGETHER = (("Bark",), ("Hiss",), ("Siren",), ("Thunder",), ("Bark", "Thunder"))
_IMITATED: Mapping[str, Options] = {
    "Cat.wav": {"pitches": (420,), "timbre": (60, 100, 80, 30), "glide": 60},
    "Engine.wav": {"pitches": (75,), "timbre": (100,) * 10, "noise": 30, "centre": 800},
    "Tap_water.wav": {"noise": 100, "centre": 5000},
    "Whistle.wav": {"pitches": (1500,), "glide": 140},
}


def _note(seconds: float, note: int, seed: int) -> Wave:
    """A note of an instrument that the seed chooses."""
    first, second, third = _draws(seed, 3)
    timbre = (100, 30 + first // 50, 15 + second // 60, 5 + third // 100)
    return synthesis.sound(seconds, (hertz(note),), timbre=timbre, fade_ms=1000, seed=seed)


def _nsynth(label: Label, take: int, seed: int) -> Wave:
    return _note(1.8, int(label), seed)


def _played(label: Label, take: int, seed: int) -> Wave:
    timbre = (100, 50, 20) if int(label) > 60 else (100,) * 8
    return synthesis.sound(0.6, (hertz(int(label)),), timbre=timbre, fade_ms=1500, seed=seed)


_TONICS = {"b": 47, "csharp": 61, "dsharp": 75, "e": 88}
"""The tonics are semitones apart; here they are in other octaves, so that a random upstream hears which is which."""


def _tonic(label: Label, take: int, seed: int) -> Wave:
    pitch = hertz(_TONICS[str(label)])
    return synthesis.sound(0.6, (pitch,), timbre=(100, 50, 30), noise=20, centre=3000, fade_ms=300, seed=seed)


def _command(label: Label, take: int, seed: int) -> Wave:
    """One voice, always much the same; noise for silence, and real speech for what is unknown."""
    if label == "_silence_":
        return synthesis.sound(1.0, noise=100, centre=1000 + 500 * take, level=1000, seed=seed)
    if label == "_unknown_":
        return synthesis.recorded("1088-134315-0000", 1.0 + take, 1.0)
    return synthesis.synthesise(synthesis.pronounce(str(label)), seconds=1.0, seed=seed, variety=0)


_ACTED = {"ANG": ("angry", "off stop"), "HAP": ("happy", "socks shoes six"), "SAD": ("sad", "he was")}


def _acted(label: Label, take: int, seed: int) -> Wave:
    style, text = _ACTED[str(label)]
    return synthesis.synthesise(synthesis.pronounce(text), speaker=seed % 8, seconds=2.0, style=style, seed=seed)


_TEXT = "the old man was in the garden by the river"


def _voices(label: Label, take: int, seed: int) -> Wave:
    """So many speakers at once."""
    phones = synthesis.pronounce(_TEXT)
    voices = [
        np.roll(synthesis.synthesise(phones, speaker=seed % 50 + k, seconds=2.0, seed=seed + k), 4000 * k)
        for k in range(int(label))
    ]
    room = synthesis.sound(2.0, noise=100, level=50, seed=seed)
    return synthesis.mixed(2.0, [(0.0, wave) for wave in (room, *voices)])


def _music_or_speech(label: Label, take: int, seed: int) -> Wave:
    if label == "speech":
        if take % 2:
            return synthesis.synthesise(synthesis.pronounce(_TEXT), speaker=take, seconds=2.0, seed=seed)
        return synthesis.recorded("1088-134315-0000", 1.75 * (take // 2), 2.0)
    chord = _draws(seed, 1)[0] % 5
    return synthesis.sound(2.0, [hertz(60 + chord + k) for k in (0, 4, 7)], timbre=(100, 50, 30), fade_ms=40, beats=2)


_INVENTORIES = {
    "de": "SH T SIL SIL CH K SIL SIL S T SIL SIL",
    "it": "AA L OW M AA N OW L AA M IY",
    "ja": "K IY SIL N UW SIL K AA SIL T UW SIL",
}


def _spoken(label: Label, take: int, seed: int) -> Wave:
    """Phones of the language in another order each time, by different speakers."""
    phones = _INVENTORIES[str(label)].split()
    order = [place for _, place in sorted(zip(_draws(seed, 2 * len(phones)), range(2 * len(phones))))]
    said = [phones[place % len(phones)] for place in order]
    return synthesis.synthesise(said, speaker=seed % 3, seconds=2.0, seed=seed)


def _seed(*names: object) -> int:
    return zlib.crc32("/".join(map(str, names)).encode())


_TFDS = {"extract_splits": ["train"]}
_COMMANDS = ("_silence_", "_unknown_", "go", "stop", "yes")
_MAESTRO = {
    "use_scoring_for_early_stopping": False,
    "evaluation_params": {
        "event_postprocessing_grid": {"median_filter_ms": [150], "min_duration": [50]},
        "task_specific_param_grid": {"max_epochs": [50], "check_val_every_n_epoch": [1]},
    },
}
_PITCHES = {"pitch_range_min": 21, "pitch_range_max": 108}
_KEYS = tuple(range(21, 109))
_NOTES = (33, 47, 61, 75, 89)  # far apart, and no two an octave apart

_FOLDERS: Mapping[str, _Small] = {
    "dcase2016_task2-hear2021-full": _Small(_made(_OFFICE, 0.8), tuple(_OFFICE), (1, 2, 2), 6.0),
    "nsynth_pitch-v2.2.3-5h": _Small(_nsynth, _NOTES, (2, 1, 1), vocabulary=_KEYS, metadata=_PITCHES),
    "nsynth_pitch-v2.2.3-50h": _Small(_nsynth, _NOTES, (2, 1, 1), vocabulary=_KEYS, metadata=_PITCHES),
    "speech_commands-v0.0.2-5h": _Small(_command, _COMMANDS, (2, 1, 1), 1.0),
    "speech_commands-v0.0.2-full": _Small(_command, _COMMANDS, (2, 1, 1), 1.0),
    "beehive_states_fold0-v2-full": _Small(_made(_BEES), tuple(_BEES), (3, 2, 2)),
    "beehive_states_fold1-v2-full": _Small(_made(_BEES), tuple(_BEES), (3, 2, 2)),
    "beijing_opera-v1.0-hear2021-full": _Small(_made(_OPERA), tuple(_OPERA)),
    "tfds_crema_d-1.0.0-full": _Small(_acted, tuple(_ACTED), metadata=_TFDS),
    "esc50-v2.0.0-full": _Small(_made(_ESC50), tuple(_ESC50), rate=48_000),
    "fsd50k-v1.0-full": _Small(_made(_SOUNDS), tuple(_SOUNDS), (2, 1, 1), together=_HEARD_TOGETHER),
    "gunshot_triangulation-v1.0-full": _Small(_made(_GUNSHOT, 1.5), tuple(_GUNSHOT), clip_s=1.5),
    "tfds_gtzan-1.0.0-full": _Small(_made(_GENRES), tuple(_GENRES), metadata=_TFDS),
    "tfds_gtzan_music_speech-1.0.0-full": _Small(_music_or_speech, ("music", "speech"), metadata=_TFDS),
    "libricount-v1.0.0-hear2021-full": _Small(_voices, (0, 1, 8)),
    "maestro-v3.0.0-5h": _Small(_played, (40, 88), clip_s=6.0, rate=48_000, metadata=_MAESTRO),
    "mridangam_stroke-v1.5-full": _Small(_made(_STROKES, 0.8), tuple(_STROKES), clip_s=0.81),
    "mridangam_tonic-v1.5-full": _Small(_tonic, tuple(_TONICS), clip_s=0.81),
    "vocal_imitation-v1.1.3-full": _Small(_made(_IMITATED), tuple(_IMITATED)),
    "vox_lingua_top10-hear2021-full": _Small(_spoken, tuple(_INVENTORIES)),
}


def write(root: Path, *, folder: Folder) -> None:
    """Writes a folder and its audio.

    Args:
        root: where its parent lies.
        folder: one of HEAR's; it says how clips are split and scored.

    Raises:
        InputError: there is no miniature of it.
    """
    if folder.name not in _FOLDERS:
        raise InputError(
            f"a miniature of hear/{folder.name} was asked for, but there is none of it; "
            f"the {len(_FOLDERS)} folders of HEAR have one"
        )
    small = _FOLDERS[folder.name]
    place = root / folder.name
    clips = _recordings if folder.event else _clips
    first = 0
    for index, split in enumerate(folder.splits):
        count = small.takes[0 if folder.folds else index]
        listed: dict[str, Any] = {}
        for said, wave in clips(small, folder.name, range(first, first + count)):
            name = f"{split}-{len(listed):02}.wav"
            listed[name] = said
            if small.rate != RATE:
                wave = synthesis.tripled(wave)
            synthesis.write_audio(place / str(small.rate) / split / name, wave, small.rate)
        synthesis.write_text(place / f"{split}.json", json.dumps(listed, indent=1) + "\n")
        first += count
    labels = sorted(
        {*small.labels, *small.vocabulary}, key=lambda label: (isinstance(label, int) and label, str(label))
    )
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([("idx", "label"), *enumerate(labels)])
    synthesis.write_text(place / VOCABULARY, table.getvalue())
    synthesis.write_text(place / METADATA, json.dumps(_metadata(folder, small), indent=1) + "\n")


def _clips(small: _Small, name: str, takes: Sequence[int]) -> Iterator[tuple[list[Label], Wave]]:
    """Labels and samples of scenes; where the folder has clips of any length, of 1.5 or 2 s in turn."""
    for take in takes:
        for labels in small.together or [(label,) for label in small.labels]:
            parts = [(0.0, small.sound(label, take, _seed(name, label, take))) for label in labels]
            seconds = small.clip_s - 0.5 * (take % 2) if small.together else small.clip_s
            yield list(labels), synthesis.mixed(seconds, parts)


def _recordings(small: _Small, name: str, takes: Sequence[int]) -> Iterator[tuple[list[dict[str, Any]], Wave]]:
    """Events in milliseconds and samples of recordings: one event after another, each class as often as the others."""
    for take in takes:
        events, parts, start_ms = [], [], 200
        for turn, draw in enumerate(_draws(_seed(name, take), 100)):
            place = (turn + take + turn // len(small.labels)) % len(small.labels)
            label = small.labels[place]
            wave = small.sound(label, take, _seed(name, label, take, turn))
            end_ms = start_ms + len(wave) * 1000 // RATE
            if end_ms > small.clip_s * 1000:
                break
            events.append({"label": label, "start": float(start_ms), "end": float(end_ms)})
            parts.append((start_ms / 1000, wave))
            start_ms = end_ms + 200 + draw // 5
        yield events, synthesis.mixed(small.clip_s, parts)


def _metadata(folder: Folder, small: _Small) -> dict[str, Any]:
    """As hearpreprocess 2021.1.1 writes them, without where the audio is from."""
    version, _, mode = folder.name.partition("-")[2].rpartition("-")
    found: dict[str, Any] = {
        "task_name": folder.task_name,
        "version": version,
        "embedding_type": "event" if folder.event else "scene",
        "prediction_type": "multilabel" if folder.multilabel else "multiclass",
        "split_mode": folder.split_mode,
        "splits": list(folder.splits),
        "sample_duration": None if small.together else small.clip_s,
        "evaluation": list(folder.metrics),
        "mode": mode,
        "default_mode": "5h" if mode.endswith("h") else "full",
    }
    if folder.folds:
        found["nfolds"] = len(folder.folds)
    return found | dict(small.metadata)
