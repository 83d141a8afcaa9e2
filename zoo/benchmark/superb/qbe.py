"""Query by example on QUESST 2014: spoken queries are found in documents by time warping; nothing is trained."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.benchmark import audio, dtw, metrics, synthesis
from zoo.benchmark._task import Corpus, Given, Item, Layout, Outcome, Recipe, Selection, Task
from zoo.benchmark.objectives import Objective
from zoo.benchmark.text import lines
from zoo.errors import InputError, cut

LANGUAGE = "nnenglish"
NAMES = {"valid": "dev", "test": "eval"}
ACCEPTED = 2.0  # standard deviations above which a trial counts as a match
LAYOUT = Layout(
    folder="quesst14Database",
    files={
        "scoring/language_key_utterances.lst": 1,
        "scoring/language_key_dev.lst": 1,
        "scoring/language_key_eval.lst": 1,
        "scoring/groundtruth_quesst14_dev/*.rttm": 1,
        "scoring/groundtruth_quesst14_eval/*.rttm": 1,
        "Audio/*.wav": 12_492,
        "dev_queries/*.wav": 560,
        "eval_queries/*.wav": 555,
    },
    items={"train": 0, "valid": 138, "test": 138, "documents": 2_438},
    source="https://speech.fit.vutbr.cz/files/quesst14Database.tgz",
    licence="as its readme says; for research",
)


def corpus(root: Path) -> Corpus:
    """The part of QUESST 2014 in non-native English: queries of dev and eval, and the documents of both.

    Queries have `matches`, the documents that contain them. The further split `groundtruth` has for valid and test what
    the official scorer counts: `terms`, each query of any language with its matches, and all `documents`.

    Layout: `scoring/language_key_{utterances,dev,eval}.lst`, of each file its path below another folder and its
    language; `scoring/groundtruth_quesst14_{dev,eval}` with an rttm, of which a LEXEME line has the document second and
    the query sixth, and if there the tlist.xml and ecf.xml that say which queries and documents count.

    Raises:
        InputError: a file is missing, or not of this format.
    """
    root = Path(root)
    found: Corpus = {"train": {}, "documents": _listed(root, "utterances"), "groundtruth": {}}
    for split, name in NAMES.items():
        found[split] = _listed(root, name)
        folder = root / "scoring" / f"groundtruth_quesst14_{name}"
        terms = _matches(_only(folder, "*.rttm"))
        wanted = _attributes(folder, "*.tlist.xml", "termid")
        documents = {PurePosixPath(path).stem: None for path in _attributes(folder, "*.ecf.xml", "audio_filename")}
        found["groundtruth"][split] = {
            "terms": {term: matches for term, matches in terms.items() if not wanted or term in wanted},
            "documents": list(documents or found["documents"]),
        }
        for query, item in found[split].items():
            item["matches"] = terms.get(query, [])
    return found


def _listed(root: Path, name: str) -> dict[str, Item]:
    path = root / "scoring" / f"language_key_{name}.lst"
    items: dict[str, Item] = {}
    for number, line in enumerate(lines(path, "QUESST 2014's list of languages"), 1):
        cells = line.split()
        if len(cells) != 2 or "/" not in cells[0]:
            raise InputError(f"{path}:{number} is not folder/path and language: {cut(line)!r}; unpack the corpus again")
        if cells[1] == LANGUAGE:
            below = cells[0].partition("/")[2]
            items[PurePosixPath(below).stem] = {"wav_path": str(root / below)}
    if not items:
        raise InputError(f"{path} has no line of {LANGUAGE}, the language of the benchmark; unpack the corpus again")
    return items


def _only(folder: Path, pattern: str) -> Path:
    paths = sorted(folder.glob(pattern))
    if len(paths) != 1:
        raise InputError(
            f"{folder} has {len(paths)} files {pattern}, where QUESST 2014 has one; `python -m zoo.benchmark "
            "check-data` says what belongs there"
        )
    return paths[0]


def _matches(path: Path) -> dict[str, list[str]]:
    found: dict[str, dict[str, None]] = {}
    for number, line in enumerate(lines(path, "QUESST 2014's ground truth"), 1):
        cells = line.split()
        if cells[:1] != ["LEXEME"]:
            continue
        if len(cells) < 6:
            raise InputError(f"{path}:{number} is no LEXEME line of six fields: {cut(line)!r}; unpack the corpus again")
        found.setdefault(cells[5], {})[cells[1]] = None
    return {term: list(documents) for term, documents in found.items()}


def _attributes(folder: Path, pattern: str, name: str) -> dict[str, None]:
    """Values of an attribute in the file of a pattern; none where there is no such file."""
    texts = ["\n".join(lines(path, "QUESST 2014's ground truth")) for path in sorted(folder.glob(pattern))]
    return {value: None for text in texts for value in re.findall(rf'\b{name}\s*=\s*"([^"]*)"', text)}


class Matching(Objective):
    """Nothing to train.

    Args:
        corpus: QUESST 2014.
        hop_samples: samples between frames; not needed.
        options: of the procedure.
    """

    output_size = 0

    def __init__(self, corpus: Corpus, hop_samples: int, **options: Any) -> None:
        pass

    def check(self, split: str, item: Item) -> None:
        """Every recording can be searched."""


Features = Callable[[str], Iterable[tuple[str, Any]]]


def procedure(given: Given, **options: Any) -> Outcome:
    """Scores every hidden state on the dev queries, and the best of them on the eval queries.

    Features are standardised over the queries of a split and all documents. `mtwv` is what the official scorer counts:
    of queries and documents that it knows and that were not searched (other languages, if the ground truth has them),
    every match is missed. `mtwv_searched` is of those that were searched alone.

    One hidden state is held at a time, of all documents; features of a split are asked for once for each of them and
    once more.

    Args:
        given: of QUESST 2014.
        options: of `dtw.search`.
    """
    corpus, features = given.corpus, given.features
    layers = next(len(states) for _, states in features("documents"))
    tried = [_values(corpus, "valid", _search(features, "valid", layer, options)) for layer in range(layers)]
    best = max(range(layers), key=lambda layer: tried[layer]["mtwv"])
    trials = _search(features, "test", best, options)
    return Outcome(
        metrics={"valid": tried[best], "test": _values(corpus, "test", trials)},
        chance=0.0,  # of finding nothing; finding all of everything is worth less
        predictions={"test": trials},
        curve=[{"layer": layer, "split": "valid", **found} for layer, found in enumerate(tried)],
        config={"layer": best},
    )


def _search(features: Features, split: str, layer: int, options: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Query -> document -> score with four decimals, as the submission has them."""
    queries, documents = (
        {name: _state(states, layer) for name, states in features(part)} for part in (split, "documents")
    )
    scores = dtw.search(list(queries.values()), list(documents.values()), **options).double().cpu().numpy().round(4)
    return {name: dict(zip(documents, row)) for name, row in zip(queries, scores.tolist())}


def _state(states: Any, layer: int) -> Tensor:
    return torch.as_tensor(np.asarray(states[layer])).float().clone()


def _values(corpus: Corpus, split: str, trials: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    truth = corpus.get("groundtruth", {}).get(split)
    searched = list(next(iter(trials.values())))
    own = {query: corpus[split][query]["matches"] for query in trials}
    terms, documents = (truth["terms"], truth["documents"]) if truth else (own, searched)
    return {
        "mtwv": metrics.mtwv(*_table(trials, terms, list(dict.fromkeys([*documents, *searched])))),
        "mtwv_searched": metrics.mtwv(*_table(trials, own, searched)),
    }


def _table(
    trials: Mapping[str, Mapping[str, float]], terms: Mapping[str, list[str]], documents: list[str]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Scores (queries, documents), NaN where nothing was searched, and which are matches."""
    column = {name: i for i, name in enumerate(documents)}
    scores, matches = np.full((len(terms), len(documents)), np.nan), np.zeros((len(terms), len(documents)), dtype=bool)
    for row, (term, names) in enumerate(terms.items()):
        matches[row, [column[name] for name in names if name in column]] = True
        for name, score in trials.get(term, {}).items():
            scores[row, column[name]] = score
    return scores, matches


def submission(folder: Path, fold: str | None, predictions: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes benchmark.stdlist.xml: the score of every trial, and YES for those above 2."""
    root = ElementTree.Element(
        "stdlist",
        termlist_filename="benchmark.stdlist.xml",
        indexing_time="1.00",
        language="english",
        index_size="1",
        system_id="benchmark",
    )
    for query, scores in predictions["test"].items():
        term = ElementTree.SubElement(
            root, "detected_termlist", termid=query, term_search_time="1.0", oov_term_count="1"
        )
        for document, score in scores.items():
            ElementTree.SubElement(
                term,
                "term",
                file=document,
                channel="1",
                tbeg="0.000",
                dur="0.00",
                score=f"{score:.4f}",
                decision="YES" if score > ACCEPTED else "NO",
            )
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="UTF-8", xml_declaration=True)
    synthesis.write_bytes(folder / "benchmark.stdlist.xml", text + b"\n")


# Words of the dev queries, and of the eval queries; a document has one of each.
_WORDS = {
    "dev": ("seven", "music", "chinese", "weather", "kitchen", "measure", "monday", "washroom"),
    "eval": ("london", "prince", "river", "garden", "shoes", "judge", "bedroom", "socks"),
}


def miniature(root: Path) -> None:
    """Writes a small corpus below `root`: queries of one word, documents of two, one of each not in English.

    One document is real, and holds none of them.

    Each word was recorded once, and begins at a multiple of 20 ms wherever it occurs, or random weights, which have
    not learned what may differ between two recordings of a word, could not find it.
    """
    folder = root / LAYOUT.folder
    words = [(split, word) for split, chosen in _WORDS.items() for word in chosen]
    recorded = {
        word: synthesis.synthesise(synthesis.pronounce(word), speaker=k % 8 % 4, seed=k)
        for k, (_, word) in enumerate(words)
    }
    documents = {f"quesst14_{k:05}": (_WORDS["dev"][k % 8], _WORDS["eval"][(3 * k + k // 8) % 8]) for k in range(24)}
    listed = []
    for k, (name, said) in enumerate(list(documents.items())):
        wave = np.zeros(24_000, dtype=np.float32)
        for start, word in zip((320 * (k % 5), 320 * (37 + k % 7)), said):
            part = recorded[word][: len(wave) - start]
            wave[start : start + len(part)] += part
        if k == 22:  # in which nothing is to be found
            wave, documents[name] = synthesis.recorded("LJ002-0035"), ("", "")
        listed.append(f"quesst14Database/Audio/{name}.wav {'albanian' if k == 23 else LANGUAGE}\n")
        synthesis.write_audio(folder / "Audio" / f"{name}.wav", wave)
    scoring = folder / "scoring"
    synthesis.write_text(scoring / "language_key_utterances.lst", "".join(listed))
    excerpts = "".join(f'<excerpt audio_filename="{name}" channel="1" tbeg="0" dur="1.5"/>\n' for name in documents)
    for split, chosen in _WORDS.items():
        listed, matches, terms = [], [], []
        for k, word in enumerate((*chosen, chosen[0])):
            name = f"quesst14_{split}_{k:04}"
            listed.append(f"quesst14Database/{split}_queries/{name}.wav {'albanian' if k == 8 else LANGUAGE}\n")
            terms.append(f'<term termid="{name}"><termtext>{name}</termtext></term>\n')
            found = [document for document, said in documents.items() if word in said]
            matches += [f"LEXEME {document} 1 0.000 1.500 {name} lex <NA> <NA>\n" for document in found]
            synthesis.write_audio(folder / f"{split}_queries" / f"{name}.wav", recorded[word])
        truth = scoring / f"groundtruth_quesst14_{split}"
        synthesis.write_text(scoring / f"language_key_{split}.lst", "".join(listed))
        synthesis.write_text(truth / f"quesst14_{split}.rttm", "".join(matches))
        synthesis.write_text(truth / f"quesst14_{split}.tlist.xml", f"<termlist>\n{''.join(terms)}</termlist>\n")
        synthesis.write_text(truth / "quesst14.ecf.xml", f"<ecf>\n{excerpts}</ecf>\n")


OFFICIAL = Recipe(
    selection=Selection(metric="mtwv", higher_is_better=True),
    procedure=procedure,
    splits=("valid", "test", "documents"),
    audio=dict.fromkeys(("valid", "test", "documents"), partial(audio.gain, db=-3.0)),
)

TASK = Task(
    name="superb/qbe",
    title="Query by example",
    metric="mtwv",
    higher_is_better=True,
    corpus=corpus,
    objective=Matching,
    recipes={"official": OFFICIAL, "miniature": OFFICIAL},
    layout=LAYOUT,
    miniature=miniature,
    submission=submission,
)
