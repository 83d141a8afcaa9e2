"""The official prediction stage of HEAR: embeddings and targets in, scores out.

Predictors are trained at the points of a grid on the first partition; the one that validates best is trained again on
the others, and each is tested on its own. Source: heareval 2021.1.3 `predictions/task_predictions.py`, and what
pytorch-lightning 1.6.5 does beneath it; `tests/golden/make_hear_predictions.py` records what they give.

One at a time, all random numbers are the kit's: one stream of torch's for the whole stage, drawn from in its order, so
that a training depends on those before it; dropout is that of torch 1.12 whatever the version here. Many at a time, predictors of one shape are one batched model, and each has
a stream of its own: what is trained beside it does not matter.

Shapes: N rows, D width, V labels, G predictors side by side, B rows of a batch, C hidden units, T frames of a file.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from functools import cache
from itertools import pairwise, product
from typing import Any
from typing import Protocol as Interface

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.benchmark import metrics
from zoo.benchmark.metrics import Event
from zoo.errors import InputError, shown

HIDDEN, DROPOUT = 1024, 0.1
METRICS: dict[str, Callable[..., float]] = {**metrics.HEAR_SCENES, **metrics.HEAR_EVENTS}
SUMMARY_ROWS = 64  # of noise, which the kit runs each new predictor on to print a summary


@dataclass(frozen=True)
class Point:
    """A point of the grid.

    Attributes:
        hidden_layers: 1 or 2.
        learning_rate: Adam's.
        initialization: The function of `torch.nn.init` that draws the weights.
    """

    hidden_layers: int
    learning_rate: float
    initialization: str

    def as_dict(self) -> dict[str, Any]:
        """For a JSON file."""
        return asdict(self)

    def __str__(self) -> str:
        kind = self.initialization.removeprefix("xavier_").rstrip("_")
        return f"{self.hidden_layers} x {HIDDEN}, lr {self.learning_rate:g}, Xavier {kind}"


def _grid(count: int = 8, seed: int = 42) -> tuple[Point, ...]:
    """The points that the kit samples from all sixteen, in its order."""
    every = [
        Point(layers, rate, initialization)
        for layers, initialization, rate in product(
            (1, 2), ("xavier_uniform_", "xavier_normal_"), (3.2e-3, 1e-3, 3.2e-4, 1e-4)
        )
    ]
    random.Random(seed).shuffle(every)
    return tuple(every[:count])


GRID = _grid()


@dataclass(frozen=True)
class Rows:
    """A split.

    Attributes:
        x: (N, D) float32 embeddings, of a clip or of a frame.
        targets: (N, V) float32, 0 or 1.
        times: Of each file of an event task, in the order of its rows, the (T,) timestamps of its frames in ms.
        events: Of each file of an event task, what is to be found.
    """

    x: Tensor
    targets: Tensor
    times: Mapping[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    events: Mapping[str, Sequence[Event]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What a task prescribes.

    Attributes:
        labels: V names.
        prediction: "multiclass" or "multilabel".
        event: Frames are classified, and events are made of them.
        metrics: By HEAR's names; the first decides.
        partitions: (training splits, validation split, test split) of each; the grid is searched on the first.
        use_scoring: The first metric selects; else the loss of the validation split does.
        postprocessing: Of an event task, the (median_filter_ms, min_duration_ms) to choose from.
        max_epochs: Longest training.
        check_every: Epochs from one validation to the next.
        patience: Validations in a row without improvement that end a training.
        batch_size: Rows of a batch; they are never shuffled.
    """

    labels: tuple[str, ...]
    prediction: str
    event: bool
    metrics: tuple[str, ...]
    partitions: tuple[tuple[tuple[str, ...], str, str], ...]
    use_scoring: bool = True
    postprocessing: tuple[tuple[float, float], ...] = ()
    max_epochs: int = 500
    check_every: int = 3
    patience: int = 20
    batch_size: int = 1024

    @property
    def lower(self) -> bool:
        """Whether less of what selects is better."""
        return not self.use_scoring or self.metrics[0] in metrics.HEAR_LOWER


@dataclass
class Trained:
    """A predictor at its best.

    Attributes:
        point: Of the grid.
        partition: Index of what it was trained on.
        valid: What selects, at the best validation; infinitely bad where that was not a number.
        best_epoch: Epoch of it, from 0.
        epochs: Epochs trained.
        postprocessing: Chosen at the best validation; None for scenes.
        curve: (epoch, loss of training in it, what selects) of each validation.
        state: Parameters and statistics at the best validation, on the CPU.
    """

    point: Point
    partition: int
    valid: float
    best_epoch: int
    epochs: int
    postprocessing: tuple[float, float] | None
    curve: list[tuple[int, float, float]]
    state: dict[str, Tensor]

    def record(self) -> dict[str, Any]:
        """Everything but the state, for a JSON file."""
        return {**{name: value for name, value in vars(self).items() if name != "state"}, "point": self.point.as_dict()}

    @classmethod
    def of(cls, record: Mapping[str, Any], state: Mapping[str, Tensor]) -> Trained:
        """From `record`, perhaps after a file of JSON."""
        chosen = record["postprocessing"]
        return cls(
            **{
                **record,
                "point": Point(**record["point"]),
                "postprocessing": None if chosen is None else tuple(chosen),
                "curve": [tuple(entry) for entry in record["curve"]],
            },
            state=dict(state),
        )


@dataclass(frozen=True)
class Tested:
    """A predictor on its test split.

    Attributes:
        trained: The predictor.
        split: Name of the test split.
        scores: Every metric by name, and `loss`.
        probabilities: (N, V).
        events: Of each file of an event task, what was found.
    """

    trained: Trained
    split: str
    scores: dict[str, float]
    probabilities: Tensor
    events: dict[str, list[Event]]


@dataclass(frozen=True)
class Stage:
    """What the prediction stage gives.

    Attributes:
        tried: The points on the first partition, in order.
        winner: Index of the one that was chosen.
        tested: Of each partition.
    """

    tried: tuple[Trained, ...]
    winner: int
    tested: tuple[Tested, ...]

    @property
    def point(self) -> Point:
        """Which was chosen."""
        return self.tried[self.winner].point

    def mean(self, name: str) -> float:
        """A score, averaged over partitions; as in the kit, one that is not a number does not count if others are."""
        values = self._numbers(name)
        return float(np.mean(values)) if values else math.nan

    def deviation(self, name: str) -> float:
        """Its standard deviation over those partitions (n - 1); NaN for one, and where a score is infinite."""
        values = self._numbers(name)
        with np.errstate(invalid="ignore"):
            return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan

    def _numbers(self, name: str) -> list[float]:
        return [each.scores[name] for each in self.tested if not math.isnan(each.scores[name])]


class Saved(Interface):
    """Where finished trainings are kept, so that a stage that was ended goes on with the next."""

    def get(self, key: str) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """What was put, or None."""

    def put(self, key: str, record: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Keeps a record of JSON's types, and tensors."""


def stage(
    rows: Mapping[str, Rows],
    protocol: Protocol,
    *,
    points: Sequence[Point] = GRID,
    seed: int = 42,
    device: str | torch.device = "cpu",
    many: bool = False,
    log: Callable[[str], None] = lambda line: None,
    progress: Callable[[float, int], None] = lambda done, total: None,
    saved: Saved | None = None,
    max_steps: int | None = None,
) -> Stage:
    """Runs the prediction stage.

    The caller's random numbers are left alone.

    Args:
        rows: Every split by name.
        protocol: What the task prescribes.
        points: The grid.
        seed: Of all random numbers.
        device: Where predictors are trained. One at a time, only the CPU draws the kit's dropout.
        many: Train predictors of one shape as one model, each with random numbers of its own.
        log: Takes a line for each predictor.
        progress: Takes how many trainings are done, a running one in part, and of how many.
        saved: Where finished trainings are kept.
        max_steps: Most updates of a training; if it then ends before its first validation, it is validated at its end.

    Raises:
        InputError: The rows do not fit each other or the protocol, or cannot be trained on.
    """
    _check(rows, protocol, points)
    work = _Work(rows, protocol, torch.device(device), log, progress, saved, max_steps, seed, many)
    work.total = len(points) + len(protocol.partitions) - 1
    tried = work.train([(index, point, 0) for index, point in enumerate(points)])
    order = sorted(range(len(points)), key=lambda i: tried[i].valid, reverse=not protocol.lower)  # stable both ways
    winner = order[0]
    log(f"point {winner + 1} of {len(points)} is best: {points[winner]}")
    rest = work.train([(winner, points[winner], partition) for partition in range(1, len(protocol.partitions))])
    return Stage(tuple(tried), winner, tuple(work.test(each) for each in [tried[winner], *rest]))


def _check(rows: Mapping[str, Rows], protocol: Protocol, points: Sequence[Point]) -> None:
    """Refuses what cannot be trained on."""
    known = metrics.HEAR_EVENTS if protocol.event else metrics.HEAR_SCENES
    wrong = [name for name in protocol.metrics if name not in known]
    if wrong or not protocol.metrics:
        raise InputError(
            f"{'an event' if protocol.event else 'a scene'} task is scored by {', '.join(sorted(known))}, "
            f"got {', '.join(map(shown, wrong)) or 'no metric'}; correct 'evaluation' in its metadata"
        )
    if protocol.prediction not in ("multiclass", "multilabel"):
        raise InputError(f"a prediction is 'multiclass' or 'multilabel', got {shown(protocol.prediction)}")
    if not points or not protocol.partitions:
        raise InputError(f"a stage needs points and partitions, got {len(points)} and {len(protocol.partitions)}")
    choices = len(protocol.postprocessing)
    if protocol.event and (not choices or (choices > 1 and not protocol.use_scoring)):
        raise InputError(
            f"an event task has choices of post-processing, and just one if the loss selects, got {choices}; "
            "correct 'event_postprocessing_grid' in its metadata"
        )
    for train, valid, test in protocol.partitions:
        missing = [name for name in (*train, valid, test) if name not in rows]
        if missing:
            raise InputError(f"a partition needs split {missing[0]}, but there are only {', '.join(rows)}")
    used = {name: rows[name] for train, valid, test in protocol.partitions for name in (*train, valid, test)}
    width = next(iter(used.values())).x.shape[-1]
    for name, split in used.items():
        if split.x.ndim != 2 or split.x.shape[1] != width or not len(split.x):
            raise InputError(
                f"embeddings are (rows, {width}) in all splits and not empty, got {tuple(split.x.shape)} in {name}"
            )
        if split.targets.shape != (len(split.x), len(protocol.labels)):
            raise InputError(
                f"targets are (rows, labels), {(len(split.x), len(protocol.labels))} in {name}, "
                f"got {tuple(split.targets.shape)}"
            )
        if not split.x.isfinite().all():
            raise InputError(f"embeddings are finite, got NaN or infinity in {name}; check the model")
        if protocol.prediction == "multiclass" and not (split.targets.sum(1) == 1).all():
            row = int((split.targets.sum(1) != 1).nonzero()[0])
            raise InputError(
                f"a multiclass task has one label a row, got {int(split.targets[row].sum())} in row {row} of {name}; "
                "correct its labels or 'prediction_type'"
            )
        if protocol.event and sum(map(len, split.times.values())) != len(split.x):
            raise InputError(
                f"frames have one timestamp each, got {sum(map(len, split.times.values()))} for {len(split.x)} "
                f"in {name}"
            )
    for train, _, _ in protocol.partitions:
        count = sum(len(rows[name].x) for name in train)
        if count % protocol.batch_size == 1:
            raise InputError(
                f"batch normalisation needs two rows or more, but of the {count} training rows of "
                f"{', '.join(train)} one is left over for the last batch of {protocol.batch_size}, where HEAR's kit "
                "fails too: leave out or add a clip"
            )


# --- predictors ------------------------------------------------------------------------------------------------------

BUFFERS = ("mean", "variance")  # running statistics of batch normalisation


def initial(point: Point, width: int, labels: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Parameters and statistics of a new predictor, drawn as the kit draws them, those too that are replaced."""
    state: dict[str, Tensor] = {}
    sizes = [width, *[HIDDEN] * point.hidden_layers, labels]
    for layer, (before, after) in enumerate(pairwise(sizes)):
        weight, bias = torch.empty(after, before), torch.empty(after)
        nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)
        nn.init.uniform_(bias, -1 / math.sqrt(before), 1 / math.sqrt(before), generator=generator)
        gain = nn.init.calculate_gain("relu" if layer else "linear")
        getattr(nn.init, point.initialization)(weight, gain=gain, generator=generator)
        state |= {f"{layer}.weight": weight, f"{layer}.bias": bias}
        if layer < point.hidden_layers:
            state |= {f"{layer}.norm.weight": torch.ones(after), f"{layer}.norm.bias": torch.zeros(after)}
            state |= {f"{layer}.norm.mean": torch.zeros(after), f"{layer}.norm.variance": torch.ones(after)}
    return state


def _trains(name: str) -> bool:
    return not name.endswith(BUFFERS)


def parameters(state: Mapping[str, Tensor]) -> int:
    """How many numbers are trained."""
    return sum(value.numel() for name, value in state.items() if _trains(name))


def logits(state: Mapping[str, Tensor], x: Tensor, noise: Callable[[torch.Size], Tensor] | None = None) -> Tensor:
    """Applies predictors side by side.

    Args:
        state: Each tensor stacked, (G, ...).
        x: (G, B, D), or (B, D) for a single one.
        noise: While training, what hidden units of a shape are multiplied with; None: not training.

    Returns:
        (G, B, V), or (B, V).
    """
    layers = sum(name.endswith(".bias") and "norm" not in name for name in state)
    for layer in range(layers):
        weight, bias = state[f"{layer}.weight"], state[f"{layer}.bias"]
        x = F.linear(x, weight[0], bias[0]) if x.ndim == 2 else torch.baddbmm(bias[:, None], x, weight.transpose(1, 2))
        if layer < layers - 1:
            scale, shift, mean, variance = (
                state[f"{layer}.norm.{name}"].flatten() for name in ("weight", "bias", *BUFFERS)
            )
            shape = x.shape
            if x.ndim == 3:  # units of all predictors as those of one
                x = x.transpose(0, 1).flatten(1)
            x = F.batch_norm(x, mean, variance, scale, shift, training=noise is not None)
            if len(shape) == 3:
                x = x.view(shape[1], shape[0], shape[2]).transpose(0, 1)
            x = F.relu(x if noise is None else x * noise(shape), inplace=True)
    return x


def own_seed(seed: int, point: Point, partition: int) -> int:
    """The seed of a predictor that has random numbers of its own."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{point}/{partition}".encode()).digest()[:4], "little")


# The multiplicative generator MCG31m1 of Intel's Vector Statistics library, x -> MULTIPLIER x modulo MODULUS, from which
# torch 1.12, where the kit's scores were made, draws dropout on the CPU (later versions do otherwise). A number is kept
# where x / 2**31, rounded to a float32, is less than 0.9: then x is less than BOUND.
MULTIPLIER, MODULUS, BOUND = 1_132_489_760, 2**31 - 1, 1_932_735_168
BLOCK = 1 << 13  # as much as a cache holds


@cache
def _powers() -> tuple[npt.NDArray[np.uint64], int]:
    """MULTIPLIER to the powers 0 to BLOCK - 1, and to that of BLOCK, modulo MODULUS."""
    powers = [1]
    for _ in range(BLOCK):
        powers.append(powers[-1] * MULTIPLIER % MODULUS)
    return np.array(powers[:-1], dtype=np.uint64), powers[-1]


def _raw(generator: torch.Generator) -> int:
    """The next 32 bits of a generator on the CPU: 31 of them, and what leaves which remainder by 3 with the last."""
    state = generator.get_state()
    low = int(torch.empty((), dtype=torch.int32).random_(generator=generator))
    generator.set_state(state)
    remainder = int(torch.empty((), dtype=torch.int32).random_(0, 3, generator=generator))
    return low if low % 3 == remainder else low + 2**31


def _keep(mask: Tensor, generator: torch.Generator) -> None:
    """Sets a contiguous tensor to 1 where dropout keeps a number, and to 0 elsewhere; draws once."""
    first = _raw(generator) % MODULUS or 1
    powers, step = _powers()
    values = mask.view(-1).numpy()
    x, high = np.empty_like(powers), np.empty_like(powers)
    for start in range(0, len(values), BLOCK):
        out = values[start : start + BLOCK]
        now, above = x[: len(out)], high[: len(out)]
        np.multiply(powers[: len(out)], np.uint64(first), out=now)
        np.right_shift(now, np.uint64(31), out=above)  # 2**31 is 1 modulo MODULUS
        np.bitwise_and(now, np.uint64(MODULUS), out=now)
        np.add(now, above, out=now)
        np.subtract(now, np.uint64(MODULUS), out=above)  # of less than MODULUS this is huge
        np.minimum(now, above, out=now)
        np.less(now, np.uint64(BOUND), out=out, casting="unsafe")
        first = first * step % MODULUS


class _Model:
    """A predictor in training.

    Args:
        key: Its name among those saved.
        point: Of the grid.
        partition: Index of what it is trained on.
        state: New parameters and statistics.
        generator: Of its random numbers on the CPU.
        dropout: Of its dropout, on the device.
    """

    def __init__(
        self,
        key: str,
        point: Point,
        partition: int,
        state: Mapping[str, Tensor],
        generator: torch.Generator,
        dropout: torch.Generator,
    ) -> None:
        self.key, self.generator, self.dropout = key, generator, dropout
        self.state = {name: nn.Parameter(value) if _trains(name) else value.clone() for name, value in state.items()}
        trained = [value for name, value in self.state.items() if _trains(name)]
        self.adam = torch.optim.Adam(trained, lr=point.learning_rate, fused=True)
        self.best = Trained(point, partition, math.nan, -1, 0, None, [], {})
        self.waited, self.running = 0, True

    def iterator(self) -> None:
        """Draws the seed that a DataLoader's iterator takes for workers, which the kit does not have."""
        torch.empty((), dtype=torch.int64).random_(generator=self.generator)

    def check(
        self, epoch: int, loss: float, valid: float, chosen: tuple[float, float] | None, protocol: Protocol
    ) -> None:
        """Takes a validation: keeps what is better than before, and ends what is not a number or not getting better."""
        best = self.best
        best.curve.append((epoch, loss, valid))
        finite = math.isfinite(valid)
        if math.isnan(valid):
            valid = math.inf if protocol.lower else -math.inf
        if best.best_epoch < 0 or (valid < best.valid if protocol.lower else valid > best.valid):
            best.valid, best.best_epoch, best.postprocessing, self.waited = valid, epoch, chosen, 0
            best.state = {name: value.detach().cpu().clone() for name, value in self.state.items()}
        else:
            self.waited += 1
        self.running = finite and self.waited < protocol.patience


class _Stack:
    """Models of one shape side by side: their tensors are views of what is stacked."""

    def __init__(self, models: Sequence[_Model]) -> None:
        self.models = models
        self.state: dict[str, Tensor] = {}
        for name in models[0].state:
            stacked = torch.stack([model.state[name].detach() for model in models])
            for model, view in zip(models, stacked):
                model.state[name].data = view
            self.state[name] = stacked.requires_grad_() if _trains(name) else stacked
        self.leaves = {name: value for name, value in self.state.items() if _trains(name)}

    def noise(self, shape: torch.Size) -> Tensor:
        """What dropout multiplies hidden units (G, B, C) or (B, C) with."""
        kept = torch.empty(shape, device=self.state["0.bias"].device)
        for model, mask in zip(self.models, kept if len(shape) == 3 else kept[None]):
            if mask.device.type == "cpu":
                _keep(mask, model.dropout)
            else:
                mask.bernoulli_(1 - DROPOUT, generator=model.dropout)
        return kept.div_(1 - DROPOUT)

    def step(self, x: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
        """An update of all; returns the loss of each before it, as `loss` gives it."""
        losses = loss(logits(self.state, x, self.noise))
        gradients = torch.autograd.grad(losses.sum(), list(self.leaves.values()))
        for name, gradient in zip(self.leaves, gradients):
            # Adam's fused kernel takes the memory as it is, also of a transposed gradient.
            for model, each in zip(self.models, gradient.contiguous()):
                model.state[name].grad = each
        for model in self.models:
            model.adam.step()
        return losses.detach()


# --- the stage -------------------------------------------------------------------------------------------------------


class _Work:
    """Trains and tests."""

    def __init__(
        self,
        rows: Mapping[str, Rows],
        protocol: Protocol,
        device: torch.device,
        log: Callable[[str], None],
        progress: Callable[[float, int], None],
        saved: Saved | None,
        max_steps: int | None,
        seed: int,
        many: bool,
    ) -> None:
        self.rows, self.protocol, self.device = rows, protocol, device
        self.log, self.progress, self.saved, self.max_steps = log, progress, saved, max_steps
        self.seed, self.many = seed, many
        self.generator = torch.Generator().manual_seed(seed)  # of all that is trained one at a time
        self.dropout = self.generator if device.type == "cpu" else torch.Generator(device).manual_seed(seed)
        self.done, self.total = 0, 0

    def train(self, asked: Sequence[tuple[int, Point, int]]) -> list[Trained]:
        """Predictors of (index of the point, point, partition), in order."""
        found: dict[str, Trained] = {}
        waiting: dict[Any, list[tuple[str, Point, int]]] = {}
        for index, point, partition in asked:
            key = f"partition{partition}-point{index}"
            if self.many:
                if not self._restored(key, found):
                    count = sum(len(self.rows[name].x) for name in self.protocol.partitions[partition][0])
                    shape = (point.hidden_layers, count)
                    waiting.setdefault(shape, []).append((key, point, partition))
            elif not self._restored(key, found):
                self._fit([self._model(key, point, partition)], found)
        for group in waiting.values():
            self._fit([self._model(*each) for each in group], found)
        return [found[f"partition{partition}-point{index}"] for index, _, partition in asked]

    def _restored(self, key: str, found: dict[str, Trained]) -> bool:
        """Takes a training that was finished before, and the random numbers from there on."""
        entry = None if self.saved is None else self.saved.get(key)
        if entry is None:
            return False
        record, tensors = entry
        tensors = dict(tensors)
        generators = [tensors.pop(name) for name in ("generator", "dropout") if name in tensors]
        for generator, state in zip((self.generator, self.dropout), generators):
            generator.set_state(state)
        found[key] = Trained.of(record, tensors)
        self.done += 1
        return True

    def _finished(self, model: _Model, epochs: int, found: dict[str, Trained]) -> None:
        trained = found[model.key] = model.best
        trained.epochs = epochs
        self.done += 1
        self.progress(self.done, self.total)
        self.log(
            f"partition {trained.partition + 1}, {trained.point}: {trained.valid:.4f} after epoch {trained.best_epoch} "
            f"of {epochs}"
        )
        if self.saved is not None:
            tensors = dict(trained.state)
            if not self.many:
                tensors |= {"generator": self.generator.get_state(), "dropout": self.dropout.get_state()}
            self.saved.put(model.key, trained.record(), tensors)

    def _model(self, key: str, point: Point, partition: int) -> _Model:
        generator, dropout = self.generator, self.dropout
        if self.many:
            own = own_seed(self.seed, point, partition)
            generator = torch.Generator().manual_seed(own)
            dropout = generator if self.device.type == "cpu" else torch.Generator(self.device).manual_seed(own)
        width, labels = next(iter(self.rows.values())).x.shape[1], len(self.protocol.labels)
        state = initial(point, width, labels, generator)
        torch.rand(SUMMARY_ROWS, width, generator=generator)
        state = {name: value.to(self.device) for name, value in state.items()}
        return _Model(key, point, partition, state, generator, dropout)

    def _joined(self, partition: int) -> tuple[Tensor, Tensor]:
        """Training rows (N, D) of a partition and what the loss wants (N) or (N, V)."""
        train = self.protocol.partitions[partition][0]
        parts = [self.rows[name] for name in train]
        x = parts[0].x if len(parts) == 1 else torch.cat([part.x for part in parts])
        return x, self._wanted(torch.cat([part.targets for part in parts]))

    def _wanted(self, targets: Tensor) -> Tensor:
        return targets.argmax(1) if self.protocol.prediction == "multiclass" else targets

    def _loss(self, found: Tensor, wanted: Tensor) -> Tensor:
        """(G,) or one number, from logits (G, B, V) or (B, V)."""
        if self.protocol.prediction == "multiclass":
            return F.cross_entropy(found.movedim(-1, 1), wanted, reduction="none").mean(-1)
        return F.binary_cross_entropy_with_logits(found, wanted, reduction="none").mean((-2, -1))

    def _fit(self, models: list[_Model], found: dict[str, Trained]) -> None:
        """Trains models of one shape, on equally many rows, to their ends."""
        protocol, size = self.protocol, self.protocol.batch_size
        data = {
            partition: tuple(value.to(self.device) for value in self._joined(partition))
            for partition in {model.best.partition for model in models}
        }
        count = len(next(iter(data.values()))[0])
        steps = -(-count // size)
        last = protocol.max_epochs
        if self.max_steps is not None:
            last = min(last, -(-self.max_steps // steps))
        stack = _Stack(models)
        for epoch in range(last):
            if len(models) < len(stack.models):
                stack = _Stack(models)
            partitions = [model.best.partition for model in models]
            for model in models:
                model.iterator()
            losses = []
            for start in range(0, count, size):
                if self.max_steps is not None and epoch * steps + start // size >= self.max_steps:
                    break
                batches = {name: [value[start : start + size] for value in both] for name, both in data.items()}
                x, wanted = batches[partitions[0]]
                if self.many:
                    x, wanted = (torch.stack(values) for values in zip(*(batches[name] for name in partitions)))
                losses.append(stack.step(x, partial(self._loss, wanted=wanted)))
            self.progress(self.done + len(models) * (epoch + 1) / last, self.total)
            if (epoch + 1) % protocol.check_every == 0 or (epoch + 1 == last and models[0].best.best_epoch < 0):
                self._validate(stack, epoch, torch.stack(losses).mean(0).reshape(-1).tolist())
            for model in models:
                if not model.running or epoch + 1 == last:
                    self._finished(model, epoch + 1, found)
            models = [model for model in models if model.running]
            if not models:
                break

    def _validate(self, stack: _Stack, epoch: int, losses: Sequence[float]) -> None:
        protocol = self.protocol
        for model, loss in zip(stack.models, losses):
            model.iterator()
            rows = self.rows[protocol.partitions[model.best.partition][1]]
            state = {name: value[None] for name, value in model.state.items()}
            out = self._apply(state, rows.x)
            chosen: tuple[float, float] | None = None
            if not out.isfinite().all():
                valid = math.nan  # where the kit's metrics fail or take any class for the largest
            elif not protocol.use_scoring:
                valid = float(self._loss(out, self._wanted(rows.targets)))
                chosen = protocol.postprocessing[0] if protocol.event else None
            else:
                probabilities = self._probabilities(out)
                if protocol.event:
                    valid, chosen = self._best_events(rows, probabilities)
                else:
                    valid = METRICS[protocol.metrics[0]](probabilities, rows.targets)
            # Lightning keeps what is logged as float32: what differs less is a tie.
            model.check(epoch, loss, float(np.float32(valid)), chosen, protocol)

    @torch.no_grad()
    def _apply(self, state: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Logits (N, V) of a predictor, on the CPU."""
        batches = torch.split(x, self.protocol.batch_size)
        return torch.cat([logits(state, batch.to(self.device)).cpu() for batch in batches])

    def _probabilities(self, out: Tensor) -> Tensor:
        return out.softmax(1) if self.protocol.prediction == "multiclass" else out.sigmoid()

    def _best_events(self, rows: Rows, probabilities: Tensor) -> tuple[float, tuple[float, float]]:
        """The first metric with the post-processing that makes most of it, and that; of equal ones the longest."""
        metric = METRICS[self.protocol.metrics[0]]
        scores = {
            each: metric(self._events(rows, probabilities, each), rows.events) for each in self.protocol.postprocessing
        }
        chosen = max(scores, key=lambda each: (0.0 if math.isnan(scores[each]) else scores[each], each))
        return scores[chosen], chosen

    def _events(self, rows: Rows, probabilities: Tensor, postprocessing: tuple[float, float]) -> dict[str, list[Event]]:
        parts = torch.split(probabilities, [len(times) for times in rows.times.values()])
        return {
            name: metrics.events_from_frames(part, times, self.protocol.labels, *postprocessing)
            for (name, times), part in zip(rows.times.items(), parts)
        }

    def test(self, trained: Trained) -> Tested:
        """Every metric of a predictor on the test split of its partition."""
        protocol = self.protocol
        split = protocol.partitions[trained.partition][2]
        rows = self.rows[split]
        out = self._apply({name: value[None].to(self.device) for name, value in trained.state.items()}, rows.x)
        probabilities = self._probabilities(out)
        scores = {"loss": float(self._loss(out, self._wanted(rows.targets)))}
        if trained.postprocessing is None:
            events: dict[str, list[Event]] = {}
            scores |= {name: METRICS[name](probabilities, rows.targets) for name in protocol.metrics}
        else:
            events = self._events(rows, probabilities, trained.postprocessing)
            scores |= {name: METRICS[name](events, rows.events) for name in protocol.metrics}
        return Tested(trained, split, scores, probabilities, events)
