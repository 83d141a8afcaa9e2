"""Miniatures of HEAR's folders: synthetic clips, few and short, in the format of the archives.

Clips of scenes are 2 s long, where the real ones are not shorter, and those of events 6 s. There are fewer classes than
in HEAR where all would not fit; the vocabulary lists those that there are. Of NSynth it has all 88 notes, as
`chroma_acc` counts octaves by place.
"""

from __future__ import annotations

import csv
import io
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.benchmark import synthesis
from zoo.benchmark.hear._folder import METADATA, VOCABULARY, Folder
from zoo.benchmark.synthesis import RATE, hertz

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
    takes: tuple[int, int, int] = (1, 1, 1)
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
    "QUEEN": {"pitches": (230,), "timbre": (100, 50), "noise": 20, "centre": 500},
}
_OPERA: Mapping[str, Options] = {
    "bangu": {"seconds": 0.4, "pitches": (950,), "timbre": (100, 70), "noise": 60, "centre": 1500, "fade_ms": 30},
    "daluo": {"seconds": 1.8, "pitches": (260, 395), "timbre": (100, 60, 50, 40), "fade_ms": 600},
    "naobo": {"seconds": 1.4, "noise": 100, "centre": 5500, "fade_ms": 500},
    "xiaoluo": {"seconds": 1.2, "pitches": (740, 1130), "timbre": (100, 80, 60), "glide": 130, "fade_ms": 300},
}
_ESC50: Mapping[str, Options] = {
    "dog": {"pitches": (480,), "timbre": (100, 90, 80, 60, 40), "glide": 70, "fade_ms": 90, "beats": 2},
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
    "metal": {"pitches": (82, 123), "timbre": (100,) * 12, "noise": 90, "centre": 3500, "fade_ms": 120, "beats": 6},
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
    "keyboard": {"noise": 100, "centre": 6000, "fade_ms": 60, "beats": 10},
    "knock": {"pitches": (180,), "timbre": (100, 70, 50), "noise": 50, "centre": 500, "fade_ms": 120, "beats": 6},
    "phone": {"pitches": (1100, 1400), "timbre": (100, 60)},
}
_IMITATED: Mapping[str, Options] = {
    "Cat.wav": {"pitches": (420,), "timbre": (60, 100, 80, 30), "glide": 60},
    "Engine.wav": {"pitches": (75,), "timbre": (100,) * 10, "noise": 30, "centre": 800},
    "Tap_water.wav": {"noise": 100, "centre": 5000},
    "Whistle.wav": {"pitches": (1500,), "glide": 140},
}


def _note(seconds: float, note: int, seed: int) -> Wave:
    """A note of an instrument that the seed chooses."""
    first, second, third = _draws(seed, 3)
    timbre = (100, 30 + first // 20, 15 + second // 30, 5 + third // 50)
    return synthesis.sound(seconds, (hertz(note),), timbre=timbre, fade_ms=1000, seed=seed)


def _nsynth(label: Label, take: int, seed: int) -> Wave:
    return _note(1.8, int(label), seed)


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


_ACTED = {"ANG": ("angry", "off stop"), "HAP": ("happy", "socks shoes six"), "SAD": ("sad", "he was on the moon"[:6])}


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
    return synthesis.mixed(2.0, [(0.0, voice) for voice in voices])


def _music_or_speech(label: Label, take: int, seed: int) -> Wave:
    if label == "speech":
        return synthesis.recorded("1088-134315-0000", 0.7 * take, 2.0)
    chord = _draws(seed, 1)[0] % 5
    return synthesis.sound(2.0, [hertz(60 + chord + k) for k in (0, 4, 7)], timbre=(100, 50, 30), fade_ms=800, beats=2)


_INVENTORIES = {
    "de": "SH T AH R CH N IH K S SH F",
    "it": "AA L OW M AA N OW L AA M IY",
    "ja": "K IY N UW K AA T UW K UW T IY",
}


def _spoken(label: Label, take: int, seed: int) -> Wave:
    """Phones of the language in another order each time, by different speakers."""
    phones = _INVENTORIES[str(label)].split()
    order = [place for _, place in sorted(zip(_draws(seed, 2 * len(phones)), range(2 * len(phones))))]
    said = [phones[place % len(phones)] for place in order]
    return synthesis.synthesise(said, speaker=seed % 6, seconds=2.0, seed=seed)


def _seed(*names: object) -> int:
    return zlib.crc32("/".join(map(str, names)).encode())


_TFDS = {"extract_splits": ["train"]}
_COMMANDS = ("_silence_", "_unknown_", "down", "go", "left", "no", "stop", "yes")
_MAESTRO = {
    "use_scoring_for_early_stopping": False,
    "evaluation_params": {
        "event_postprocessing_grid": {"median_filter_ms": [150], "min_duration": [50]},
        "task_specific_param_grid": {"max_epochs": [50], "check_val_every_n_epoch": [1]},
    },
}
_PITCHES = {"pitch_range_min": 21, "pitch_range_max": 108}
