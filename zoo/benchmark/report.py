"""Results beside the published scores: a table, a Markdown file and one HTML page that needs nothing else.

Nothing here trusts a result: a file may come from anywhere, so its shape is checked and its texts are escaped.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard

import zoo
from zoo.benchmark import _files, _hooks, _task, published
from zoo.benchmark._run import Options
from zoo.errors import InputError, UnknownModelError, cut, printable

Shape: TypeAlias = Any
"""A type; a tuple of shapes, one of which fits; [shape]; {"key": shape, "optional?": shape}; {...: shape} for any."""

NUMBER: Shape = (int, float)
VALUE: Shape = (int, float, None)
FOLD: Shape = {
    "layer_weights?": ([VALUE], None),
    "confusion?": ({"labels": [str], "counts": [[int]]}, None),
    "excluded?": {...: {"count": int, "examples?": [str]}},
    "items?": {...: int},
    "metrics?": {...: {...: VALUE}},
}
RESULT: Shape = {
    **FOLD,
    "task": str,
    "upstream": str,
    "primary": {"name": str, "value": VALUE},
    "metrics": {...: {...: VALUE}},
    "config": {"recipe": str},
    "seeds": object,
    "data_fingerprint": str,
    "versions": {...: object},
    "curve": [{...: object}],
    "chance?": VALUE,
    "learning_rate?": VALUE,
    "grid?": [{"learning_rate": NUMBER, "steps?": VALUE, "value?": VALUE, "diverged?": bool}],
    "folds?": {...: FOLD},
    "chosen?": {
        "grid?": [{"point": {...: object}, "valid": VALUE}],
        "winner?": int,
        "partitions?": [{"best_epoch?": VALUE}],
    },
    "seconds?": VALUE,
    "notes?": [str],
}
# How a departure from the recipe is said, by its key in `config`; others as key and value.
WORDS = {
    "padding": "{} padding",
    "normalize": "normalised layers",
    "finetune": "fine-tuned",
    "precision": "{}",
    "limit": "{} items at most",
    "steps": "{} of {} steps",
    "learning_rate": "learning rate {}",
}
HEAR_PROTOCOL = ("official", "miniature")  # recipes that are the kit's; others stand apart
FILES = ("report.md", "report.html")
RUNS = "Runs"
NOT_COMPARABLE = "≠"


@dataclass(frozen=True)
class Run:
    """A finished result.

    Attributes:
        path: its file.
        data: what the file holds, checked to be of the shape RESULT.
        number: 1; more where a task of the same upstream, recipe and variant came before.
    """

    path: Path
    data: Mapping[str, Any]
    number: int = 1

    @property
    def task(self) -> str:
        """Such as "superb/ks"."""
        return str(self.data["task"])

    @property
    def upstream(self) -> str:
        """As it was asked for; of an alias, the name."""
        return published.name(self.data["upstream"])

    @property
    def recipe(self) -> str:
        """Its name."""
        return str(self.data["config"]["recipe"])

    @cached_property
    def departures(self) -> list[str]:
        """What was done otherwise than the recipe says."""
        config, found = self.data["config"], []
        for key, value in _usual(self).items():
            if key not in config:
                found.append(f"{key} not recorded")
            elif config[key] != value:
                words = WORDS.get(key, f"{key} {{}}") if value is not None or key != "steps" else "{} steps at most"
                found.append(words.format(cut(plain(config[key]), 60) or "none", plain(value)))
        return found

    @property
    def variant(self) -> str:
        """The recipe, and what was done otherwise."""
        return ", ".join([self.recipe, *self.departures])

    @property
    def folds(self) -> dict[str, Mapping[str, Any]]:
        """What is recorded of each fold; of the whole, under "", where there are none."""
        return dict(self.data.get("folds") or {"": self.data})

    @property
    def scores(self) -> list[float]:
        """The primary metric of each fold."""
        name, folds = self.data["primary"]["name"], self.data.get("folds")
        if folds:
            found = [fold.get("metrics", {}).get("test", {}).get(name) for fold in folds.values()]
        else:
            found = [each.get(name) for split, each in self.data["metrics"].items() if re.fullmatch(r"fold\d+", split)]
        return [float(value) if is_number(value) else float("nan") for value in found]

    @property
    def row(self) -> tuple[str, str, int]:
        """What shares a row of the table."""
        return self.upstream, self.variant, self.number

    def value(self, metric: str | None = None) -> float:
        """The primary metric, or one of the test set; NaN where there is none."""
        primary = self.data["primary"]
        if metric in (None, primary["name"]):
            found = primary["value"]
        else:
            found = self.data["metrics"].get("test", {}).get(metric)
        return float(found) if is_number(found) else float("nan")


@dataclass
class Results:
    """What was read.

    Attributes:
        runs: finished results.
        remarks: one sentence each about what is not among them, or is there twice.
    """

    runs: list[Run] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def rows(self) -> dict[tuple[str, str, int], list[Run]]:
        """Runs by row of the table, in order of first appearance."""
        rows: dict[tuple[str, str, int], list[Run]] = {}
        for run in self.runs:
            rows.setdefault(run.row, []).append(run)
        return rows


@dataclass(frozen=True)
class Comparison:
    """A score beside a published one.

    Attributes:
        value: of the result, in the column's unit.
        row: the published row; None: nothing is published of this upstream.
        score: its score.
        gain: relative change in percent, positive where the result is the better one; None: not comparable.
        verdict: whether it reproduces the score, or why that cannot be said.
    """

    run: Run
    column: published.Column
    value: float
    row: published.Row | None
    score: published.Score | None
    gain: float | None
    verdict: str


def _usual(run: Run) -> dict[str, Any]:
    """What `config` has where the recipe alone decides; nothing for a recipe that is not known here."""
    task = _task.tasks().get(run.task)
    recipe = task.recipes.get(run.recipe) if task else None
    if task is None or recipe is None:
        return {}
    options, procedure = Options(), recipe.procedure
    asked = ["padding", "normalize", "finetune", "precision", "limit"]
    copied = ["corpus_options", "objective_options", "frames", "crop_s"]
    usual: dict[str, Any] = {"upstream_options": {}, "corpus": _hooks.name(task.corpus), "layers": _layers(run, recipe)}
    if procedure is not None:
        usual |= {"procedure": _hooks.name(procedure), "steps": None, "learning_rate": None}
    else:
        usual |= {"head": None if recipe.head is None else _hooks.name(recipe.head)}
        usual |= {"sampler": _hooks.name(recipe.sampler)}
        asked += ["scheduler"]
        copied += ["steps", "batch_size", "accumulate", "optimizer", "optimizer_options", "clip", "head_options"]
        copied += ["sampler_options", "evaluate_every"]
    usual |= {key: getattr(options, key) for key in asked} | {key: getattr(recipe, key) for key in copied}
    return dict(_files.plain(usual))


def _layers(run: Run, recipe: _task.Recipe) -> Any:
    """The hidden states of a recipe, counted from the front; as recorded where nothing says how many there are."""
    recorded = run.data["config"].get("layers")
    try:
        states = range(zoo.info(run.upstream).layers + 1)
    except UnknownModelError:
        count = len(recorded) if isinstance(recorded, list) else 1
        if recipe.layers is None:
            return list(range(count))
        return recorded if count == len(recipe.layers) else list(recipe.layers)
    return list(states) if recipe.layers is None else [states[layer] for layer in recipe.layers]


def obstacle(run: Run) -> str:
    """Why a score cannot be held against a published one; "" where it can."""
    if run.recipe != "official":
        return f"recipe {run.recipe}"
    task = _task.tasks().get(run.task)
    if task is None:
        return "no such task is installed"
    if run.departures:
        return ", ".join(run.departures)
    items = next(iter(run.folds.values())).get("items")
    if items is None:
        return "the number of items is not recorded"
    for split, there in task.layout.items.items():
        if there is not None and items.get(split) != there:
            return f"{items.get(split, 0)} of the {there} items of {split}"
    return ""


def comparisons(run: Run) -> list[Comparison]:
    """Every column that a result has, beside the newest published score of the same upstream."""
    found = []
    for column in (column for column in published.COLUMNS if column.task == run.task):
        value = column.scale * run.value(column.metric)
        rows = published.rows(run.upstream)
        if not rows:
            found.append(Comparison(run, column, value, None, None, None, "nothing is published of this upstream"))
            continue
        score = rows[-1].scores[column.name]
        gain: float | None = column.gain(value, score.value)
        if reason := obstacle(run):
            verdict, gain = f"not comparable: {reason}", None
        elif gain is None or gain != gain:
            verdict, gain = "no score", None
        else:
            verdict = "within the band" if abs(gain) <= published.BAND else "outside the band"
            if len(run.data.get("grid", [])) < 2 and len(_task.tasks()[run.task].recipes["official"].grid) > 1:
                verdict += "; the learning rate was not searched"
        found.append(Comparison(run, column, value, rows[-1], score, gain, verdict))
    return found


def read(paths: Sequence[Path]) -> Results:
    """Results of folders, or of single files.

    What is unreadable, unfinished or of another shape is left out and gets a remark.

    Raises:
        InputError: when there is no result at all.
    """
    results = Results()
    files: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise InputError(f"results of {path} were asked for, which does not exist")
        found = sorted(path.glob("*.json")) if path.is_dir() else [path]
        files += [file for file in found if file not in files]
    seen: dict[tuple[str, str, str], list[Path]] = {}
    for file in files:
        data = _load(file)
        if isinstance(data, str):
            results.remarks.append(data)
            continue
        run = Run(file, data)
        same = seen.setdefault((run.task, run.upstream, run.variant), [])
        same.append(file)
        results.runs.append(Run(file, data, len(same)))
        if len(same) > 1:
            results.remarks.append(
                f"{run.task} of {run.upstream} ({run.variant}) is there twice, {same[0]} and {file}: each has a row."
            )
    if not results.runs:
        where = ", ".join(map(str, paths))
        reason = f": {results.remarks[0]}" if results.remarks else "; `python -m zoo.benchmark run TASK` writes one"
        raise InputError(f"a report of {where} was asked for, where there is no finished result{reason}")
    order = [column.task for column in published.COLUMNS]
    order += [task for column in published.HEAR_COLUMNS for task in column.tasks]
    results.runs.sort(key=lambda run: order.index(run.task) if run.task in order else len(order))
    return results


def _load(path: Path) -> dict[str, Any] | str:
    """A finished result, or why it is none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"), parse_int=_whole)
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}."
    except (ValueError, RecursionError):  # not JSON, not text, or nested without end
        return f"{path} is not JSON."
    if not isinstance(data, dict) or not {"task", "upstream", "status"} <= data.keys() or _deep(data):
        return f"{path} is not a result: it has no task, upstream and status."
    if data["status"] != "finished":
        return f"{path} is not finished: its status is {cut(str(data['status']))!r}; run the same command again."
    if wrong := _mismatch(data, RESULT, ""):
        return f"{path} is not a result of this version: {wrong}."
    for part in (data, *(data.get("folds") or {}).values()):
        confusion = part.get("confusion") or {"labels": [], "counts": []}
        labels, counts = confusion["labels"], confusion["counts"]
        if len(labels) != len(counts) or any(len(labels) != len(row) for row in counts):
            return f"{path} is not a result of this version: confusion has other labels than counts."
    return data


def _mismatch(value: Any, shape: Shape, where: str) -> str:
    """Where a value departs from a shape; "" where it does not."""
    here = cut(where.lstrip(".")) or "it"
    if isinstance(shape, tuple):
        tried = [_mismatch(value, each, where) for each in shape]
        return "" if "" in tried else tried[0]
    if not isinstance(shape, (list, dict)):
        fits = value is None if shape is None else isinstance(value, shape)
        fits = fits and (shape not in (int, float) or is_number(value))
        return "" if fits else f"{here} is {cut(repr(value), 40)}, not {getattr(shape, '__name__', 'null')}"
    kind: type[Any] = type(shape)
    if not isinstance(value, kind):
        return f"{here} is {cut(repr(value), 40)}, not a {kind.__name__}"
    if isinstance(shape, list):
        inner = [(f"{where}[{i}]", each, shape[0]) for i, each in enumerate(value)]
    elif ... in shape:
        inner = [(f"{where}.{key}", each, shape[...]) for key, each in value.items()]
    else:
        missing = [key for key in shape if not key.endswith("?") and key not in value]
        if missing:
            return f"{here} has no {missing[0]}"
        shapes = {key.rstrip("?"): each for key, each in shape.items()}
        inner = [(f"{where}.{key}", value[key], shapes[key]) for key in shapes if key in value]
    return next((wrong for at, each, of in inner if (wrong := _mismatch(each, of, at))), "")


def _deep(value: Any, left: int = 30) -> bool:
    """Whether there are lists in lists, or objects in objects, beyond what any result has."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return not left or any(_deep(each, left - 1) for each in inner)


def _whole(text: str) -> int | float:
    """A whole number of JSON: it may have any number of digits there, but not as a float later."""
    return int(text) if len(text) < 19 else float(text)


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        title: above it.
        head: headings.
        rows: cells, none of them escaped.
        cited: indices of the rows that are published, not ours.
        notes: sentences below it.
        shades: row and column of a cell -> 0 to 1, the more the better.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    cited: frozenset[int] = frozenset()
    notes: Sequence[str] = ()
    shades: Mapping[tuple[int, int], float] = field(default_factory=dict)


def tables(results: Results) -> list[Table]:
    """Scores by suite, with what is published of the same upstreams; what the band says; and what was run."""
    found = [_superb(results), _compared(results)] if any(map(comparisons, results.runs)) else []
    hear = [run for run in results.runs if published.hear_column(run.task)]
    official = [run for run in hear if run.recipe in HEAR_PROTOCOL]
    if official:
        found += [_hear(results, official, "HEAR", beside=True), _hear_tasks(official)]
    if len(hear) > len(official):
        others = [run for run in hear if run.recipe not in HEAR_PROTOCOL]
        found.append(_hear(results, others, "HEAR by other recipes", beside=False))
    shown = {column.task for column in published.COLUMNS} | {run.task for run in hear}
    suites = sorted({run.task.partition("/")[0] for run in results.runs if run.task not in shown})
    found += [_plain(results, suite, shown) for suite in suites]
    return [*found, _runs(results)]


def footnotes(results: Results) -> list[str]:
    """What the tables' signs mean, as far as they occur."""
    found = [each for run in results.runs for each in comparisons(run)]
    if not found:
        return []
    upstreams = dict.fromkeys(each.run.upstream for each in found)
    rows = [row for upstream in upstreams for row in published.rows(upstream)]
    shown = {each.column.name for each in found}
    marks = {score.mark for row in rows for name, score in row.scores.items() if name in shown}
    return [
        "Test scores in percent, QbE as maximum term-weighted value; ↑ higher is better, ↓ lower is better.",
        *(f"({letter}) {published.SOURCES[letter]}." for letter in sorted({row.source for row in rows})),
        *(f"({mark}) {published.MARKS[mark]}." for mark in sorted(marks & published.MARKS.keys())),
        f"Gain: relative change against the published score, plus where the result is better. A score is reproduced "
        f"within {published.BAND:.0f} %, the largest change when the maintainers of SUPERB rewrote their own code "
        f"(column rewrite, HuBERT Base); that is said of official runs only: every step, the whole corpus.",
    ]


def table(results: Results) -> str:
    """The tables in Markdown."""
    parts = []
    for each in tables(results):
        lines = [f"| {' | '.join(map(_markdown, row))} |" for row in (each.head, *each.rows)]
        lines.insert(1, "|" + "---|" * len(each.head))
        parts.append(f"## {each.title}\n\n" + "\n".join(lines))
        if each.notes:
            parts.append("\n".join(f"- {_markdown(note)}" for note in each.notes))
    if results.remarks:
        parts.append("## Remarks\n\n" + "\n".join(f"- {_markdown(remark)}" for remark in results.remarks))
    return "\n\n".join(parts) + "\n"


def write(paths: Sequence[Path], output: Path | None = None) -> list[Path]:
    """Write `report.md` and `report.html`.

    Args:
        paths: folders of results, or single files.
        output: folder; None: that of the first path.

    Returns:
        The files.

    Raises:
        InputError: when there is no finished result.
    """
    from zoo.benchmark._page import page

    results = read(paths)
    first = Path(paths[0])
    folder = Path(output) if output is not None else first if first.is_dir() else first.parent
    written = [folder / name for name in FILES]
    for path, text in zip(written, (f"# Benchmark results\n\n{table(results)}", page(results))):
        _files.write(path, text.encode())
    return written


def _superb(results: Results) -> Table:
    done = {run.task for run in results.runs}
    columns = [column for column in published.COLUMNS if column.task in done]
    rows: list[list[str]] = []
    cited = set()
    for upstream in dict.fromkeys(run.upstream for run in results.runs):
        for runs in (runs for key, runs in results.rows.items() if key[0] == upstream):
            cells = {
                each.column.name: number(each.value, each.column.digits) for run in runs for each in comparisons(run)
            }
            if cells:
                rows.append([upstream, label(runs[0]), *(cells.get(column.name, "") for column in columns)])
        for row in published.rows(upstream) if rows and rows[-1][0] == upstream else []:
            cited.add(len(rows))
            rows.append([row.model, f"published ({row.source})", *(str(row.scores[column.name]) for column in columns)])
    heads = [f"{column.name} {'↑' if column.higher_is_better else '↓'}" for column in columns]
    return Table("SUPERB", ["upstream", "run", *heads], rows, frozenset(cited))


def _compared(results: Results) -> Table:
    rows = [
        [
            run.upstream,
            label(run),
            each.column.name,
            number(each.value, each.column.digits),
            f"{each.score} ({each.row.source})" if each.row else "",
            "" if each.gain is None else f"{number(each.gain, 1, signed=True)} %",
            "" if each.column.rebuild is None else f"{each.column.rebuild:+.1f} %",
            each.verdict,
        ]
        for run in results.runs
        for each in comparisons(run)
    ]
    head = ["upstream", "run", "task", "score", "published", "gain", "rewrite", "reproduced?"]
    return Table("SUPERB beside the published scores", head, rows, notes=footnotes(results))


def _hear(results: Results, runs: Sequence[Run], title: str, beside: bool) -> Table:
    """Rows of models and columns of the leaderboard; `beside`: the published rows too."""
    columns = [each for each in published.HEAR_COLUMNS if any(run.task in each.tasks for run in runs)]
    rows: list[list[str]] = []
    cited, shades = set(), {}
    for key, of in results.rows.items():
        done = {run.task: run for run in of if run in runs}
        if not done:
            continue
        found = [_hear_score(column, done) for column in columns]
        known = [(value, NOT_COMPARABLE in text) for value, text in found if value is not None]
        for j, (column, (value, text)) in enumerate(zip(columns, found), 2):
            if beside and value is not None and NOT_COMPARABLE not in text:
                shades[len(rows), j] = column.shade(value)
        mean = _mean_of([value for value, _ in known], any(marked for _, marked in known))
        rows.append([key[0], label(of[0]), *(text for _, text in found), mean])
    for model in published.HEAR_MODELS.values() if beside else ():
        cited.add(len(rows))
        scores = {j: column.scores.get(model.name) for j, column in enumerate(columns, 2)}
        there = {j: score for j, score in scores.items() if score is not None}
        shades |= {(len(rows), j): columns[j - 2].shade(score.value) for j, score in there.items()}
        cells = [str(there.get(j, "")) for j in scores]
        rows.append([model.name, f"published, {model.year}", *cells, _mean_of([s.value for s in there.values()])])
    if beside:
        cited.add(len(rows))
        rows.append(["best of all", "published", *(str(column.best) for column in columns), ""])
    head = ["upstream", "run", *(f"{column.name} ↑" for column in columns), "mean (tasks)"]
    return Table(title, head, rows, frozenset(cited), _hear_notes(rows, beside), shades)


def _hear_notes(rows: Sequence[Sequence[str]], beside: bool) -> list[str]:
    everything = " ".join(cell for row in rows for cell in row)
    count = len(published.HEAR_COLUMNS)
    notes = [
        "Primary test scores as fractions, folds averaged. Beehive is the mean of two folders; with one of them only, "
        "that one is named, and has no part in the mean.",
        f"Mean: plain, over the tasks shown of which a row has a number, so many of HEAR's {count}; means of other "
        "tasks do not compare. HEAR has no official single number.",
    ]
    if "NaN" in everything:
        notes.append("NaN: no score, as where no event was found.")
    if NOT_COMPARABLE in everything:
        notes.append(
            f"({NOT_COMPARABLE}) Not comparable with what is published: not the whole folder, or not the recipe as it "
            "stands; the next table says why."
        )
    if not beside:
        notes.append(
            "Not the official protocol, so that nothing published stands beside: weights of all layers are learned, or "
            "the upstream is trained too, which lifts scores."
        )
        return notes
    models = "; ".join(f"{model.name}: {model.what} ({model.entry})" for model in published.HEAR_MODELS.values())
    return [
        *notes,
        f"Published: {published.HEAR_SOURCE}. {models}.",
        "Shade: how far a score is from the mean of the published models shown, in their standard deviations, cut at "
        "±1; the site's heat map is made so of all its entries.",
    ]


def _hear_score(column: published.HearColumn, done: Mapping[str, Run]) -> tuple[float | None, str]:
    """Score of a column, if it has one and all its folders are there, and what its cell says."""
    runs = [done[task] for task in column.tasks if task in done]
    if not runs:
        return None, ""
    value = _mean([run.value() for run in runs])
    words = [number(value, 3)]
    whole = len(runs) == len(column.tasks)
    if not whole:
        words.append(f"({_folder(runs[0].task, column)} only)")
    if runs[0].recipe in HEAR_PROTOCOL and any(map(obstacle, runs)):
        words.append(f"({NOT_COMPARABLE})")
    return value if whole and math.isfinite(value) else None, " ".join(words)


def _folder(task: str, column: published.HearColumn) -> str:
    """What tells a folder from the others of its column."""
    return "".join(re.findall(r"fold\d+", task)) if len(column.tasks) > 1 else ""


def _mean_of(values: Sequence[float], marked: bool = False) -> str:
    mark = f" ({NOT_COMPARABLE})" if marked else ""
    return f"{number(_mean(values), 3)} ({len(values)} of {len(published.HEAR_COLUMNS)}){mark}" if values else ""


def _hear_tasks(runs: Sequence[Run]) -> Table:
    """Each official score with its folds, and what is published."""
    rows = []
    for run in runs:
        column, model = published.hear_column(run.task), published.hear_model(run.upstream)
        if column is None:
            continue
        alone = len(column.tasks) == 1
        same = column.scores.get(model.name) if model is not None and alone else None
        reason = obstacle(run)
        rows.append(
            [
                run.upstream,
                label(run),
                " ".join(filter(None, (column.name, _folder(run.task, column)))),
                str(run.data["primary"]["name"]),
                number(run.value()),
                spread(run),
                number(run.data.get("chance")),
                f"{same} ({model.name})" if same and model else "",
                f"{column.best} {column.best_model}",
                str(column.count),
                f"no: {reason}" if reason else "yes",
            ]
        )
    head = ["upstream", "run", "task", "metric", "score", "folds", "chance", "same upstream", "best published"]
    notes = ["Folds: mean ± standard deviation (n - 1) of the folds' test scores, which is not that of repeated runs."]
    return Table("HEAR, task by task", [*head, "entries", "comparable?"], rows, notes=notes)


def spread(run: Run) -> str:
    """Mean and standard deviation of the folds that have a number."""
    scores = run.scores
    known = list(filter(math.isfinite, scores))
    if len(known) < 2:
        return ""
    few = f"; {len(known)} of {len(scores)}" if len(known) < len(scores) else f"; {len(known)}"
    mean = _mean(known)
    deviation = math.sqrt(sum((score - mean) * (score - mean) for score in known) / (len(known) - 1))
    return f"{number(mean)} ± {number(deviation)}{few}"


def _mean(values: Sequence[float]) -> float:
    """Infinite where the sum is."""
    return sum(values) / len(values)


def _plain(results: Results, suite: str, but: Iterable[str]) -> Table:
    """A suite of which nothing published is known: the primary metrics as they are."""
    of = [run for run in results.runs if run.task.partition("/")[0] == suite and run.task not in but]
    tasks = {run.task: f"{run.task.partition('/')[2] or run.task}, {run.data['primary']['name']}" for run in of}
    rows = []
    for key, runs in results.rows.items():
        cells = {run.task: number(run.value()) for run in runs}
        if cells.keys() & tasks.keys():
            rows.append([key[0], label(runs[0]), *(cells.get(task, "") for task in tasks)])
    title = "HEAR, other folders" if suite == "hear" else suite.upper()
    return Table(title, ["upstream", "run", *tasks.values()], rows)


def _runs(results: Results) -> Table:
    head = ["task", "upstream", "run", "metric", "value", "chance", "learning rate", "steps", "left out", "time"]
    rows = []
    for run in results.runs:
        rows.append(
            [
                run.task,
                run.upstream,
                label(run),
                run.data["primary"]["name"],
                number(run.value()),
                number(run.data.get("chance")),
                number(run.data.get("learning_rate"), None),
                number(run.data["config"].get("steps"), None),
                ", ".join(f"{count} of {split}" for split, (count, _) in left_out(run).items()) or "0",
                duration(run.data.get("seconds")),
            ]
        )
    return Table(RUNS, head, rows)


def left_out(run: Run) -> dict[str, tuple[int, list[str]]]:
    """Split -> how many items were left out, and examples of why; over all folds."""
    found: dict[str, tuple[int, list[str]]] = {}
    for part in run.folds.values():
        for split, each in part.get("excluded", {}).items():
            if each["count"]:
                count, why = found.get(split, (0, []))
                found[split] = count + each["count"], why + each.get("examples", [])
    return found


def tried(run: Run) -> list[Mapping[str, Any]]:
    """Points of the grid that a procedure tried, each with `valid`, which selects; [] where it had none."""
    return list(run.data.get("chosen", {}).get("grid", []))


def winner(run: Run) -> int | None:
    """Index of the point that was chosen."""
    said: int = run.data.get("chosen", {}).get("winner", -1)
    return said if 0 <= said < len(tried(run)) else None


def label(run: Run) -> str:
    """What tells a run from others of the same upstream."""
    return f"{run.variant} ({run.number})" if run.number > 1 else run.variant


def number(value: Any, digits: int | None = 4, signed: bool = False) -> str:
    """A number with so many digits after its point, None: as short as it goes; "" for what is none."""
    if not is_number(value):
        return ""
    if value != value or abs(value) == float("inf"):
        return "NaN" if value != value else str(value)
    if digits is None and isinstance(value, int):
        return str(value)
    return f"{value:{'+' if signed else ''}{'.6g' if digits is None else f'.{digits}f'}}"


def is_number(value: Any) -> TypeGuard[float]:
    """Whether it is one to JSON; True is not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def plain(value: Any) -> str:
    """A recorded value in a few words."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(each)}" for key, each in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(plain, value))
    return "" if value is None else number(value, None) or str(value)


def duration(seconds: Any) -> str:
    """Such as "2 h 5 min"."""
    if not isinstance(seconds, (int, float)) or not 0 <= seconds < 1e9:
        return ""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _markdown(text: str) -> str:
    """A text on one line with nothing in it that Markdown or HTML would take for its own."""
    return re.sub(r"[\\`*\[\]<>|&]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\\g<0>", printable(text))
