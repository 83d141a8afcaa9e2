"""Recipe "zoo": a head on the learned sum of all hidden states, by the training loop of SUPERB's tasks.

After s3prl 0.4.18 `problem/common/hear_*.py` (hidden layers, batches, 4 s of events, learning rate, clipping), which
took DCASE 2016 task 2 from .66 to .86 by the sum alone. Deviations: a fold takes 15,000 updates, where s3prl takes
4,000 for ESC-50, 15,000 for events and 150,000 for most; CREMA-D has no learning rate of its own; frames are labelled
as HEAR's kit does it, and none is made up where parts of a recording meet. With `finetune` the upstream learns at the
rate of the head: take a small one, such as 1e-5.

Shapes: B batch, N clips, T frames, V labels.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.benchmark import heads, losses, metrics
from zoo.benchmark._task import Corpus, Item, Recipe, Selection
from zoo.benchmark._upstream import Upstream
from zoo.benchmark.hear._folder import Folder
from zoo.benchmark.hear._frames import active
from zoo.benchmark.metrics import Event
from zoo.benchmark.objectives import Objective, duration_s, pooled
from zoo.errors import InputError

CHUNK_S = 4.0  # of a recording, in training and in tests
LONGEST_S = 120.0  # that is run at once, as in hear_api; only clips of Beehive States are longer


def recipe(folder: Folder, selection: Selection) -> Recipe:
    """How a head is trained on a folder."""
    return Recipe(
        selection=selection,
        head=heads.FrameMLP if folder.event else heads.UtteranceMLP,
        steps=15_000,
        batch_size=5 if folder.event else 32,
        learning_rate=1e-3,
        grid=(3.2e-3, 1e-3, 3.2e-4, 1e-4),
        grid_share=0.2,
        evaluate_every=500,
        save_every=500,
        evaluation_batch_size=5 if folder.event else 32,
        frames="all",
        chunk_s=LONGEST_S,
        objective_options={"chunk_s": CHUNK_S} if folder.event else {},
    )


class Scenes(Objective):
    """One label of a clip, by cross entropy, or any number of them, each by binary cross entropy.

    A prediction has the probabilities (V,) of a clip.

    Args:
        corpus: clips with `labels`.
        hop_samples: not needed.
        folder: labels and metrics.
    """

    def __init__(self, corpus: Corpus, hop_samples: int, *, folder: Folder) -> None:
        self.folder = folder
        self.output_size = len(folder.labels)

    def target(self, item: Item) -> Tensor:
        """(V,), 0 or 1."""
        return self.folder.target(item)

    def loss(self, module: nn.Module | None, y: Tensor, y_len: Tensor, targets: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """Of the logits (B, V), over labels the mean; of frames (B, T, V) their mean is taken first."""
        y, target = pooled(y, y_len).float(), torch.stack(list(targets)).to(y.device)
        count = torch.tensor(float(len(target)), device=y.device)
        if not self.folder.multilabel:
            return losses.cross_entropy(y, target.argmax(1))[0], count
        return F.binary_cross_entropy_with_logits(y, target, reduction="none").mean(1).sum(), count

    def predict(self, y: Tensor, y_len: Tensor, items: Sequence[Item]) -> list[Any]:
        """Probabilities of each clip."""
        y = _finite(pooled(y, y_len))
        return list((y.sigmoid() if self.folder.multilabel else y.softmax(1)).cpu())

    def metrics(self, split: str, predictions: Mapping[str, Any], items: Mapping[str, Item]) -> dict[str, float]:
        """Those of the folder; NaN where a class has no clip and the metric needs one of each."""
        found = torch.stack([predictions[key] for key in items])
        wanted = torch.stack([self.target(item) for item in items.values()])
        return {name: metrics.HEAR_SCENES[name](found, wanted) for name in self.folder.metrics}

    def chance(self, items: Mapping[str, Item]) -> float:
        """The primary metric of saying the same of every clip."""
        wanted = torch.stack([self.target(item) for item in items.values()])
        name = self.folder.metrics[0]
        if name in ("aucroc", "d_prime"):
            return 0.5 if name == "aucroc" else 0.0
        if name == "mAP":  # of rows that are all alike the precision is their share
            return float(wanted.mean(0).mean())
        first = wanted.argmax(1)
        count = Counter((first % 12 if name == "chroma_acc" else first).tolist())
        return max(count.values()) / len(first)

    def confusion(
        self, predictions: Mapping[str, Any], items: Mapping[str, Item]
    ) -> tuple[list[str], list[list[int]]] | None:
        """Where a clip has one label."""
        if self.folder.multilabel:
            return None
        table = np.zeros((self.output_size, self.output_size), dtype=int)
        for key, item in items.items():
            table[int(self.target(item).argmax()), int(predictions[key].argmax())] += 1
        return list(self.folder.labels), table.tolist()


class Events(Objective):
    """Labels of every frame, each by binary cross entropy; events are made of frames as HEAR's kit makes them.

    A prediction has the probabilities (T, V) of a recording, or of a part of it, whose id is `recording#first-last` in
    samples.

    Args:
        corpus: recordings with `events`, their start and end in milliseconds.
        hop_samples: samples between frames.
        folder: labels, metrics and post-processing.
        upstream: when its frames are.
        chunk_s: recordings are cut into parts of so many seconds; None: they are not.
    """

    def __init__(
        self, corpus: Corpus, hop_samples: int, *, folder: Folder, upstream: Upstream, chunk_s: float | None = None
    ) -> None:
        self.folder, self.hop, self.upstream, self.chunk_s = folder, hop_samples, upstream, chunk_s
        self.output_size = len(folder.labels)
        self.chosen = folder.postprocessing[0]

    def items(self, split: str, items: Mapping[str, Item]) -> dict[str, Item]:
        """Parts of recordings; what is left at an end and too short for a frame is left out.

        Of a part as much more is heard as its last frame needs, so that no frame lacks where parts meet. A recording
        whose length cannot be read stays whole, so that it is counted as one that cannot be used.
        """
        if self.chunk_s is None:
            return dict(items)
        rate = self.upstream.sample_rate
        size, least = round(self.chunk_s * rate / self.hop) * self.hop, max(self.upstream.min_samples, self.hop)
        parts: dict[str, Item] = {}
        for name, item in items.items():
            try:
                total = round(duration_s(item) * rate)
            except InputError:
                parts[name] = item
                continue
            for start in range(0, max(total, 1), size):
                stop = min(start + size, total)
                if not start or stop - start >= least:
                    heard = min(stop + self.upstream.min_samples, total)
                    span = {"start_s": start / rate, "end_s": heard / rate, "part_s": (stop - start) / rate}
                    parts[f"{name}#{start}-{stop}"] = {**item, "recording": name, **span}
        return parts

    def target(self, item: Item) -> Tensor:
        """(T, V), of as many frames as may count."""
        times = self._times_ms(item, self._frames(item))
        first, last = times[[0, -1]].tolist()
        near = [event for event in item["events"] if event["end"] >= first - 1 and event["start"] <= last]
        return active(near, times, self.folder.labels).bool()

    def check(self, split: str, item: Item) -> None:
        """Whatever a recording holds can be used."""

    def loss(self, module: nn.Module | None, y: Tensor, y_len: Tensor, targets: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """Of the logits (B, T, V), over valid frames the sum and over labels the mean."""
        lengths = [min(length, len(target)) for length, target in zip(y_len.tolist(), targets)]
        rows = torch.cat([row[:length] for row, length in zip(y.float(), lengths)])
        wanted = torch.cat([target[:length] for target, length in zip(targets, lengths)]).to(rows)
        total = F.binary_cross_entropy_with_logits(rows, wanted, reduction="none").mean(1).sum()
        return total, torch.tensor(float(len(rows)), device=y.device)

    def predict(self, y: Tensor, y_len: Tensor, items: Sequence[Item]) -> list[Any]:
        """Probabilities of the valid frames."""
        lengths = [min(length, self._frames(item)) for length, item in zip(y_len.tolist(), items)]
        return [_finite(row[:length]).sigmoid().cpu() for row, length in zip(y, lengths)]

    def metrics(self, split: str, predictions: Mapping[str, Any], items: Mapping[str, Item]) -> dict[str, float]:
        """Those of the folder; an F-measure of nothing found is 0, where the kit has no number.

        The validation set chooses the post-processing, by the first metric, which a test goes by.
        """
        recordings: dict[str, list[tuple[Tensor, Tensor]]] = {}
        reference: dict[str, Sequence[Event]] = {}
        for key, item in items.items():
            name, found = item.get("recording", key), predictions[key]
            recordings.setdefault(name, []).append((self._times_ms(item, len(found)), found))
            reference[name] = item["events"]
        whole = {name: tuple(map(torch.cat, zip(*parts))) for name, parts in recordings.items()}
        scores = {}
        for choice in self.folder.postprocessing if split == "valid" else (self.chosen,):
            events = {
                name: metrics.events_from_frames(found, times, self.folder.labels, *choice)
                for name, (times, found) in whole.items()
            }
            values = {name: metrics.HEAR_EVENTS[name](events, reference) for name in self.folder.metrics}
            scores[choice] = {name: 0.0 if math.isnan(value) else value for name, value in values.items()}
        primary = self.folder.metrics[0]
        sign = -1 if primary in metrics.HEAR_LOWER else 1
        self.chosen = max(scores, key=lambda choice: (sign * scores[choice][primary], choice))
        median, least = self.chosen
        return {**scores[self.chosen], "median_filter_ms": median, "min_duration": least}

    def chance(self, items: Mapping[str, Item]) -> float:
        """The first metric of finding nothing."""
        return 1.0 if self.folder.metrics[0] in metrics.HEAR_LOWER else 0.0

    def _frames(self, item: Item) -> int:
        """As many as have their middle in an item.

        An upstream may give more: of the padding, where it is not exact, or one in which the next part begins.
        """
        seconds = float(item["part_s"]) if "part_s" in item else duration_s(item)
        times_ms = self.upstream.times_ms(math.ceil(seconds * self.upstream.sample_rate / self.hop))
        return max(1, int((times_ms < 1000.0 * seconds).sum()))

    def _times_ms(self, item: Item, frames: int) -> Tensor:
        """Middles of frames (T,) from the beginning of the recording on."""
        return self.upstream.times_ms(frames) + 1000.0 * float(item.get("start_s", 0.0))


def _finite(y: Tensor) -> Tensor:
    """Logits in fp32 that are large where they were infinite; NaN stays."""
    return y.float().clamp(-1e30, 1e30)
