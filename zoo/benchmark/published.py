"""Published scores of SUPERB and of HEAR.

SUPERB in percent as the leaderboard prints them, QbE as the maximum term-weighted value itself; with how closely the
maintainers' own second implementation came to the first. HEAR in fractions. Each score keeps its digits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from statistics import fmean, pstdev

import zoo


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of the leaderboard.

    Attributes:
        name: heading.
        task: whose result it shows.
        metric: of the test set; None: the task's primary one.
        higher_is_better: direction.
        scale: what a result is multiplied with to be in the column's unit.
        digits: after the point.
        rebuild: change of HuBERT Base between the code that made the leaderboard and its maintainers' rewrite, in
            percent; a plus sign is an improvement (S3PRL talk at JSALT 2022); None: not published.
    """

    name: str
    task: str
    metric: str | None = None
    higher_is_better: bool
    scale: float = 100.0
    digits: int = 2
    rebuild: float | None

    def gain(self, value: float, reference: float) -> float:
        """Relative change in percent, positive where `value` is the better one."""
        return 100 * (value - reference) / reference * (1 if self.higher_is_better else -1)


@dataclass(frozen=True)
class Score:
    """A published value: its text, and "+" where no document confirms it or "*" where it is printed otherwise."""

    text: str
    mark: str = ""

    @property
    def value(self) -> float:
        """As a number, in the column's unit."""
        return float(self.text)

    def __str__(self) -> str:
        return f"{self.text} ({self.mark})" if self.mark else self.text


@dataclass(frozen=True)
class Row:
    """A model's published scores.

    Attributes:
        model: as it is published.
        upstream: name in the registry.
        source: letter of SOURCES.
        scores: heading of a column -> score.
    """

    model: str
    upstream: str
    source: str
    scores: Mapping[str, Score]


# Relative, in percent: the largest change in that rewrite. A third implementation reproduces a score within it.
BAND = 3.0
COLUMNS = (
    Column(name="PR", task="superb/pr", higher_is_better=False, rebuild=-1.0),
    Column(name="ASR", task="superb/asr", higher_is_better=False, rebuild=-0.4),
    Column(name="KS", task="superb/ks", higher_is_better=True, rebuild=0.3),
    Column(name="QbE", task="superb/qbe", higher_is_better=True, scale=1.0, digits=4, rebuild=0.0),
    Column(name="SID", task="superb/sid", higher_is_better=True, rebuild=-0.6),
    Column(name="ASV", task="superb/asv", higher_is_better=False, rebuild=-0.7),
    Column(name="SD", task="superb/sd", higher_is_better=False, rebuild=1.3),
    Column(name="IC", task="superb/ic", higher_is_better=True, rebuild=-0.1),
    Column(name="SF-F1", task="superb/sf", higher_is_better=True, rebuild=None),
    Column(name="SF-CER", task="superb/sf", metric="slot_value_cer", higher_is_better=False, rebuild=3.0),
    Column(name="ER", task="superb/er", higher_is_better=True, rebuild=-0.2),
)
SOURCES = {
    "A": "SUPERB leaderboard of October 2021 and the result tables of the WavLM and UniSpeech-SAT folders of "
    "github.com/microsoft/UniSpeech; its PR and SF values predate a correction of the decoding",
    "B": "WavLM paper, arXiv 2110.13900, Table I of the final version, quoted at second hand",
    "C": "a community's submission; SID and ASV from s3prl issue #469",
}
MARKS = {
    "+": "recalled from the public leaderboard and confirmed by no document: verify before quoting",
    "*": "printed as a fraction, 8.5e-4: the chance level of 1251 speakers",
}


# Model | name in the registry | letter of SOURCES | a score for each column, with its mark.
TABLE = """
FBANK | fbank | A | 82.01 23.18 8.63 0.0058 0.085* 9.56 10.05 9.10 69.64 52.94 35.39
wav2vec 2.0 Base | wav2vec2_base_960 | A | 5.74 6.43 96.23 0.0233 75.18 6.02 6.08 92.35 88.30 24.77 63.43
HuBERT Base | hubert_base | A | 5.41 6.42 96.30 0.0736 81.42 5.11 5.88 98.34 88.53 25.20 64.92
wav2vec 2.0 Large | wav2vec2_large_ll60k | A | 4.75 3.75 96.66 0.0489 86.14 5.65 5.62 95.28 87.11 27.31 65.64
HuBERT Large | hubert_large_ll60k | A | 3.53 3.62 95.29 0.0353 90.33 5.98 5.75 98.76 89.81 21.76 67.62
WavLM Base, Oct 2021 | wavlm_base | A | 4.84 6.21 96.79 0.0870 84.51 4.69 4.83 98.63 89.38 22.86 65.94
WavLM Base+, Oct 2021 | wavlm_base_plus | A | 4.07 5.64 96.69 0.0990 86.84 4.26 4.07 99.16 89.73 21.54 67.98
WavLM Base+, final | wavlm_base_plus | B | 3.92 5.59 97.37 0.0988 89.42 4.07 3.50 99.00 90.58 21.20 68.65
WavLM Large, Oct 2021 | wavlm_large | A | 3.09 3.51 97.40 0.0827 95.25 4.04 3.47 99.10 92.25 17.61 70.03
WavLM Large, final | wavlm_large | B | 3.06 3.44 97.86 0.0886 95.49 3.77 3.24 99.31 92.21 18.36 70.62
data2vec Base | data2vec_base_960 | C | 4.69+ 4.94+ 96.56+ 0.0576+ 70.21 5.77 6.67+ 97.63+ 88.59+ 25.27+ 66.27+
"""


def _row(line: str) -> Row:
    model, upstream, source, cells = (part.strip() for part in line.split("|"))
    scores = [Score(cell.rstrip("+*"), cell[len(cell.rstrip("+*")) :]) for cell in cells.split()]
    return Row(model, upstream, source, {column.name: score for column, score in zip(COLUMNS, scores, strict=True)})


ROWS = tuple(_row(line) for line in TABLE.strip().splitlines())


@cache
def _names() -> dict[str, str]:
    models = {row.upstream for row in ROWS} | {model.upstream for model in HEAR_MODELS.values() if model.upstream}
    return {alias: upstream for upstream in models for alias in (upstream, *zoo.info(upstream).aliases)}


def name(upstream: str) -> str:
    """The registry's name of a model of which something is published; any other as it is."""
    return _names().get(upstream, upstream)


def rows(upstream: str) -> list[Row]:
    """What is published of a model, by its name or an alias; the last row is the newest."""
    return [row for row in ROWS if row.upstream == name(upstream)]


# --- HEAR ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HearModel:
    """A model of HEAR's leaderboard.

    Attributes:
        name: short.
        entry: what the leaderboard calls it.
        year: of the entry.
        what: it is.
        upstream: name in the registry, where the entry is the last hidden state of that model.
    """

    name: str
    entry: str
    year: str
    what: str
    upstream: str


@dataclass(frozen=True)
class HearColumn:
    """A column of HEAR's leaderboard; more is better in each.

    Attributes:
        name: heading.
        tasks: whose primary metrics are averaged in it.
        scores: name of a model -> score; models without one are not among them.
        best: of all entries.
        best_model: whose that is.
        count: entries that have a score.
    """

    name: str
    tasks: tuple[str, ...]
    scores: Mapping[str, Score]
    best: Score
    best_model: str
    count: int

    def shade(self, value: float) -> float:
        """Where a score lies beside the models of `HEAR_MODELS`: 0 to 1, their mean less or plus their deviation."""
        known = [score.value for score in self.scores.values()]
        return min(1.0, max(0.0, 0.5 + (value - fmean(known)) / (2 * pstdev(known))))


HEAR_SOURCE = "HEAR leaderboard of 26 September 2023, hearbenchmark.com, 34 entries"
# Name | entry | year | what it is | name in the registry
HEAR_MODEL_TABLE = """
wav2vec2 | HEAR's baseline | 2021 | wav2vec 2.0 Large of 100,000 h of VoxPopuli, last layer, normalised over the batch \
| wav2vec2_large_voxpopuli_100k
CREPE | torchcrepe | 2021 | pitch tracker, full model, 2048 values each 50 ms |
OpenL3 | OpenL3 | 2021 | trained on music, mel256, 512 values, 48 kHz |
PaSST | PaSST base | 2021 | supervised transformer, 32 kHz |
HuBERT XL | GURA Hubert | 2021 | HuBERT X-Large, last layer | hubert_xlarge_ll60k
HuBERT XL mean | GURA Fuse Hubert | 2021 | HuBERT X-Large, mean of its 49 hidden states |
H+w+C | GURA Fuse Cat | 2021 | layer means of HuBERT X-Large and wav2vec 2.0 Large (960 h, self-trained), and CREPE, \
side by side |
BYOL-S | Logitech SERAB | 2021 | BYOL for audio, trained on speech |
CED | ced_base | 2023 | supervised transformer, distilled |
"""
# Heading | folders without their "hear/" | a score for each model, - for none | best of all entries | entries
HEAR_TABLE = """
Beehive | beehive_states_fold0-v2-full beehive_states_fold1-v2-full \
| - 0.593 0.604 - - - - 0.549 0.484 | 0.878 UDONS ViT | 16
Beijing Opera | beijing_opera-v1.0-hear2021-full \
| 0.907 0.928 0.975 0.966 0.945 0.949 0.966 0.953 0.966 | 0.975 OpenL3 | 34
CREMA-D | tfds_crema_d-1.0.0-full \
| 0.656 0.383 0.550 0.610 0.690 0.752 0.747 0.657 0.691 | 0.752 GURA Fuse Hubert | 33
DCASE 2016 | dcase2016_task2-hear2021-full \
| 0.663 0.504 0.833 0.788 0.584 0.826 0.826 0.642 0.922 | 0.925 PaSST 2lvl+mel | 33
ESC-50 | esc50-v2.0.0-full \
| 0.561 0.300 0.751 0.947 0.603 0.743 0.734 0.805 0.966 | 0.966 CED | 34
FSD50K | fsd50k-v1.0-full \
| 0.342 0.159 0.447 0.641 0.314 0.413 0.420 0.509 0.655 | 0.655 CED | 31
GTZAN Genre | tfds_gtzan-1.0.0-full \
| 0.780 0.645 0.879 0.883 0.735 0.796 0.805 0.837 0.886 | 0.908 mn40_as | 33
GTZAN Music/Speech | tfds_gtzan_music_speech-1.0.0-full \
| 0.946 0.929 0.969 0.977 0.913 0.936 0.928 0.938 0.944 | 0.992 CVSSP PANNs and mn04_as | 33
Gunshot | gunshot_triangulation-v1.0-full \
| 0.848 0.863 0.949 0.940 0.932 0.929 0.935 0.857 0.893 | 0.967 GURA Fuse wav2vec2 | 34
LibriCount | libricount-v1.0.0-hear2021-full \
| 0.692 0.499 0.641 0.660 0.646 0.683 0.697 0.785 0.678 | 0.785 BYOL-S | 34
MAESTRO 5h | maestro-v3.0.0-5h \
| 0.033 0.401 0.017 - 0.007 0.166 0.441 0.008 0.148 | 0.469 GURA Cat H+w+C | 31
Mridangam Stroke | mridangam_stroke-v1.5-full \
| 0.943 0.898 0.967 0.965 0.953 0.974 0.972 0.973 0.974 | 0.975 GURA Fuse Cat (time) | 33
Mridangam Tonic | mridangam_tonic-v1.5-full \
| 0.828 0.824 0.937 0.819 0.850 0.909 0.923 0.928 0.965 | 0.965 CED | 33
NSynth Pitch 50h | nsynth_pitch-v2.2.3-50h \
| 0.653 0.900 0.731 0.541 0.429 0.688 0.885 0.712 0.828 | 0.900 CREPE | 34
NSynth Pitch 5h | nsynth_pitch-v2.2.3-5h \
| 0.402 0.870 0.560 0.256 0.184 0.382 0.846 0.396 0.682 | 0.878 GURA Avg Hubert+Crepe | 34
Speech commands 5h | speech_commands-v0.0.2-5h \
| 0.838 0.180 0.680 0.681 0.953 0.947 0.961 0.914 0.869 | 0.976 IUT-CSE MLP keyword | 34
Speech commands full | speech_commands-v0.0.2-full \
| 0.879 0.211 0.763 0.639 0.954 0.957 0.968 0.948 0.897 | 0.978 IUT-CSE MLP keyword | 34
Vocal Imitation | vocal_imitation-v1.1.3-full \
| 0.080 0.051 0.078 0.182 0.154 0.185 0.197 0.160 0.227 | 0.227 CED | 34
VoxLingua107 top 10 | vox_lingua_top10-hear2021-full \
| 0.493 0.142 0.331 0.259 0.637 0.714 0.720 0.458 0.386 | 0.720 GURA Fuse Cat H+w+C | 34
"""


def _cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")] for line in table.strip().splitlines()]


HEAR_MODELS = {cells[0]: HearModel(*cells) for cells in _cells(HEAR_MODEL_TABLE)}


def _column(heading: str, folders: str, scores: str, best: str, count: str) -> HearColumn:
    known = {model: Score(text) for model, text in zip(HEAR_MODELS, scores.split(), strict=True) if text != "-"}
    value, _, model = best.partition(" ")
    return HearColumn(
        heading, tuple(f"hear/{folder}" for folder in folders.split()), known, Score(value), model, int(count)
    )


HEAR_COLUMNS = tuple(_column(*cells) for cells in _cells(HEAR_TABLE))


def hear_column(task: str) -> HearColumn | None:
    """The column of a task; None for a folder that is not HEAR's."""
    return next((column for column in HEAR_COLUMNS if task in column.tasks), None)


def hear_model(upstream: str) -> HearModel | None:
    """The entry that is the last hidden state of a model of the registry."""
    return next((model for model in HEAR_MODELS.values() if model.upstream == upstream), None)
