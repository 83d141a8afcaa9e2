"""Sound for miniature corpora: sums of harmonics, for speech under three formants, and noise through short filters.

Everything that reaches a sample is integer arithmetic, or single additions, products and quotients, so that it is the
same on every platform. Formants: Peterson and Barney, 1952, for vowels; the rest is chosen by hand.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from zoo.errors import InputError

RATE = 16_000
HOP = 80
"""Samples between two settings of the vocal tract."""
SINE = np.rint(np.sin(np.arange(4096) * (2 * np.pi / 4096)) * 2**15).astype(np.int64)

# Phone, then its parts: milliseconds, three formants (Hz), voice and noise (percent), centre of the noise (Hz).
_PHONES = """
IY 120 270 2290 3010 100 0 0|IH 90 390 1990 2550 100 0 0|EH 110 530 1840 2480 100 0 0|AE 130 660 1720 2410 100 0 0
AA 130 730 1090 2440 100 0 0|AO 130 570 840 2410 100 0 0|UH 90 440 1020 2240 100 0 0|UW 120 300 870 2240 100 0 0
AH 80 640 1190 2390 100 0 0|ER 120 490 1350 1690 100 0 0|M 80 280 900 2200 50 0 0|N 80 280 1700 2600 50 0 0
AY 90 730 1090 2440 100 0 0 90 390 1990 2550 100 0 0|AW 90 730 1090 2440 100 0 0 90 440 1020 2240 100 0 0
EY 80 530 1840 2480 100 0 0 80 270 2290 3010 100 0 0|OW 80 570 840 2410 100 0 0 90 300 870 2240 100 0 0
OY 90 570 840 2410 100 0 0 90 390 1990 2550 100 0 0|NG 90 280 2300 2750 50 0 0|L 70 360 1300 2700 70 0 0
R 70 310 1060 1380 70 0 0|W 70 290 610 2150 60 0 0|Y 60 260 2070 3020 70 0 0|HH 70 500 1500 2500 0 15 1500
F 100 300 1200 2400 0 15 4500|TH 100 300 1400 2500 0 12 6000|S 120 300 1700 2600 0 45 6500
SH 120 300 1800 2600 0 50 3000|V 70 300 1200 2400 40 10 4500|DH 60 300 1400 2500 40 8 6000|Z 90 300 1700 2600 35 30 6500
ZH 90 300 1800 2600 35 35 3000
P 60 300 800 2200 0 0 0 25 300 800 2200 0 40 800|T 60 300 1700 2600 0 0 0 30 300 1700 2600 0 60 4500
K 60 300 1900 2400 0 0 0 30 300 1900 2400 0 50 2000|B 60 250 800 2200 15 0 0 15 300 800 2200 50 20 800
D 50 250 1700 2600 15 0 0 15 300 1700 2600 50 30 4500|G 50 250 1900 2400 15 0 0 20 300 1900 2400 50 25 2000
CH 50 300 1800 2600 0 0 0 80 300 1800 2600 0 50 3000|JH 40 250 1800 2600 15 0 0 60 300 1800 2600 40 35 3000
SIL 120 500 1500 2500 0 0 0|SPN 150 500 1500 2500 0 25 1500
"""
PHONES = {
    row.split()[0]: np.array(row.split()[1:], dtype=np.int64).reshape(-1, 7)
    for row in _PHONES.strip().replace("\n", "|").split("|")
}

# style -> pitch, its movement, loudness and speed, in percent of what is usual.
STYLES = {
    "neutral": (100, 100, 100, 100),
    "happy": (135, 300, 130, 110),
    "angry": (115, 180, 200, 125),
    "sad": (85, 30, 50, 75),
}

_WORDS = """
yes Y EH1 S|no N OW1|up AH1 P|down D AW1 N|left L EH1 F T|right R AY1 T|on AA1 N|off AO1 F|stop S T AA1 P|go G OW1
bed B EH1 D|bird B ER1 D|cat K AE1 T|dog D AO1 G|eight EY1 T|five F AY1 V|four F AO1 R|happy HH AE1 P IY0
house HH AW1 S|marvin M AA1 R V IH0 N|nine N AY1 N|one W AH1 N|seven S EH1 V AH0 N|sheila SH IY1 L AH0|six S IH1 K S
three TH R IY1|tree T R IY1|two T UW1|wow W AW1|zero Z IH1 R OW0|turn T ER1 N|the DH AH0|lights L AY1 T S
lamp L AE1 M P|music M Y UW1 Z IH0 K|volume V AA1 L Y UW0 M|heat HH IY1 T|increase IH0 N K R IY1 S
decrease D IH0 K R IY1 S|kitchen K IH1 CH AH0 N|bedroom B EH1 D R UW2 M|washroom W AA1 SH R UW2 M|in IH0 N|to T UW1
play P L EY1|by B AY1|weather W EH1 DH ER0|rain R EY1 N|book B UH1 K|a AH0|table T EY1 B AH0 L|for F AO1 R|and AH0 N D
find F AY1 N D|add AE1 D|song S AO1 NG|movie M UW1 V IY0|london L AH1 N D AH0 N|paris P EH1 R IH0 S|rome R OW1 M
berlin B ER0 L IH1 N|queen K W IY1 N|prince P R IH1 N S|today T AH0 D EY1|monday M AH1 N D EY0|he HH IY1|she SH IY1
was W AA1 Z|of AH1 V|it IH1 T|is IH1 Z|old OW1 L D|man M AE1 N|sea S IY1|river R IH1 V ER0|garden G AA1 R D AH0 N
measure M EH1 ZH ER0|boy B OY1|judge JH AH1 JH|change CH EY1 N JH|bring B R IH1 NG|shoes SH UW1 Z|socks S AA1 K S
language L AE1 NG G W AH0 JH|english IH1 NG G L IH0 SH|chinese CH AY0 N IY1 Z
"""
WORDS = {row.split()[0]: row.split()[1:] for row in _WORDS.strip().replace("\n", "|").split("|")}
"""Word -> its ARPAbet phones with stress."""


def pronounce(text: str) -> list[str]:
    """Phones of a text, whatever its case.

    Raises:
        InputError: a word is not in `WORDS`.
    """
    unknown = [word for word in text.lower().split() if word not in WORDS]
    if unknown:
        raise InputError(f"{text!r} was to be said, but {unknown[0]!r} is not in the table of {len(WORDS)} words")
    return [phone for word in text.lower().split() for phone in WORDS[word]]


def synthesise(
    phones: Sequence[str],
    *,
    speaker: int = 0,
    seconds: float | None = None,
    style: str = "neutral",
    seed: int = 0,
    variety: int = 100,
) -> NDArray[np.float32]:
    """Says phones.

    Args:
        phones: ARPAbet, with or without stress; SIL is a pause and SPN a noise.
        speaker: any number; decides pitch, length of the vocal tract and brightness.
        seconds: exact length; faint noise around what is said, which is said faster where it is too long.
        style: of `STYLES`.
        seed: of what differs between two utterances of the same: speed, pitch, phase, vocal tract, position and noise.
        variety: percent of these differences, noise aside; with 0, random models too hear much the same each time.

    Returns:
        (S,) at 16 kHz, multiples of 2**-15 between -1 and 1.

    Raises:
        InputError: a phone or a style is not known.
    """
    names = [phone.rstrip("012") for phone in phones]
    unknown = [name for name in names if name not in PHONES] + [style] * (style not in STYLES)
    if unknown:
        raise InputError(
            f"{unknown[0]!r} was to be said, but phones are {' '.join(PHONES)}, and styles {' '.join(STYLES)}"
        )
    draw = np.random.Philox(key=[seed, speaker])
    jitter = [(int(raw % 1000) - 500) * variety // 100 for raw in draw.random_raw(5).tolist()]
    who = [speaker * step % 1000 for step in (618, 755, 570)]  # multiples of irrational numbers spread evenly
    pitch, movement, loudness, speed = STYLES[style]

    parts = np.concatenate([PHONES[name] for name in names] or [PHONES["SIL"]])
    hops = np.maximum(2, parts[:, 0] * 16 * 100 * (5000 + jitter[0]) // (speed * 5000 * HOP))
    total = None if seconds is None else round(seconds * RATE)
    if total is not None and hops.sum() * HOP > total - 4 * HOP:
        hops = np.maximum(1, hops * (total // HOP - 4) // hops.sum())
    track = np.repeat(parts, hops, axis=0)
    track = np.concatenate([np.zeros_like(track[:2]) + track[0], track, np.zeros_like(track[:2]) + track[-1]])
    track[:2, 4:6] = track[-2:, 4:6] = 0
    smooth = (track[:-2] + 2 * track[1:-1] + track[2:]) / 4  # (F, 7), one row each HOP samples
    frames = len(smooth)
    samples = (frames - 1) * HOP

    time = np.arange(frames)
    sway = np.abs(time % 60 - 30) / 15 - 1  # a wave of 0.3 s between -1 and 1
    base = (90 + 0.15 * who[0]) * (pitch / 100) * (1 + jitter[1] / 8000)
    f0 = base * (1 + (movement / 1000) * (0.6 * sway + 0.5 - time / frames))
    turns = np.repeat(np.rint(f0[:-1] * (2**32 / RATE)).astype(np.int64), HOP)
    phase = np.cumsum(turns) + (jitter[2] << 22)
    tract = (0.86 + 0.00032 * who[1]) * (1 + jitter[3] / 40000)
    ramp = np.arange(HOP)
    wave = np.zeros(samples, dtype=np.int64)
    for harmonic in range(1, int(4000 / f0.min()) + 1):
        frequency = harmonic * f0
        level = np.zeros(frames)
        for formant, weight in ((1, 1.0), (2, 0.3 + 0.0004 * who[2]), (3, 0.15 + 0.0003 * who[2])):
            centre = smooth[:, formant] * tract
            away = (frequency - centre) / (50 + 0.05 * centre)
            level += weight / (1 + away * away)
        gain = np.rint(level * smooth[:, 4] * 10).astype(np.int64)
        gains = (gain[:-1, None] * (HOP - ramp) + gain[1:, None] * ramp).reshape(-1)
        wave += gains * SINE[(harmonic * phase >> 20) & 4095]

    white = _white(draw, samples)
    gain = np.rint(smooth[:, 5] * 10).astype(np.int64)
    gains = (gain[:-1, None] * (HOP - ramp) + gain[1:, None] * ramp).reshape(-1)
    where = np.repeat(track[1:-2, 6], HOP)
    for centre in np.unique(where[gains > 0]).tolist():
        wave += np.where(where == centre, gains * _band(white, centre), 0)

    wave = wave * (6_000 * loudness // 100) // max(1, int(np.abs(wave).max()))
    length = samples if total is None else total
    before = (length - samples) // 2 * (1000 + jitter[4]) // 1000
    out = (draw.random_raw(length) >> np.uint64(32)).astype(np.int64) % 3 - 1
    out[before : before + samples] += wave
    return (out.clip(-(2**15), 2**15 - 1) / 2**15).astype(np.float32)


def _white(draw: np.random.Philox, samples: int) -> NDArray[np.int64]:
    """Noise of 16 bits, with what `_band` needs at both ends."""
    return (draw.random_raw(samples + 32) >> np.uint64(48)).astype(np.int64) - 2**15


def _band(white: NDArray[np.int64], centre: int) -> NDArray[np.int64]:
    """What a filter of 33 taps passes of noise around a frequency in Hz."""
    taps = (17 - np.abs(np.arange(-16, 17))) * SINE[(np.arange(-16, 17) * (centre * 4096 // RATE) + 1024) & 4095] >> 8
    return np.convolve(white, taps, "valid") >> 13


_OCTAVE = (8372.018, 8869.844, 9397.273, 9956.063, 10548.082, 11175.303)  # notes 120 to 131
_OCTAVE_ABOVE_F = (11839.822, 12543.854, 13289.75, 14080.0, 14917.240, 15804.266)


def hertz(note: int) -> float:
    """Frequency of a MIDI note, 69 being A at 440 Hz."""
    return (_OCTAVE + _OCTAVE_ABOVE_F)[note % 12] / float(2 ** (10 - note // 12))


def sound(
    seconds: float,
    pitches: Sequence[float] = (),
    *,
    timbre: Sequence[int] = (100,),
    glide: int = 100,
    noise: int = 0,
    centre: int = 1000,
    fade_ms: int = 0,
    beats: int = 0,
    level: int = 8_000,
    seed: int = 0,
) -> NDArray[np.float32]:
    """Anything but speech: tones, noise, and both struck.

    Args:
        seconds: length.
        pitches: in Hz, all at once.
        timbre: percent of each harmonic.
        glide: percent of the pitch that is reached at the end.
        noise: percent, beside the tones.
        centre: of the noise, in Hz.
        fade_ms: after so long a quarter is left, and a ninth after twice that; 0: it does not fade.
        beats: how often it is struck in a second, from the beginning on; 0: once.
        level: of the loudest sample, of 32768.
        seed: of phases and noise.

    Returns:
        (S,) at 16 kHz, multiples of 2**-15.
    """
    samples = round(seconds * RATE)
    draw = np.random.Philox(key=[seed, 1])
    time = np.arange(samples)
    wave = np.zeros(samples, dtype=np.int64)
    for pitch in pitches:
        turns = round(pitch * (2**32 / RATE))
        phase = np.cumsum(turns + turns * (glide - 100) // 100 * time // samples) + (int(draw.random_raw()) & 2**32 - 1)
        for harmonic, percent in enumerate(timbre, 1):
            if pitch * harmonic * max(100, glide) < 50 * RATE:
                wave += percent * SINE[(harmonic * phase >> 20) & 4095]
    if noise:
        wave += noise * _band(_white(draw, samples), centre)
    since = time % (RATE // beats) if beats else time
    strength = np.minimum(since, 64) / 64
    if fade_ms:
        left = 1 / (1 + since / (fade_ms * RATE // 1000))
        strength = strength * left * left
    wave = np.rint(wave * strength).astype(np.int64)
    wave = wave * level // max(1, int(np.abs(wave).max()))
    return (wave / 2**15).astype(np.float32)


def mixed(seconds: float, parts: Iterable[tuple[float, NDArray[np.float32]]]) -> NDArray[np.float32]:
    """Sounds one over the other, each from its second on; what is longer than the whole is cut.

    Returns:
        (S,) at 16 kHz, multiples of 2**-15 between -1 and 1.
    """
    wave = np.zeros(round(seconds * RATE), dtype=np.float32)
    for start_s, part in parts:
        start = round(start_s * RATE)
        part = part[: len(wave) - start]
        wave[start : start + len(part)] += part
    return wave.clip(-1, 1 - 2**-15)


def tripled(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """(S,) at 16 kHz as (3 S,) at 48 kHz, on straight lines between samples."""
    wave = np.rint(samples * 2**15).astype(np.int64)
    after = np.append(wave[1:], wave[-1:])
    between = [(wave * (3 - k) + after * k) // 3 for k in range(3)]
    return (np.stack(between, 1).reshape(-1) / 2**15).astype(np.float32)


def recorded(name: str, start_s: float = 0.0, seconds: float = 1.5) -> NDArray[np.float32]:
    """A part of one of the bundled real recordings, at 16 kHz; `data/README.md` has them."""
    import soundfile

    path = Path(__file__).parent / "data" / f"{name}.flac"
    start = round(start_s * RATE)
    samples: NDArray[np.float32]
    samples, _ = soundfile.read(path, start=start, stop=start + round(seconds * RATE), dtype="float32")
    return samples


def write_audio(path: Path, samples: NDArray[np.float32], rate: int = RATE) -> None:
    """Writes (S,) with 16 bits in the format of the file's extension, at once or not at all."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, subtype="PCM_16", format=path.suffix[1:].upper())
    write_bytes(path, buffer.getvalue())


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8, at once or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file and its folders, at once or not at all; one that holds the same already is left alone."""
    if path.is_file() and path.read_bytes() == data:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(data)
    os.replace(temporary, path)
