"""Synthetic speech: the same everywhere, and what its arguments say."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import soundfile

from zoo.benchmark.synthesis import (
    PHONES,
    RATE,
    STYLES,
    WORDS,
    hertz,
    mixed,
    pronounce,
    sound,
    synthesise,
    tripled,
    write_audio,
    write_bytes,
    write_text,
)
from zoo.errors import InputError


def test_the_samples_are_the_same_on_every_platform():
    digest = hashlib.sha256()
    for n, style in enumerate(STYLES):
        samples = synthesise(pronounce("seven lights off"), speaker=3 * n, seed=n, style=style)
        digest.update(np.rint(samples * 2**15).astype("<i2").tobytes())
    digest.update(np.rint(synthesise(list(PHONES), seconds=2.5) * 2**15).astype("<i2").tobytes())
    assert digest.hexdigest() == "b0d5822e0ef16a5577afe30e5ff0b4ebb4dd9c5ce4496e55b5a0783006a54b71"


def test_sounds_are_the_same_on_every_platform():
    struck = sound(0.5, (hertz(45), 415.3), timbre=(100, 60, 30), glide=130, fade_ms=80, beats=4, seed=3)
    both = mixed(1.0, [(0.0, struck), (0.25, sound(1.0, noise=100, centre=2500, level=20_000, seed=4))])
    digest = hashlib.sha256(np.rint(tripled(both) * 2**15).astype("<i2").tobytes()).hexdigest()
    assert digest == "323fae4c2580c442c1586d443447f75635f88a16d6692eaa3804e855b2b19f08"


def test_notes_are_of_equal_temperament():
    assert hertz(69) == 440
    assert [hertz(note) for note in range(21, 109)] == pytest.approx(
        [440 * 2 ** ((note - 69) / 12) for note in range(21, 109)], rel=1e-6
    )


def strongest(samples: np.ndarray, rate: int = RATE) -> float:
    """Frequency in Hz."""
    power = np.abs(np.fft.rfft(samples.astype(np.float64) * np.hanning(len(samples))))
    return float(np.fft.rfftfreq(len(samples), 1 / rate)[np.argmax(power)])


def test_sounds_are_what_was_asked_for():
    tone = sound(1.0, (1000,))
    assert tone.shape == (RATE,) and tone.dtype == np.float32 and strongest(tone) == 1000
    assert abs(float(np.abs(tone).max()) * 2**15 - 8_000) <= 1
    assert strongest(sound(1.0, (1000,), timbre=(10, 0, 100))) == 3000
    # Harmonics above half the rate are left out, not folded back.
    assert np.array_equal(sound(0.1, (3000,), timbre=(100, 0, 100), seed=1), sound(0.1, (3000,), seed=1))
    rising = sound(1.0, (1000,), glide=200)
    assert strongest(rising[:2000]) < 1200 < 1800 < strongest(rising[-2000:])
    for centre in (500, 3000, 6000):
        assert abs(strongest(sound(1.0, noise=100, centre=centre)) - centre) < 600
    assert not np.any(sound(0.5))


def test_struck_sounds_fade_and_begin_again():
    once, again = (sound(1.0, noise=100, fade_ms=50, beats=beats, seed=2).astype(np.float64) for beats in (0, 2))
    loud = [float(part.std()) for part in np.split(once, 10)]
    assert loud == sorted(loud, reverse=True) and loud[0] > 10 * loud[-1]
    loud = [float(part.std()) for part in np.split(again, 10)]
    assert loud[0] > 5 * loud[4] and loud[5] > 5 * loud[9] and loud[5] > 5 * loud[4]


def test_mixed_sounds_begin_where_they_should_and_are_cut():
    one = np.full(RATE, 0.75, dtype=np.float32)
    wave = mixed(1.5, [(0.0, one), (0.75, one)])
    assert wave.shape == (RATE * 3 // 2,) and wave.dtype == np.float32
    assert np.all(wave[:12_000] == 0.75) and np.all(wave[12_000:RATE] == 1 - 2**-15) and np.all(wave[RATE:] == 0.75)


def test_48_khz_is_the_same_sound():
    tone = sound(1.0, (440,))
    wide = tripled(tone)
    assert wide.shape == (3 * RATE,) and np.array_equal(wide[::3], tone) and strongest(wide, 3 * RATE) == 440
    assert np.array_equal(wide * 2**15, np.rint(wide * 2**15))


def test_a_length_is_exact_and_what_is_said_fits_into_it():
    natural = synthesise(pronounce("seven"))
    for seconds in (0.2, 1.0, 1.5):
        samples = synthesise(pronounce("seven"), seconds=seconds)
        assert samples.shape == (round(seconds * RATE),) and samples.dtype == np.float32
        assert np.abs(samples[:80]).max() < 0.001 < np.abs(samples).max()
    assert 0.3 < len(natural) / RATE < 0.6
    assert synthesise([]).size > 0 and np.abs(synthesise([])).max() <= 1 / 2**15


def test_samples_survive_being_written(tmp_path):
    samples = synthesise(pronounce("turn the music on"))
    for extension in ("wav", "flac"):
        path = tmp_path / "folder" / f"a.{extension}"
        write_audio(path, samples)
        read, rate = soundfile.read(path, dtype="float32")
        assert rate == RATE and np.array_equal(read, samples)
        before = path.stat().st_mtime_ns, path.stat().st_ino
        write_audio(path, samples)
        assert before == (path.stat().st_mtime_ns, path.stat().st_ino)
        write_audio(path, samples[:100])
        assert soundfile.info(path).frames == 100
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == ["a.flac", "a.wav"]


def test_texts_are_written_at_once(tmp_path):
    write_text(tmp_path / "a" / "b.txt", "é\n")
    write_bytes(tmp_path / "a" / "b.txt", b"c")
    assert [path.read_bytes() for path in (tmp_path / "a").iterdir()] == [b"c"]


def spectrum(phone: str, **options) -> tuple[float, float]:
    """Centre of the spectrum in Hz and loudness, of the middle of a long phone."""
    samples = synthesise([phone] * 8, variety=0, **options).astype(np.float64)
    samples = samples[len(samples) // 4 : -len(samples) // 4]
    power = np.abs(np.fft.rfft(samples * np.hanning(len(samples)))) ** 2
    return float((power * np.fft.rfftfreq(len(samples), 1 / RATE)).sum() / power.sum()), float(samples.std())


def test_phones_sound_as_they_should():
    assert spectrum("S")[0] > 5_000 > 4_000 > spectrum("SH")[0] > 2_000 > spectrum("AA")[0] > spectrum("UW")[0]
    assert spectrum("IY")[0] > spectrum("UW")[0]


def pitch(**options) -> float:
    """Of a long vowel, in Hz, by autocorrelation."""
    samples = synthesise(["AH"] * 10, variety=0, **options).astype(np.float64)
    middle = samples[len(samples) // 2 - 400 : len(samples) // 2 + 400]
    likeness = np.correlate(middle, middle, "full")[len(middle) - 1 :]
    return RATE / (60 + int(np.argmax(likeness[60:190])))


def test_speakers_differ_in_pitch_and_styles_in_pitch_loudness_and_speed():
    pitches = [pitch(speaker=n) for n in range(10)]
    assert len({round(p / 4) for p in pitches}) >= 8 and 80 < min(pitches) < 130 and 180 < max(pitches) < 280
    happy, neutral, sad = (pitch(speaker=2, style=style) for style in ("happy", "neutral", "sad"))
    assert happy > neutral > sad
    loudness = {style: float(synthesise(pronounce("seven"), style=style, variety=0).std()) for style in STYLES}
    assert loudness["angry"] > loudness["happy"] > loudness["neutral"] > loudness["sad"]
    assert len(synthesise(pronounce("seven"), style="angry")) < len(synthesise(pronounce("seven"), style="sad"))


def test_seeds_make_takes_and_without_variety_only_noise_differs():
    takes = [synthesise(pronounce("no wow"), seed=n, seconds=1.0) for n in range(2)]
    assert np.abs(takes[0] - takes[1]).max() > 0.05
    takes = [synthesise(pronounce("no wow"), seed=n, seconds=1.0, variety=0) for n in range(2)]
    assert 0 < np.abs(takes[0] - takes[1]).max() <= 2 / 2**15


def test_words_are_of_known_phones_and_others_are_refused():
    assert {phone.rstrip("012") for phones in WORDS.values() for phone in phones} <= set(PHONES)
    assert pronounce("YES no") == ["Y", "EH1", "S", "N", "OW1"]
    with pytest.raises(InputError, match=r"'xyzzy' is not in the table of 8. words"):
        pronounce("yes xyzzy")
    with pytest.raises(InputError, match="'QQ' was to be said"):
        synthesise(["AA", "QQ"])
    with pytest.raises(InputError, match="'bored' was to be said"):
        synthesise(["AA"], style="bored")
