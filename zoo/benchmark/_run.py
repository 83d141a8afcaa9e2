"""The protocol, written once: corpus, plan, features, training, selection, test, result."""

from __future__ import annotations

import copy
import math
import platform
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import zoo
from zoo.benchmark import _distributed, _files, _hooks, _upstream
from zoo.benchmark._data import Audio, Kept, Split, fingerprint, split, unusable
from zoo.benchmark._features import AUTOCAST, ON_THE_FLY, Features, View, Waveforms
from zoo.benchmark._task import Corpus, Given, Outcome, Recipe, Task, corpus_root, select
from zoo.benchmark._trainer import Fit, Point, Probe
from zoo.benchmark.objectives import Objective
from zoo.errors import InputError, ZooError, printable, shown

Hook = str | Callable[..., Any]
STORE_GB = 50.0
CHECKPOINT = "checkpoint.safetensors"
TRAINING = ("finetune", "downstream", "sampler", "optimizer", "scheduler")  # options that a procedure does not take
LOGGED_S = 10.0  # seconds between lines of progress


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a run can be asked for besides its task, upstream, data and output; see `zoo.benchmark.run`."""

    device: str | None = None
    lr: float | None = None
    lr_grid: bool | Sequence[float] = False
    limit: int | None = None
    steps: int | None = None
    seed: int = 0
    recipe: str = "official"
    padding: str = "exact"
    layers: Sequence[int] | None = None
    normalize: bool = False
    finetune: bool = False
    precision: str = "fp32"
    store_gb: float = STORE_GB
    upstream_options: Mapping[str, Any] | str | None = None
    corpus: Hook | None = None
    corpus_options: Mapping[str, Any] | str | None = None
    downstream: Hook | None = None
    downstream_options: Mapping[str, Any] | str | None = None
    sampler: Hook | None = None
    sampler_options: Mapping[str, Any] | str | None = None
    optimizer: Hook | None = None
    optimizer_options: Mapping[str, Any] | str | None = None
    scheduler: Hook | None = None
    scheduler_options: Mapping[str, Any] | str | None = None
    objective_options: Mapping[str, Any] | str | None = None
    tensorboard: bool = False
    force: bool = False
    progress: bool = True

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            InputError: in one sentence.
        """
        for name, least in (("steps", 1), ("limit", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < least):
                raise InputError(f"{name}={value!r} was asked for; give a whole number, {least} or more")
        rates = [] if isinstance(self.lr_grid, bool) else list(self.lr_grid)
        for rate in [*rates, *([] if self.lr is None else [self.lr])]:
            if not 0 < rate < 1e37:  # a float32 holds what Adam makes of it
                raise InputError(f"the learning rate {rate!r} was asked for; give a positive one, below 1e37")
        if len(set(rates)) < len(rates):
            raise InputError(f"lr_grid={rates} was asked for; give each learning rate once")
        if self.lr is not None and self.lr_grid:
            raise InputError("lr and lr_grid were both asked for; give one of them")
        if self.precision not in AUTOCAST:
            raise InputError(f"precision={self.precision!r} was asked for; choose {', '.join(AUTOCAST)}")
        if self.padding not in ("exact", "reference"):
            raise InputError(f"padding={self.padding!r} was asked for; choose exact or reference")
        if self.finetune and self.lr_grid:
            raise InputError(
                "lr_grid with finetune was asked for; each learning rate changes the upstream, so give one with lr"
            )


@dataclass(frozen=True)
class Result:
    """What a run found; the content of its result file.

    Attributes:
        task: "superb/ks".
        upstream: name or path.
        status: "finished".
        primary: {"name", "value"} of the task's metric on the test set.
        metrics: split -> metric -> value; the means where there are folds.
        chance: the primary metric of an answer that does not look at its input.
        config: everything that decided about the run.
        seeds: of it.
        data_fingerprint: SHA-256 over ids, labels and file sizes.
        versions: of the zoo, torch and Python.
        curve: records of losses and evaluations.
        details: layer weights, confusion, folds, what was left out, notes, seconds.
    """

    task: str
    upstream: str
    status: str
    primary: dict[str, Any]
    metrics: dict[str, dict[str, float]]
    chance: float
    config: dict[str, Any]
    seeds: dict[str, int]
    data_fingerprint: str
    versions: dict[str, str]
    curve: list[dict[str, Any]]
    details: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As the result file has it: the details stand beside the rest."""
        data = asdict(self)
        details: dict[str, Any] = data.pop("details")
        return data | details

    @property
    def value(self) -> float:
        """The primary metric; NaN where it has no value."""
        return math.nan if self.primary["value"] is None else float(self.primary["value"])


def stem(task: Task) -> str:
    """Name of the task's result file and folder."""
    return task.name.replace("/", "_")


class Run:
    """One task, one upstream.

    Args:
        task: what is measured.
        upstream: name, path, hook or module.
        data: folder with the corpora; None where a corpus hook knows its own.
        output: folder of the results.
        options: the rest.
        log: takes each line of the plan and of progress.
    """

    def __init__(
        self,
        task: Task,
        upstream: Any,
        data: Path | None,
        output: Path,
        options: Options,
        log: Callable[[str], None],
    ) -> None:
        options.check()
        self.data = None if data is None else Path(data)
        self.task, self.options, self.output = self._read(task, options), options, Path(output)
        if self.output.exists() and not self.output.is_dir():
            raise InputError(f"{self.output} is a file; give a folder for the results")
        self.folder = self.output / stem(task)
        self.log = log if _distributed.rank() == 0 else lambda line: None
        self.recipe = self._recipe()
        with torch.random.fork_rng():
            torch.manual_seed(options.seed)  # a hook may draw its weights
            self.upstream = _upstream.load(
                upstream,
                _hooks.options(options.upstream_options, "upstream"),
                padding=options.padding,
                device=options.device,
                chunk_s=self.recipe.chunk_s,
            )
        self.corpora = {fold: self._corpus(fold) for fold in self._folds()}
        self.fingerprint = fingerprint({f"{fold}/{k}": v for fold, c in self.corpora.items() for k, v in c.items()})
        self.config = self._config()

    def run(self) -> Result:
        """Do what has not been done yet, and write the result file."""
        path = self.output / f"{stem(self.task)}.json"
        identity = {"config": self.config, "data_fingerprint": self.fingerprint, "upstream": self.upstream.name}
        done = _read_result(path)
        if done is not None and not self.options.force:
            if {key: done.get(key) for key in identity} == _files.plain(identity):
                self.log(f"{self.task.name}: finished before, {path}")
                return _result(done)
            raise InputError(
                f"{path} is the result of another run ({_difference(done, identity)}); give another folder, or force"
            )
        from zoo.benchmark import tensorboard  # which reads results

        if self.options.tensorboard:
            tensorboard.summary_writer()
        self._start(identity)
        _distributed.wait()
        begun = time.perf_counter()
        with torch.random.fork_rng():
            found = self._train() if self.recipe.procedure is None else self._procedure(self.recipe.procedure)
        result = Result(
            task=self.task.name,
            upstream=self.upstream.name,
            status="finished",
            primary={"name": self.task.metric, "value": found["metrics"]["test"][self.task.metric]},
            config=self.config,
            seeds={"run": self.options.seed},
            data_fingerprint=self.fingerprint,
            versions={"zoo": zoo.__version__, "torch": torch.__version__, "python": platform.python_version()},
            metrics=found.pop("metrics"),
            chance=found.pop("chance"),
            curve=found.pop("curve"),
            details=found | {"seconds": round(time.perf_counter() - begun, 1)},
        )
        if _distributed.rank() == 0:
            _files.write_json(path, result.to_dict())
            if self.options.tensorboard:
                shutil.rmtree(self.folder / "tensorboard", ignore_errors=True)
                tensorboard.stream(result.curve, self.folder / "tensorboard")
            for left in [*self.folder.rglob("checkpoint*"), *self.folder.rglob(f"{_files.TEMPORARY}*")]:
                left.unlink()
            shutil.rmtree(self.folder / "features", ignore_errors=True)
        _distributed.wait()
        return result

    def _start(self, identity: Mapping[str, Any]) -> None:
        """Make the folder, or see that what it holds belongs to this run."""
        path = self.folder / "run.json"
        there = _files.read_json(path)
        other = there is not None and there != _files.plain(identity)
        if other and there is not None and not self.options.force:
            raise InputError(
                f"{self.folder} holds a run that was not finished and was another one ("
                f"{_difference(there, identity)}); give another folder, or force"
            )
        if _distributed.rank() == 0:
            if other:
                shutil.rmtree(self.folder)
            _files.write_json(path, identity)

    def _folds(self) -> Sequence[str | None]:
        whole = not self.task.folds or self.options.corpus is not None or self.recipe.procedure is not None
        return [None] if whole else self.task.folds

    def _recipe(self) -> Recipe:
        """The named recipe with what the options change."""
        options, recipes = self.options, self.task.recipes
        if options.recipe not in recipes:
            raise InputError(f"recipe {options.recipe!r} was asked for; {self.task.name} has {', '.join(recipes)}")
        recipe = recipes[options.recipe]
        if recipe.procedure is not None:
            refused = [name for name in TRAINING if getattr(options, name)]
            if refused or not isinstance(options.lr_grid, bool):
                raise InputError(
                    f"{(*refused, 'lr_grid')[0]} was asked for; the recipe {options.recipe!r} of {self.task.name} has "
                    "a procedure of its own, which takes none; choose another recipe or task"
                )
        changes: dict[str, Any] = {}
        if options.steps is not None:
            changes["steps"] = min(recipe.steps, options.steps)
        if options.downstream is not None:
            changes |= {"head": _hooks.resolve(options.downstream, "downstream"), "head_options": {}}
        if options.sampler is not None:
            changes |= {"sampler": _hooks.resolve(options.sampler, "sampler"), "sampler_options": {}}
        if options.optimizer is not None:
            changes["optimizer_options"] = {}
        for name, there in (("downstream", "head"), ("sampler", ""), ("optimizer", ""), ("objective", "")):
            given = _hooks.options(getattr(options, f"{name}_options"), name)
            key = f"{there or name}_options"
            if given:
                changes[key] = {**changes.get(key, getattr(recipe, key)), **given}
        return replace(recipe, **changes)

    def _corpus(self, fold: str | None) -> Corpus:
        options = _hooks.options(self.options.corpus_options, "corpus")
        if self.options.corpus is not None:
            place = {} if self.data is None or "root" in options else {"root": self.data}
            hook = _hooks.resolve(self.options.corpus, "corpus")
            if not _hooks.takes(hook, "root"):
                place = {}
            found = _hooks.call(hook, "corpus", **place, **options)
            return _checked(found, _hooks.name(hook))
        root = self._root(self.task)
        folds = {} if fold is None else {"fold": fold}
        rate = {"rate": self.upstream.sample_rate} if _hooks.takes(self.task.corpus, "rate", named=True) else {}
        return self.task.corpus(root, **{**self.recipe.corpus_options, **options, **folds, **rate})

    def _read(self, task: Task, options: Options) -> Task:
        """The task as its folder describes it, where one does."""
        return task if task.read is None or options.corpus is not None else task.read(self._root(task))

    def _root(self, task: Task) -> Path:
        """Of the corpus."""
        if self.data is None:
            raise InputError(f"{task.name} was asked for without data; name the folder that holds its corpus")
        if not self.data.is_dir():
            what = "a file" if self.data.exists() else "not there"
            raise InputError(f"{self.data} is {what}; give the folder that holds the corpus of {task.name}")
        return corpus_root(task, self.data)

    def _config(self) -> dict[str, Any]:
        """Everything that decides about the numbers, as the result file states it."""
        options, recipe = self.options, self.recipe
        found: dict[str, Any] = {
            "recipe": options.recipe,
            "upstream_sha256": self.upstream.digest(),
            "seed": options.seed,
            "padding": options.padding,
            "layers": list(self.upstream.layer_indices(self.layers)),
            "normalize": options.normalize,
            "finetune": options.finetune,
            "precision": options.precision,
            "limit": options.limit,
            "upstream_options": _hooks.options(options.upstream_options, "upstream"),
            "corpus": _hooks.name(options.corpus or self.task.corpus),
            "corpus_options": {**recipe.corpus_options, **_hooks.options(options.corpus_options, "corpus")},
            "objective_options": dict(recipe.objective_options),
            "steps": options.steps if recipe.procedure is not None else recipe.steps,
            "frames": recipe.frames,
            "crop_s": recipe.crop_s,
            "chunk_s": recipe.chunk_s,
            "audio": {split: _hooks.name(effect) for split, effect in recipe.audio.items()},
            "min_samples": dict(recipe.min_samples),
            "resampler": "soxr HQ",
        }
        if recipe.procedure is not None:
            return found | {
                "procedure": _hooks.name(recipe.procedure),
                "procedure_options": dict(recipe.procedure_options),
                "learning_rate": options.lr,
            }
        return found | {
            "head": None if recipe.head is None else _hooks.name(recipe.head),
            "head_options": dict(recipe.head_options),
            "batch_size": recipe.batch_size,
            "accumulate": recipe.accumulate,
            "learning_rates": self._learning_rates(),
            "grid_share": recipe.grid_share,
            "optimizer": _hooks.name(options.optimizer or recipe.optimizer),
            "optimizer_options": dict(recipe.optimizer_options),
            "scheduler": None if options.scheduler is None else _hooks.name(options.scheduler),
            "scheduler_options": _hooks.options(options.scheduler_options, "scheduler"),
            "clip": recipe.clip,
            "sampler": _hooks.name(recipe.sampler),
            "sampler_options": dict(recipe.sampler_options),
            "selection": asdict(recipe.selection),
            "evaluate_every": recipe.evaluate_every,
            "valid_sampler": None if recipe.valid_sampler is None else _hooks.name(recipe.valid_sampler),
            "evaluation_batch_size": recipe.evaluation_batch_size,
        }

    @property
    def layers(self) -> Sequence[int] | None:
        """Hidden states that are used."""
        return self.recipe.layers if self.options.layers is None else self.options.layers

    def _learning_rates(self) -> list[float]:
        options, recipe = self.options, self.recipe
        if options.lr is not None:
            return [float(options.lr)]
        if options.lr_grid:
            chosen = recipe.grid if options.lr_grid is True else options.lr_grid
            return [float(rate) for rate in chosen] or [recipe.learning_rate]
        return [recipe.learning_rate]

    # --- a task that trains ------------------------------------------------------------------------------------------

    def _train(self) -> dict[str, Any]:
        parts = [_Part(self, fold, corpus) for fold, corpus in self.corpora.items()]
        rates, recipe = self._learning_rates(), self.recipe
        plan = [f"{len(rates)} learning rates" if len(rates) > 1 else f"learning rate {rates[0]:g}"]
        self.log(f"{self.task.name}: {recipe.steps} steps of {recipe.batch_size} x {recipe.accumulate}, {plan[0]}")
        self._fill(parts)
        tried: list[dict[str, Any]] = []
        first = recipe.steps if len(rates) < 2 else max(1, round(recipe.grid_share * recipe.steps))
        for part in parts:
            part.go(first)
        winner = rates[0]
        if len(rates) > 1:
            scores = {rate: [part.score(rate, first) for part in parts] for rate in rates}
            best: float | None = None
            for rate, values in scores.items():
                diverged = any(part.point(rate).diverged for part in parts)
                known = [value for value in values if value is not None and not diverged]
                mean = _mean(known) if len(known) == len(parts) else float("nan")
                tried.append({"learning_rate": rate, "steps": first, "value": mean, "diverged": diverged})
                if recipe.selection.better(mean, best):
                    best, winner = mean, rate
            if best is None and all(part.point(rate).best_state for part in parts for rate in rates):
                raise InputError(
                    f"{self.task.name}: {recipe.selection.metric} has no value on the split {recipe.selection.split!r}"
                    ", so no learning rate can be chosen; give one with lr"
                )
            if best is None:
                raise InputError(
                    f"{self.task.name}: every learning rate diverged: {', '.join(f'{r:g}' for r in rates)}"
                )
            self.log(f"{self.task.name}: learning rate {winner:g} has the best {recipe.selection.metric}, {best:.4g}")
        for part in parts:
            part.go(recipe.steps, winner)
        found = [part.test(winner) for part in parts]
        if not tried:
            known = [value for part in parts if (value := part.score(winner, recipe.steps)) is not None]
            mean = _mean(known) if known else math.nan
            tried = [{"learning_rate": winner, "steps": recipe.steps, "value": mean, "diverged": False}]
        curves = [record for one in found for record in one.pop("curve")]
        folds = dict(zip(map(str, self.corpora), found))
        metrics = {
            name: {key: _mean([one["metrics"][name][key] for one in found]) for key in values}
            for name, values in found[0]["metrics"].items()
        }
        whole = dict(found[0]) if len(found) == 1 else {"folds": folds}
        return whole | {
            "metrics": metrics,
            "chance": _mean([one["chance"] for one in found]),
            "learning_rate": winner,
            "grid": tried,
            "curve": curves,
            "features": parts[0].features.kind,
            "head_parameters": parts[0].parameters(),
            "notes": [note for part in parts for note in part.found() + part.notes],
        }

    def _fill(self, parts: Sequence[_Part]) -> None:
        """Say what will be done, and make the store of all folds where there is to be one."""
        where, features = self.task.name, parts[0].features
        for part in parts:
            fold = "" if part.fold is None else f" {part.fold}"
            sizes = (f"{name} {len(one.items)} ({_hours(one.seconds)})" for name, one in part.splits.items())
            self.log(f"{where}{fold}: {', '.join(sizes)}")
        budget, free = round(self.options.store_gb * 1e9), shutil.disk_usage(_existing(self.folder)).free
        if self.options.finetune:
            self.log(f"{where}: features on the fly, the upstream is trained too")
            self._keep(parts, min(budget, free))
            return
        pace = features.seconds_per_second()
        kind, why = features.storable(), "padding is not exact"
        waveforms = Waveforms([part.features for part in parts], kind)
        size = waveforms.estimate() if kind != ON_THE_FLY else 0
        if kind != ON_THE_FLY and not size:
            kind, why = ON_THE_FLY, "every item is cropped at random"
        elif size > min(budget, free):
            limit = "the budget" if budget < free else "what the disk has free"
            why = f"a {kind} would take {_bytes(size)}, more than {limit}, {_bytes(min(budget, free))}"
            kind = ON_THE_FLY
        if kind == ON_THE_FLY:
            recipe, train = self.recipe, parts[0].splits.get("train")
            mean = train.seconds / len(train.items) if train is not None else 0.0
            steps = recipe.steps * recipe.batch_size * recipe.accumulate * len(parts)
            cost = steps * min(mean, recipe.crop_s or mean) * pace
            self.log(f"{where}: features on the fly ({why}); about {_hours(cost)} for the upstream")
            self._keep(parts, min(budget, free))
            return
        self.log(f"{where}: {kind}, {_bytes(size)}, made in about {_hours(sum(waveforms.seconds) * pace)}")
        key = f"{self.fingerprint} {features.view} {self.options.precision} {self.config['audio']}"
        store = waveforms.store(self.folder / "features", budget, key, self.options.progress)
        for part in parts:
            part.features.use(store, kind)
            for name, one in part.splits.items():
                if not one.items:
                    raise unusable(name, one.excluded)

    def _keep(self, parts: Sequence[_Part], budget: int) -> None:
        """Keep what has to be resampled, since it is read in every epoch."""
        kept = Kept(self.folder / "features" / "audio", budget)
        for part in parts:
            part.features.audio.kept = kept

    # --- a task that does something else -----------------------------------------------------------------------------

    def _procedure(self, procedure: Callable[..., Outcome]) -> dict[str, Any]:
        part = _Part(self, None, self.corpora[None])
        self._fill([part])
        given = Given(
            corpus=part.corpus,
            features=part.features.each,
            times=self.upstream.times_ms,
            chance=lambda name: part.objective.chance(part.splits[name].items),
            learning_rate=self.options.lr,
            steps=self.options.steps,
            seed=self.options.seed,
            device=self.upstream.device,
            folder=self.folder,
            log=lambda line: self.log(f"{self.task.name}: {line}"),
            progress=_Progress(self),
        )
        outcome = procedure(given, **{**self.recipe.procedure_options, **self.recipe.objective_options})
        part.notes += self._submit(None, outcome.predictions)
        return {
            "metrics": {name: dict(values) for name, values in outcome.metrics.items()},
            "chance": outcome.chance,
            "curve": [dict(record) for record in outcome.curve],
            "chosen": dict(outcome.config),
            "features": part.features.kind,
            "items": {name: len(items) for name, items in part.corpus.items()},
            "excluded": {name: one.left_out for name, one in part.splits.items()},
            "notes": part.found() + part.notes,
        }

    def _submit(self, fold: str | None, predictions: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """Write what the leaderboard takes; returns why that was not possible, if so."""
        if self.task.submission is None or _distributed.rank():
            return []
        try:
            self.task.submission(self.folder / "submission", fold, predictions)
        except ZooError as error:
            note = f"no submission files: {error}"
            self.log(f"{self.task.name}: {note}")
            return [note]
        return []


class _Part:
    """One fold of a run, or all of one without folds."""

    def __init__(self, run: Run, fold: str | None, corpus: Corpus) -> None:
        self.run, self.fold, self.corpus = run, fold, corpus
        self.folder = run.folder if fold is None else run.folder / fold
        recipe, options, upstream = run.recipe, run.options, run.upstream
        if options.finetune:  # each fold its own, or one would have seen what another is tested on
            upstream = copy.deepcopy(upstream).train()
        told = {"upstream": upstream} if _hooks.takes(run.task.objective, "upstream", named=True) else {}
        self.objective: Objective = run.task.objective(corpus, upstream.hop_length, **told, **recipe.objective_options)
        audio = Audio(recipe, upstream, options.seed)
        names = [name for name, items in corpus.items() if any(_is_audio(item) for item in items.values())]
        self.splits: dict[str, Split] = {
            name: split(name, corpus[name], self.objective, audio, options.limit) for name in names
        }
        needed = {"test", "train", recipe.selection.split} if recipe.procedure is None else set(recipe.splits)
        if missing := sorted(needed - set(self.splits)):
            raise InputError(
                f"{run.task.name}: the corpus has no items with wav_path or waveform in its split {', '.join(missing)}"
            )
        layers = upstream.layer_indices(run.layers)
        pools = recipe.pools if recipe.head is None else bool(getattr(recipe.head, "pools", False))
        view = View(layers, options.normalize, recipe.frames, pools, options.padding == "exact")
        self.features = Features(
            upstream,
            audio,
            view,
            self.splits,
            precision=options.precision,
            trained=options.finetune,
            again=("train", "valid") if recipe.procedure is None else tuple(self.splits),
        )
        self.notes: list[str] = []
        self.fit: Fit | None = None
        for note in self.found():
            run.log(f"{run.task.name}: {note}")

    def found(self) -> list[str]:
        """What is to be said about the recordings, as far as it is known by now."""
        where = "" if self.fold is None else f"{self.fold}, "
        notes = [where + remark for remark in self.run.task.remarks(self.corpus)]
        for name, one in self.splits.items():
            total = len({*one.items, *one.excluded})
            if one.excluded:
                first = next(iter(one.excluded.values()))
                notes.append(f"{where}{name}: {len(one.excluded)} of {total} left out, such as: {first}")
            for rate, count in one.resampled.items():
                notes.append(f"{where}{name}: {count} of {total} resampled from {rate} Hz (soxr HQ)")
        return notes

    def go(self, until: int, learning_rate: float | None = None) -> None:
        """Train until so many steps, from the checkpoint if there is one; with a learning rate, that one only."""
        run = self.run
        if self.fit is None:
            self.fit = Fit(
                self.features,
                self.objective,
                run.recipe,
                self._probe,
                run._learning_rates(),
                seed=run.options.seed,
                optimizer=_hooks.resolve(run.options.optimizer or f"torch.optim:{run.recipe.optimizer}", "optimizer"),
                scheduler=self._scheduler(),
            )
            self._restore()
        if learning_rate is not None:
            self.fit.keep(learning_rate)
        clock = _Clock(self, until)
        self.fit.train(until, clock.tick)
        self._save()
        if not self.fit.running():
            points = ", ".join(f"{point.learning_rate:g}" for point in self.fit.points)
            bad = min(point.bad for point in self.fit.points)
            raise InputError(
                f"{run.task.name}: training diverged at the learning rate {points}: no finite gradient in the last "
                f"{bad} updates up to step {self.fit.step}; give a lower one"
            )

    def point(self, learning_rate: float) -> Point:
        """State of a learning rate."""
        if self.fit is None:
            raise InputError("nothing has been trained yet")
        return next(point for point in self.fit.points if point.learning_rate == learning_rate)

    def score(self, learning_rate: float, until: int) -> float | None:
        """Best value of the selection metric in the first steps."""
        chosen, best = self.run.recipe.selection, None
        for record in self.point(learning_rate).curve:
            if record["step"] <= until and chosen.better(record.get(chosen.metric, float("nan")), best):
                best = record[chosen.metric]
        return best

    def parameters(self) -> int:
        """Of the head, without weights of layers and without those of the loss."""
        return sum(p.numel() for p in self.fit.points[0].probe.head.parameters()) if self.fit else 0

    def test(self, learning_rate: float) -> dict[str, Any]:
        """Metrics of the best checkpoint on the test set, predictions to the submission files."""
        run, point = self.run, self.point(learning_rate)
        if self.fit is None or not point.best_state:
            raise InputError(
                f"{run.task.name}: training diverged at the learning rate {learning_rate:g}: NaN at every "
                "evaluation; give a lower one"
            )
        point.probe.load_state_dict(point.best_state)
        predictions: dict[str, Any] = {}
        metrics: dict[str, dict[str, float]] = {}
        for name in ("valid", "test"):
            if name in self.splits and (name == "test" or name == run.recipe.selection.split):
                predictions[name], metrics[name] = self.fit.evaluate(point, name)
        others = {name: items for name, items in self.corpus.items() if name not in self.splits}
        self.notes += run._submit(self.fold, others | predictions)
        items = {key: item for key, item in self.splits["test"].items.items() if key in predictions["test"]}
        confusion = self.objective.confusion(predictions["test"], items)
        fold = {} if self.fold is None else {"fold": self.fold}
        if _distributed.rank() == 0:
            _files.write_state(self.folder / "head.safetensors", point.best_state, {"config": run.config})
        return {
            "metrics": metrics,
            "chance": self.objective.chance(items),
            "curve": [
                fold | {"learning_rate": one.learning_rate} | record for one in self._all for record in one.curve
            ],
            "layer_weights": point.probe.layer_weights(),
            "confusion": None if confusion is None else {"labels": confusion[0], "counts": confusion[1]},
            "best_step": point.best_step,
            "skipped_updates": point.skipped,
            "items": {name: len(items) for name, items in self.corpus.items()},
            "excluded": {name: one.left_out for name, one in self.splits.items()},
        }

    def _probe(self) -> Probe:
        recipe, options = self.run.recipe, self.run.options
        if recipe.head is None:
            raise InputError(f"the recipe {options.recipe!r} of {self.run.task.name} has no head")
        sizes = self.features.input_size, self.objective.output_size
        head = _hooks.call(recipe.head, "downstream", *sizes, **recipe.head_options)
        if not isinstance(head, nn.Module):
            raise InputError(f"the downstream hook gave {type(head).__name__}; it must give a torch.nn.Module")
        upstream = self.features.upstream
        trained = upstream if options.finetune else None
        return Probe(len(self.features.view.layers), head, self.objective, trained).to(upstream.device)

    def _scheduler(self) -> Callable[..., Any] | None:
        options = self.run.options
        if options.scheduler is None:
            return None
        hook = _hooks.resolve(options.scheduler, "scheduler")
        given = _hooks.options(options.scheduler_options, "scheduler")
        return lambda optimizer: _hooks.call(hook, "scheduler", optimizer, **given)

    def _restore(self) -> None:
        path = self.folder / CHECKPOINT
        if self.fit is None:
            return
        self._all = list(self.fit.points)
        if not path.exists():
            return
        tensors, record = _files.read_state(path)
        for index, point in enumerate(self._all):
            prefix = f"{index}."
            point.restore(
                {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}, record["points"][index]
            )
        self.run.log(f"{self.run.task.name}: goes on from step {self.fit.step}")

    def _save(self) -> None:
        if _distributed.rank() == 0:
            tensors = {
                f"{i}.{name}": value for i, point in enumerate(self._all) for name, value in point.tensors().items()
            }
            _files.write_state(self.folder / CHECKPOINT, tensors, {"points": [point.record() for point in self._all]})


class _Clock:
    """Saves a checkpoint when it is due, and says how long the rest will take."""

    def __init__(self, part: _Part, until: int) -> None:
        self.part, self.until = part, until
        self.begun = self.logged = time.monotonic()
        self.first = part.fit.step if part.fit else 0

    def tick(self, fit: Fit) -> None:
        """After each step."""
        run = self.part.run
        if fit.step % run.recipe.save_every == 0 and fit.step < self.until:
            self.part._save()
        now = time.monotonic()
        if now - self.logged < LOGGED_S or not run.options.progress:
            return
        self.logged = now
        rest = (self.until - fit.step) * (now - self.begun) / (fit.step - self.first)
        running = fit.running()
        losses = ", ".join(f"{point.loss:.4g}" for point in running)
        where = "" if self.part.fold is None else f" {self.part.fold}"
        run.log(f"{run.task.name}{where}: step {fit.step} of {self.until}, loss {losses}, {_hours(rest)} left")


class _Progress:
    """Says now and then how long a procedure will take at most."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.begun = self.logged = time.monotonic()

    def __call__(self, done: float, total: int) -> None:
        now = time.monotonic()
        if done and now - self.logged >= LOGGED_S and self.run.options.progress:
            self.logged = now
            rest = (total - done) * (now - self.begun) / done
            self.run.log(f"{self.run.task.name}: {done:.1f} of {total} done, {_hours(rest)} left at most")


def _is_audio(item: Mapping[str, Any]) -> bool:
    return "wav_path" in item or "waveform" in item


def _checked(found: Any, name: str) -> Corpus:
    """A corpus hook's answer, if it is a corpus."""
    good = isinstance(found, Mapping) and all(
        isinstance(items, Mapping) and all(isinstance(item, Mapping) for item in items.values())
        for items in found.values()
    )
    if not good:
        raise InputError(
            f"the corpus hook {name} returned {shown(found)}; it must return split -> id -> item, each item a dict"
        )
    return {str(key): {str(i): dict(item) for i, item in items.items()} for key, items in found.items()}


def _mean(values: Sequence[float]) -> float:
    """Of those that are numbers, if any is: a fold may lack a class."""
    known = [value for value in values if value == value]
    return sum(known) / len(known) if known else math.nan


def _hours(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _read_result(path: Path) -> dict[str, Any] | None:
    found = _files.read_json(path)
    return found if found is not None and found.get("status") == "finished" else None


def _result(data: dict[str, Any]) -> Result:
    names = [name for name in Result.__dataclass_fields__ if name != "details"]
    rest = {key: value for key, value in data.items() if key not in names}
    return Result(**{name: data[name] for name in names}, details=rest)


def _difference(there: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first thing in which two runs differ."""
    plain = _files.plain(now)
    for key, value in plain["config"].items():
        old = there.get("config", {}).get(key)
        if old != value:
            return f"its {key} was {shown(old)}, not {shown(value)}"
    keys = [key for key in plain if there.get(key) != plain[key]]
    return f"its {' and '.join(keys)} differs" if keys else "it differs"


def run(
    task: str,
    *,
    upstream: Any,
    data: str | Path | None = None,
    output: str | Path,
    **options: Any,
) -> Result:
    """Run one task of a benchmark.

    Args:
        task: such as "superb/ks"; `python -m zoo.benchmark list` has them.
        upstream: registry name, checkpoint, module, or a callable that makes one ("module:callable" too).
        data: folder that holds the corpora side by side under their official names, or is the one corpus.
        output: folder of the results; what was begun there before goes on.
        options: fields of `Options`, which are those of the command line.

    Returns:
        What its result file `<output>/<suite>_<task>.json` says.

    Raises:
        ZooError: in one sentence, when it cannot be run.
    """
    place = None if data is None else Path(data)
    chosen = select(task, place)
    if len(chosen) != 1:
        raise InputError(f"task {task!r} means {len(chosen)} tasks; run them one by one")
    unknown = sorted(set(options) - set(Options.__dataclass_fields__))
    if unknown:
        raise InputError(f"unknown options {', '.join(unknown)}; there are {', '.join(Options.__dataclass_fields__)}")
    with _distributed.group(options.get("device")) as device:
        asked = Options(**options | {"device": device})
        return Run(chosen[0], upstream, place, Path(output), asked, _to_stderr).run()


def _to_stderr(line: str) -> None:
    sys.stderr.write(printable(line) + "\n")
