"""HEAR's embeddings through the benchmark layer beside `zoo.extract` on the same clips."""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path

import pytest
import soundfile
import torch
from pytest_benchmark.fixture import BenchmarkFixture

import zoo
from zoo.benchmark._run import Options, Run, _Part
from zoo.benchmark._task import select

CLIPS, SECONDS, RATE, ROUNDS = 24, 5, 16_000, 3  # a fold of what ESC-50 is made of, and small
SHARE = 0.9  # of zoo.extract's throughput, at least


def folder(root: Path) -> Path:
    """ESC-50's shape: scenes of five seconds in folds."""
    root.mkdir(parents=True)
    splits = [f"fold0{i}" for i in range(3)]
    for split in splits:
        audio = root / str(RATE) / split
        audio.mkdir(parents=True)
        for clip in range(CLIPS // 3):
            soundfile.write(audio / f"{clip}.wav", (0.1 * torch.randn(SECONDS * RATE)).numpy(), RATE)
        (root / f"{split}.json").write_text(json.dumps({f"{clip}.wav": [str(clip % 2)] for clip in range(CLIPS // 3)}))
    metadata = {
        "task_name": "clips",
        "embedding_type": "scene",
        "prediction_type": "multiclass",
        "split_mode": "new_split_kfold",
        "splits": splits,
        "sample_duration": SECONDS,
        "evaluation": ["top1_acc"],
    }
    (root / "task_metadata.json").write_text(json.dumps(metadata))
    (root / "labelvocabulary.csv").write_text("idx,label\n0,0\n1,1\n")
    return root


@pytest.mark.benchmark(group="HEAR's embeddings")
def test_throughput(benchmark: BenchmarkFixture, tmp_path: Path, ratios: list[str]) -> None:
    upstream = zoo.build("hubert_base")
    data = folder(tmp_path / "data" / "clips-v1-full").parent
    paths = sorted(data.rglob("*.wav"))
    run = Run(select("hear/clips", data)[0], upstream, data, tmp_path / "out", Options(progress=False), lambda _: None)

    def layer(number: int) -> float:
        part = _Part(run, None, run.corpora[None])
        run.folder = tmp_path / "out" / str(number)
        pace = part.features.seconds_per_second  # the plan, which is paid for once however many clips there are
        part.features.seconds_per_second = lambda: 0.0  # type: ignore[method-assign]
        begun = time.perf_counter()
        run._fill([part])
        seconds = time.perf_counter() - begun
        part.features.seconds_per_second = pace  # type: ignore[method-assign]
        return seconds

    def extract() -> float:
        begun = time.perf_counter()
        for one in zoo.extract(upstream, paths, layers=[-1], progress=False):
            assert one.error is None
        return time.perf_counter() - begun

    extract()
    pairs = [(extract(), layer(number)) for number in range(ROUNDS)]
    theirs, ours = (statistics.median(times) for times in zip(*pairs))
    audio = CLIPS * SECONDS
    ratios.append(
        f"{CLIPS} clips of {SECONDS} s: zoo.extract {audio / theirs:.2f} s of audio a second, HEAR's embeddings "
        f"{audio / ours:.2f}: {theirs / ours:.2f} times"
    )
    benchmark.pedantic(lambda: layer(ROUNDS), rounds=1)
    assert theirs / ours >= SHARE
