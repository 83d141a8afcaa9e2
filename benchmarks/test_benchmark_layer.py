"""What the pooled store makes of a recipe's cost, beside the upstream being run for every batch as s3prl does."""

from __future__ import annotations

import statistics
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

import zoo
from zoo.benchmark import tasks
from zoo.benchmark._run import Options, Run, _Part
from zoo.benchmark._trainer import Fit

CLIPS, WARM_UP = 64, 1
STEPS = {"on the fly": 3, "pooled store": 400}
ROWS = 20_000  # of the table that batches are taken from: 800 MB, more than a cache holds, less than a corpus's
STEP_RATIO, RECIPE_RATIO = 100, 20

# Seconds of a clip, recipe whose features are all stored, and the labels of some item.
TASKS: dict[str, tuple[float, str, list[dict[str, str]]]] = {
    "superb/ks": (1.0, "zoo", [{"label": "yes"}, {"label": "_silence_"}]),
    "superb/ic": (2.0, "official", [{key: f"{key}{n}" for key in ("action", "object", "location")} for n in range(2)]),
}


def run(name: str, upstream: torch.nn.Module, folder: Path, store_gb: float) -> Any:
    """The run's only part, on noise."""
    seconds, recipe, labels = TASKS[name]

    def corpus() -> dict[str, Any]:
        counts = {"train": CLIPS, "valid": 2, "test": 2}
        return {
            split: {
                f"{split}{n}": {"waveform": 0.1 * torch.randn(round(16_000 * seconds)), **labels[n % 2]}
                for n in range(count)
            }
            for split, count in counts.items()
        }

    options = Options(recipe=recipe, corpus=corpus, store_gb=store_gb, progress=False)
    whole = Run(tasks()[name], upstream, None, folder, options, lambda line: None)
    return _Part(whole, None, whole.corpora[None])


def step_seconds(part: Any, kind: str) -> float:
    """Of an update, without evaluation: the median."""
    assert part.features.kind == kind
    part.go(1)
    fit: Fit = part.fit
    times = [time.perf_counter()]
    fit.train(1 + WARM_UP + STEPS[kind], lambda fit: times.append(time.perf_counter()))
    # The last update is followed by an evaluation.
    return statistics.median(stop - start for start, stop in pairwise(times[WARM_UP:-1]))


@pytest.mark.benchmark(group="an update of a head, features in the pooled store")
@pytest.mark.parametrize("name", TASKS)
def test_pooled_store(benchmark: BenchmarkFixture, name: str, tmp_path: Path, ratios: list[str]) -> None:
    upstream = zoo.build("hubert_base")
    flying = run(name, upstream, tmp_path / "flying", store_gb=0)
    flying.run._fill([flying])
    flying_s = step_seconds(flying, "on the fly")

    stored = run(name, upstream, tmp_path / "stored", store_gb=50)
    begun = time.perf_counter()
    stored.run._fill([stored])
    # The plan, which runs the upstream on ten seconds, is paid for once and counted for every item here.
    item_s = (time.perf_counter() - begun) / (CLIPS + 4)
    features = stored.features
    features.table = torch.ones(ROWS, *features.table.shape[1:])
    features.store.positions = lambda keys: torch.randint(ROWS, (len(list(keys)),))
    stored_s = step_seconds(stored, "pooled store")

    task = tasks()[name]
    recipe, items = task.recipes["official"], sum(task.layout.items.values())
    steps = recipe.steps
    assert recipe.batch_size == 32 and steps == 200_000
    whole = steps * flying_s / (items * item_s + steps * stored_s)
    ratios.append(
        f"{name} {TASKS[name][1]}: a step {1e3 * flying_s:.0f} ms on the fly, {1e3 * stored_s:.2f} ms from the store: "
        f"{flying_s / stored_s:.0f} times; all {steps} steps and the first pass over {items} items: {whole:.0f} times"
    )
    done = stored.fit.step
    benchmark.pedantic(lambda: stored.fit.train(stored.fit.step + 50), rounds=3)
    assert stored.fit.step > done
    assert flying_s / stored_s >= STEP_RATIO
    assert whole >= RECIPE_RATIO
