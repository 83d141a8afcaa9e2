"""What a task is: data. A file below `superb/` or `hear/` exports one as TASK and is found by itself.

Where values come from: the SUPERB paper (arXiv 2105.01051) and s3prl 0.4.18 (Apache-2.0), `s3prl/downstream` (called
v0.3 there, which produced the leaderboard) and `s3prl/problem` (v0.4).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from zoo.benchmark import samplers
from zoo.errors import InputError

if TYPE_CHECKING:
    from zoo.benchmark.objectives import Objective

SUITES = ("superb", "hear")
RATE = "{rate}"
"""In a pattern of files a folder of audio, named after its sample rate in Hz; of several the fullest counts."""

Item: TypeAlias = dict[str, Any]
"""One recording: `wav_path` (str), or `waveform` (1-D, floating point) with its `sample_rate` (Hz; 16 kHz if absent);
optionally `start_s` and `end_s` of the part that counts and `window_s`, the length of a random window that is drawn
from it each time; `rate`, in Hz, if the file must have that one; and the keys of the task's labels."""

Corpus: TypeAlias = dict[str, dict[str, Item]]
"""Split ("train", "valid", "test", or a further one of the task) -> id -> item."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which evaluation decides between checkpoints and learning rates; the first of equals wins.

    Attributes:
        metric: name of the metric.
        higher_is_better: direction of the metric.
        split: split that is evaluated.
    """

    metric: str
    higher_is_better: bool
    split: str = "valid"

    def better(self, value: float, than: float | None) -> bool:
        """Whether `value` replaces the best one so far; never when it is NaN."""
        if value != value:
            return False
        return than is None or (value > than if self.higher_is_better else value < than)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a task is trained. A step is one update of the optimiser; a task with a procedure takes none.

    Attributes:
        selection: how the best checkpoint and the winner are chosen.
        head: hook `downstream(input_size, output_size, **head_options)`.
        head_options: its keyword arguments.
        steps: updates.
        batch_size: utterances of a micro-batch.
        accumulate: micro-batches of an update.
        learning_rate: where there is no grid.
        grid: learning rates of the official search; each is trained for `grid_share` of the steps.
        grid_share: the winner goes on from where that ended.
        evaluate_every: steps.
        save_every: steps.
        evaluation_batch_size: utterances.
        optimizer: class in `torch.optim`.
        optimizer_options: its keyword arguments besides the learning rate.
        clip: largest L2 norm of the gradient of everything that is trained.
        sampler: hook `sampler(dataset, split, **sampler_options)`, of the training set.
        sampler_options: its keyword arguments.
        valid_sampler: the same for the validation set, once; None: every item, in order.
        frames: how many frames of an utterance count. "round": of the model's frames, at most samples / hop rounded
            to the nearest, half to even (v0.3); "ceil": one for each begun hop, the last frame repeated (v0.4); "all".
        layers: hidden states that are used where none are asked for; None: all.
        chunk_s: longer audio is run in chunks of so many seconds, an eighth of each on either side being context.
        crop_s: longest training utterance in seconds; of longer ones a random part is taken each time.
        audio: split -> what is done to a waveform (S,) at 16 kHz before the upstream hears it.
        min_samples: split -> shorter utterances, after `audio`, are left out and counted.
        corpus_options: keyword arguments of the task's corpus.
        objective_options: keyword arguments of the task's objective.
        procedure: what is done instead of training a head: `procedure(given, **procedure_options) -> Outcome`.
        procedure_options: its keyword arguments.
        pools: a procedure takes the mean over an utterance's frames; heads say so themselves.
        splits: those that a procedure needs.
    """

    selection: Selection
    head: Callable[..., Any] | None = None
    head_options: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 0
    batch_size: int = 1
    accumulate: int = 1
    learning_rate: float = 0.0
    grid: tuple[float, ...] = ()
    grid_share: float = 1.0
    evaluate_every: int = 1
    save_every: int = 1
    evaluation_batch_size: int = 1
    optimizer: str = "Adam"
    optimizer_options: Mapping[str, Any] = field(default_factory=dict)
    clip: float = 1.0
    sampler: Callable[..., Any] = samplers.shuffled
    sampler_options: Mapping[str, Any] = field(default_factory=dict)
    valid_sampler: Callable[..., Any] | None = None
    frames: str = "round"
    layers: tuple[int, ...] | None = None
    chunk_s: float | None = None
    crop_s: float | None = None
    audio: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    min_samples: Mapping[str, int] = field(default_factory=dict)
    corpus_options: Mapping[str, Any] = field(default_factory=dict)
    objective_options: Mapping[str, Any] = field(default_factory=dict)
    procedure: Callable[..., Outcome] | None = None
    procedure_options: Mapping[str, Any] = field(default_factory=dict)
    pools: bool = False
    splits: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a procedure works with.

    Attributes:
        corpus: of the task.
        features: of a split, each id with its hidden states (K, T, D) on the CPU; T is 1 if the recipe pools.
        times: the middles of the first so many frames of any utterance, (T,) fp64 in milliseconds.
        chance: the primary metric of an answer that does not look at its input, on a split.
        device: of the upstream.
        folder: for what it keeps; files that begin with "checkpoint" are for going on, and are deleted when it is done.
        log: takes a line to say.
        progress: takes how much of it is done, and how much there is to do.
        learning_rate: what was asked for, if anything was.
        steps: at most so many updates.
        seed: of everything random.
    """

    corpus: Corpus
    features: Callable[[str], Iterable[tuple[str, Tensor]]]
    times: Callable[[int], Tensor]
    chance: Callable[[str], float]
    device: torch.device
    folder: Path
    log: Callable[[str], None]
    progress: Callable[[float, int], None]
    learning_rate: float | None = None
    steps: int | None = None
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a procedure found.

    Attributes:
        metrics: split -> metric -> value; those of "test" are what the task is measured by.
        chance: the primary metric of an answer that does not look at its input.
        predictions: split -> id -> whatever the task predicts.
        curve: what was tried, one record each, such as {"layer": 3, "split": "valid", "mtwv": 0.07}.
        config: what was chosen.
    """

    metrics: Mapping[str, Mapping[str, float]]
    chance: float
    predictions: Mapping[str, Mapping[str, Any]]
    curve: Sequence[Mapping[str, Any]] = ()
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The corpus on disk, for `check-data`.

    Attributes:
        folder: official name of the corpus folder; "" where several stand side by side.
        files: glob pattern below the corpus folder, which may begin with RATE -> number of files in the official
            release, None where it is not known; at least one must be there.
        items: split -> items in the official release, None where it is not known.
        source: how to get it, in a sentence or two with the address; "" where nothing was released.
        licence: its licence or terms.
    """

    folder: str
    files: Mapping[str, int | None]
    items: Mapping[str, int | None]
    source: str
    licence: str


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task of a benchmark.

    Attributes:
        name: "superb/ks".
        title: for people.
        metric: the primary metric.
        higher_is_better: direction of the primary metric.
        corpus: `corpus(root, **options) -> Corpus`; with `fold=...` where there are folds.
        objective: `objective(corpus, hop_samples, **options)`: labels, loss, predictions, metrics; with `upstream=...`
            if it takes one.
        recipes: "official", "miniature" and others.
        layout: what must be on disk.
        miniature: `miniature(root)` writes a small corpus in this layout: the same bytes every time, in files that
            other tasks of the same corpus may have written already.
        folds: each is trained and tested by itself, and the metrics are averaged.
        submission: `submission(folder, fold, predictions)` writes the files that the leaderboard takes. Predictions:
            split -> id -> what the objective predicts; of a corpus's extra splits without audio, its items.
        read: the task as its folder on disk describes it: `read(root) -> Task`.
        remarks: what is to be said of a corpus, a sentence each.
    """

    name: str
    title: str
    metric: str
    higher_is_better: bool
    corpus: Callable[..., Corpus]
    objective: Callable[..., Objective]
    recipes: Mapping[str, Recipe]
    layout: Layout
    miniature: Callable[[Path], None]
    folds: tuple[str, ...] = ()
    submission: Callable[[Path, str | None, Mapping[str, Mapping[str, Any]]], None] | None = None
    read: Callable[[Path], Task] | None = None
    remarks: Callable[[Corpus], Sequence[str]] = lambda corpus: ()


@cache
def tasks() -> dict[str, Task]:
    """Every task by its name, those of other packages' entry points `zoo.tasks` among them."""
    found: list[Task] = []
    for suite in SUITES:
        package = import_module(f"zoo.benchmark.{suite}")
        names = sorted(module.name for module in iter_modules(package.__path__) if not module.name.startswith("_"))
        found += [import_module(f"{package.__name__}.{name}").TASK for name in names]
        found += getattr(package, "TASKS", ())
    found += [point.load() for point in entry_points(group="zoo.tasks")]
    return {task.name: task for task in found}


def corpus_root(task: Task, data: Path) -> Path:
    """The folder that the task's corpus parser is given.

    Args:
        task: with its layout.
        data: holds the corpora side by side, below `tasks` too, or is the one corpus.
    """
    if not task.layout.folder:
        return data
    places = (data / task.layout.folder, data / "tasks" / task.layout.folder)
    return next((place for place in places if place.is_dir()), data)


def select(name: str, data: Path | None = None) -> Sequence[Task]:
    """The tasks that a name means: one, `superb/all`, `hear/all` or `all`.

    Args:
        name: of a task; of one of HEAR as much as tells it from the others.
        data: folder of the corpora, where further tasks of HEAR may lie.

    Raises:
        InputError: when it means none.
    """
    known = tasks() if data is None else {**tasks(), **_further(data), **tasks()}  # the first say in which order
    if name == "all":
        return list(known.values())
    suite, _, rest = name.partition("/")
    chosen = [task for task in known.values() if task.name.startswith(f"{suite}/")]
    if rest == "all" and chosen:
        return chosen
    if name in known:
        return [known[name]]
    prefixed = [task for task in chosen if task.name.startswith(name)] if suite == "hear" and rest else []
    if len(prefixed) == 1:
        return prefixed
    if prefixed:
        raise InputError(f"task {name!r} was asked for; several begin so: {', '.join(t.name for t in prefixed)}")
    near = difflib.get_close_matches(name, [*known, *(f"{suite}/all" for suite in SUITES)], n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "`python -m zoo.benchmark list` has them all"
    raise InputError(f"task {name!r} was asked for, which is none; {hint}")


def _further(data: Path) -> dict[str, Task]:
    """Tasks that are known by their folders alone."""
    suites = [import_module(f"zoo.benchmark.{suite}") for suite in SUITES]
    return {task.name: task for suite in suites if hasattr(suite, "found") for task in suite.found(data)}
