"""Folders in HEAR's format, of tones whose pitch says what they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

LABELS = ("low", "mid", "10")
PITCHES = (300.0, 900.0, 2500.0)
METRICS = {
    "scene": ["top1_acc", "mAP", "d_prime", "aucroc"],
    "multilabel": ["mAP", "aucroc"],
    "event": ["event_onset_200ms_fms", "segment_1s_er"],
}


def write(
    root: Path, kind: str, *, folds: int = 0, clips: int = 6, seconds: float = 1.0, rate: int = 16_000, **changes: Any
) -> Path:
    """A folder.

    Args:
        root: its path; the name is the task's.
        kind: "scene", "multilabel" or "event".
        folds: so many; 0: train, valid and test.
        clips: of each split.
        seconds: of a clip.
        rate: Hz.
        changes: of the metadata.
    """
    random = np.random.Generator(np.random.Philox(key=[11, len(kind)]))
    splits = [f"fold{i:02}" for i in range(folds)] or ["train", "valid", "test"]
    root.mkdir(parents=True)
    for split in splits:
        audio = root / str(rate) / split
        audio.mkdir(parents=True)
        listed = {}
        for clip in range(clips):
            time_s = np.arange(round(seconds * rate)) / rate
            wave = 0.02 * random.standard_normal(len(time_s))
            said: list[Any] = []
            chosen = {clip % 3} if kind == "scene" else {clip % 3, int(random.integers(3))}
            for k in sorted(chosen):
                pitch = PITCHES[k] * random.uniform(0.95, 1.05)
                start, end = (random.uniform(0, 0.3), random.uniform(0.6, 1.0)) if kind == "event" else (0.0, 1.0)
                there = (time_s >= start * seconds) & (time_s <= end * seconds)
                wave += 0.25 * there * np.sin(2 * np.pi * pitch * time_s)
                ms = 1000.0 * seconds
                label = LABELS[k] if k < 2 else 10
                said.append({"label": label, "start": start * ms, "end": end * ms} if kind == "event" else label)
            listed[f"{split}-{clip}.wav"] = said
            soundfile.write(audio / f"{split}-{clip}.wav", np.clip(wave, -1, 1), rate, subtype="PCM_16")
        (root / f"{split}.json").write_text(json.dumps(listed))
    metadata = {
        "task_name": root.name.partition("-")[0],
        "version": "v1.0",
        "embedding_type": "event" if kind == "event" else "scene",
        "prediction_type": "multiclass" if kind == "scene" else "multilabel",
        "split_mode": "new_split_kfold" if folds else "trainvaltest",
        "splits": splits,
        "sample_duration": seconds,
        "evaluation": METRICS[kind],
        **changes,
    }
    (root / "task_metadata.json").write_text(json.dumps(metadata))
    (root / "labelvocabulary.csv").write_text("idx,label\n" + "".join(f"{i},{name}\n" for i, name in enumerate(LABELS)))
    return root
