"""QUESST 2014, and the search of queries in every hidden state."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import soundfile
import torch

import zoo
from zoo.benchmark import dtw, metrics
from zoo.benchmark._task import Given
from zoo.benchmark.superb import qbe
from zoo.errors import InputError


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qbe")
    qbe.TASK.miniature(folder)
    return folder / qbe.LAYOUT.folder


def test_only_the_english_part_is_read(root):
    read = qbe.corpus(root)
    assert {split: len(items) for split, items in read.items()} == {
        "train": 0,
        "documents": 23,
        "groundtruth": 2,
        "valid": 8,
        "test": 8,
    }
    assert read["documents"]["quesst14_00004"] == {"wav_path": str(root / "Audio" / "quesst14_00004.wav")}
    query = read["test"]["quesst14_eval_0003"]
    assert query["wav_path"] == str(root / "eval_queries" / "quesst14_eval_0003.wav")
    assert len(query["matches"]) == 3
    truth = read["groundtruth"]["valid"]
    assert (len(truth["terms"]), len(truth["documents"])) == (9, 24)
    assert truth["terms"]["quesst14_dev_0007"] == ["quesst14_00007", "quesst14_00015", "quesst14_00023"]


def test_a_term_list_says_which_queries_count(root, tmp_path):
    folder = tmp_path / "scoring" / "groundtruth_quesst14_dev"
    for name in ("dev", "eval"):
        other = tmp_path / "scoring" / f"groundtruth_quesst14_{name}"
        other.mkdir(parents=True)
        (other / "x.rttm").write_text("LEXEME d 1 0 1 q lex <NA> <NA>\nLEXEME d 1 2 1 q lex\nLEXEME e 1 0 1 p lex\n")
        (tmp_path / "scoring" / f"language_key_{name}.lst").write_text("db/dev_queries/q.wav nnenglish\n")
    (tmp_path / "scoring" / "language_key_utterances.lst").write_text("db/Audio/d.wav nnenglish\n")
    truth = qbe.corpus(tmp_path)["groundtruth"]["valid"]
    assert truth == {"terms": {"q": ["d"], "p": ["e"]}, "documents": ["d"]}
    (folder / "x.tlist.xml").write_text('<termlist><term termid="q"/></termlist>')
    (folder / "x.ecf.xml").write_text('<ecf><excerpt audio_filename="a/d.wav"/><excerpt audio_filename="e"/></ecf>')
    truth = qbe.corpus(tmp_path)["groundtruth"]["valid"]
    assert truth == {"terms": {"q": ["d"]}, "documents": ["d", "e"]}


def test_what_is_missing_or_wrong_is_named(root, tmp_path):
    with pytest.raises(InputError, match=r"language_key_utterances\.lst.*check-data"):
        qbe.corpus(tmp_path)
    scoring = tmp_path / "scoring"
    scoring.mkdir()
    (scoring / "language_key_utterances.lst").write_text("db/Audio/d.wav nnenglish\nd.wav nnenglish\n")
    with pytest.raises(InputError, match=r"language_key_utterances\.lst:2 is not folder/path and language"):
        qbe.corpus(tmp_path)
    (scoring / "language_key_utterances.lst").write_text("db/Audio/d.wav czech\n")
    with pytest.raises(InputError, match=r"has no line of nnenglish"):
        qbe.corpus(tmp_path)
    for name in ("utterances", "dev", "eval"):
        (scoring / f"language_key_{name}.lst").write_text("db/Audio/d.wav nnenglish\n")
    with pytest.raises(InputError, match=r"groundtruth_quesst14_dev has 0 files \*\.rttm"):
        qbe.corpus(tmp_path)
    (scoring / "groundtruth_quesst14_dev").mkdir()
    (scoring / "groundtruth_quesst14_dev" / "x.rttm").write_text("LEXEME d 1 0 1\n")
    with pytest.raises(InputError, match=r"x\.rttm:1 is no LEXEME line"):
        qbe.corpus(tmp_path)


def made_up(layers=3):
    """Features in which state 1 alone has queries as parts of documents; and the corpus of them."""
    draw = torch.Generator().manual_seed(0)
    words = [torch.randn(layers, 8, 6, generator=draw) for _ in range(4)]
    noise = [torch.randn(layers, 8, 6, generator=draw) for _ in range(40)]
    parts = {f"d{k}": (k % 4, (k + 1) % 4) for k in range(8)}
    features = {"documents": {}, "valid": {}, "test": {}}
    for k, (name, pair) in enumerate(parts.items()):
        states = torch.cat([words[pair[0]], words[pair[1]]], dim=1)
        other = torch.cat(noise[2 * k : 2 * k + 2], dim=1)
        states[[0, 2]] = other[[0, 2]]
        features["documents"][name] = states
    for split in ("valid", "test"):
        features[split] = {f"{split}{k}": words[k] for k in range(4)}
    corpus = {
        split: {f"{split}{k}": {"matches": [d for d, pair in parts.items() if k in pair]} for k in range(4)}
        for split in ("valid", "test")
    }
    return corpus, features


def given(corpus, features):
    return Given(
        corpus=corpus,
        features=features,
        times=torch.arange,
        chance=lambda split: 0.0,
        device=torch.device("cpu"),
        folder=Path(),
        log=lambda line: None,
        progress=lambda done, total: None,
    )


def test_the_best_state_on_dev_is_used_on_eval():
    corpus, features = made_up()
    asked = []

    def give(split):
        asked.append(split)
        return ((name, states.numpy()) for name, states in features[split].items())

    outcome = qbe.procedure(given(corpus, give))
    assert outcome.config == {"layer": 1}
    assert [record["layer"] for record in outcome.curve] == [0, 1, 2]
    values = [record["mtwv"] for record in outcome.curve]
    assert values[1] == pytest.approx(1.0)
    assert max(values[0], values[2]) < 0.5
    assert outcome.metrics["valid"]["mtwv"] == values[1]
    assert outcome.metrics["test"]["mtwv"] == pytest.approx(1.0)
    assert asked.count("test") == 1
    # Standardised over the split's queries and all documents, and rounded as the file has it.
    scores = dtw.search([s[1] for s in features["test"].values()], [s[1] for s in features["documents"].values()])
    found = outcome.predictions["test"]
    assert list(found) == list(corpus["test"])
    expected = scores.double().numpy().round(4)
    assert np.array_equal([[found[q][d] for d in features["documents"]] for q in found], expected)


def test_queries_and_documents_that_were_not_searched_are_missed():
    corpus, features = made_up()
    plain = qbe.procedure(given(corpus, lambda split: features[split].items()))
    assert plain.metrics["test"]["mtwv"] == plain.metrics["test"]["mtwv_searched"]
    known, terms = ({q: item["matches"] for q, item in corpus[split].items()} for split in ("valid", "test"))
    # A fifth query that nobody searched, and documents of which one has a match.
    truth = {"terms": {**terms, "test0": [*terms["test0"], "x"], "other": ["d0"]}, "documents": ["x", "y", *"abc"]}
    corpus["groundtruth"] = {"valid": {"terms": known, "documents": []}, "test": truth}
    found = qbe.procedure(given(corpus, lambda split: features[split].items())).metrics["test"]
    assert found["mtwv_searched"] == pytest.approx(1.0)
    assert found["mtwv"] == pytest.approx((3 + 4 / 5 + 0) / 5)


def test_the_objective_trains_nothing():
    objective = qbe.TASK.objective({}, 320)
    assert objective.output_size == 0
    objective.check("valid", {"wav_path": "x.wav"})
    scores, targets = torch.rand(3, 5), torch.eye(3, 5)
    assert metrics.mtwv(torch.full_like(scores, torch.nan), targets) == 0.0


def test_the_submission_is_the_scorers_format(tmp_path):
    qbe.submission(tmp_path, None, {"test": {"q&1": {"d1": 2.0001, "d2": -0.5}, "q2": {"d1": 2.0}}})
    data = (tmp_path / "benchmark.stdlist.xml").read_bytes()
    assert data.startswith(b"<?xml version='1.0' encoding='UTF-8'?>\n<stdlist ")
    tree = ElementTree.fromstring(data)
    assert tree.attrib["termlist_filename"] == "benchmark.stdlist.xml"
    rows = [
        (one.attrib["termid"], t.attrib["file"], t.attrib["score"], t.attrib["decision"]) for one in tree for t in one
    ]
    assert rows == [("q&1", "d1", "2.0001", "YES"), ("q&1", "d2", "-0.5000", "NO"), ("q2", "d1", "2.0000", "NO")]


def test_the_miniature_is_written_once(root):
    assert all(list(root.glob(pattern)) for pattern in qbe.LAYOUT.files)
    files = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in root.rglob("*") if path.is_file()}
    qbe.TASK.miniature(root.parent)
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in root.rglob("*") if path.is_file()} == files
    documents = qbe.corpus(root)["documents"].values()
    assert {soundfile.info(item["wav_path"]).frames for item in documents} == {24_000}


def test_a_small_model_finds_the_words_of_the_miniature(root, one_thread):
    model = zoo.load("examples/hubert_tiny.pt", progress=False)
    read, recipe = qbe.corpus(root), qbe.TASK.recipes["miniature"]

    def features(split):
        for name, item in read[split].items():
            waveform = torch.from_numpy(soundfile.read(item["wav_path"], dtype="float32")[0])
            with torch.no_grad():
                out = model([recipe.audio[split](waveform)])
            yield name, torch.stack([state[0] for state in out.hidden_states])

    outcome = qbe.procedure(given(read, features))
    assert outcome.metrics["test"]["mtwv_searched"] > 0.6
    # One query of nine was not searched, nor one document.
    assert 0.5 < outcome.metrics["test"]["mtwv"] < 8 / 9
    assert len(outcome.curve) == model.num_layers + 1
