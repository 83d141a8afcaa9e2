"""`zoo.extract`: what each utterance gives alone, in the caller's order, in bounded memory."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
import torch

import zoo
from zoo import _audio
from zoo.models._family import Model

ROOT = Path(__file__).resolve().parent.parent
RECORDINGS = sorted((ROOT / "examples" / "audio").iterdir())
ATOL = 1e-5
MIXED = [5000, 400, 16000, 399, 9000, 400, 12345, 8000, 15999, 640]  # one of them is too short


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def loaded() -> Model:
    return zoo.load(ROOT / "examples" / "hubert_tiny.pt")


@pytest.fixture
def model(loaded: Model) -> Iterator[Model]:
    yield loaded
    loaded.train(False)


def waves(sizes: list[int]) -> list[torch.Tensor]:
    return [0.1 * torch.randn(size) + 0.01 for size in sizes]


def extract(model: Model, items: Any, **options: Any) -> list[zoo.Extraction]:
    return list(zoo.extract(model, items, progress=False, **options))


def is_what_it_gives_alone(extraction: zoo.Extraction, model: Model, wave: torch.Tensor) -> None:
    with torch.no_grad():
        alone = model(wave[None], layers=extraction.layers).hidden_states
    assert len(extraction.hidden_states) == len(alone)
    for state, expected in zip(extraction.hidden_states, alone):
        torch.testing.assert_close(state, expected[0], rtol=0, atol=ATOL)


class Spy:
    """Notes the shape of every batch that a model is given."""

    def __init__(self, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
        self.batches: list[list[int]] = []
        forward = model.forward

        def noting(waveforms: list[torch.Tensor], **options: Any) -> zoo.EncoderOutput:
            self.batches.append([len(wave) for wave in waveforms])
            return forward(waveforms, **options)

        monkeypatch.setattr(model, "forward", noting)


# Order and numbers


@pytest.mark.parametrize("batch_seconds", [0.01, 1.0, 64.0])
def test_order_and_numbers(model: Model, batch_seconds: float) -> None:
    items = waves(MIXED)
    found = extract(model, items, batch_seconds=batch_seconds)
    assert [item.index for item in found] == list(range(len(items)))
    for item, wave in zip(found, items):
        assert item.source is None
        assert item.seconds == len(wave) / 16000
        assert (item.error is None) == (len(wave) >= model.min_samples)
        if item.error is None:
            assert [state.shape[0] for state in item.hidden_states] == [model.frame_count(len(wave))] * 4
            is_what_it_gives_alone(item, model, wave)
    assert found[3].hidden_states == () and found[3].layers == ()


def test_every_kind_of_waveform(model: Model) -> None:
    wave = waves([5000])[0]
    read_only = wave.numpy().copy()
    read_only.flags.writeable = False
    kinds = [
        wave,
        wave.double(),
        wave.clone().requires_grad_(),
        wave.repeat_interleave(2)[::2],
        wave.numpy(),
        wave.numpy().astype(">f4"),
        wave.numpy().astype(np.float64),
        wave.flip(0).numpy()[::-1],
        read_only,
        wave.tolist(),
    ]
    found = extract(model, kinds)
    assert [item.error for item in found] == [None] * len(kinds)
    for item in found:
        is_what_it_gives_alone(item, model, wave)
        assert not any(state.requires_grad for state in item.hidden_states)


def test_a_matrix_is_several_waveforms(model: Model) -> None:
    matrix = torch.randn(3, 4000)
    found = extract(model, matrix)
    assert len(found) == 3
    for item, wave in zip(found, matrix):
        is_what_it_gives_alone(item, model, wave)


def test_one_buffer_for_all(model: Model) -> None:
    """A caller who streams through one array gets each of its contents, not the last one over and over."""
    items = waves([4000, 4000, 4000])
    for buffer in (torch.empty(4000), np.empty(4000, np.float32)):

        def stream(buffer: Any = buffer) -> Iterator[Any]:
            for wave in items:
                torch.as_tensor(buffer)[:] = wave
                yield buffer

        for item, wave in zip(extract(model, stream()), items, strict=True):
            is_what_it_gives_alone(item, model, wave)


def test_a_half_precision_model(model: Model) -> None:
    half = zoo.load(ROOT / "examples" / "hubert_tiny.pt", dtype=torch.bfloat16)
    (item,) = extract(half, waves([4000]))
    assert {state.dtype for state in item.hidden_states} == {torch.bfloat16}


def test_nothing_to_do(model: Model) -> None:
    assert extract(model, []) == []


# Layers


@pytest.mark.parametrize("layers", [[3], [-1], [0, 2], [2, 0], [-1, 0, 1], [1, 1, -3], (0,), range(1, 3)])
def test_layers(model: Model, layers: Any) -> None:
    wave = waves([6000])[0]
    (everything,) = extract(model, [wave])
    (item,) = extract(model, [wave], layers=layers)
    assert everything.layers == (0, 1, 2, 3)
    assert item.layers == tuple(index % 4 for index in layers)
    for index, state in zip(item.layers, item.hidden_states, strict=True):
        assert torch.equal(state, everything.hidden_states[index])


# Sample rates and files


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, np.int64(8000)])
def test_arrays_at_another_rate(model: Model, rate: int) -> None:
    wave = 0.1 * np.random.default_rng(0).standard_normal(int(rate) // 2).astype(np.float32)
    expected = torch.from_numpy(soxr.resample(wave, int(rate), 16000, quality="HQ"))
    (item,) = extract(model, [wave], sample_rate=rate)
    assert item.seconds == len(wave) / rate
    is_what_it_gives_alone(item, model, expected)


def test_recordings(model: Model) -> None:
    """Genuine recordings at 8 and 16 kHz, given as text and as Path; a rate for arrays does not touch them."""
    items = [str(path) if i % 2 else path for i, path in enumerate(RECORDINGS)]
    found = extract(model, items, sample_rate=22050)
    assert len({soundfile.info(str(path)).samplerate for path in RECORDINGS}) == 2
    for item, path in zip(found, RECORDINGS, strict=True):
        samples, rate = soundfile.read(path, dtype="float32")
        assert item.source == str(path)
        assert item.seconds == len(samples) / rate
        wave = samples if rate == 16000 else soxr.resample(samples, rate, 16000, quality="HQ")
        is_what_it_gives_alone(item, model, torch.from_numpy(wave))


@pytest.mark.parametrize(
    ("name", "subtype"),
    [
        ("a.wav", "PCM_16"),
        ("A.WAV", "PCM_U8"),
        ("a.w64", "FLOAT"),
        ("a.aiff", "PCM_24"),
        ("a.flac", "PCM_16"),
        ("a.ogg", "VORBIS"),
        ("with space und Umläut 音.flac", "PCM_16"),
    ],
)
def test_formats(model: Model, tmp_path: Path, name: str, subtype: str) -> None:
    wave = 0.3 * np.sin(np.arange(8000) * 0.05)
    soundfile.write(tmp_path / name, wave, 16000, subtype=subtype)
    (item,) = extract(model, [tmp_path / name])
    assert item.error is None
    is_what_it_gives_alone(item, model, torch.from_numpy(soundfile.read(tmp_path / name, dtype="float32")[0]))


def test_errors_do_not_stop_the_others(model: Model, tmp_path: Path) -> None:
    (tmp_path / "page.wav").write_text("<html></html>")
    soundfile.write(tmp_path / "stereo.wav", np.zeros((4000, 2)), 16000)
    good = waves([4000, 5000, 6000])
    bad = [tmp_path / "page.wav", np.zeros(4000, np.int16), tmp_path / "gone.wav", tmp_path / "stereo.wav", None]
    items = [bad[0], good[0], bad[1], bad[2], good[1], bad[3], good[2], bad[4]]
    found = extract(model, items, batch_seconds=0.5)
    assert [item.index for item in found] == list(range(8))
    assert [item.error is None for item in found] == [False, True, False, False, True, False, True, False]
    assert [item.source for item in found if item.source] == [str(path) for path in (bad[0], bad[2], bad[3])]
    for item, wave in zip([found[1], found[4], found[6]], good):
        is_what_it_gives_alone(item, model, wave)


# Laziness and memory


def test_items_are_taken_as_needed(model: Model) -> None:
    taken = 0

    def stream() -> Iterator[torch.Tensor]:
        nonlocal taken
        while True:  # without an end
            taken += 1
            yield torch.zeros(16000)

    found = zoo.extract(model, stream(), batch_seconds=2.0, progress=False)
    assert taken == 0
    for index in range(20):
        assert next(found).index == index
        assert taken <= index + 2 * _audio.WINDOW_BATCHES
    found.close()


def test_many_short_items_do_not_pile_up(model: Model) -> None:
    taken = 0

    def stream() -> Iterator[torch.Tensor]:
        nonlocal taken
        for _ in range(2000):
            taken += 1
            yield torch.zeros(0)

    found = zoo.extract(model, stream(), progress=False)
    assert next(found).error is not None
    assert taken <= _audio.WINDOW_ITEMS
    found.close()


@pytest.mark.parametrize("batch_seconds", [0.5, 1.0, 3.0])
def test_batches_stay_within_bounds(model: Model, monkeypatch: pytest.MonkeyPatch, batch_seconds: float) -> None:
    spy = Spy(model, monkeypatch)
    sizes = torch.randint(400, 40000, (40,)).tolist()
    extract(model, waves(sizes), batch_seconds=batch_seconds)
    assert sorted(size for batch in spy.batches for size in batch) == sorted(sizes)
    for batch in spy.batches:
        assert len(batch) == 1 or len(batch) * max(batch) <= batch_seconds * 16000
    assert any(len(batch) > 1 for batch in spy.batches)


def test_the_bound_holds_after_resampling(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Spy(model, monkeypatch)
    extract(model, waves([8000] * 6), sample_rate=8000, batch_seconds=2.0)
    assert spy.batches == [[16000] * 2] * 3


def test_only_the_layers_asked_for_are_kept(model: Model) -> None:
    """A result is its own memory: it keeps no batch, no padding and no other layer alive."""
    found = extract(model, waves([4000, 16000, 9000]), layers=[1, 1])
    tensors = [state for item in found for state in item.hidden_states]
    for state in tensors:
        assert state.is_contiguous()
        assert state.untyped_storage().nbytes() == state.numel() * state.element_size()
    assert len({state.data_ptr() for state in tensors}) == len(tensors) == 6


# The model afterwards


@pytest.mark.parametrize("how", ["finished", "closed early", "items fail", "model fails"])
def test_the_training_mode_comes_back(model: Model, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model.train()
    model.feature_extractor.eval()  # as a caller leaves it who froze this part
    before = [module.training for module in model.modules()]

    def stream() -> Iterator[torch.Tensor]:
        yield torch.zeros(4000)
        if how == "items fail":
            raise KeyError("gone")

    if how == "model fails":
        monkeypatch.setattr(model, "forward", None)
    found = zoo.extract(model, stream(), batch_seconds=0.01, progress=False)
    if how in ("finished", "closed early"):
        next(found)
        assert not any(module.training for module in model.modules())
        found.close() if how == "closed early" else list(found)
    else:
        with pytest.raises((KeyError, TypeError)):
            list(found)
    assert [module.training for module in model.modules()] == before


def test_no_gradient_is_kept(model: Model) -> None:
    extract(model, waves([4000]))
    assert all(parameter.grad is None for parameter in model.parameters())


# Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "progress", "shown"),
    [(Terminal, True, True), (Terminal, False, False), (io.StringIO, True, False)],
)
def test_progress(
    model: Model, monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO], progress: bool, shown: bool
) -> None:
    written = stream()
    monkeypatch.setattr(sys, "stderr", written)
    assert len(list(zoo.extract(model, waves([4000, 100, 5000]), progress=progress))) == 3
    assert ("3/3" in written.getvalue()) == shown
    assert shown or written.getvalue() == ""
