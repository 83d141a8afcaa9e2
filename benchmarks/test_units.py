"""Extraction of discrete units beside extraction of the features of the same layer."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import pytest
import soundfile
import torch
from pytest_benchmark.fixture import BenchmarkFixture

import zoo
import zoo.__main__

CLIPS, SECONDS, RATE, ROUNDS = 8, 8, 16_000, 5
LAYER = 6
SHARE = 0.95  # of the throughput without units, at least


@pytest.mark.benchmark(group="units")
@pytest.mark.parametrize("clusters", [100, 2000])
def test_throughput(clusters: int, benchmark: BenchmarkFixture, tmp_path: Path, ratios: list[str]) -> None:
    """Both through the command line, with what it writes."""
    model = zoo.build("hubert_base")
    zoo.save(model, tmp_path / "model.safetensors")
    zoo.Units(torch.randn(clusters, model.config.width), layer=LAYER).save(tmp_path / "k.npz")
    (tmp_path / "audio").mkdir()
    for clip in range(CLIPS):
        soundfile.write(tmp_path / "audio" / f"{clip}.wav", (0.1 * torch.randn(SECONDS * RATE)).numpy(), RATE)
    command = [
        "extract",
        tmp_path / "audio",
        "-o",
        tmp_path / "out",
        "--model",
        tmp_path / "model.safetensors",
        "--force",
    ]

    def run(*options: object) -> float:
        begun = time.perf_counter()
        assert zoo.__main__.main([str(word) for word in (*command, "--layers", LAYER, *options)]) == 0
        return time.perf_counter() - begun

    run()
    pairs = [(run(), run("--units", tmp_path / "k.npz")) for _ in range(ROUNDS)]
    features, units = (statistics.median(times) for times in zip(*pairs))
    ratios.append(
        f"{CLIPS} clips of {SECONDS} s, {clusters} units: {CLIPS * SECONDS / units:.2f} s of audio a second, features "
        f"{CLIPS * SECONDS / features:.2f}: {features / units:.2f} times"
    )
    benchmark.pedantic(lambda: run("--units", tmp_path / "k.npz"), rounds=1)
    assert features / units >= SHARE
