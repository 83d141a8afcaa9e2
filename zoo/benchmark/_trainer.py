"""Training heads: one for each learning rate, on the same batches, side by side.

What is random in step n depends on the seed and n alone: the order of items, crops, and the noise of dropout. So a run
goes on anywhere, and a learning rate gives the same whether others are trained beside it or not.

Shapes: G learning rates, B batch, T frames, D width, K hidden states.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from zoo.benchmark import _distributed, _hooks
from zoo.benchmark._data import unusable
from zoo.benchmark._features import Features
from zoo.benchmark._task import Item, Recipe
from zoo.benchmark._upstream import evaluating
from zoo.benchmark.objectives import Objective
from zoo.errors import InputError

DENSE_STEPS = 100  # of a curve: each of the first ones, then the mean of so many
PATIENCE = 100  # updates in a row without a finite gradient after which a learning rate has diverged
AHEAD = 2  # batches that are read while another is trained on
EPOCH_DRAWS = 1 << 40  # more than an epoch has draws

Batch: TypeAlias = tuple[list[str], list[int]]
"""Ids, and the draws that decide about their random parts."""


class Probe(nn.Module):
    """Weighted sum of hidden states, head, and the parameters of the loss.

    Args:
        states: K.
        head: what follows the sum.
        objective: how the head is called, and the parameters of the loss.
        upstream: what is fine-tuned.
    """

    def __init__(self, states: int, head: nn.Module, objective: Objective, upstream: nn.Module | None) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(states)) if states > 1 else None
        self.head, self.loss, self.upstream = head, objective.module(), upstream
        self.apply_head = objective.apply

    def sum(self, x: Tensor) -> Tensor:
        """(B, T, D): hidden states (B, K, T, D) summed with softmax weights."""
        return x[:, 0] if self.weights is None else torch.einsum("k,bktd->btd", self.weights.softmax(0), x)

    def forward(self, x: Tensor, x_len: Tensor) -> tuple[Tensor, Tensor]:
        """What the head gives for hidden states (B, K, T, D)."""
        return self.apply_head(self.head, self.sum(x), x_len)

    def layer_weights(self) -> list[float]:
        """Softmax of the weights (K,)."""
        return [1.0] if self.weights is None else self.weights.detach().softmax(0).tolist()


@dataclass
class Point:
    """One learning rate.

    Attributes:
        learning_rate: of the optimiser.
        probe: what is trained.
        optimizer: of its parameters.
        scheduler: of the learning rate.
        step: updates so far.
        best: value of the selection metric at the best evaluation; None before the first that has one.
        best_step: its step.
        best_state: parameters then.
        bad: updates in a row whose gradient was not finite.
        skipped: such updates in all.
        diverged: it is not trained any more.
        curve: records of losses and evaluations.
        recent: losses since the last record.
    """

    learning_rate: float
    probe: Probe
    optimizer: Any
    scheduler: Any = None
    step: int = 0
    best: float | None = None
    best_step: int = 0
    best_state: dict[str, Tensor] = field(default_factory=dict)
    bad: int = 0
    skipped: int = 0
    diverged: bool = False
    curve: list[dict[str, Any]] = field(default_factory=list)
    recent: list[float] = field(default_factory=list)

    @property
    def loss(self) -> float:
        """The latest known, a mean over up to 100 steps."""
        known = self.recent or [record["loss"] for record in self.curve[-3:] if "loss" in record]
        return sum(known) / len(known) if known else math.nan

    KEPT = ("step", "best", "best_step", "bad", "skipped", "diverged", "curve", "recent")

    def record(self) -> dict[str, Any]:
        """What JSON can hold of it."""
        scheduler = None if self.scheduler is None else self.scheduler.state_dict()
        groups = self.optimizer.state_dict()["param_groups"]
        return {name: getattr(self, name) for name in self.KEPT} | {"scheduler": scheduler, "groups": groups}

    def tensors(self) -> dict[str, Tensor]:
        """Parameters, the best ones, and the optimiser's state."""
        found = {f"probe.{name}": value for name, value in self.probe.state_dict().items()}
        found |= {f"best.{name}": value for name, value in self.best_state.items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            found |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in state.items()}
        return found

    def restore(self, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
        """Go back to what `tensors` and `record` gave."""
        for name in self.KEPT:
            setattr(self, name, record[name])
        self.probe.load_state_dict(_under("probe", tensors))
        self.best_state = {name: value.to(_device(self.probe)) for name, value in _under("best", tensors).items()}
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in _under("optimizer", tensors).items():
            index, _, key = name.partition(".")
            state.setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict({"param_groups": record["groups"], "state": state})
        if self.scheduler is not None:
            self.scheduler.load_state_dict(record["scheduler"])


class Fit:
    """Training on one split, for all learning rates.

    Args:
        features: of the corpus.
        objective: what is trained for.
        recipe: how.
        make: gives a probe; called with the same random state for each learning rate.
        learning_rates: one or several.
        seed: of everything random.
        optimizer: hook `optimizer(parameters, lr=..., **recipe.optimizer_options)`.
        scheduler: hook `scheduler(optimizer)`, stepped after each update.
    """

    def __init__(
        self,
        features: Features,
        objective: Objective,
        recipe: Recipe,
        make: Callable[[], Probe],
        learning_rates: Sequence[float],
        *,
        seed: int,
        optimizer: Callable[..., Any],
        scheduler: Callable[..., Any] | None = None,
    ) -> None:
        self.features, self.objective, self.recipe, self.seed = features, objective, recipe, seed
        self.data = features.splits["train"]
        self.points: list[Point] = []
        for rate in learning_rates:
            torch.manual_seed(seed)
            probe = make()
            made = _hooks.call(optimizer, "optimizer", probe.parameters(), lr=rate, **recipe.optimizer_options)
            self.points.append(Point(rate, probe, made, scheduler(made) if scheduler else None))
        self.targets = {key: objective.target(item) for key, item in self.data.items.items()}

    @property
    def step(self) -> int:
        """Updates so far."""
        return max(point.step for point in self.points)

    def running(self) -> list[Point]:
        """The points that have not diverged."""
        return [point for point in self.points if not point.diverged]

    def train(self, until: int, after: Callable[[Fit], None] = lambda fit: None) -> None:
        """Train until so many steps have been taken, evaluating at the recipe's steps and at the last.

        Args:
            until: steps.
            after: called after each step.
        """
        if self.step >= until:
            return
        batches = self._expected("train", self._batches(self.step * self.recipe.accumulate))
        stacked = Stacked.of(self.running())
        while self.step < until:
            running = self.running()
            if not running:
                return
            if stacked is not None and len(running) != len(stacked.points):
                stacked = Stacked.of(running)
            for point in running:
                point.optimizer.zero_grad(set_to_none=True)
            losses = torch.zeros(len(running), dtype=torch.float64)
            for micro in range(self.recipe.accumulate):
                losses += self._backward(running, stacked, next(batches), micro)
            if stacked is not None:
                stacked.hand_out()
            for point, loss in zip(running, losses.tolist()):
                self._update(point, loss)
            if self.step % self.recipe.evaluate_every == 0 or self.step == until:
                for point in self.running():
                    self._evaluate(point)
            after(self)
        for point in self.running():
            # A run shorter than the patience has diverged when it got nowhere in the latter half of its updates.
            point.diverged = 2 * point.bad >= point.step

    def keep(self, learning_rate: float) -> None:
        """Go on with one learning rate only."""
        self.points = [point for point in self.points if point.learning_rate == learning_rate]

    def evaluate(self, point: Point, split: str) -> tuple[dict[str, Any], dict[str, float]]:
        """Predictions for a split by id, and their metrics.

        Raises:
            InputError: no item can be used, or the head gives NaN.
        """
        found, items, lost = self._predict(point, split)
        if lost:
            raise InputError(f"the head gives NaN for {lost} of {len(items)} items of the split {split!r}")
        return found, self.objective.metrics(split, found, items)

    def _predict(self, point: Point, split: str) -> tuple[dict[str, Any], dict[str, Item], int]:
        """Predictions and items by id, and for how many the head gives NaN."""
        data, lost = self.features.splits[split], 0
        keys, draws = self._evaluated(split)
        labels = [f"{key}#{draw}" if draw else key for key, draw in zip(keys, draws)]
        found: dict[str, Any] = {}
        with evaluating(point.probe), torch.no_grad():
            shares = _distributed.share(
                list(self.features.evaluation_batches(split, keys, self.recipe.evaluation_batch_size))
            )
            batches = self._expected(split, (([keys[i] for i in one], [draws[i] for i in one]) for one in shares))
            for share, batch in zip(shares, batches):
                x, x_len, kept = self.features.batch(split, *batch)
                if not kept:
                    continue
                y, y_len = point.probe(x, x_len)
                lost += int(y.flatten(1).isnan().any(1).sum())
                places = [share[i] for i in kept]
                rows = self.objective.predict(y, y_len, [data.items[keys[i]] for i in places])
                found |= {labels[i]: row for i, row in zip(places, rows)}
        found = _distributed.gather(found)
        items = {label: data.items[key] for label, key in zip(labels, keys) if label in found}
        if not items:
            raise unusable(split, data.excluded)
        return {label: found[label] for label in items}, items, int(_distributed.total(torch.tensor(float(lost))))

    def _evaluated(self, split: str) -> tuple[list[str], list[int]]:
        """Ids and draws of an evaluation: the same each time."""
        data, sampler = self.features.splits[split], self.recipe.valid_sampler
        if split != "valid" or sampler is None:
            return data.ids, [0] * len(data.ids)
        batches = sampler(data, split, seed=self.seed, epoch=0, batch_size=len(data.ids))
        chosen = [i for batch in batches for i in batch]
        return [data.ids[i] for i in chosen], list(range(1, len(chosen) + 1))

    def _evaluate(self, point: Point) -> None:
        chosen = self.recipe.selection
        found, items, lost = self._predict(point, chosen.split)
        if lost:  # which predictions and metrics cannot show
            return
        values = self.objective.metrics(chosen.split, found, items)
        point.curve.append({"step": point.step, "split": chosen.split, **values})
        value = values[chosen.metric]
        # A metric can have no value, such as an area under a curve without a class: the last one counts until it has.
        if point.best is None or chosen.better(value, point.best):
            point.best, point.best_step = None if value != value else value, point.step
            point.best_state = {name: one.detach().clone() for name, one in point.probe.state_dict().items()}

    def _expected(self, split: str, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Batches, while the recordings of those that follow are being read."""
        waiting: deque[Batch] = deque()
        for batch in batches:
            self.features.expect(split, *batch)
            waiting.append(batch)
            if len(waiting) > AHEAD:
                yield waiting.popleft()
        yield from waiting

    def _batches(self, start: int) -> Iterator[Batch]:
        """This process's share of each micro-batch from number `start` on."""
        number, epoch = 0, 0
        options = {"batch_size": self.recipe.batch_size, **self.recipe.sampler_options}
        ids = self.data.ids
        while True:
            drawn = 0
            empty = True
            drawing = {"seed": self.seed, "epoch": epoch, **options}
            for batch in _hooks.call(self.recipe.sampler, "sampler", self.data, "train", **drawing):
                empty = False
                if number >= start:
                    draws = [epoch * EPOCH_DRAWS + drawn + i + 1 for i in range(len(batch))]
                    yield _distributed.share([ids[i] for i in batch]), _distributed.share(draws)
                drawn += len(batch)
                number += 1
            if empty:
                raise InputError("the sampler gave no batch for the training set; it needs at least one an epoch")
            epoch += 1

    def _backward(self, points: list[Point], stacked: Stacked | None, batch: Batch, micro: int) -> Tensor:
        """Add a micro-batch's gradients; returns its loss (G,)."""
        keys, draws = batch
        self._seed(points[0].step, micro)
        for point in points:
            point.probe.train()
        x, x_len, kept = self.features.batch("train", keys, draws)
        targets = [self.targets[keys[i]] for i in kept]
        sums: list[Tensor] = []
        weight = torch.zeros(())
        if kept:
            outputs = stacked(x, x_len) if stacked is not None else None
            for g, point in enumerate(points):
                if outputs is None:
                    self._seed(points[0].step, micro)
                    y, y_len = point.probe(x, x_len)
                else:
                    y, y_len = outputs[0][g], outputs[1]
                total, weight = self.objective.loss(point.probe.loss, y, y_len, targets)
                sums.append(total)
        scale = float(_distributed.total(weight)) * self.recipe.accumulate
        if not scale:
            why = next(iter(self.data.excluded.values()), "it is empty")
            raise InputError(f"no item of a training batch can be used: {why}")
        if sums:
            (sum(sums[1:], sums[0]) / scale).backward()  # type: ignore[no-untyped-call]
        values = torch.stack([total.detach().cpu().double() for total in sums]) if sums else torch.zeros(len(points))
        return _distributed.total(values) / scale

    def _seed(self, step: int, micro: int) -> None:
        seed = (self.seed * 1_000_003 + step * 101 + micro) % (1 << 62) + _distributed.rank()
        torch.default_generator.manual_seed(seed)  # torch.manual_seed notes every call for a GPU that is never used
        if self.features.upstream.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _update(self, point: Point, loss: float) -> None:
        parameters = [p for p in point.probe.parameters() if p.requires_grad]
        _distributed.sum_gradients(parameters)
        norm = nn.utils.clip_grad_norm_(parameters, self.recipe.clip)
        point.step += 1
        if math.isfinite(float(norm)):
            point.bad = 0
            point.optimizer.step()
        else:
            point.bad += 1
            point.skipped += 1
            point.diverged = point.bad >= PATIENCE
        if point.scheduler is not None:
            point.scheduler.step()
        point.recent.append(loss)
        if point.step <= DENSE_STEPS or point.step % DENSE_STEPS == 0 or point.diverged:
            point.curve.append({"step": point.step, "loss": sum(point.recent) / len(point.recent)})
            point.recent = []


class Stacked:
    """Heads of several learning rates as one: each parameter (G, ...), each probe's own a view of its row."""

    def __init__(self, points: list[Point]) -> None:
        self.points = points
        self.leaves: dict[str, Tensor] = {}
        with torch.no_grad():
            for name, parameter in points[0].probe.named_parameters():
                if name.startswith("loss."):
                    continue
                whole = torch.stack([point.probe.get_parameter(name) for point in points])
                self.leaves[name] = whole.requires_grad_(parameter.requires_grad)
                for row, point in zip(whole.detach(), points):
                    point.probe.get_parameter(name).data = row

    @classmethod
    def of(cls, points: list[Point]) -> Stacked | None:
        """None where they must be run one by one."""
        if len(points) < 2 or not all(getattr(point.probe.head, "batched", False) for point in points):
            return None
        return cls(points)

    def __call__(self, x: Tensor, x_len: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs (G, B, ...) for hidden states (B, K, T, D), and their valid frames (B,)."""
        probe = self.points[0].probe

        def one(parameters: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            y, y_len = functional_call(probe, parameters, (x, x_len))
            return y, y_len

        y, y_len = vmap(one, out_dims=(0, None))(self.leaves)  # type: ignore[arg-type]
        return y, y_len

    def hand_out(self) -> None:
        """Give each probe its row of the gradients."""
        for name, leaf in self.leaves.items():
            if leaf.grad is not None:
                for row, point in zip(leaf.grad, self.points):
                    point.probe.get_parameter(name).grad = row
                leaf.grad = None


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name[len(prefix) + 1 :]: value for name, value in tensors.items() if name.startswith(f"{prefix}.")}


def _device(module: nn.Module) -> torch.device:
    return next((p.device for p in module.parameters()), torch.device("cpu"))
