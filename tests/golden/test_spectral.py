"""Spectral features, baselines and the models on them give what torchaudio and s3prl gave; planted bugs are caught."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import zoo
from tests.golden import spectral as golden
from tests.golden.compare import check_silence
from zoo.layers import spectral
from zoo.layers.lengths import frame_mask
from zoo.models import _spectral, tera

Patch = pytest.MonkeyPatch


@torch.no_grad()
def test_front_ends(record_differences) -> None:
    result = golden.compare_transforms()
    record_differences("transform", result.largest)
    assert not result.failures, "\n".join(result.failures)


@torch.no_grad()
def test_baselines(record_differences) -> None:
    result = golden.compare_baselines()
    record_differences("baseline", result.largest)
    assert not result.failures, "\n".join(result.failures)


@pytest.mark.parametrize("name", golden.model_names())
def test_model(name: str, tmp_path: Path, record_differences) -> None:
    case = golden.read(name)
    model = zoo.load(golden.checkpoint(case, tmp_path))
    result = golden.compare_model(case, model)
    check_silence(result, model)
    record_differences("tera", result.largest)
    assert not result.failures, "\n".join(result.failures)


# --- canaries ----------------------------------------------------------------------------------------------------


def changed(name: str, change: Callable[..., Tensor]) -> Callable[[Patch], None]:
    """A function of `zoo.layers.spectral` whose result is changed."""

    def plant(patch: Patch) -> None:
        original = getattr(spectral, name)
        patch.setattr(spectral, name, lambda *args, **options: change(original(*args, **options)))

    return plant


def replaced(name: str, value: object) -> Callable[[Patch], None]:
    return lambda patch: patch.setattr(spectral, name, value)


def symmetric(size: int) -> Tensor:
    return torch.hann_window(size, periodic=False)


def slaney_filters(bins: int, bands: int, sample_rate: int) -> Tensor:
    """Another mel scale: linear up to 1 kHz, logarithmic above."""
    mel = torch.linspace(
        0, 15 + 27 * float(torch.log(torch.tensor(8.0))) / float(torch.log(torch.tensor(6.4))), bands + 2
    )
    corner = torch.where(mel < 15, mel * 200 / 3, 1000 * (6.4 ** ((mel - 15) / 27)))
    frequency = torch.linspace(0, sample_rate / 2, bins)[:, None]
    up = (frequency - corner[:-2]) / (corner[1:-1] - corner[:-2])
    down = (corner[2:] - frequency) / (corner[2:] - corner[1:-1])
    return torch.minimum(up, down).clamp(min=0)


def zero_edges(waveforms: Tensor, lengths: Tensor, size: int, hop: int, fft: int) -> Tensor:
    """The ends are padded with zeros instead of being reflected."""
    frames = F.pad(waveforms, (fft // 2, fft // 2)).unfold(1, fft, hop)
    return torch.fft.rfft(frames * torch.hann_window(size)).abs().square()


def edges_of_the_batch(waveforms: Tensor, lengths: Tensor, size: int, hop: int, fft: int) -> Tensor:
    """Reflected where the batch ends, not where each utterance does."""
    return ORIGINAL_POWER(waveforms, torch.full_like(lengths, waveforms.shape[1]), size, hop, fft)


def biased(x: Tensor, lengths: Tensor, eps: float = 1e-10) -> Tensor:
    n = lengths[:, None, None]
    return ORIGINAL_CMVN(x, lengths, eps) * (n / (n - 1)).sqrt()


def zero_slopes(x: Tensor, lengths: Tensor, window: int) -> Tensor:
    """Slopes at the ends look at zeros instead of repeated frames."""
    y = F.pad(x, (0, 0, 2, 2))
    t = x.shape[1]
    slope = (y[:, 3 : 3 + t] - y[:, 1 : 1 + t] + 2 * (y[:, 4 : 4 + t] - y[:, :t])) / 10
    return slope.masked_fill(frame_mask(lengths, t)[:, :, None], 0.0)


def dithered(frames: Tensor, *arguments: Any) -> Tensor:
    return ORIGINAL_SQUARES(frames + 1e-5 * torch.randn(frames.shape), *arguments)


def mean_kept(frames: Tensor, mean: Tensor, *arguments: Any) -> Tensor:
    return ORIGINAL_SQUARES(frames, torch.zeros_like(mean), *arguments)


ORIGINAL_POWER, ORIGINAL_CMVN = spectral.power_spectrum, spectral.normalise_frames
ORIGINAL_SQUARES = spectral._kaldi_squares
ORIGINAL_LOG_MEL = spectral.log_mel

TRANSFORM_CANARIES: dict[str, Callable[[Patch], None]] = {
    "symmetric Hann window": replaced("hann_window", symmetric),
    "Hann instead of Povey": replaced("povey_window", symmetric),
    "periodic Povey": replaced("povey_window", lambda size: torch.hann_window(size).pow(0.85)),
    "Slaney's mel scale": replaced("mel_filters", slaney_filters),
    "filters with unit area": changed("mel_filters", lambda x: x / x.sum(0)),
    "Kaldi's filters from 0 Hz": replaced("KALDI_LOW_HZ", 0.0),
    "eps of the logarithm": replaced(
        "log_mel", lambda power, bands, rate: ORIGINAL_LOG_MEL(power, bands, rate, floor=1e-6)
    ),
    "floor of Kaldi's energies": replaced("KALDI_FLOOR", 1e-4),
    "pre-emphasis": replaced("PRE_EMPHASIS", 0.96),
    "no pre-emphasis": replaced("PRE_EMPHASIS", 0.0),
    "mean not removed": replaced("_kaldi_squares", mean_kept),
    "dither": replaced("_kaldi_squares", dithered),
    "zeros at the edges": replaced("power_spectrum", zero_edges),
    "magnitude instead of power": changed("power_spectrum", torch.sqrt),
    "lifter": replaced("CEPSTRAL_LIFTER", 21.0),
    "slopes without repeated ends": replaced("deltas", zero_slopes),
    "slopes half as steep": changed("deltas", lambda x: x / 2),
    "biased deviation": replaced("normalise_frames", biased),
    "eps of the deviation": replaced("normalise_frames", lambda x, n: ORIGINAL_CMVN(x, n, 1e-2)),
}


@pytest.mark.parametrize("bug", TRANSFORM_CANARIES)
@torch.no_grad()
def test_a_planted_bug_in_a_front_end_is_caught(bug: str, monkeypatch: Patch) -> None:
    TRANSFORM_CANARIES[bug](monkeypatch)
    spectral._kept.cache_clear()  # windows and filters are kept by the function that makes them
    assert golden.compare_transforms().failures, f"the comparison does not notice: {bug}"


def hidden(attribute: str, value: object) -> Callable[[torch.nn.Module, Patch], None]:
    return lambda model, patch: patch.setattr(tera, attribute, value)


def front(name: str, value: object) -> Callable[[torch.nn.Module, Patch], None]:
    return lambda model, patch: patch.setattr(spectral, name, value)


def config(**fields: object) -> Callable[[torch.nn.Module, Patch], None]:
    def plant(model: torch.nn.Module, patch: Patch) -> None:
        model.config = tera.replace(model.config, **fields)

    return plant


def swapped(model: torch.nn.Module, patch: Patch) -> None:
    attention = model.encoder.layer[0].attention.self
    attention.query, attention.key = attention.key, attention.query


def eps(model: torch.nn.Module, patch: Patch) -> None:
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-3


def activation(function: Callable[[Tensor], Tensor]) -> Callable[[torch.nn.Module, Patch], None]:
    def plant(model: torch.nn.Module, patch: Patch) -> None:
        for layer in model.encoder.layer:
            layer.intermediate.activation = function

    return plant


def halves(frames: int, width: int) -> Tensor:
    """Sines in the first half of the columns, cosines in the second."""
    table = SINUSOIDS(frames, width)
    return torch.cat([table[:, 0::2], table[:, 1::2]], 1)


SINUSOIDS = tera.sinusoids
MODEL_CANARIES: dict[str, tuple[str, Callable[[torch.nn.Module, Patch], None]]] = {
    "query and key swapped": ("tera_lively", swapped),
    "eps of the norms": ("tera_usual", eps),
    "tanh GELU": ("tera_usual", activation(lambda x: F.gelu(x, approximate="tanh"))),
    "ReLU instead of swish": ("mockingjay_linear_usual", activation(F.relu)),
    "positions in halves": ("tera_usual", hidden("sinusoids", halves)),
    "padding not masked": ("tera_lively", hidden("SILENT", 0.0)),
    "longer chunks": ("tera_chunked_usual", config(chunk_frames=16)),
    "no chunks": ("tera_chunked_usual", config(chunk_frames=0)),
    "slopes in another order": ("tera_fbank_usual", config(delta_window=3)),
    "no CMVN": ("tera_usual", config(cmvn=False)),
    "edges of the batch": ("tera_usual", front("power_spectrum", edges_of_the_batch)),
    "no level": ("tera_usual", config(level_db=-125.0)),
    "frames counted by the formula": (
        "tera_usual",
        lambda model, patch: patch.setattr(_spectral.torch, "round", torch.ceil),
    ),
}


@pytest.mark.parametrize("bug", MODEL_CANARIES)
def test_a_planted_bug_in_a_model_is_caught(bug: str, tmp_path: Path, monkeypatch: Patch) -> None:
    name, plant = MODEL_CANARIES[bug]
    case = golden.read(name)
    model = zoo.load(golden.checkpoint(case, tmp_path))
    plant(model, monkeypatch)
    spectral._kept.cache_clear()
    assert golden.compare_model(case, model).failures, f"the comparison does not notice: {bug}"


@pytest.fixture(autouse=True)
def fresh_tables() -> None:
    spectral._kept.cache_clear()
