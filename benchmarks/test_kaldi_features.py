"""Kaldi's features of a batch; beside them, in turns, torchaudio's functions, which take one utterance at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import median
from time import perf_counter
from types import ModuleType

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from zoo.layers import spectral

CLIPS, SECONDS, SAMPLE_RATE = 32, 10, 16000
ROUNDS = 15
FRAMES = {"size": 400, "hop": 160}  # 25 ms and 10 ms
# Zoo on the batch, torchaudio on one clip, and the least ratio on a machine that does other things too.
CASES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[ModuleType, Tensor], Tensor], float]] = {
    **{
        f"fbank, {bands} bands": (
            lambda clips, bands=bands: spectral.kaldi_fbank(clips, bands=bands, sample_rate=SAMPLE_RATE, **FRAMES),
            lambda kaldi, clip, bands=bands: kaldi.fbank(clip, num_mel_bins=bands),
            2.0,
        )
        for bands in (80, 24, 23)
    },
    "mfcc, 13 of 23 bands": (
        lambda clips: spectral.kaldi_mfcc(clips, bands=23, cepstra=13, sample_rate=SAMPLE_RATE, **FRAMES),
        lambda kaldi, clip: kaldi.mfcc(clip),
        2.0,
    ),
    "spectrogram": (
        lambda clips: spectral.kaldi_spectrogram(clips, **FRAMES),
        lambda kaldi, clip: kaldi.spectrogram(clip),
        1.5,
    ),
}


@pytest.fixture
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.benchmark(group=f"Kaldi's features of {CLIPS} clips of {SECONDS} s")
@pytest.mark.parametrize("threads", [1, 2], indirect=True, ids=["1 thread", "2 threads"])
@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_kaldi_features(
    benchmark: BenchmarkFixture, name: str, threads: int, torchaudio_kaldi: ModuleType | None, ratios: list[str]
) -> None:
    zoo, torchaudio, least = CASES[name]
    torch.manual_seed(0)
    clips = 0.1 * torch.randn(CLIPS, SECONDS * SAMPLE_RATE)
    if torchaudio_kaldi is None:
        benchmark.pedantic(zoo, (clips,), rounds=ROUNDS, warmup_rounds=2)
        return

    def peer() -> Tensor:
        return torch.stack([torchaudio(torchaudio_kaldi, clip[None]) for clip in clips])

    want = peer()
    difference = float((zoo(clips) - want).abs().max() / want.abs().max())
    assert difference <= 1e-6, f"{difference:.1e} of the largest value apart"
    peer_s: list[float] = []

    def take_turns() -> None:
        start = perf_counter()
        peer()
        peer_s.append(perf_counter() - start)

    benchmark.pedantic(lambda: zoo(clips), setup=take_turns, rounds=ROUNDS)
    ratio = median(peer_s) / benchmark.stats.stats.median
    benchmark.extra_info |= {"torchaudio_median_s": median(peer_s), "ratio": ratio, "difference": difference}
    ratios.append(
        f"{name}, threads {threads}: torchaudio {median(peer_s) * 1e3:.1f} ms, "
        f"zoo {benchmark.stats.stats.median * 1e3:.1f} ms, ratio {ratio:.2f}"
    )
    assert ratio >= least, ratios[-1]
