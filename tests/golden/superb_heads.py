"""What SUPERB's heads, and HEAR's, are trained on when they are compared with s3prl's: cases, batches, weights, loop.

Used by the maker in s3prl's environment and by the test in ours; nothing here is of either. The features are noise in
which patterns of the labels are hidden, so that 100 steps learn something; every layer has its own share of them, so
that the layer weights do too. They are sums and products of float32 numbers, one after the other: the same anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

if __package__:
    from tests.golden.generator import uniform, words
else:  # the makers run from this folder
    from generator import uniform, words

STEPS = 100
LAYERS, WIDTH, HIDDEN, STRIDE = 3, 12, 16, 320
POOLED = 24  # of the x-vector's last time-delay layer
INTENTS = (3, 4, 2)
END = 1  # symbol at the end of every target; 0 is the blank


@dataclass(frozen=True)
class Case:
    """A task as one generation of s3prl trains it, in small.

    Attributes:
        kind: What its labels are: "utterance", "intent", "text", "speaker" or "turns".
        outputs: Size of the head's output; for "speaker", how many speakers there are.
        accumulate: Micro-batches to a step, the task's own.
        lr: Learning rate.
        optimiser: Name of torch's class.
        clip: Largest norm of the gradient, the task's own.
        items: Items of a micro-batch.
    """

    kind: str
    outputs: int
    accumulate: int
    lr: float
    optimiser: str = "Adam"
    clip: float = 1.0
    items: int = 4


# By generation and task, of v0.4 what has classes of its own. Hidden sizes and learning rates suit the small model.
CASES = {
    "v0.3/pr": Case("text", 9, 2, 1e-2),
    "v0.3/asr": Case("text", 8, 1, 1e-2),
    "v0.3/sf": Case("text", 10, 1, 3e-3),
    "v0.3/ks": Case("utterance", 12, 1, 1e-2),
    "v0.3/sid": Case("utterance", 5, 4, 1e-2),
    "v0.3/ic": Case("intent", sum(INTENTS), 1, 1e-2),
    "v0.3/er": Case("utterance", 4, 8, 1e-2),
    "v0.3/sd": Case("turns", 2, 4, 1e-2),
    # The recipe's own rate: a unit that begins to fire moves a standard deviation at once, and at higher rates s3prl in
    # float32 and in float64 part within 100 steps.
    "v0.3/asv": Case("speaker", 6, 5, 1e-4, "AdamW", 1000.0),
    "v0.4/pr": Case("text", 9, 2, 1e-2),
    "v0.4/asr": Case("text", 8, 1, 1e-2),
    "v0.4/sid": Case("utterance", 5, 4, 1e-2),
    "v0.4/sd": Case("turns", 2, 4, 1e-2),
    # The gradient of a bias before batch norm is rounding, of which Adam would make steps.
    "v0.4/hear": Case("utterance", 5, 1, 0.3, "SGD", items=16),
}
# v0.4's x-vector has layers of 512, whatever is asked: its outputs and gradients are compared, not its training.
FIXED = {"v0.4/asv": Case("speaker", 6, 5, 1e-4, "AdamW", 1000.0)}


@dataclass(frozen=True)
class Batch:
    """A micro-batch.

    Attributes:
        states: (K, B, T, D); what stands in the padding is noise as well.
        lengths: (B,) valid frames; one item has all of T.
        labels: (B,) classes, (B, 3) intents or (B, T, S) speakers' turns; None for text.
        targets: Symbols of each item, of text.
    """

    states: Tensor
    lengths: Tensor
    labels: Tensor | None
    targets: list[list[int]]


def _integers(key: str, low: int, high: int, count: int) -> list[int]:
    """`count` integers from low to high - 1."""
    return (words(key, count) % np.uint64(high - low)).astype(int).__add__(low).tolist()


def batch(name: str, index: int) -> Batch:
    """Micro-batch `index` of a case."""
    case = {**CASES, **FIXED}[name]
    key, items = f"superb/{name}/{index}", case.items
    lengths = _integers(f"{key}/lengths", 17, 33, items)
    frames = max(lengths)
    labels, targets = None, []
    activity = np.zeros((items, frames, case.outputs), dtype=np.float32)
    if case.kind == "text":
        counts = _integers(f"{key}/counts", 2, 5, items)
        for row, (length, count) in enumerate(zip(lengths, counts)):
            symbols = _integers(f"{key}/{row}", 2, case.outputs, count)
            for place, symbol in enumerate(symbols):
                activity[row, length * place // count : length * (place + 1) // count, symbol] = 1
            targets.append([*symbols, END])
    elif case.kind == "turns":
        for row in range(items):
            for speaker in range(case.outputs):
                start, size = _integers(f"{key}/{row}/{speaker}", 3, 15, 2)
                activity[row, start : start + size, speaker] = 1
        labels = torch.from_numpy(activity.astype(np.int64))
    else:
        sizes = INTENTS if case.kind == "intent" else (case.outputs,)
        classes = [_integers(f"{key}/{part}", 0, size, items) for part, size in enumerate(sizes)]
        labels = torch.tensor(classes).T if case.kind == "intent" else torch.tensor(classes[0])
        for part, chosen in enumerate(classes):
            activity[range(items), :, [sum(sizes[:part]) + label for label in chosen]] = 1
    content = np.zeros((items, frames, WIDTH), dtype=np.float32)
    for column, pattern in enumerate(uniform(f"superb/{name}/patterns", case.outputs * WIDTH).reshape(-1, WIDTH)):
        content += activity[:, :, column, None] * pattern
    noise = uniform(f"{key}/noise", LAYERS * items * frames * WIDTH).reshape(LAYERS, items, frames, WIDTH)
    shares = np.array([0.25, 1.0, 0.5], dtype=np.float32)
    states = noise + shares[:, None, None, None] * content
    return Batch(torch.from_numpy(states), torch.tensor(lengths), labels, targets)


def weights(name: str, parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
    """Gives parameters their generated values, by the reference's names; the layer weights stay zero."""
    with torch.no_grad():
        for key, parameter in parameters:
            values = uniform(f"superb/{name}/{key}", parameter.numel()).reshape(parameter.shape)
            spread = np.float32(0.1 if values.ndim == 1 else 2.0 ** round(-0.5 * np.log2(values.shape[-1])))
            parameter.copy_(torch.from_numpy(values * spread))


def train(
    name: str, step: Callable[[Batch], Tensor], parameters: Sequence[nn.Parameter], steps: int = STEPS
) -> np.ndarray:
    """Losses (steps,) of a training run: `step` gives the loss of a micro-batch, a step's is their mean."""
    case = CASES[name]
    optimiser = getattr(torch.optim, case.optimiser)(parameters, lr=case.lr)
    losses = np.zeros(steps)
    for n in range(steps):
        for micro in range(case.accumulate):
            loss = step(batch(name, n * case.accumulate + micro)) / case.accumulate
            loss.backward()
            losses[n] += loss.item()
        nn.utils.clip_grad_norm_(parameters, case.clip)
        optimiser.step()
        optimiser.zero_grad()
    return losses


def gradients(loss: Tensor, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Norm and some values of the gradient of each parameter, by its name."""
    found = {}
    for name, gradient in zip(parameters, torch.autograd.grad(loss, list(parameters.values()))):
        flat = gradient.flatten()
        found[f"{name}/norm"] = flat.double().norm()
        found[f"{name}/slice"] = flat[:: max(1, len(flat) // 32)][:32]
    return found


class Draws:
    """Stands for `torch.randint`: integers of the generator, the same in any version of torch."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, low: int | Tensor, high: int | Tensor, size: Sequence[int], device: object = None) -> Tensor:
        self.calls += 1
        count = int(np.prod(size))
        drawn = _integers(f"superb/draw {self.calls}", int(low), int(high), count)
        return torch.tensor(drawn).reshape(tuple(size))


AUGMENTED = (90, 10, 61, 11)  # lengths; the second is too short to be warped


def augmented() -> tuple[Tensor, Tensor]:
    """Features (B, T, D) for SpecAugment, zero in the padding, and lengths (B,)."""
    shape = (len(AUGMENTED), max(AUGMENTED), 160)
    x = torch.from_numpy(uniform("superb/augmented", int(np.prod(shape))).reshape(shape).copy())
    for row, length in zip(x, AUGMENTED):
        row[length:] = 0
    return x, torch.tensor(AUGMENTED)
