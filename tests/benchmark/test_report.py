"""The report: scores beside the published ones, and no result file that can upset it."""

from __future__ import annotations

import html
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import zoo
from tests.benchmark import hear_folders, made_up, toys
from zoo.benchmark import Options, _files, published, report, tasks
from zoo.benchmark._run import Run
from zoo.benchmark._task import select
from zoo.errors import InputError

HOSTILE = "<script>alert(1)</script> | `x` \x1b[31m\n## y & \"z\" 'q'"


def read(folder: Path, *results: dict[str, Any]) -> report.Results:
    for i, made in enumerate(results):
        made_up.write(folder, made, f"{i}.json")
    return report.read([folder])


def verdict(folder: Path, **changes: Any) -> str:
    (run,) = read(folder, made_up.result(**changes)).runs
    return report.comparisons(run)[0].verdict


# --- what is published -----------------------------------------------------------------------------------------------


def test_every_published_row_is_complete_and_of_a_model_in_the_registry() -> None:
    assert len(published.ROWS) == 11
    for row in published.ROWS:
        assert list(row.scores) == [column.name for column in published.COLUMNS]
        assert zoo.info(row.upstream).name == row.upstream
        assert row.source in published.SOURCES
        for column, score in zip(published.COLUMNS, row.scores.values()):
            assert score.mark in {"", *published.MARKS}
            assert len(score.text.partition(".")[2]) == column.digits or score.mark == "*"
            assert 0 < score.value < (1 if column.name == "QbE" else 100)


def test_unconfirmed_scores_are_those_of_data2vec_but_two() -> None:
    marked = {(row.model, name) for row in published.ROWS for name, score in row.scores.items() if score.mark == "+"}
    assert {model for model, _ in marked} == {"data2vec Base"}
    assert {column.name for column in published.COLUMNS} - {name for _, name in marked} == {"SID", "ASV"}


def test_columns_have_the_direction_of_their_tasks() -> None:
    known = {column.task: column for column in reversed(published.COLUMNS)}
    for name, task in tasks().items():
        if name.startswith("superb/"):
            assert known[name].higher_is_better == task.higher_is_better


def test_an_alias_finds_its_rows_and_a_path_finds_none() -> None:
    assert published.rows("hubert") == published.rows("hubert_base") != []
    assert [row.source for row in published.rows("wavlm_large")] == ["A", "B"]
    assert published.rows("runs/hubert_base.safetensors") == []


def test_the_rewrite_of_the_maintainers_stays_within_the_band() -> None:
    # HuBERT Base by the old and the new code of s3prl, from the talk that gives the changes.
    old = (5.41, 6.11, 96.3, 7.37, 81.19, 5.11, 5.88, 98.34, None, 25.2, 64.92)
    new = (5.483, 6.14, 96.62, 7.37, 80.69, 5.15, 5.8, 98.207, None, 24.22, 64.76)
    for column, before, after in zip(published.COLUMNS, old, new):
        if before is None or after is None:
            assert column.rebuild is None
            continue
        assert column.rebuild is not None and abs(column.rebuild) <= published.BAND
        # The talk rounds to one digit at best: 3.9 % of SF's errors are +3 % in it.
        assert column.gain(after, before) == pytest.approx(column.rebuild, abs=1.0)


# --- the band --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.9630, "within"), (0.9630 * 0.9701, "within"), (0.9630 * 0.9699, "outside"), (0.9630 * 1.031, "outside")],
)
def test_a_score_is_held_against_the_band(tmp_path: Path, value: float, expected: str) -> None:
    assert verdict(tmp_path, value=value) == f"{expected} the band"


def test_the_gain_of_an_error_rate_is_what_it_lost(tmp_path: Path) -> None:
    better, worse = (
        report.comparisons(run)[0]
        for run in read(
            tmp_path, made_up.result("superb/pr", value=0.0530), made_up.result("superb/pr", value=0.0552)
        ).runs
    )
    assert better.gain == pytest.approx(100 * (5.41 - 5.30) / 5.41)
    assert worse.gain == pytest.approx(-100 * (5.52 - 5.41) / 5.41)


def test_the_newest_published_score_counts(tmp_path: Path) -> None:
    (run,) = read(tmp_path, made_up.result(upstream="wavlm_base_plus", value=0.9737)).runs
    (found,) = report.comparisons(run)
    assert found.row is not None and found.row.model == "WavLM Base+, final"
    assert found.gain == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"config": {"recipe": "miniature"}}, "recipe miniature"),
        ({"config": {"recipe": "v0.4"}}, "recipe v0.4"),
        ({"config": {"steps": 20}}, "20 of 200000 steps"),
        ({"config": {"finetune": True}}, "fine-tuned"),
        ({"config": {"padding": "reference"}}, "reference padding"),
        ({"config": {"limit": 10}}, "10 items at most"),
        ({"config": {"layers": list(range(12))}}, "layers 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11"),
        ({"config": {"head": "mine:Head"}}, "head mine:Head"),
        ({"config": {"corpus": "mine:corpus"}}, "corpus mine:corpus"),
        ({"config": {"head_options": {"hidden_size": 8}}}, "head_options hidden_size 8"),
        ({"config": {"optimizer": "torch.optim:SGD"}}, "optimizer torch.optim:SGD"),
        ({"items": {"train": 24, "valid": 6804, "test": 3081}}, "24 of the 51094 items of train"),
        ({"items": None}, "the number of items is not recorded"),
        ({"task": "own/ks"}, None),
        ({"upstream": "mine.safetensors"}, None),
    ],
)
def test_only_whole_official_runs_are_held_against_the_band(
    tmp_path: Path, changes: dict[str, Any], reason: str | None
) -> None:
    made = made_up.result(**changes)
    if made["items"] is None:
        del made["items"]
    (run,) = read(tmp_path, made).runs
    found = report.comparisons(run)
    if reason is None:
        assert [(each.score, each.gain) for each in found] in ([], [(None, None)])
    else:
        assert [(each.gain, each.verdict) for each in found] == [(None, f"not comparable: {reason}")]


def test_a_rate_that_was_not_searched_is_said(tmp_path: Path) -> None:
    assert verdict(tmp_path, grid=[]) == "within the band; the learning rate was not searched"


# --- the table -------------------------------------------------------------------------------------------------------


def test_the_table_has_runs_as_rows_and_tasks_as_columns(tmp_path: Path) -> None:
    results = read(
        tmp_path,
        made_up.result("superb/ks", value=0.96),
        made_up.result("superb/pr", "hubert", 0.0545),
        made_up.result("superb/sf", value=0.8812),
        made_up.result("superb/ks", "fbank", 0.0863, config={"recipe": "miniature"}),
    )
    text = report.table(results)
    assert "| upstream | run | PR ↓ | KS ↑ | SF-F1 ↑ | SF-CER ↓ |" in text
    assert "| hubert_base | official | 5.45 | 96.00 | 88.12 | 25.00 |" in text  # the alias is the same model
    assert "| HuBERT Base | published (A) | 5.41 | 96.30 | 88.53 | 25.20 |" in text
    assert "| fbank | miniature |  | 8.63 |  |  |" in text
    assert "(A) SUPERB leaderboard of October 2021" in text


def test_marks_of_published_scores_are_explained_where_they_occur(tmp_path: Path) -> None:
    with_mark = report.table(read(tmp_path / "a", made_up.result("superb/sid", "fbank", 0.00085)))
    assert "0.085 (\\*)" in with_mark and "printed as a fraction" in with_mark
    unconfirmed = report.table(read(tmp_path / "b", made_up.result(upstream="data2vec")))
    assert "96.56 (+)" in unconfirmed and "confirmed by no document" in unconfirmed
    plain = report.table(read(tmp_path / "c", made_up.result()))
    assert "printed as a fraction" not in plain and "confirmed by no document" not in plain


def test_other_suites_have_tables_of_their_own(tmp_path: Path) -> None:
    made = made_up.result("own/cough", value=0.743, primary={"name": "top1_acc", "value": 0.743})
    text = report.table(read(tmp_path, made))
    assert "## OWN" in text and "cough, top1_acc" in text and "| hubert_base | official | 0.7430 |" in text
    assert "published" not in text


def test_folds_are_put_together(tmp_path: Path) -> None:
    made = made_up.result("superb/er", value=0.65, curve=made_up.curve("accuracy", ("1", "2")))
    parts = {
        fold: {
            "layer_weights": [0.25, 0.75] if fold == "1" else [0.75, 0.25],
            "confusion": {"labels": ["a", "b"], "counts": [[5, int(fold)], [0, 7]]},
            "excluded": {"train": {"count": 2, "examples": [f"{fold}.wav is silent"]}},
            "items": made["items"],
        }
        for fold in ("1", "2")
    }
    for key in ("layer_weights", "confusion", "excluded", "items"):
        del made[key]
    results = read(tmp_path, made | {"folds": parts})
    assert "| 4 of train |" in report.table(results)
    report.write([tmp_path])
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "a as b 3 times" in page and "mean of 2 folds" in page and "1.wav is silent" in page
    assert report.comparisons(results.runs[0])[0].verdict == "within the band"


# --- HEAR ------------------------------------------------------------------------------------------------------------

DCASE, PITCH = "hear/dcase2016_task2-hear2021-full", "hear/nsynth_pitch-v2.2.3-5h"
HIVES = tuple(f"hear/beehive_states_fold{i}-v2-full" for i in range(2))


def section(text: str, title: str) -> str:
    """What stands below a heading."""
    return text.partition(f"## {title}\n")[2].partition("\n## ")[0]


def cells(text: str, title: str, first: str, run: str) -> dict[str, str]:
    """A row of a table by its headings."""
    head, _, *rows = [line for line in section(text, title).splitlines() if line.startswith("|")]
    found = [dict(zip(head.strip("| ").split(" | "), line[2:-2].split(" | "))) for line in rows]
    (row,) = [row for row in found if (row["upstream"], row["run"].strip()) == (first, run)]
    return {key.removesuffix(" ↑"): value.strip() for key, value in row.items()}


def test_the_leaderboard_of_hear_has_nineteen_columns_of_twenty_folders() -> None:
    assert len(published.HEAR_COLUMNS) == 19
    folders = [task for column in published.HEAR_COLUMNS for task in column.tasks]
    assert len(folders) == len(set(folders)) == 20
    assert {name for name in tasks() if name.startswith("hear/")} <= set(folders)
    assert list(published.HEAR_COLUMNS[0].tasks) == list(HIVES)
    for column in published.HEAR_COLUMNS:
        scores = [score.value for score in column.scores.values()]
        assert all(0 < score <= column.best.value < 1 for score in scores) and 16 <= column.count <= 34
        assert all(len(score.text) == 5 for score in (*column.scores.values(), column.best))
    for model in published.HEAR_MODELS.values():
        assert not model.upstream or zoo.info(model.upstream).name == model.upstream


@pytest.mark.parametrize(
    ("model", "mean"),
    [
        ("wav2vec2", 0.641),
        ("CREPE", 0.538),
        ("OpenL3", 0.670),
        ("HuBERT XL", 0.638),
        ("HuBERT XL mean", 0.719),
        ("H+w+C", 0.776),
        ("BYOL-S", 0.693),
        ("CED", 0.754),
    ],
)
def test_published_scores_of_hear_add_up(model: str, mean: float) -> None:
    """The means of the 18 tasks without Beehive that were computed from the leaderboard's file."""
    scores = [column.scores[model].value for column in published.HEAR_COLUMNS[1:]]
    assert sum(scores) / len(scores) == pytest.approx(mean, abs=5.01e-4)


def test_who_has_the_best_scores_of_hear() -> None:
    columns = {column.name: column for column in published.HEAR_COLUMNS}
    assert (str(columns["Beehive"].best), columns["Beehive"].best_model, columns["Beehive"].count) == (
        "0.878",
        "UDONS ViT",
        16,
    )
    own = {"OpenL3": ["Beijing Opera"], "CREPE": ["NSynth Pitch 50h"], "BYOL-S": ["LibriCount"]}
    own["CED"] = ["ESC-50", "FSD50K", "Mridangam Tonic", "Vocal Imitation"]
    for model, names in own.items():
        assert [name for name, column in columns.items() if column.best_model == model] == names
        assert all(columns[name].best == columns[name].scores[model] for name in names)
    assert sum(column.count for column in columns.values()) == 16 + 34 * 10 + 33 * 6 + 31 * 2
    assert all("CREPE" in column.scores for column in columns.values())
    assert [name for name, column in columns.items() if "PaSST" not in column.scores] == ["Beehive", "MAESTRO 5h"]


def test_scores_of_hear_stand_beside_the_leaderboard(tmp_path: Path) -> None:
    text = report.table(
        read(tmp_path, made_up.result(), made_up.hear(DCASE, value=0.7), made_up.hear(PITCH, "wavlm_large", 0.4))
    )
    titles = re.findall("^## (.+)$", text, re.MULTILINE)
    assert titles == ["SUPERB", "SUPERB beside the published scores", "HEAR", "HEAR, task by task", "Runs"]
    own = {"DCASE 2016": "0.700", "NSynth Pitch 5h": "", "mean (tasks)": "0.700 (1 of 19)"}
    assert cells(text, "HEAR", "hubert_base", "official") == {"upstream": "hubert_base", "run": "official", **own}
    assert cells(text, "HEAR", "CED", "published, 2023")["mean (tasks)"] == "0.802 (2 of 19)"
    assert cells(text, "HEAR", "best of all", "published")["NSynth Pitch 5h"] == "0.878"
    rows = [line for line in section(text, "HEAR").splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + 2 + 9 + 1 and NOT_COMPARABLE not in section(text, "HEAR")
    task = cells(text, "HEAR, task by task", "hubert_base", "official")
    assert (task["best published"], task["entries"], task["comparable?"]) == ("0.925 PaSST 2lvl+mel", "33", "yes")
    assert "26 September 2023" in text and "hubert" not in task["same upstream"]


def test_an_entry_of_the_same_upstream_is_named(tmp_path: Path) -> None:
    text = report.table(read(tmp_path, made_up.hear(DCASE, "HUBERT_XLARGE", 0.6)))
    found = cells(text, "HEAR, task by task", "hubert_xlarge_ll60k", "official")
    assert found["same upstream"] == "0.584 (HuBERT XL)"


NOT_COMPARABLE = f"({report.NOT_COMPARABLE})"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"items": {"train": 24, "valid": 14, "test": 14}}, "24 of the 44 items of train"),
        ({"config": {"layers": [6]}}, "layers 6"),
        ({"config": {"steps": 50}}, "50 steps at most"),
        ({"config": {"learning_rate": 0.001}}, "learning rate 0.001"),
        ({"config": {"recipe": "miniature"}}, "recipe miniature"),
    ],
)
def test_what_does_not_compare_with_the_leaderboard_is_marked(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    text = report.table(read(tmp_path, made_up.hear(DCASE, **changes)))
    (row,) = [line for line in section(text, "HEAR").splitlines() if line.startswith("| hubert_base")]
    assert f"| 0.700 {NOT_COMPARABLE} | 0.700 (1 of 19) {NOT_COMPARABLE} |" in row
    assert f"| no: {reason} |" in section(text, "HEAR, task by task")
    assert "the next table says why" in text


@pytest.mark.parametrize(("options", "departures"), [({}, []), ({"lr": 0.001}, ["learning rate 0.001"])])
def test_what_an_official_run_records_is_the_recipe(
    tmp_path: Path, options: dict[str, Any], departures: list[str]
) -> None:
    data = hear_folders.write(tmp_path / "data" / PITCH.removeprefix("hear/"), "scene", clips=1).parent
    made = Run(select(PITCH)[0], toys.Upstream(), data, tmp_path / "out", Options(**options), print)
    (run,) = read(tmp_path, made_up.hear(PITCH, "mine.safetensors") | {"config": _files.plain(made.config)}).runs
    assert run.departures == departures


def test_beehive_is_the_mean_of_its_folders(tmp_path: Path) -> None:
    both = [made_up.hear(task, "hubert_base", value) for task, value in zip(HIVES, (0.5, 0.7))]
    results = read(tmp_path, *both, made_up.hear(HIVES[1], "wavlm_base", 0.9), made_up.hear(DCASE, "wavlm_base", 0.6))
    text = report.table(results)
    assert cells(text, "HEAR", "hubert_base", "official")["Beehive"].split()[0] == "0.600"
    alone = cells(text, "HEAR", "wavlm_base", "official")
    assert alone["Beehive"].startswith("0.900 (fold1 only)") and alone["mean (tasks)"] == "0.600 (1 of 19)"
    assert "| Beehive fold1 |" in text and "| Beehive fold0 |" in text


def test_the_zoos_recipe_stands_apart(tmp_path: Path) -> None:
    zoos = made_up.result(DCASE, value=0.864, config={"recipe": "zoo"}, items={"train": 44, "valid": 14, "test": 14})
    text = report.table(read(tmp_path, made_up.hear(DCASE, value=0.663), zoos))
    assert "0.864" not in section(text, "HEAR") + section(text, "HEAR, task by task")
    assert cells(text, "HEAR by other recipes", "hubert_base", "zoo")["DCASE 2016"] == "0.864"
    assert "0.663" not in section(text, "HEAR by other recipes")
    assert "Not the official protocol" in section(text, "HEAR by other recipes")
    for name in ("PaSST", "best of all", "CED"):
        assert name not in section(text, "HEAR by other recipes")


def test_a_folder_that_is_not_hears_has_its_own_name(tmp_path: Path) -> None:
    text = report.table(read(tmp_path, made_up.hear(DCASE), made_up.hear("hear/cough-v1-full", value=0.5)))
    assert "cough-v1-full, top1_acc" in section(text, "HEAR, other folders")
    assert "PaSST" not in section(text, "HEAR, other folders") and "cough" not in section(text, "HEAR")


def test_folds_of_hear_have_a_spread(tmp_path: Path) -> None:
    """Numbers of the wav2vec 2.0 baseline on Mridangam Tonic, whose mean and deviation its makers print."""
    folds = (0.8202, 0.8503, 0.8036, 0.8452, 0.8258)
    made = made_up.hear("hear/mridangam_tonic-v1.5-full", value=0.8290, folds=5)
    made["metrics"] |= {f"fold{i:02}": {"top1_acc": score} for i, score in enumerate(folds)}
    whole = made_up.hear("hear/mridangam_stroke-v1.5-full", value=0.8290)
    broken = json.loads(json.dumps(made)) | {"upstream": "wavlm_base"}
    broken["metrics"]["fold01"]["top1_acc"] = None
    nested = made_up.result(
        "superb/er", folds={str(i): {"metrics": {"test": {"accuracy": x}}} for i, x in enumerate(folds)}
    )
    results = read(tmp_path, made, whole, broken, nested)
    spreads = {(run.task, run.upstream): report.spread(run) for run in results.runs}
    assert spreads["hear/mridangam_tonic-v1.5-full", "hubert_base"] == "0.8290 ± 0.0190; 5"
    assert spreads["superb/er", "hubert_base"] == "0.8290 ± 0.0190; 5"
    assert spreads["hear/mridangam_tonic-v1.5-full", "wavlm_base"].endswith("; 4 of 5")
    assert spreads["hear/mridangam_stroke-v1.5-full", "hubert_base"] == ""
    assert "| 0.8290 ± 0.0190; 5 |" in report.table(results)


def test_a_score_that_is_none_is_said_and_has_no_part_in_the_mean(tmp_path: Path) -> None:
    text = report.table(read(tmp_path, made_up.hear(DCASE, value=None), made_up.hear(PITCH, value=0.4)))
    found = cells(text, "HEAR", "hubert_base", "official")
    assert (found["DCASE 2016"], found["mean (tasks)"]) == ("NaN", "0.400 (1 of 19)")
    assert "where no event was found" in text


@pytest.mark.parametrize(
    ("changes", "remark"),
    [
        ({"chosen": {"grid": [{"point": {}}]}}, "chosen.grid[0] has no valid"),
        ({"chosen": {"grid": [3]}}, "chosen.grid[0] is 3"),
        ({"chosen": {"winner": "x"}}, "chosen.winner is 'x', not int"),
        ({"metrics": {"test": {"top1_acc": "x"}}}, "metrics.test.top1_acc is 'x'"),
        ({"primary": {"name": None, "value": 0.5}}, "primary.name is None"),
    ],
)
def test_a_broken_result_of_hear_is_listed(tmp_path: Path, changes: dict[str, Any], remark: str) -> None:
    results = read(tmp_path, made_up.hear(DCASE), made_up.hear(PITCH) | changes)
    assert [run.task for run in results.runs] == [DCASE]
    assert len(results.remarks) == 1 and remark in results.remarks[0]
    assert len(report.write([tmp_path])) == 2


def test_a_result_of_hear_with_strange_numbers_is_shown(tmp_path: Path) -> None:
    made = made_up.hear(DCASE, value=1.7e308, folds=3)
    made["metrics"] |= {f"fold{i:02}": {made["primary"]["name"]: 1.7e308} for i in range(3)}
    made["chosen"] |= {"winner": 99, "partitions": [{}]}
    made["chosen"]["grid"][0] |= {"point": {}, "valid": 1.7e308}
    huge = [made_up.hear(task, value=1.7e308) for task in HIVES]
    read(tmp_path, made, *huge, made_up.hear(PITCH, value=-5.0, chosen={}, curve=[{"epoch": None}, {"valid": 1}]))
    _, path = report.write([tmp_path])
    assert not re.search(r'(?:[xy][12]?|cx|cy|points|width|height)="[^"]*(?:nan|inf)', path.read_text(encoding="utf-8"))


def test_the_page_draws_the_grid_and_shades_the_table(tmp_path: Path) -> None:
    read(tmp_path, made_up.hear(DCASE, value=0.99), made_up.hear(PITCH, value=0.05, folds=3), made_up.result())
    report.write([tmp_path])
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    Page(page)
    table = page.partition("<h2>HEAR</h2>")[2].partition("</table>")[0]
    shades = re.findall(r'--share:([\d.]+)">([\d.]+)<', table)
    assert len(shades) == 2 + 18 and {("1.00", "0.990"), ("0.00", "0.050")} <= set(shades)
    article = page.partition("NSynth pitch, 5 h")[2].partition("</article>")[0]
    (grid,) = re.findall(r"<h4>Grid points tried</h4>.*?</figure>", article, re.DOTALL)
    assert grid.count("<circle") == 7 and "4 (chosen): 1, 0.00032, xavier_normal_" in grid and "1: none" in grid
    (loss,) = re.findall(r"<h4>loss, train</h4>.*?</figure>", article, re.DOTALL)
    assert loss.count("<polyline") == 8 + 2 and loss.count('class="series chosen"') == 3
    strokes = set(re.findall(r'<polyline class="[^"]+" (stroke="[^"]+" stroke-dasharray="[^"]+")', loss))
    assert len(strokes) == 8 and "point 4 (chosen)" in loss
    assert "104, 105, 106" in article


# --- what cannot be read ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "remark"),
    [
        (b"", "is not JSON"),
        (b"\xff\xfe\x00", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"task": "a", "upstream": "b", "status": "finished", "x": ' + b"[" * 99 + b"]" * 99 + b"}", "not a result"),
        (b"[]", "it has no task, upstream and status"),
        (b'{"task": "superb/ks"}', "it has no task, upstream and status"),
        (b'{"task": "superb/ks", "upstream": "x", "status": "running"}', "is not finished: its status is 'running'"),
        (b'{"task": "superb/ks", "upstream": "x", "status": "finished"}', "it has no primary"),
        ({"primary": {"name": "accuracy", "value": True}}, "primary.value is True, not int"),
        ({"primary": {"name": "accuracy"}}, "primary has no value"),
        ({"task": 3}, "task is 3, not str"),
        ({"metrics": {"test": [1.0]}}, "metrics.test is [1.0], not a dict"),
        ({"curve": {"step": 1}}, "curve is {'step': 1}, not a list"),
        ({"curve": [{"step": 1}, "x"]}, "curve[1] is 'x', not a dict"),
        ({"grid": [{"learning_rate": None}]}, "grid[0].learning_rate is None, not int"),
        ({"confusion": {"labels": ["a"], "counts": [[1, 2]]}}, "confusion has other labels than counts"),
        ({"notes": ["a", None]}, "notes[1] is None, not str"),
        ({"folds": {"1": {"layer_weights": ["a"]}}}, "folds.1.layer_weights[0] is 'a', not int"),
    ],
)
def test_a_file_that_is_no_finished_result_is_listed(
    tmp_path: Path, content: bytes | dict[str, Any], remark: str
) -> None:
    made_up.write(tmp_path, made_up.result(), "good.json")
    bad = tmp_path / "bad.json"
    bad.write_bytes(content if isinstance(content, bytes) else json.dumps(made_up.result() | content).encode())
    results = report.read([tmp_path])
    assert [run.path.name for run in results.runs] == ["good.json"]
    (found,) = results.remarks
    assert found.startswith(f"{bad} ") and remark in found and found.endswith(".") and "\n" not in found
    assert report._markdown(found) in report.table(results)


def test_a_file_that_may_not_be_read_is_listed(tmp_path: Path) -> None:
    made_up.write(tmp_path, made_up.result(), "good.json")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "gone.json").symlink_to(tmp_path / "nowhere")
    assert sorted(report.read([tmp_path]).remarks) == [
        f"{tmp_path / 'folder.json'} cannot be read: Is a directory.",
        f"{tmp_path / 'gone.json'} cannot be read: No such file or directory.",
    ]


def test_the_same_run_twice_is_said_and_has_two_rows(tmp_path: Path) -> None:
    first = made_up.write(tmp_path / "a", made_up.result(value=0.95))
    second = made_up.write(tmp_path / "b", made_up.result(value=0.94))
    results = report.read([tmp_path / "a", tmp_path / "b"])
    assert results.remarks == [
        f"superb/ks of hubert_base (official) is there twice, {first} and {second}: each has a row."
    ]
    text = report.table(results)
    assert "| hubert_base | official | 95.00 |" in text and "| hubert_base | official (2) | 94.00 |" in text


def test_a_path_that_is_named_twice_counts_once(tmp_path: Path) -> None:
    path = made_up.write(tmp_path, made_up.result())
    results = report.read([tmp_path, path])
    assert len(results.runs) == 1 and not results.remarks


@pytest.mark.parametrize("there", ["nothing", "folder", "bad file"])
def test_a_report_of_nothing_is_refused(tmp_path: Path, there: str) -> None:
    folder = tmp_path / "results"
    if there != "nothing":
        folder.mkdir()
    if there == "bad file":
        (folder / "bad.json").write_text("{")
    with pytest.raises(InputError) as refused:
        report.write([folder])
    assert str(folder) in str(refused.value) and "\n" not in str(refused.value)
    assert not list(tmp_path.rglob("report*"))


def test_strange_numbers_are_shown(tmp_path: Path) -> None:
    made = made_up.result(
        primary={"name": "accuracy", "value": None},
        seconds=1e300,
        learning_rate=10**400,
        layer_weights=[0.5, float("nan")],
        curve=[
            {"step": step, "learning_rate": rate, "loss": loss}
            for rate in (1e-3, 10**400, None)
            for step, loss in ((1, 1e308), (2, -1e308), (10**400, 1.0), (3, float("inf")), (4, True), (None, 1))
        ],
        grid=[{"learning_rate": rate, "value": value} for rate, value in ((10**400, 1), (1, 1e308), (2, -1e308))],
    )
    path = tmp_path / "a.json"
    path.write_text(re.sub(r"\b10{400}\b", "1" + "0" * 400, json.dumps(made)), encoding="utf-8")
    report.write([tmp_path])
    assert "| hubert_base | official | NaN |" in (tmp_path / "report.md").read_text(encoding="utf-8")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r'(?:[xy][12]?|cx|cy|points|width|height)="[^"]*(?:nan|inf)', page)


# --- the page --------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a browser would see: whether tags match, which ones there are, their texts, and what they refer to."""

    VOID = frozenset({"meta"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("results")
    layers = [{"layer": k, "split": s, "mtwv": 0.01 * k} for k in range(25) for s in ("valid", "test")]
    for made in (
        made_up.result(),
        made_up.result("superb/pr", confusion=None),
        made_up.result("superb/qbe", "wavlm_large", 0.08, curve=layers, grid=[], layer_weights=None, confusion=None),
    ):
        made_up.write(folder, made)
    report.write([folder])
    return (folder / "report.html").read_text(encoding="utf-8")


def test_the_page_is_sound_and_needs_nothing_else(page: str) -> None:
    parsed = Page(page)
    assert not {"script", "link", "img", "iframe", "object", "base", "form"} & set(parsed.tags)
    # Two links may leave the page's text, none may leave the page.
    refers = [
        value for _, name, value in parsed.attributes if name in ("href", "src", "srcset", "action", "xlink:href")
    ]
    assert refers and all(re.fullmatch(r"#run-\d+", value) for value in refers)
    anchors = {f"#{value}" for _, name, value in parsed.attributes if name == "id"}
    assert set(refers) <= anchors
    assert not any(name.startswith("on") for _, name, _ in parsed.attributes)
    assert not re.search(r"url\(|@import|@font-face", page)
    assert ("meta", "content", "default-src 'none'; style-src 'unsafe-inline'") in parsed.attributes


def test_every_plot_has_words_for_those_who_cannot_see_it(page: str) -> None:
    plots = re.findall(r'<svg class="plot"[^>]*>', page)
    told = [
        html.unescape(found) for plot in plots for found in re.findall(r'role="img" aria-label="([^"]{30,})"', plot)
    ]
    assert len(told) == len(plots) == 4 + 4 + 2  # loss, metric, rates and weights; layers of two splits
    assert any(
        text.startswith("loss of train over steps, logarithmic") and "lr 0.001 goes from" in text for text in told
    )
    assert any("0.001: 0.951" in text and "1: diverged" in text for text in told)
    assert any(text.startswith("Learned weights of 13 hidden states. Largest: state 8") for text in told)
    assert any(text.startswith("mtwv of valid over layers") for text in told)


def test_every_learning_rate_is_drawn_and_told_apart_without_colour(page: str) -> None:
    (loss,) = re.findall(r"<figure><h4>loss, train</h4>.*?</figure>", page.partition('id="run-2"')[2], re.S)[:1]
    strokes = re.findall(r'<polyline class="series(| chosen)" stroke="([^"]+)" stroke-dasharray="([^"]+)"', loss)
    assert len(strokes) == len(set(strokes)) == 4  # the fifth diverged at once
    assert [dash for chosen, _, dash in strokes if chosen] == ["none"]
    assert all(dash != "none" or chosen for chosen, _, dash in strokes[1:])
    assert "20 values that are not finite are left out" in loss


def test_the_page_is_the_same_each_time(tmp_path: Path) -> None:
    made_up.write(tmp_path, made_up.result())
    first, second = (report.write([tmp_path], tmp_path / name) for name in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    config = {"recipe": HOSTILE, "optimizer": HOSTILE, "head": HOSTILE, HOSTILE: HOSTILE}
    base = made_up.result("superb/ks")
    made = base | {
        "task": f"hear/{HOSTILE}",
        "upstream": HOSTILE,
        "primary": {"name": HOSTILE, "value": 0.5},
        "config": base["config"] | config,
        "seeds": {HOSTILE: HOSTILE},
        "data_fingerprint": HOSTILE,
        "versions": {HOSTILE: HOSTILE},
        "curve": [
            {"step": 1, "fold": HOSTILE, "learning_rate": HOSTILE, "split": HOSTILE, HOSTILE: 1.0, "by": HOSTILE},
            {"step": 1, "learning_rate": 0.1, "split": HOSTILE, HOSTILE: 1.0, "by": "\ud800"},
        ],
        "confusion": {"labels": [HOSTILE, "\ud800"], "counts": [[1, 2], [3, 4]]},
        "excluded": {HOSTILE: {"count": 1, "examples": [HOSTILE]}},
        "features": HOSTILE,
        "notes": [HOSTILE],
    }
    made_up.write(tmp_path, made, "a.json")
    text, page = (path.read_text(encoding="utf-8") for path in report.write([tmp_path]))
    parsed = Page(page)
    assert "script" not in parsed.tags and "\x1b" not in page + text
    assert "<script>alert(1)</script>" in "".join(parsed.words)
    assert not re.search(r"(?<!\\)[<`]", text) and "\n## y" not in text
    assert all(row.count(" | ") == head.count(" | ") for head, row in tables_of(text))


def tables_of(text: str) -> list[tuple[str, str]]:
    """Each row of each Markdown table with the head of that table."""
    found, head = [], ""
    for line in text.splitlines():
        head = "" if not line.startswith("|") else head or line
        if head and not line.startswith("|---"):
            found.append((head, line))
    return found


def test_the_files_appear_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_up.write(tmp_path, made_up.result())
    report.write([tmp_path])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    made_up.write(tmp_path, made_up.result(value=0.1))

    def full(source: Any, target: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match="No space left"):
        report.write([tmp_path])
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert after.keys() == before.keys()
    assert all(after[name] == before[name] for name in report.FILES)


@pytest.mark.parametrize("given", ["folder", "file", "output"])
def test_where_the_files_go(tmp_path: Path, given: str) -> None:
    path = made_up.write(tmp_path / "results", made_up.result())
    output = tmp_path / "new" / "folder" if given == "output" else None
    written = report.write([path if given == "file" else path.parent], output)
    assert written == [(output or path.parent) / name for name in ("report.md", "report.html")]
    assert all(path.stat().st_size > 1000 for path in written)
