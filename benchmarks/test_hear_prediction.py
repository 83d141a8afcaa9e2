"""HEAR's prediction stage on a task of 2,000 clips and five folds, one predictor at a time and many."""

from __future__ import annotations

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from zoo.benchmark.hear._predictor import Protocol, Rows, Stage, stage

CLIPS, FOLDS, WIDTH, LABELS = 2000, 5, 768, 50
MINUTES = 5


def task() -> tuple[dict[str, Rows], Protocol]:
    """Rows of a size and difficulty as ESC-50 has them: about 0.6 of the clips are told apart."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(LABELS, WIDTH, generator=generator)
    names = [f"fold{index:02}" for index in range(FOLDS)]
    rows = {}
    for name in names:
        wanted = torch.randint(LABELS, (CLIPS // FOLDS,), generator=generator)
        noise = torch.randn(len(wanted), WIDTH, generator=generator)
        rows[name] = Rows(centres[wanted] + 5 * noise, torch.eye(LABELS)[wanted])
    pairs = [(test, names[(index + 1) % FOLDS]) for index, test in enumerate(names)]
    return rows, Protocol(
        labels=tuple(map(str, range(LABELS))),
        prediction="multiclass",
        event=False,
        metrics=("top1_acc", "mAP", "d_prime", "aucroc"),
        partitions=tuple((tuple(x for x in names if x not in pair), pair[1], pair[0]) for pair in pairs),
    )


@pytest.mark.benchmark(group="HEAR's prediction stage, 2,000 clips in five folds")
@pytest.mark.parametrize("many", [False, True], ids=["one at a time", "many"])
def test_prediction_stage(benchmark: BenchmarkFixture, many: bool) -> None:
    rows, protocol = task()
    device = "cuda" if many and torch.cuda.is_available() else "cpu"
    done: Stage = benchmark.pedantic(
        stage, (rows, protocol), {"many": many, "device": device}, rounds=1, iterations=1, warmup_rounds=0
    )
    trained = [*done.tried, *(each.trained for each in done.tested[1:])]
    epochs = sum(each.epochs for each in trained)
    seconds = benchmark.stats.stats.mean
    benchmark.extra_info |= {
        "device": device,
        "epochs": epochs,
        "ms an epoch": round(1000 * seconds / epochs, 1),
        "top1_acc": round(done.mean("top1_acc"), 4),
    }
    assert 0.4 < done.mean("top1_acc") < 0.9
    assert many or seconds < 60 * MINUTES
