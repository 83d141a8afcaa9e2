"""The report as one HTML page: no script, nothing from elsewhere, plots as inline SVG that follow light and dark.

Every text goes through `html.escape`, every coordinate is a number made here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, TypeGuard

import zoo
from zoo.benchmark import _task, published, report
from zoo.errors import printable

WIDTH, HEIGHT = 360, 210
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 36
COLOURS = 7  # --c0 to --c6
MOST_POINTS = 150  # of a line: more than the plot has room for
MOST_PANELS = 4
MOST_CLASSES = 25  # of a drawn confusion matrix
LARGEST = 1e30  # what is beyond it is drawn there
DASHES = ("8 2", "6 3", "2 3", "9 3 2 3", "12 4", "1 2", "4 2 1 2 1 2", "10 2 2 2 2 2")
NOT_METRICS = {"step", "layer", "fold", "learning_rate", "split", "epoch", "partition"}

STYLE = """
:root{color-scheme:light dark;--page:#fff;--card:#f6f7f9;--text:#1b1f24;--soft:#57606a;--line:#d0d7de;--accent:#0b62b5;
--good:#1a6f37;--bad:#b3261e;--c0:#0b62b5;--c1:#b34700;--c2:#00755a;--c3:#8a2f88;--c4:#8a6a00;--c5:#56606b;--c6:#b3264d}
@media(prefers-color-scheme:dark){:root{--page:#0f1317;--card:#181e25;--text:#e8ecf0;--soft:#a3adb8;--line:#36404b;
--accent:#6cb6ff;--good:#6fd08c;--bad:#ff938a;--c0:#6cb6ff;--c1:#ffa657;--c2:#4fd1a5;--c3:#e29bdf;--c4:#e3c04d;
--c5:#b6c0ca;--c6:#ff8fa8}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1rem;max-width:1180px;background:var(--page);color:var(--text);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",sans-serif}
h1{font-size:1.6rem;line-height:1.2;margin:.5rem 0}h2{font-size:1.25rem;margin:2.2rem 0 .6rem}
h3{font-size:1.1rem;margin:0;overflow-wrap:anywhere}h4{font-size:.95rem;margin:0 0 .3rem}
a{color:var(--accent)}p,ul{margin:.4rem 0}.soft,.notes{color:var(--soft);font-size:.875rem}.notes{padding-left:1.2rem}
.wide{overflow-x:auto;border:1px solid var(--line);border-radius:8px}
.wide:focus-visible{outline:2px solid var(--accent)}
table{border-collapse:collapse;font-size:.875rem;font-variant-numeric:tabular-nums}
.wide>table{width:100%}
.wide th,.wide td{padding:.4rem .6rem;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}
.wide tr:last-child>*{border-bottom:0}
.wide thead th{background:var(--card);font-weight:600}
.wide th:first-child,.wide .words{text-align:left}.wide .words{white-space:normal;min-width:6rem}
.wide .verdict{min-width:11rem}
.wide tbody th{font-weight:600}
.wide th:first-child{position:sticky;left:0;background:var(--card);white-space:normal;
overflow-wrap:anywhere;min-width:8rem}
.wide thead .score{white-space:normal;min-width:4.2rem}.wide thead th{vertical-align:bottom}
.wide .shaded{background:color-mix(in srgb,var(--accent) calc(var(--share)*45%),var(--page))}
.cited>*{color:var(--soft);font-style:italic}.cited>.shaded{color:var(--text)}
@media(min-width:700px){.wide .cited .words{white-space:nowrap}}
.wide .cited th{font-weight:400}
.good{color:var(--good)}.bad{color:var(--bad)}
article{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:1rem;margin:1rem 0}
.figure{line-height:1.3;font-size:1.7rem;font-weight:650;margin:.2rem 0 0}.figure small{font-size:.9rem;font-weight:400}
dl{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,145px),1fr));gap:.35rem .9rem;margin:.7rem 0}
dt{color:var(--soft);font-size:.78rem}dd{margin:0;overflow-wrap:anywhere;font-size:.9rem}
.plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,310px),1fr));gap:1rem;margin-top:.8rem}
figure{margin:0;padding:.7rem;background:var(--page);border:1px solid var(--line);border-radius:8px;min-width:0}
figure.whole{grid-column:1/-1}svg.plot{display:block;width:100%;height:auto}
svg text{fill:var(--soft);font-size:11px;font-family:inherit}svg .value{fill:var(--text)}
.axis{stroke:var(--line);fill:none}.series{fill:none;stroke-width:1.4;opacity:.85}.chosen{stroke-width:2.8;opacity:1}
.mean{stroke:var(--soft);stroke-dasharray:3 3}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.1rem .8rem;margin:.3rem 0 0;padding:0;font-size:.8rem}
.legend svg{width:26px;height:10px;vertical-align:middle;margin-right:.3rem}
.matrix{margin:.2rem auto;font-size:.75rem}.matrix td{min-width:1.9rem;height:1.9rem;padding:.15rem;text-align:center;
border:1px solid var(--page);background:color-mix(in srgb,var(--accent) calc(var(--share)*85%),var(--card))}
.matrix td.dark{color:var(--page)}.matrix th{font-weight:500;padding:.15rem .4rem;text-align:right;white-space:nowrap}
.matrix thead th{writing-mode:vertical-rl;transform:rotate(180deg);text-align:left;padding:.4rem .15rem}
.scroll{overflow-x:auto}summary{cursor:pointer;color:var(--soft);font-size:.875rem;margin-top:.6rem}
pre{overflow-x:auto;font-size:.78rem;background:var(--page);padding:.7rem}
@media print{article,figure{break-inside:avoid}}
"""


@dataclass
class Line:
    """A line of a plot.

    Attributes:
        label: in the legend.
        colour: index; it also chooses the dashes, so that nobody has to tell lines by colour alone.
        points: (x, y), finite.
        chosen: drawn thick and without dashes.
    """

    label: str
    colour: int
    points: list[tuple[float, float]]
    chosen: bool

    @property
    def stroke(self) -> str:
        """Attributes of its stroke."""
        dash = "" if self.chosen else DASHES[self.colour % len(DASHES)]
        return f'stroke="var(--c{self.colour % COLOURS})" stroke-dasharray="{dash or "none"}"'


def page(results: report.Results) -> str:
    """The whole page."""
    anchors = {id(run): f"run-{i}" for i, run in enumerate(results.runs, 1)}
    parts = []
    for each in report.tables(results):
        links = [anchors[id(run)] for run in results.runs] if each.title == report.RUNS else []
        parts.append(f"<h2>{_text(each.title)}</h2>{_table(each, links)}")
        parts.append(_list(each.notes))
    if results.remarks:
        parts.append(f"<h2>Remarks</h2>{_list(results.remarks)}")
    articles = "".join(_article(run, anchors[id(run)]) for run in results.runs)
    models = len({run.upstream for run in results.runs})
    summary = (
        f"{_count(len(results.runs), 'result')} of {_count(models, 'upstream')}, written by zoo {zoo.__version__}."
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        # Whatever a result may hold: nothing is fetched and nothing is run.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>Benchmark results</title><style>{STYLE}</style></head><body><header><h1>Benchmark results</h1>"
        f'<p class="soft">{_text(summary)}</p></header><main>{"".join(parts)}'
        f"<h2>Each run</h2>{articles}</main></body></html>\n"
    )


def _article(run: report.Run, anchor: str) -> str:
    data, config = run.data, run.data["config"]
    task = _task.tasks().get(run.task)
    title = f"{task.title} ({run.task})" if task else run.task
    primary = data["primary"]["name"]
    chance = report.number(data.get("chance"))
    partitions = data.get("chosen", {}).get("partitions", [])
    loop = {
        "batch": " x ".join(report.number(config.get(key), None) or "1" for key in ("batch_size", "accumulate")),
        "optimiser": report.plain(config.get("optimizer")),
    }
    facts = {
        "run": report.label(run),
        "learning rate": report.number(data.get("learning_rate"), None),
        "steps": report.number(config.get("steps"), None),
        **({} if config.get("procedure") else loop),
        "best step": ", ".join(filter(None, (report.number(p.get("best_step"), None) for p in run.folds.values()))),
        "best epoch": ", ".join(filter(None, (report.number(p.get("best_epoch"), None) for p in partitions))),
        "head": report.plain(config.get("head")).rpartition(":")[2],
        "head parameters": report.number(data.get("head_parameters"), 0),
        "features": report.plain(data.get("features")),
        "precision": report.plain(config.get("precision")),
        "seeds": report.plain(data["seeds"]),
        "folds": report.spread(run),
        "chosen": report.plain(_chosen(run)),
        "data fingerprint": data["data_fingerprint"][:16],
        "time": report.duration(data.get("seconds")),
        "file": run.path.name,
    }
    listed = "".join(f"<div><dt>{_text(k)}</dt><dd>{_text(v)}</dd></div>" for k, v in facts.items() if v)
    left = [f"left out of {split}: {n}; {'; '.join(why[:3])}" for split, (n, why) in report.left_out(run).items()]
    verdicts = [
        f"{each.column.name}: {report.number(each.value, each.column.digits)}; "
        f"published {each.score} ({each.row.model}): {each.verdict}."
        for each in report.comparisons(run)
        if each.row
    ]
    if column := published.hear_column(run.task):
        verdicts.append(
            f"{column.name}: best published {column.best} ({column.best_model}, of {column.count} entries)."
        )
        verdicts += [f"Not comparable: {reason}." for reason in [report.obstacle(run)] if reason]
    plots = [*_curves(run), *_search(run), *_tried(run), *_weights(run), *_confusion(run)]
    record = json.dumps({key: data[key] for key in ("metrics", "config", "seeds", "versions")}, indent=1, default=str)
    return (
        f'<article id="{anchor}"><h3>{_text(title)}: {_text(run.upstream)}</h3>'
        f'<p class="figure">{report.number(run.value())} <small>{_text(primary)}, test'
        f"{f'; chance {chance}' if chance else ''}</small></p>"
        f"{_list([*verdicts, *data.get('notes', []), *left])}<dl>{listed}</dl>"
        f'<div class="plots">{"".join(plots)}</div>'
        f"<details><summary>Metrics, configuration, seeds and versions as recorded</summary><pre>{_text(record, True)}"
        "</pre></details></article>"
    )


def _curves(run: report.Run) -> list[str]:
    """Training loss, and every metric of the evaluations: the primary one first."""
    chosen = run.data.get("learning_rate")
    panels: dict[tuple[str, str], dict[tuple[Any, ...], list[tuple[float, float]]]] = {}
    dropped: dict[tuple[str, str], int] = {}
    axis = "step"
    grid, winner = [one["point"] for one in report.tried(run)], report.winner(run)
    selected = None if winner is None else f"point {winner + 1}"
    for record in run.data["curve"]:
        axis = next((name for name in ("step", "epoch") if name in record), "layer")
        x = record.get(axis)
        if not _finite(x):
            continue
        names = [value for key, value in record.items() if isinstance(value, str) and key not in NOT_METRICS]
        rate, point = record.get("learning_rate"), next((i for i, one in enumerate(grid) if _of(record, one)), None)
        if point is not None:
            rate, names = None, [f"point {point + 1}"]
        which = (rate, f"{record.get('fold')} {record.get('partition')}", *names)
        for metric, y in record.items():
            known = metric in NOT_METRICS or (grid and metric in grid[0])
            if known or not (y is None or isinstance(y, (int, float))):
                continue
            panel = (
                ("what selects", "valid")
                if grid and metric == "valid"
                else (metric, str(record.get("split") or "train"))
            )
            if _finite(y):
                points = panels.setdefault(panel, {}).setdefault(which, [])
                points.append((_clipped(x), _clipped(y)))
            else:
                dropped[panel] = dropped.get(panel, 0) + 1
    order = sorted(panels, key=lambda panel: (panel[0] != "loss", panel[0] != run.data["primary"]["name"]))
    kinds = {(rate, *words) for panel in panels.values() for rate, _, *words in panel}
    colours = {kind: i for i, kind in enumerate(sorted(kinds, key=lambda kind: tuple(map(_sortable, kind))))}
    figures = []
    for panel in order[:MOST_PANELS]:
        lines = []
        for (rate, _, *words), points in panels[panel].items():
            parts = [f"lr {report.number(rate, None)}" if _finite(rate) else "", *words]
            best = len(kinds) == 1 or (rate == chosen if selected is None else selected in words)
            line = Line(" ".join(filter(None, parts)), colours[(rate, *words)], _thin(sorted(points)), best)
            lines.append(line)
        lines.sort(key=lambda line: (line.chosen, -line.colour))
        metric, split = panel
        remark = f"{dropped[panel]} values that are not finite are left out." if panel in dropped else ""
        figures.append(
            _figure(f"{metric}, {split}", _plot(f"{metric} of {split}", axis, lines), _legend(lines), remark)
        )
    return figures


def _search(run: report.Run) -> list[str]:
    """Score of each learning rate."""
    grid = sorted(run.data.get("grid", []), key=lambda each: each["learning_rate"])
    tried = [each for each in grid if _finite(each["learning_rate"])]
    if len(tried) < 2:
        return []
    chosen = run.data.get("learning_rate")
    scores = {i: _clipped(each["value"]) for i, each in enumerate(tried) if _finite(each.get("value"))}
    low, high = _range([*scores.values()], 0.15)
    step = (WIDTH - LEFT - RIGHT) / len(tried)
    place = [LEFT + step * (i + 0.5) for i in range(len(tried))]
    rates = [report.number(each["learning_rate"], None) for each in tried]
    body, _, y = _frame(low, high, False)
    body += "".join(_label(x, HEIGHT - BOTTOM + 15, rate, "middle") for x, rate in zip(place, rates))
    known = [(place[i], y(score)) for i, score in scores.items()]
    body += f'<polyline class="series" stroke="var(--c0)" points="{_points(known)}"/>'
    told = []
    for i, (x, rate) in enumerate(zip(place, rates)):
        best = tried[i]["learning_rate"] == chosen
        if i in scores:
            text = report.number(scores[i], None if abs(scores[i]) >= 1e4 else 3)
            body += f'<circle cx="{x:.1f}" cy="{y(scores[i]):.1f}" r="{6 if best else 3.5}" fill="var(--c0)"/>'
            body += _label(x, max(TOP + 8, y(scores[i]) - 10), text, "middle", "value")
        else:
            text = "diverged" if tried[i].get("diverged") else "none"
            body += _label(x, HEIGHT - BOTTOM - 6, "×", "middle", "value")  # noqa: RUF001
        told.append(f"{rate}: {text}{', diverged' if i in scores and tried[i].get('diverged') else ''}")
    body += _axis_name("learning rate")
    without = [text for text in told if "diverged" in text or "none" in text]
    chose = f"Chosen: {report.number(chosen, None)}. " if _finite(chosen) else ""
    remark = chose + (f"Without a score (×): {'; '.join(without)}." if without else "")  # noqa: RUF001
    alt = f"Validation score of each learning rate. {'; '.join(told)}. {chose}"
    return [_figure("Learning rates tried", _svg(body, alt), "", remark)]


def _tried(run: report.Run) -> list[str]:
    """What selects at each point of a grid that is more than learning rates."""
    points, winner = report.tried(run)[:MOST_CLASSES], report.winner(run)
    known = {i: _clipped(one["valid"]) for i, one in enumerate(points) if _finite(one["valid"])}
    if len(points) < 2:
        return []
    body, _, y = _frame(*_range([*known.values()], 0.15), False)
    step = (WIDTH - LEFT - RIGHT) / len(points)
    told, listed = [], []
    for i, one in enumerate(points):
        x = LEFT + step * (i + 0.5)
        body += _label(x, HEIGHT - BOTTOM + 15, str(i + 1), "middle")
        if i in known:
            text = report.number(known[i], None if abs(known[i]) >= 1e4 else 3)
            body += f'<circle cx="{x:.1f}" cy="{y(known[i]):.1f}" r="{6 if i == winner else 3.5}" fill="var(--c0)"/>'
            body += _label(x, max(TOP + 8, y(known[i]) - 10), text, "middle", "value")
        else:
            text = "none"
            body += _label(x, HEIGHT - BOTTOM - 6, "×", "middle", "value")  # noqa: RUF001
        told.append(f"{i + 1}: {text}")
        listed.append(f"{i + 1}{' (chosen)' if i == winner else ''}: {report.plain(list(one['point'].values()))}")
    body += _axis_name("point of the grid")
    remark = f"{report.plain(list(points[0]['point']))} of each: {'; '.join(listed)}."
    alt = f"What selects at each point of the grid. {'; '.join(told)}. {remark}"
    return [_figure("Grid points tried", _svg(body, alt), "", remark)]


def _of(record: Mapping[str, Any], point: Mapping[str, Any]) -> bool:
    """Whether a record of a curve is of a point of the grid."""
    return all(record.get(name) == value for name, value in point.items())


def _chosen(run: report.Run) -> Mapping[str, Any]:
    """What a procedure chose; of a grid, the point and what goes with it."""
    grid, winner, chosen = report.tried(run), report.winner(run), run.data.get("chosen", {})
    if not grid:
        return chosen if isinstance(chosen, Mapping) else {}
    return (
        {}
        if winner is None
        else {"": grid[winner]["point"]}
        | {name: value for name, value in grid[winner].items() if name == "postprocessing" and value}
    )


def _weights(run: report.Run) -> list[str]:
    """Learned weight of each hidden state; with folds their mean, and a dot for each."""
    rows = [part["layer_weights"] for part in run.folds.values() if part.get("layer_weights")]
    rows = [row for row in rows if len(row) == len(rows[0]) and all(_finite(w) and abs(w) <= LARGEST for w in row)]
    if not rows or len(rows[0]) < 2:
        return []
    mean = [sum(column) / len(rows) for column in zip(*rows)]
    body, _, y = _frame(min(0.0, *map(min, rows)), max(map(max, rows)) * 1.08, False)
    step = (WIDTH - LEFT - RIGHT) / len(mean)
    every = math.ceil(len(mean) / 13)
    for i, weight in enumerate(mean):
        x, top, zero = LEFT + step * i, y(max(weight, 0.0)), y(min(weight, 0.0))
        box = f'x="{x + step * 0.14:.1f}" y="{top:.1f}" width="{step * 0.72:.1f}" height="{max(zero - top, 0.5):.1f}"'
        body += f'<rect {box} rx="1" fill="var(--c0)"><title>state {i}: {weight:.4f}</title></rect>'
        if len(rows) > 1:
            middle = f'cx="{x + step / 2:.1f}" r="2" fill="var(--c1)"'
            body += "".join(f'<circle {middle} cy="{y(row[i]):.1f}"/>' for row in rows)
        if i % every == 0:
            body += _label(x + step / 2, HEIGHT - BOTTOM + 15, str(i), "middle")
    even = y(1 / len(mean))
    body += f'<line class="mean" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{even:.1f}" y2="{even:.1f}"/>'
    body += _axis_name("hidden state")
    best = max(range(len(mean)), key=mean.__getitem__)
    dots = f" Bars: mean of {len(rows)} folds; dots: each fold." if len(rows) > 1 else ""
    remark = f"Largest: state {best} with {mean[best]:.3f}; dashed: equal weights, {1 / len(mean):.3f}.{dots}"
    alt = f"Learned weights of {len(mean)} hidden states. {remark}"
    return [_figure("Layer weights", _svg(body, alt), "", remark)]


def _confusion(run: report.Run) -> list[str]:
    """Rows are what was said, columns what was recognised."""
    found = [part["confusion"] for part in run.folds.values() if part.get("confusion")]
    names = list(dict.fromkeys(label for each in found for label in each["labels"]))
    if not names:
        return []
    index = {name: i for i, name in enumerate(names)}
    counts = [[0] * len(names) for _ in names]
    for each in found:  # the folds together
        for label, row in zip(each["labels"], each["counts"]):
            for other, n in zip(each["labels"], row):
                counts[index[label]][index[other]] += n
    labels = [printable(name) or "(empty)" for name in names]
    pairs = ((n, labels[i], labels[j]) for i, row in enumerate(counts) for j, n in enumerate(row) if i != j and n > 0)
    worst = sorted(pairs, key=lambda pair: -pair[0])[:5]
    said = "; ".join(f"{true} as {taken} {n} times" for n, true, taken in worst)
    remark = f"Most frequent: {said}." if worst else "Nothing was confused."
    if len(labels) > MOST_CLASSES:
        return [_figure("Confusions", "", "", f"{remark} The matrix of {len(labels)} classes is in the result file.")]
    rows = ""
    for label, row in zip(labels, counts):
        shares = [min(1.0, max(0.0, n / max(1, sum(row)))) for n in row]
        cells = (f'<td style="--share:{share:.3f}"{_dark(share)}>{n}</td>' for share, n in zip(shares, row))
        rows += f'<tr><th scope="row">{_text(label)}</th>{"".join(cells)}</tr>'
    heads = "".join(f'<th scope="col">{_text(label)}</th>' for label in labels)
    matrix = (
        '<div class="scroll" tabindex="0" role="region" aria-label="Confusion matrix"><table class="matrix">'
        f"<thead><tr><td></td>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
    return [_figure("Confusions (rows: true, columns: recognised)", matrix, "", remark, whole=len(labels) > 6)]


def _dark(share: float) -> str:
    return ' class="dark"' if share > 0.6 else ""


def _plot(what: str, axis: str, lines: Sequence[Line]) -> str:
    """Lines over steps or layers; the y axis is logarithmic for losses that span more than a factor of 30."""
    xs, ys = zip(*(point for line in lines for point in line.points))
    logarithmic = what.startswith("loss") and min(ys) > 0 and max(ys) / min(ys) > 30
    low, high = (math.log10(min(ys)), math.log10(max(ys))) if logarithmic else _range(ys)
    body, x, y = _frame(low, high, logarithmic, min(xs), max(xs))
    for tick in _ticks(min(xs), max(xs), 5):
        body += _label(x(tick), HEIGHT - BOTTOM + 15, _short(tick), "middle")
    for line in lines:
        at = [(x(px), y(math.log10(py) if logarithmic else py)) for px, py in line.points]
        body += f'<polyline class="series{" chosen" if line.chosen else ""}" {line.stroke} points="{_points(at)}"/>'
        if len(at) == 1:
            body += f'<circle cx="{at[0][0]:.1f}" cy="{at[0][1]:.1f}" r="3" {line.stroke}/>'
    body += _axis_name(axis)
    told = [line for line in lines if line.chosen] or lines
    ends = "; ".join(
        f"{line.label or 'the line'} goes from {line.points[0][1]:.4g} to {line.points[-1][1]:.4g}" for line in told[:6]
    )
    scale = ", logarithmic" if logarithmic else ""
    return _svg(body, f"{what} over {axis}s{scale}, {_count(len(lines), 'line')}: {ends}.")


def _frame(low: float, high: float, logarithmic: bool, left: float = 0.0, right: float = 1.0) -> tuple[str, Any, Any]:
    """Horizontal rules with their values, and the functions that place x and y."""
    span, width = high - low or 1.0, right - left or 1.0

    def x(value: float) -> float:
        return LEFT + (value - left) / width * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (value - low) / span * (HEIGHT - TOP - BOTTOM)

    whole = range(math.ceil(low), math.floor(high) + 1)
    if logarithmic and len(whole) > 1:
        ticks = [float(value) for value in whole[:: math.ceil(len(whole) / 6)]]
    else:
        ticks = _ticks(low, high, 5)
    body = ""
    for tick in ticks:
        body += f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        body += _label(LEFT - 6, y(tick) + 4, _short(10**tick if logarithmic else tick), "end")
    return body, x, y


def _range(values: Sequence[float], more: float = 0.08) -> tuple[float, float]:
    """Where an axis begins and ends: a little more than the values need."""
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    room = (high - low) * more or max(abs(high) * 0.1, 1e-3)
    return low - room, high + room


def _ticks(low: float, high: float, most: int) -> list[float]:
    """Round values between two, `most` at most."""
    if high <= low:
        return [low]
    size = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(size * factor for factor in (1, 2, 5, 10) if (high - low) / (size * factor) < most)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def _short(value: float) -> str:
    if 1000 <= abs(value) < 1e9:
        return f"{value / 1000:.4g}k" if abs(value) < 1e6 else f"{value / 1e6:.4g}M"
    return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")


def _thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Neighbours averaged until there are few enough."""
    size = math.ceil(len(points) / MOST_POINTS)
    groups = (points[i : i + size] for i in range(0, len(points), size))
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def _points(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _label(x: float, y: float, text: str, anchor: str, kind: str = "") -> str:
    name = f' class="{kind}"' if kind else ""
    return f'<text{name} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{_text(text)}</text>'


def _axis_name(name: str) -> str:
    return _label((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, name, "middle")


def _svg(body: str, alt: str) -> str:
    return f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{_text(alt)}">{body}</svg>'


def _legend(lines: Sequence[Line]) -> str:
    entries: dict[str, Line] = {line.label: line for line in lines if line.label}
    if len(entries) < 2:
        return ""
    parts = []
    for line in sorted(entries.values(), key=lambda line: line.colour):
        sample = f'<line x1="0" x2="26" y1="5" y2="5" stroke-width="{3 if line.chosen else 1.6}" {line.stroke}/>'
        name = f"{line.label} (chosen)" if line.chosen else line.label
        parts.append(f'<li><svg viewBox="0 0 26 10" aria-hidden="true">{sample}</svg>{_text(name)}</li>')
    return f'<ul class="legend">{"".join(parts)}</ul>'


def _figure(title: str, body: str, legend: str, remark: str, whole: bool = False) -> str:
    caption = f'<p class="soft">{_text(remark)}</p>' if remark else ""
    kind = ' class="whole"' if whole else ""
    return f"<figure{kind}><h4>{_text(title)}</h4>{body}{legend}{caption}</figure>"


def _table(table: report.Table, links: Sequence[str]) -> str:
    """A table that scrolls sideways by itself; `links`: where the first cell of each row leads to."""
    wordy = {"upstream": "words", "run": "words", "left out": "words", "reproduced?": "words verdict"}
    wordy |= {"comparable?": "words verdict", "best published": "words"}
    kinds = [f' class="{wordy[head]}"' if head in wordy else "" for head in table.head]
    heads = "".join(
        f'<th scope="col"{kind or _score(head)}>{_unbroken(_text(head))}</th>' for head, kind in zip(table.head, kinds)
    )
    rows = ""
    for i, (first, *cells) in enumerate(table.rows):
        name = f'<a href="#{links[i]}">{_text(first)}</a>' if links else _text(first)
        body = "".join(
            f"<td{_shade(table.shades.get((i, j))) or _verdict(cell) or kind}>{_text(cell)}</td>"
            for j, (cell, kind) in enumerate(zip(cells, kinds[1:]), 1)
        )
        rows += f'<tr{" class=cited" if i in table.cited else ""}><th scope="row">{name}</th>{body}</tr>'
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{_text(table.title)}"><table><thead><tr>{heads}</tr>'
        f"</thead><tbody>{rows}</tbody></table></div>"
    )


def _unbroken(head: str) -> str:
    """A heading that breaks between words alone."""
    return re.sub(r" (?=[↑↓]$)", "\N{NO-BREAK SPACE}", head).replace("-", "\N{NON-BREAKING HYPHEN}")


def _score(head: str) -> str:
    return ' class="score"' if head.endswith(("↑", "↓")) else ""


def _shade(share: float | None) -> str:
    return "" if share is None else f' class="shaded" style="--share:{share:.2f}"'


def _verdict(cell: str) -> str:
    if cell.startswith("within the band"):
        return ' class="words verdict good"'
    return ' class="words verdict bad"' if cell.startswith("outside the band") else ""


def _list(sentences: Sequence[str]) -> str:
    items = "".join(f"<li>{_text(sentence)}</li>" for sentence in sentences)
    return f'<ul class="notes">{items}</ul>' if items else ""


def _text(value: str, lines: bool = False) -> str:
    """Escaped, with control characters spelt out; `lines`: line breaks stay."""
    return escape("\n".join(map(printable, value.split("\n"))) if lines else printable(value))


def _finite(value: Any) -> TypeGuard[float]:
    return report.is_number(value) and math.isfinite(value)


def _clipped(value: float) -> float:
    return max(-LARGEST, min(LARGEST, float(value)))


def _sortable(value: Any) -> tuple[bool, float, str]:
    return (True, value, "") if _finite(value) else (False, 0.0, str(value))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
