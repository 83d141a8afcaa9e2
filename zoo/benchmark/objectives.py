"""What heads are trained for: targets, loss, predictions and metrics of a kind of task.

Shapes: B batch, T frames, V outputs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import groupby
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from zoo.benchmark import losses, metrics
from zoo.benchmark._task import Corpus, Item
from zoo.errors import InputError, cut


class Objective:
    """A kind of task; made anew for each corpus.

    Attributes:
        output_size: V, what the head gives for each frame or utterance.
        key: of an item, for the sampler's classes; None: every item is of one class.
    """

    output_size: int
    key: str | None = None

    def module(self) -> nn.Module | None:
        """Parameters of the loss; trained with the head."""
        return None

    def items(self, split: str, items: Mapping[str, Item]) -> dict[str, Item]:
        """What is trained on or tested, such as the chunks of long recordings."""
        return dict(items)

    def apply(self, head: nn.Module, x: Tensor, x_len: Tensor) -> tuple[Tensor, Tensor]:
        """Output of the head for features (B, T, D); the head's `training` says whether it is being trained."""
        out = head(x, x_len)
        if not (isinstance(out, tuple) and len(out) == 2 and all(isinstance(one, Tensor) for one in out)):
            raise InputError(f"the downstream {type(head).__name__} gave {type(out).__name__}; it must give (y, y_len)")
        if out[0].dim() not in (2, 3) or out[0].shape[-1] != self.output_size:
            raise InputError(
                f"the downstream {type(head).__name__} gave y of shape {tuple(out[0].shape)}; it must be (B, T, V) or "
                f"(B, V) with V = {self.output_size}"
            )
        return out

    def target(self, item: Item) -> Any:
        """What the head shall give for an item.

        Raises:
            InputError: when its label is missing, empty or not among those of the training set.
        """
        raise NotImplementedError

    def check(self, split: str, item: Item) -> None:
        """Refuse an item that this split cannot use.

        Raises:
            InputError: see `target`.
        """
        if type(self).target is not Objective.target:
            self.target(item)

    def label_length(self, item: Item) -> int:
        """Length of the target; 1 for classes."""
        return 1

    def loss(self, module: nn.Module | None, y: Tensor, y_len: Tensor, targets: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """Sum of the losses of a batch, and what to divide it by for their mean."""
        raise NotImplementedError

    def predict(self, y: Tensor, y_len: Tensor, items: Sequence[Item]) -> list[Any]:
        """A prediction for each item, which JSON or a tensor can hold."""
        raise NotImplementedError

    def metrics(self, split: str, predictions: Mapping[str, Any], items: Mapping[str, Item]) -> dict[str, float]:
        """Metrics of a split."""
        raise NotImplementedError

    def chance(self, items: Mapping[str, Item]) -> float:
        """The primary metric of an answer that does not look at its input."""
        raise NotImplementedError

    def confusion(
        self, predictions: Mapping[str, Any], items: Mapping[str, Item]
    ) -> tuple[list[str], list[list[int]]] | None:
        """Labels, and how often each (row) was taken for each (column); None where there is no such thing."""
        return None


class Classification(Objective):
    """One class, or one of each of several kinds, for an utterance; cross entropy, summed over the kinds.

    Args:
        corpus: its training set has the classes, unless `labels` names them.
        keys: of an item, one for each kind.
        labels: kind -> its classes in the order of the outputs; None: in order of first appearance in training.
    """

    def __init__(
        self, corpus: Corpus, keys: Sequence[str] = ("label",), labels: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        self.keys = tuple(keys)
        self.key = self.keys[0]
        train = corpus.get("train", {}).values()
        self.labels = {
            key: list(labels[key]) if labels else list(dict.fromkeys(item[key] for item in train if _has(item, key)))
            for key in self.keys
        }
        for key, names in self.labels.items():
            if len(names) < 2:
                raise InputError(
                    f"a classifier needs two classes at least; the training set has {len(names)} in {key!r}: "
                    f"{cut(', '.join(names)) or 'none'}"
                )
        self.index = {key: {name: i for i, name in enumerate(names)} for key, names in self.labels.items()}
        self.sizes = [len(self.labels[key]) for key in self.keys]
        self.output_size = sum(self.sizes)

    def target(self, item: Item) -> list[int]:
        """Class of each kind."""
        target = []
        for key in self.keys:
            label = _label(item, key)
            if label not in self.index[key]:
                raise InputError(
                    f"the label {cut(label)!r} ({key}) is not among the {len(self.index[key])} of the training set"
                )
            target.append(self.index[key][label])
        return target

    def loss(self, module: nn.Module | None, y: Tensor, y_len: Tensor, targets: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """Cross entropy of the logits (B, V); of frames (B, T, V) their mean is taken first."""
        target = torch.tensor(targets, device=y.device)
        parts = torch.split(pooled(y, y_len).float(), self.sizes, dim=-1)
        total = sum((losses.cross_entropy(part, target[:, i])[0] for i, part in enumerate(parts)), y.new_zeros(()))
        return total, torch.tensor(float(len(target)), device=y.device)

    def predict(self, y: Tensor, y_len: Tensor, items: Sequence[Item]) -> list[Any]:
        """The most likely class of each kind, by name."""
        best = [part.argmax(-1).tolist() for part in torch.split(pooled(y, y_len), self.sizes, dim=-1)]
        return [[self.labels[key][i] for key, i in zip(self.keys, row)] for row in zip(*best)]

    def metrics(self, split: str, predictions: Mapping[str, Any], items: Mapping[str, Item]) -> dict[str, float]:
        """`accuracy`: share of items of which every kind is right; with several kinds also that of each."""
        truth = {i: [str(item[key]) for key in self.keys] for i, item in items.items()}
        found = {"accuracy": metrics.accuracy([list(predictions[i]) for i in truth], list(truth.values()))}
        if len(self.keys) > 1:
            for k, key in enumerate(self.keys):
                pairs = [(predictions[i][k], names[k]) for i, names in truth.items()]
                found[f"{key}_accuracy"] = metrics.accuracy(*zip(*pairs))
        return found

    def chance(self, items: Mapping[str, Item]) -> float:
        """Share of the most common answer."""
        count = Counter(tuple(str(item[key]) for key in self.keys) for item in items.values())
        return max(count.values()) / max(1, len(items))

    def confusion(
        self, predictions: Mapping[str, Any], items: Mapping[str, Item]
    ) -> tuple[list[str], list[list[int]]] | None:
        """Of the first kind."""
        key = self.keys[0]
        names, index = self.labels[key], self.index[key]
        table = [[0] * len(names) for _ in names]
        for i, item in items.items():
            table[index[item[key]]][index[predictions[i][0]]] += 1
        return names, table


class Tokenizer(Protocol):
    """Text to the indices of outputs and back.

    Attributes:
        size: V.
        blank: index of CTC's blank.
    """

    size: int
    blank: int

    def encode(self, item: Item) -> list[int]:
        """Indices of an item's text; InputError where it has none."""

    def decode(self, indices: Sequence[int]) -> str:
        """Text of the best path, without repeats and blanks."""

    def reference(self, item: Item) -> str:
        """What a decoded text is compared with."""


class Transcription(Objective):
    """Text by connectionist temporal classification.

    Args:
        tokenizer: of the text. `encode` raises InputError for an item without text; `decode` is given the best index
            of each frame after repeats were merged and blanks dropped; `reference` is the text to compare with.
        measures: metric -> function of hypotheses and references.
    """

    def __init__(self, tokenizer: Tokenizer, measures: Mapping[str, Callable[..., float]]) -> None:
        self.tokenizer, self.measures = tokenizer, dict(measures)
        self.output_size = tokenizer.size

    def target(self, item: Item) -> list[int]:
        """Indices of the text."""
        return self.tokenizer.encode(item)

    def label_length(self, item: Item) -> int:
        """Number of indices."""
        return len(self.tokenizer.encode(item))

    def loss(self, module: nn.Module | None, y: Tensor, y_len: Tensor, targets: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """CTC of the logits (B, T, V), each divided by the length of its text."""
        lengths = torch.tensor([len(target) for target in targets], device=y.device)
        joined = torch.tensor([index for target in targets for index in target], device=y.device)
        total, count = losses.ctc(y.float(), y_len, joined, lengths, blank=self.tokenizer.blank)
        return total, torch.tensor(float(count), device=y.device)

    def predict(self, y: Tensor, y_len: Tensor, items: Sequence[Item]) -> list[Any]:
        """Text of the best path."""
        paths = [row[:n].tolist() for row, n in zip(y.argmax(-1), y_len.tolist())]
        merged = [[i for i, _ in groupby(path) if i != self.tokenizer.blank] for path in paths]
        return [self.tokenizer.decode(path) for path in merged]

    def metrics(self, split: str, predictions: Mapping[str, Any], items: Mapping[str, Item]) -> dict[str, float]:
        """Every measure over the whole split."""
        hypotheses = [predictions[i] for i in items]
        references = [self.tokenizer.reference(item) for item in items.values()]
        return {name: measure(hypotheses, references) for name, measure in self.measures.items()}

    def chance(self, items: Mapping[str, Item]) -> float:
        """The first measure of silence."""
        measure = next(iter(self.measures.values()))
        return measure([""] * len(items), [self.tokenizer.reference(item) for item in items.values()])


def _label(item: Item, key: str) -> str:
    if not _has(item, key):
        raise InputError(f"an item has no {key!r}; every item needs one, as text: {cut(str(dict(item)))}")
    return str(item[key])


def _has(item: Item, key: str) -> bool:
    return isinstance(item.get(key), str) and bool(item[key])


def pooled(y: Tensor, y_len: Tensor) -> Tensor:
    """(B, V): of frames (B, T, V) the mean of the valid ones."""
    if y.dim() == 2:
        return y
    mask = torch.arange(y.shape[1], device=y.device) < y_len.to(y.device)[:, None]
    return (y * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def duration_s(item: Item) -> float:
    """Seconds of a recording; of a file from its header.

    Raises:
        InputError: it cannot be read.
    """
    if "duration_s" in item:
        return float(item["duration_s"])
    if "waveform" in item:
        return len(item["waveform"]) / float(item.get("sample_rate", 16_000))
    import soundfile

    try:
        return float(soundfile.info(item["wav_path"]).duration)
    except (OSError, RuntimeError) as error:
        raise InputError(f"the length of {item['wav_path']} cannot be read: {cut(str(error))}") from None


def classes(objective: Objective, items: Mapping[str, Item]) -> list[Hashable]:
    """What each item is to be recognised as, for a sampler."""
    return [item[objective.key] if objective.key else None for item in items.values()]
