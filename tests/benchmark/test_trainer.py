"""Learning rates side by side are each what they are alone; NaN is said; the loop is that of the reference."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from tests.benchmark import toys
from tests.golden.compare import Comparison
from tests.golden.superb_heads import CASES, HIDDEN, INTENTS, LAYERS, STRIDE, Batch, batch
from tests.golden.test_superb_heads import WANT, Twin
from zoo.benchmark import heads, losses, objectives
from zoo.benchmark._features import View
from zoo.benchmark._run import Options, Run
from zoo.benchmark._task import Recipe, Selection, tasks
from zoo.benchmark._trainer import DENSE_STEPS, PATIENCE, Fit, Probe
from zoo.errors import InputError

pytestmark = pytest.mark.usefixtures("one_thread")
RATES = (1e-1, 1e-2, 1e-3)


@pytest.mark.parametrize("name", ["label", "text", "turns"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_grid_gives_what_each_learning_rate_gives_alone(tmp_path: Path, name: str, accumulate: int) -> None:
    recipe = replace(toys.TASKS[name], grid_share=1.0, accumulate=accumulate)
    grid = toys.run(name, tmp_path / "grid", recipe=recipe, lr_grid=True)
    chosen = recipe.selection
    tried = {row["learning_rate"]: row for row in grid.details["grid"]}
    assert tuple(tried) == RATES
    best = None
    for rate in RATES:
        alone = toys.run(name, tmp_path / str(rate), recipe=recipe, lr=rate)
        torch.testing.assert_close(toys.losses(grid, rate), toys.losses(alone), rtol=0, atol=1e-5)
        assert len(toys.losses(alone)) == recipe.steps
        evaluations = [
            [record for record in one.curve if record["learning_rate"] == rate and "split" in record]
            for one in (grid, alone)
        ]
        for ours, theirs in zip(*evaluations, strict=True):
            assert ours == pytest.approx(theirs, abs=1e-5)
        values = [record[chosen.metric] for record in evaluations[1]]
        top = max(values) if chosen.higher_is_better else min(values)
        assert tried[rate] == {"learning_rate": rate, "steps": recipe.steps, "value": top, "diverged": False}
        if best is None or chosen.better(top, best[0]):
            best = (top, rate, alone)
    assert best is not None and grid.details["learning_rate"] == best[1]
    assert grid.metrics == {split: pytest.approx(values, abs=1e-5) for split, values in best[2].metrics.items()}
    assert grid.details["best_step"] == best[2].details["best_step"]


def test_heads_that_can_are_trained_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    forward = Probe.forward

    def counted(self: Probe, x: Tensor, x_len: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(torch.is_grad_enabled())
        return forward(self, x, x_len)

    monkeypatch.setattr(Probe, "forward", counted)
    toys.run("label", tmp_path / "a", lr_grid=RATES, recipe=replace(toys.POOLED, grid_share=1.0))
    assert sum(calls) == toys.POOLED.steps
    calls.clear()
    toys.run("text", tmp_path / "b", lr_grid=RATES, recipe=replace(toys.TEXT, grid_share=1.0))
    assert sum(calls) == 3 * toys.TEXT.steps


def test_the_winner_goes_on_from_where_the_search_ended(tmp_path: Path) -> None:
    grid = toys.run("label", tmp_path / "grid", lr_grid=True)
    winner = grid.details["learning_rate"]
    assert [row["steps"] for row in grid.details["grid"]] == [6, 6, 6]
    assert {rate: len(toys.losses(grid, rate)) for rate in RATES} == {
        rate: 12 if rate == winner else 6 for rate in RATES
    }
    alone = toys.run("label", tmp_path / "alone", lr=winner)
    torch.testing.assert_close(toys.losses(grid, winner), toys.losses(alone), rtol=0, atol=1e-5)
    assert grid.config["learning_rates"] == list(RATES)


def test_the_first_of_equal_learning_rates_wins(tmp_path: Path) -> None:
    grid = toys.run("label", tmp_path, lr_grid=[1e-9, 1e-10])
    assert len({row["value"] for row in grid.details["grid"]}) == 1
    assert grid.details["learning_rate"] == 1e-9


# One head that is trained side by side for an utterance, one for a frame, and one that is trained in turn.
FRAME = {"head": heads.FrameLinear, "head_options": {"hidden_size": 8}}
TURN = {"head": toys.TwoLayers, "head_options": {}}
HEADS = pytest.mark.parametrize(("name", "head"), [("label", {}), ("text", FRAME), ("label", TURN)])


@HEADS
@pytest.mark.parametrize("steps", [12, 130])
def test_divergence_is_said(tmp_path: Path, name: str, head: Any, steps: int) -> None:
    recipe = replace(toys.TASKS[name], steps=steps, **head)
    message = r"^toy/\w+: training diverged at the learning rate 1e\+30: .*; give a lower one$"
    with pytest.raises(InputError, match=message):
        toys.run(name, tmp_path / "one", recipe=recipe, lr=1e30)
    assert not (tmp_path / "one" / f"toy_{name}.json").exists()
    with pytest.raises(InputError, match=r"diverged.*1e\+30, 1e\+31: "):
        toys.run(name, tmp_path / "all", recipe=replace(recipe, grid_share=1.0), lr_grid=[1e30, 1e31])


@HEADS
def test_a_learning_rate_that_diverges_does_not_stop_the_others(tmp_path: Path, name: str, head: Any) -> None:
    recipe = replace(toys.TASKS[name], steps=PATIENCE + 10, evaluate_every=20, grid_share=1.0, **head)
    grid = toys.run(name, tmp_path / "grid", recipe=recipe, lr_grid=[1e30, 1e-2, 1e-3])
    tried = {row["learning_rate"]: row for row in grid.details["grid"]}
    assert [row["diverged"] for row in tried.values()] == [True, False, False]
    assert math.isnan(tried[1e30]["value"]) and grid.details["learning_rate"] != 1e30
    assert len(toys.losses(grid, 1e30)) == DENSE_STEPS + 1 and math.isnan(toys.losses(grid, 1e30)[-1])
    for rate in (1e-2, 1e-3):
        alone = toys.run(name, tmp_path / str(rate), recipe=recipe, lr=rate)
        torch.testing.assert_close(toys.losses(grid, rate), toys.losses(alone), rtol=0, atol=1e-5)


def test_a_point_that_was_good_and_then_diverged_does_not_win(tmp_path: Path) -> None:
    class Breaks(torch.optim.Adam):
        """Ends in NaN after two updates at the larger learning rate."""

        taken = 0

        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            self.taken += 1
            if self.param_groups[0]["lr"] == 1e-1 and self.taken > 2:
                with torch.no_grad():
                    for group in self.param_groups:
                        for parameter in group["params"]:
                            parameter.fill_(math.nan)
            else:
                super().step()

    recipe = replace(toys.POOLED, steps=PATIENCE + 20, evaluate_every=1, grid_share=1.0)
    grid = toys.run("label", tmp_path, recipe=recipe, lr_grid=[1e-1, 1e-9], optimizer=Breaks)
    assert grid.details["learning_rate"] == 1e-9
    assert [row["diverged"] for row in grid.details["grid"]] == [True, False]


class Silent(toys.TwoLayers):
    """Gives NaN in some of its evaluations."""

    calls = 0

    def __init__(self, input_size: int, output_size: int, *, at: tuple[int, ...]) -> None:
        super().__init__(input_size, output_size)
        self.at = at

    def forward(self, x: Tensor, x_len: Tensor) -> tuple[Tensor, Tensor]:
        y, y_len = super().forward(x, x_len)
        self.calls += not self.training
        return (y * math.nan if not self.training and self.calls in self.at else y), y_len


def test_an_evaluation_of_nan_never_wins(tmp_path: Path) -> None:
    # Of each evaluation there is one batch; those are after 4, 8 and 12 updates, then of both splits at the end.
    result = toys.run("label", tmp_path / "a", lr=1e-9, downstream=Silent, downstream_options={"at": [1]})
    assert result.details["best_step"] == 8
    assert [record["step"] for record in result.curve if "split" in record] == [8, 12]
    with pytest.raises(InputError, match="the head gives NaN for 8 of 8 items of the split 'test'"):
        toys.run("label", tmp_path / "b", downstream=Silent, downstream_options={"at": [5]})
    with pytest.raises(InputError, match=r"diverged at the learning rate 0\.01: NaN at every evaluation"):
        toys.run("label", tmp_path / "c", downstream=Silent, downstream_options={"at": [1, 2, 3]})


def test_updates_without_a_finite_gradient_are_skipped_and_counted(tmp_path: Path) -> None:
    class Sometimes(toys.TwoLayers):
        """The loss is NaN at the third call in training."""

        calls = 0

        def forward(self, x: Tensor, x_len: Tensor) -> tuple[Tensor, Tensor]:
            y, y_len = super().forward(x, x_len)
            self.calls += self.training
            return (y * math.nan if self.training and self.calls == 3 else y), y_len

    result = toys.run("label", tmp_path, downstream=Sometimes)
    assert result.details["skipped_updates"] == 1
    found = toys.losses(result)
    assert len(found) == 12 and [math.isnan(loss) for loss in found] == [n == 2 for n in range(12)]


# --- the reference's own losses -----------------------------------------------------------------------------------


class Recorded:
    """The features that s3prl's heads were trained on, in the place of a corpus's."""

    class Split:
        classes, samples, label_lengths = (), (), ()

        def __init__(self, batches: list[Batch]) -> None:
            self.batches = batches
            items = len(batches[0].lengths)
            self.items = {f"{n}/{i}": {"place": (n, i)} for n in range(len(batches)) for i in range(items)}
            self.ids = list(self.items)

    def __init__(self, batches: list[Batch]) -> None:
        self.splits = {"train": self.Split(batches)}
        self.upstream = nn.Identity()
        self.upstream.device = torch.device("cpu")

    def expect(self, name: str, keys: list[str], draws: list[int]) -> None:
        pass

    def batch(self, name: str, keys: list[str], draws: list[int]) -> tuple[Tensor, Tensor, list[int]]:
        split = self.splits[name]
        given = split.batches[split.items[keys[0]]["place"][0]]
        return given.states.transpose(0, 1), given.lengths, list(range(len(keys)))


class Objective(objectives.Objective):
    """A case's loss: that of the zoo's objective, its labels the recorded ones."""

    def __init__(self, name: str, twin: Twin, batches: list[Batch]) -> None:
        self.kind, self.twin, self.batches = twin.case.kind, twin, batches
        self.output_size = HIDDEN if self.kind == "speaker" else twin.case.outputs
        shape = (twin.case.outputs,) if self.kind != "intent" else INTENTS
        if self.kind in ("utterance", "intent"):
            keys = [f"k{n}" for n in range(len(shape))]
            labels = {key: [str(i) for i in range(size)] for key, size in zip(keys, shape)}
            self.inner: Any = objectives.Classification({}, keys, labels)
        elif self.kind == "text":
            self.inner = objectives.Transcription(type("", (), {"size": twin.case.outputs, "blank": 0})(), {})

    def module(self) -> nn.Module | None:
        return self.twin.loss

    def target(self, item: Any) -> Any:
        n, i = item["place"]
        given = self.batches[n]
        if self.kind == "text":
            return given.targets[i]
        label = given.labels[i]
        return label[: given.lengths[i]] if self.kind == "turns" else label.reshape(-1).tolist()

    def loss(self, module: nn.Module | None, y: Tensor, y_len: Tensor, targets: Any) -> tuple[Tensor, Tensor]:
        if self.kind == "turns":
            total, weight = losses.pit_bce(y, pad_sequence(targets, batch_first=True), y_len)
            return total, weight.double()
        if self.kind == "speaker":
            total, count = module(y, torch.tensor(targets).flatten())
            return total, torch.tensor(float(count))
        return self.inner.loss(module, y, y_len, targets)


def in_order(dataset: Any, split: str, *, seed: int, epoch: int, batch_size: int) -> Any:
    yield from (list(range(i, i + batch_size)) for i in range(0, len(dataset.ids), batch_size))


# The longest, whose heads tests/golden/test_superb_heads.py trains on the same batches in every run.
LONG = {"v0.3/asr", "v0.4/asr", "v0.3/sf", "v0.3/asv"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in LONG else ()) for n in CASES])
def test_the_loop_gives_the_first_hundred_losses_of_the_reference(name: str, record_differences: Any) -> None:
    case = CASES[name]
    twin = Twin(name)
    batches = [batch(name, n) for n in range(100 * case.accumulate)]
    recipe = Recipe(
        selection=Selection(metric="none", higher_is_better=True),
        steps=100,
        batch_size=case.items,
        accumulate=case.accumulate,
        clip=case.clip,
        evaluate_every=1000,
        sampler=in_order,
    )
    objective = Objective(name, twin, batches)
    features: Any = Recorded(batches)
    fit = Fit(
        features,
        objective,
        recipe,
        lambda: Probe(LAYERS, twin.head, objective, None),
        [case.lr],
        seed=0,
        optimizer=getattr(torch.optim, case.optimiser),
    )
    fit._evaluate = lambda point: None  # type: ignore[method-assign]  # there is nothing to evaluate on
    fit.train(100)
    (point,) = fit.points
    result = Comparison()
    found = torch.tensor([record["loss"] for record in point.curve], dtype=torch.float64)
    result.check("training", found, WANT[f"{name}/losses"], "training")
    result.check("layers", point.probe.weights, WANT[f"{name}/layers"], "training")
    record_differences("SUPERB loop", result.largest)
    assert len(found) == 100 and not result.failures, "\n".join(result.failures)


# --- official heads -----------------------------------------------------------------------------------------------

# superb/<task> of recipe -> output size, parameters of the head, and those of the loss, at D = 768.
OFFICIAL = {
    ("pr", "official"): (74, 215_882, 0),
    ("ks", "official"): (12, 199_948, 0),
    ("ic", "official"): (24, 203_032, 0),
    ("er", "official"): (4, 197_892, 0),
    ("sid", "official"): (1251, 518_371, 0),
    ("asr", "v0.4"): (31, 42_826_783, 0),
    ("asr", "official"): (32, 42_828_832, 0),
    ("sf", "official"): (109, 42_986_605, 0),
    ("sd", "official"): (2, 2_626_562, 0),
    ("asv", "official"): (512, 6_110_172, 620_032),
}


# Heads of 43 million parameters take seconds: one of them is enough for `make test`.
SLOW = {("asr", "v0.4"), ("sf", "official")}


@pytest.mark.parametrize(
    ("name", "recipe"), [pytest.param(*each, marks=pytest.mark.slow if each in SLOW else ()) for each in OFFICIAL]
)
def test_official_heads_and_two_updates_of_each(name: str, recipe: str) -> None:
    outputs, parameters, of_loss = OFFICIAL[name, recipe]
    task = tasks()[f"superb/{name}"]
    chosen = task.recipes[recipe]
    head = chosen.head(768, outputs, **chosen.head_options)
    assert sum(p.numel() for p in head.parameters()) == parameters
    corpus: Any = official_corpus(name)
    objective = task.objective(corpus, STRIDE, **chosen.objective_options)
    if of_loss:
        assert sum(p.numel() for p in objective.module().parameters()) == of_loss
    elif name != "sd":
        assert objective.output_size == outputs
    probe = Probe(13, head, objective, None)
    made = getattr(torch.optim, chosen.optimizer)(
        probe.parameters(), lr=chosen.learning_rate, **chosen.optimizer_options
    )
    before = [p.detach().clone() for p in probe.parameters()]
    lengths = [60, 54]
    x = torch.randn(2, 13, 60, 768)
    if head.pools:
        view = View(tuple(range(13)), False, chosen.frames, pools=True, exact=True)
        x, x_len = view.take(list(x.unbind(1)), torch.tensor(lengths), [n * STRIDE for n in lengths], STRIDE)
    else:
        x_len = torch.tensor(lengths)
    items = list(corpus["train"].values())[:2]
    if name == "sd":
        items = [{**item, "frames": (0, n)} for item, n in zip(items, lengths)]
    seen = []
    for _ in range(2):
        y, y_len = probe(x, x_len)
        total, weight = objective.loss(probe.loss, y, y_len, [objective.target(item) for item in items])
        made.zero_grad()
        (total / weight).backward()
        assert math.isfinite(float(nn.utils.clip_grad_norm_(probe.parameters(), chosen.clip)))
        made.step()
        seen.append(float(total.detach() / weight))
    assert all(map(math.isfinite, seen))
    assert all(not torch.equal(p, was) for p, was in zip(probe.parameters(), before))


def official_corpus(name: str) -> Any:
    """Items with the labels of the official corpora, in number what decides about the outputs."""
    text = {"transcription": "THE ZOO IS AN OLD JOKE"}
    if name == "asr":
        letters = {"transcription": " 'ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
        return {"train": {"a": text, "b": letters}}
    if name == "sf":
        from zoo.benchmark.superb.sf import SLOTS

        slots = {slot: {} for slot in SLOTS}
        return {"train": {n: {**text, "iob": "O O O O O artist"} for n in "ab"}, "slots": slots}
    if name == "pr":
        return {"train": {n: {"transcription": "DH AH0 Z UW1"} for n in "ab"}}
    if name == "ic":
        items = [{"action": f"a{n % 6}", "object": f"o{n % 14}", "location": f"l{n % 4}"} for n in range(14)]
        return {"train": {str(n): item for n, item in enumerate(items)}}
    if name == "sd":
        turns = {"segments": [("x", 0.0, 0.3), ("y", 0.2, 0.5)], "duration_s": 0.6}
        return {"train": {"a": turns, "b": turns}}
    if name == "asv":
        trial = {"first": "x", "second": "y", "target": 1}
        return {"train": {str(n): {"speaker": f"id{n}"} for n in range(1211)}, "trials": {"0": trial}}
    labels = {"ks": ["yes", "no"], "er": ["neu", "hap", "ang", "sad"], "sid": [f"id{n}" for n in range(1251)]}[name]
    return {"train": {str(n): {"label": label} for n, label in enumerate(labels)}}


def test_the_official_recipes_run_two_updates(tmp_path: Path) -> None:
    for name in ("ks", "pr"):
        task = tasks()[f"superb/{name}"]
        task.miniature(tmp_path / "data")
        options = Options(steps=2, progress=False)
        result = Run(task, toys.Upstream, tmp_path / "data", tmp_path / "out", options, lambda line: None).run()
        assert len(toys.losses(result)) == 2 and result.config["recipe"] == "official"


@pytest.mark.parametrize(
    "options", [{"lr": 0.0}, {"lr": -1.0}, {"lr": math.nan}, {"lr": 1e38}, {"lr_grid": [1e-3, -1.0]}]
)
def test_learning_rates_that_cannot_be_are_refused(tmp_path: Path, options: Any) -> None:
    with pytest.raises(InputError, match=r"^the learning rate .* was asked for; give a positive one"):
        toys.run("label", tmp_path, **options)


def test_a_grid_of_the_same_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give each learning rate once"):
        toys.run("label", tmp_path, lr_grid=[1e-3, 1e-3])
