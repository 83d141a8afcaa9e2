"""Makes the golden data of HEAR's embedding stage with its own kit, heareval: order of rows, and targets of frames.

Needs heareval (README.md beside this file says how) and the root of the repository on the path:

    PYTHONPATH=. python tests/golden/make_hear_embeddings.py golden    # hear/embeddings.{json,npz}

It takes `--out DIR`. The folders are those of hear_cases.py. TensorFlow, which the kit imports but needs for models of
its own kind only, is replaced by an empty module.
"""

from __future__ import annotations

import json
import pickle
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import soundfile
import torch

RATE, SAMPLES = 16_000, 16_000
stub: Any = ModuleType("tensorflow")
stub.Module = type("Module", (), {})
sys.modules["tensorflow"] = stub

from heareval.embeddings.task_embeddings import Embedding, task_embeddings  # noqa: E402
from recording import command_line, provenance, versions, write  # noqa: E402

from tests.golden import hear_cases as cases  # noqa: E402


class Toy(torch.nn.Module):
    """The mean of a clip; frames as those of wav2vec 2.0."""

    sample_rate = RATE
    scene_embedding_size = timestamp_embedding_size = 1


def toy() -> str:
    """Name of a module with HEAR's common API."""
    module: Any = ModuleType("toy")
    module.load_model = lambda model_file_path="": Toy()
    module.get_scene_embeddings = lambda audio, model: audio.mean(1, keepdim=True)
    times = torch.arange((SAMPLES - 400) // 320 + 1, dtype=torch.float64) * 20 + 12.5
    module.get_timestamp_embeddings = lambda audio, model: (
        audio.mean(1)[:, None, None].expand(-1, len(times), 1),
        times.expand(len(audio), -1),
    )
    sys.modules["toy"] = module
    return "toy"


def stage(event: bool, place: Path) -> dict[str, Any]:
    """The kit's embedding stage: of each split, its files in the order of rows, and the labels of each row."""
    splits = cases.folder(event)
    task, out = place / "task", place / "out"
    level = 0
    for split, files in splits.items():
        (task / str(RATE) / split).mkdir(parents=True)
        for name in files:
            level += 1
            wave = np.full(SAMPLES, level / 1024, dtype=np.float32)  # by which its row is known
            soundfile.write(task / str(RATE) / split / name, wave, RATE, subtype="PCM_16")
        (task / f"{split}.json").write_text(json.dumps(files))
    metadata = {
        "task_name": "toy",
        "embedding_type": "event" if event else "scene",
        "prediction_type": "multilabel" if event else "multiclass",
        "splits": list(splits),
        "sample_duration": SAMPLES / RATE,
    }
    (task / "task_metadata.json").write_text(json.dumps(metadata))
    (task / "labelvocabulary.csv").write_text("idx,label\n" + "".join(f"{i},{x}\n" for i, x in enumerate(cases.LABELS)))
    task_embeddings(Embedding(toy()), task, out)
    names = [name for files in splits.values() for name in files]
    found: dict[str, Any] = {}
    for split in splits:
        rows, width = json.loads((out / f"{split}.embedding-dimensions.json").read_text())
        levels = np.fromfile(out / f"{split}.embeddings.npy", dtype=np.float32).reshape(rows, width)[:, 0]
        with open(out / f"{split}.target-labels.pkl", "rb") as file:
            labels = pickle.load(file)  # which the line above wrote
        order = [names[round(float(level) * 1024) - 1] for level in levels]
        targets = np.array([[label in said for label in cases.LABELS] for said in labels], dtype=np.uint8)
        found[split] = {"files": list(dict.fromkeys(order)), "targets": targets}
    return found


def make_golden(out: Path) -> None:
    document: dict[str, Any] = {
        **provenance(versions(f"heareval {version('heareval')}"), "make_hear_embeddings.py"),
        "notes": [
            "files: in the order of rows; targets in the npz: (rows, labels), frames of a file one after another"
        ],
    }
    arrays = {}
    for kind, event in (("scene", False), ("event", True)):
        with tempfile.TemporaryDirectory() as name:
            found = stage(event, Path(name))
        document[kind] = {split: one["files"] for split, one in found.items()}
        arrays |= {f"{kind}/{split}": one["targets"] for split, one in found.items()}
    write(out / "embeddings", document, arrays)


if __name__ == "__main__":
    command_line(__doc__, {"golden": (make_golden, Path(__file__).parent / "hear")})
