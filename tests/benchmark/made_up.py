"""Results that no run has given: what a report is tested on. Every number here is made up by a formula."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import zoo
from zoo.benchmark import Options, _files, _hooks, tasks

UNRECORDED = ("audio", "valid_sampler", "selection", "min_samples", "grid", "learning_rate")
# What a procedure does not record.
TRAINED = {"head", "head_options", "batch_size", "accumulate", "optimizer", "optimizer_options", "scheduler", "clip"}
TRAINED |= {"sampler", "sampler_options", "evaluate_every", "evaluation_batch_size", "save_every", "grid_share"}
RATES = (1.0, 0.1, 0.01, 0.001, 0.0001)


def result(task: str = "superb/ks", upstream: str = "hubert_base", value: float = 0.9512, **changes: Any) -> dict:
    """A finished result of an official run on the whole corpus; `changes` replace keys, but `config` is merged."""
    it = tasks()[task] if task in tasks() else tasks()["superb/ks"]
    name = changes.get("config", {}).get("recipe", "official")
    recipe, metric = it.recipes[name], it.metric
    config = {
        "recipe": name,
        "layers": list(range(states(upstream))),
        "upstream_options": {},
        "corpus": _hooks.name(it.corpus),
        "head": None if recipe.head is None else _hooks.name(recipe.head),
        "sampler": _hooks.name(recipe.sampler),
    }
    for key in ("padding", "normalize", "finetune", "precision", "limit", "scheduler"):
        config[key] = getattr(Options(), key)
    for field in fields(recipe):
        if field.name not in config and field.name not in UNRECORDED:
            config[field.name] = getattr(recipe, field.name)
    if recipe.procedure is not None:
        config = {key: value for key, value in config.items() if key not in TRAINED}
        config |= {"procedure": _hooks.name(recipe.procedure), "steps": None, "learning_rate": None}
    if recipe.layers is not None:
        config["layers"] = [range(states(upstream))[layer] for layer in recipe.layers]
    made: dict[str, Any] = {
        "task": task,
        "upstream": upstream,
        "status": "finished",
        "primary": {"name": metric, "value": value},
        "metrics": {"test": {metric: value, "slot_value_cer": 0.25}, "valid": {metric: value}},
        "chance": 0.0833,
        "config": config | changes.pop("config", {}),
        "items": dict(it.layout.items),
        "seeds": {"run": 0},
        "data_fingerprint": "0" * 64,
        "versions": {"zoo": "0.1.0", "torch": "2.13.0", "python": "3.11.9"},
        "curve": curve(metric),
        "layer_weights": softmax([math.exp(-((k - 8.0) ** 2) / 9) for k in range(13)]),
        "confusion": {
            "labels": (labels := "yes no up down left right on off stop go _unknown_ _silence_".split()),
            "counts": [[240 if i == j else (7 * i + 3 * j) % 5 for j in range(12)] for i in range(len(labels))],
        },
        "excluded": {"train": {"count": 2, "examples": ["a.wav has 10 samples"]}, "test": {"count": 0, "examples": []}},
        "learning_rate": 0.001,
        "grid": [
            {"learning_rate": rate, "steps": 20, "value": score, "diverged": score is None}
            for rate, score in zip(RATES, (None, 0.31, 0.872, 0.951, 0.64))
        ],
        "features": "pooled store",
        "head_parameters": 199948,
        "best_step": 850,
        "seconds": 754.2,
        "notes": ["the learning rate 1.0 diverged at step 7"],
    }
    return _files.plain(made | changes)


def hear(task: str, upstream: str = "hubert_base", value: float | None = 0.7, folds: int = 0, **changes: Any) -> dict:
    """A finished result by the kit's protocol; `changes` as of `result`."""
    metric = tasks()[task].metric if task in tasks() else "top1_acc"
    base = result("hear/dcase2016_task2-hear2021-full", upstream, **changes.pop("base", {}))
    score = 0.5 if value is None else value
    points = [
        {"hidden_layers": layers, "learning_rate": rate, "initialization": f"xavier_{name}_"}
        for layers, rate, name in zip(
            (1, 2, 1, 1, 2, 2, 2, 2),
            (1e-4, 1e-3, 1e-3, 3.2e-4, 3.2e-4, 3.2e-4, 3.2e-3, 3.2e-3),
            "normal uniform normal normal normal uniform normal uniform".split(),
        )
    ]
    grid = [{"point": one, "valid": score - 0.01 * abs(i - 3) if i else None} for i, one in enumerate(points)]
    runs = [(0, one) for one in enumerate(points)] + [(k, (3, points[3])) for k in range(1, folds)]
    epochs = [
        {"partition": k, **point, "epoch": epoch, "loss": 3 * math.exp(-epoch / 40) + 0.01 * i}
        | {"valid": score * (1 - math.exp(-(epoch + 3) / (20 + 5 * i)))}
        for k, (i, point) in runs
        for epoch in range(2, 150, 3)
    ]
    parts = [{"best_epoch": 104 + k, "splits": {"test": f"fold{k:02}"}} for k in range(folds or 1)]
    scores = {f"fold{k:02}": {metric: score + 0.01 * (k - (folds - 1) / 2)} for k in range(folds)}
    whole = {
        "task": task,
        "primary": {"name": metric, "value": value},
        "metrics": {"test": {metric: value, "d_prime": None}, **scores},
        "chance": 0.1,
        "curve": epochs,
        "chosen": {"grid": grid, "winner": 3, "partitions": parts, "many_at_a_time": False},
        "items": dict(tasks()[task].layout.items) if task in tasks() else {},
        "config": base["config"],
        "notes": [],
    }
    for key in ("grid", "learning_rate", "layer_weights", "confusion", "best_step"):
        del base[key]
    config = {"config": whole["config"] | changes.pop("config", {})}
    return _files.plain(base | whole | changes | config)


def states(upstream: str) -> int:
    try:
        return zoo.info(upstream).layers + 1
    except zoo.errors.UnknownModelError:
        return 13


def softmax(values: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in values)
    return [math.exp(value) / total for value in values]


def curve(metric: str, folds: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    for fold in folds or (None,):
        at: dict[str, Any] = {} if fold is None else {"fold": fold}
        for i, rate in enumerate(RATES):
            for step in range(10, 1001 if rate == 0.001 else 201, 10):
                speed = (0.0, 2.0, 30.0, 60.0, 400.0)[i]
                loss = 2.48 * math.exp(-step / speed) + 0.02 + 0.01 * math.sin(step) if speed else math.nan
                records.append({"step": step, **at, "learning_rate": rate, "loss": loss if i else None})
            for step in range(50, 1001 if rate == 0.001 else 201, 50):
                score = 0.951 * (1 - math.exp(-step / 60)) / (1 + abs(i - 3))
                records.append({"step": step, **at, "learning_rate": rate, "split": "valid", metric: score})
    return records


def write(folder: Path, made: dict[str, Any], name: str | None = None) -> Path:
    """The result file as the engine names it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (name or f"{made['task'].replace('/', '_')}.json")
    path.write_text(json.dumps(made), encoding="utf-8")
    return path
