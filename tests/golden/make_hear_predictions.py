"""Makes the golden data of HEAR's prediction stage with its own kit, heareval.

Needs heareval (README.md beside this file says how) and the root of the repository on the path:

    PYTHONPATH=. python tests/golden/make_hear_predictions.py golden    # hear/predictions.{json,npz}

It takes `--out DIR`. The cases are those of hear_prediction_cases.py, given to the kit as the folders that its
embedding stage leaves behind.
"""

from __future__ import annotations

import csv
import json
import os
import pickle
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"  # Lightning's checkpoints hold classes

import numpy as np
from heareval.predictions import runner, task_predictions
from recording import command_line, provenance, versions, write

from tests.golden.hear_prediction_cases import CASES, Case


def folder(case: Case, root: Path) -> Path:
    """Writes what the kit's prediction stage reads."""
    path = root / case.name
    path.mkdir()
    (path / "task_metadata.json").write_text(json.dumps(case.metadata))
    with (path / "labelvocabulary.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("idx", "label"), *enumerate(case.labels)])
    for name in case.metadata["splits"]:
        split = case.split(name)
        split.x.tofile(path / f"{name}.embeddings.npy")
        (path / f"{name}.embedding-dimensions.json").write_text(json.dumps(split.x.shape))
        (path / f"{name}.target-labels.pkl").write_bytes(pickle.dumps(split.labels))
        (path / f"{name}.json").write_text(json.dumps(split.events))
        rows = [(f"{name}/{file}", time) for file, times in split.times.items() for time in times]
        (path / f"{name}.filename-timestamps.json").write_text(json.dumps(rows))
    return path


def run(case: Case, root: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What the kit's runner makes of a case with its defaults, on the CPU."""
    path, trained = folder(case, root), []
    original = task_predictions.task_predictions_train

    def observed(*args: Any, **kwargs: Any) -> Any:
        trained.append(original(*args, **kwargs))
        return trained[-1]

    task_predictions.task_predictions_train = observed
    try:
        runner.runner.callback([str(path)], gpus=None)
    finally:
        task_predictions.task_predictions_train = original
    scores = json.loads((path / "test.predicted-scores.json").read_text())
    tests = ["test"] if case.metadata["split_mode"] == "trainvaltest" else sorted(case.metadata["splits"])
    document: dict[str, Any] = {
        "trainings": [
            {
                "hidden_layers": each.conf["hidden_layers"],
                "learning_rate": each.conf["lr"],
                "initialization": each.conf["initialization"].__name__,
                "valid": each.validation_score,
                "best epoch": each.epoch,
                "epochs": each.trainer.fit_loop.epoch_progress.total.completed,
                "postprocessing": dict(each.postprocessing),
            }
            for each in trained
        ],
        "winner": next(i for i, each in enumerate(trained) if str(each.conf["lr"]) == str(scores["hparams"]["lr"])
                       and each.conf["hidden_layers"] == scores["hparams"]["hidden_layers"]
                       and str(each.conf["initialization"]) == scores["hparams"]["initialization"]),
        "scores": {
            name: {key: value for key, value in scores[name].items() if not key.startswith("time_in_min")}
            for name in [*tests, "aggregated_scores"]
            if name in scores
        },
    }  # fmt: skip
    arrays = {}
    for name in tests:
        with (path / f"{name}.predictions.pkl").open("rb") as file:
            predictions = pickle.load(file)
        if case.name == "quick":
            arrays[f"{case.name}/{name}/probabilities"] = predictions["prediction"].numpy().astype(np.float16)
        if "predicted_events" in predictions:
            document["scores"][name]["events"] = sum(map(len, predictions["predicted_events"].values()))
    return document, arrays


def make_golden(out: Path) -> None:
    warnings.simplefilter("ignore")
    documents, arrays = {}, {}
    home = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # where Lightning leaves its logs
        try:
            for name in CASES:
                documents[name], more = run(CASES[name](), Path(folder))
                arrays |= more
        finally:
            os.chdir(home)
    document = {
        **provenance(
            versions(
                f"heareval {version('heareval')}",
                **{name: version(name) for name in ("pytorch-lightning", "scikit-learn", "sed_eval", "torchinfo")},
            ),
            "make_hear_predictions.py",
        ),
        "cases": documents,
    }
    write(out.resolve() / "predictions", document, arrays, packed=True)


if __name__ == "__main__":
    command_line(__doc__, {"golden": (make_golden, Path(__file__).resolve().parent / "hear")})
