"""What is to be found in the frames of a recording."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zoo.benchmark.metrics import Event

END_MS = 1e-4  # an event is active at its end, too


def active(events: Sequence[Event], times_ms: Tensor, labels: Sequence[str]) -> Tensor:
    """Which labels are active at which times, as heareval 2021.1.3 `embeddings/task_embeddings.py` pairs them.

    Args:
        events: label, start and end in milliseconds; those of one label may overlap.
        times_ms: (T,) fp64.
        labels: V names.

    Returns:
        (T, V) fp32, 0 or 1.
    """
    found = torch.zeros(len(times_ms), len(labels))
    for event in events:
        there = (times_ms >= event["start"]) & (times_ms < event["end"] + END_MS)
        found[there, labels.index(event["label"])] = 1
    return found
