"""The twenty folders of HEAR 2021 as data; what a folder on disk says goes before.

Facts: hearbenchmark.com (tasks), hearpreprocess 2021.1.1 (splits, lengths, metrics); counts that neither states follow
from how it splits, or are None. Licences: as the pages of the corpora state them; of Mridangam as mirdata does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from zoo.benchmark._task import RATE, Layout
from zoo.benchmark.hear._folder import METADATA, TRAIN_VALID_TEST, VOCABULARY, Folder

ARCHIVE = "hear2021-{}-48000.tar.gz of https://doi.org/10.5281/zenodo.5885750, unpacked: tasks/{}"


@dataclass(frozen=True)
class Known:
    """A folder of HEAR 2021.

    Attributes:
        title: for people.
        folder: what its metadata say; without labels, which are in the archive.
        layout: what the archive holds.
    """

    title: str
    folder: Folder
    layout: Layout


def unread(name: str) -> Folder:
    """A folder of which no more than the name is known until it is read."""
    if name in FOLDERS:
        return FOLDERS[name].folder
    return Folder(
        name=name,
        task_name=name,
        event=False,
        multilabel=False,
        split_mode=TRAIN_VALID_TEST,
        splits=("train", "valid", "test"),
        clip_s=None,
        metrics=("top1_acc",),
    )


def layout(folder: Folder, clips: Sequence[int | None] = (), source: str = "", licence: str = "") -> Layout:
    """What is in a folder: one clip a file, and so many clips of each split as are known."""
    items: Mapping[str, int | None] = dict.fromkeys(folder.splits) | dict(zip(folder.splits, clips))
    lists: Mapping[str, int | None] = dict.fromkeys((METADATA, VOCABULARY, *(f"{one}.json" for one in items)), 1)
    audio = {f"{RATE}/{split}/*.wav": count for split, count in items.items()}
    return Layout(folder=folder.name, files={**lists, **audio}, items=items, source=source, licence=licence)


# Embedding and prediction (S scene, E event; C multiclass, L multilabel), how it is split, metrics by the first one.
MODES = {"TVT": TRAIN_VALID_TEST, "new": "new_split_kfold", "given": "presplit_kfold"}
METRICS = {
    "top1_acc": ("top1_acc", "mAP", "d_prime", "aucroc"),
    "mAP": ("mAP", "d_prime", "aucroc", "top1_acc"),
    "aucroc": ("aucroc", "mAP", "d_prime", "top1_acc"),
    "top1_acc alone": ("top1_acc",),
    "pitch_acc": ("pitch_acc", "chroma_acc"),
    "event_onset_200ms_fms": ("event_onset_200ms_fms", "segment_1s_er"),
    "event_onset_50ms_fms": ("event_onset_50ms_fms", "event_onset_offset_50ms_20perc_fms"),
}
NC3, BY3, BY4 = "CC BY-NC 3.0", "CC BY 3.0", "CC BY 4.0"

# Folder | title | kind, split, seconds of a clip | clips of each split, or ? | first metric | licence of audio
_TABLE = f"""
dcase2016_task2-hear2021-full | DCASE 2016 task 2 | E L TVT 120 | 44 14 14 | event_onset_200ms_fms | {BY3} and {BY4}
nsynth_pitch-v2.2.3-5h | NSynth pitch, 5 h | S C TVT 4 | 4000 500 500 | pitch_acc | {BY4}
nsynth_pitch-v2.2.3-50h | NSynth pitch, 50 h | S C TVT 4 | 40000 5000 4060 | pitch_acc | {BY4}
speech_commands-v0.0.2-5h | Speech Commands, 5 h | S C TVT 1 | 16000 2000 4890 | top1_acc alone | {BY4}
speech_commands-v0.0.2-full | Speech Commands, full | S C TVT 1 | ? ? 4890 | top1_acc alone | {BY4}
beehive_states_fold0-v2-full | Beehive States, fold 0 | S C TVT 600 | 256 32 288 | aucroc | {BY4}
beehive_states_fold1-v2-full | Beehive States, fold 1 | S C TVT 600 | 256 32 288 | aucroc | {BY4}
beijing_opera-v1.0-hear2021-full | Beijing Opera | S C new 4.77 | 48 47 47 47 47 | top1_acc | {BY4}
tfds_crema_d-1.0.0-full | CREMA-D | S C new 5 | 1488 1488 1488 1487 1487 | top1_acc | ODbL 1.0
esc50-v2.0.0-full | ESC-50 | S C given 5 | 400 400 400 400 400 | top1_acc | {NC3}
fsd50k-v1.0-full | FSD50K | S L TVT 0 | ? ? 10231 | mAP | {BY4} as a whole
gunshot_triangulation-v1.0-full | Gunshot Triangulation | S C new 1.5 | 16 12 12 12 12 12 12 | top1_acc |
tfds_gtzan-1.0.0-full | GTZAN Genre | S C new 30 | {"100 " * 10}| top1_acc |
tfds_gtzan_music_speech-1.0.0-full | GTZAN Music/Speech | S C new 30 | {"13 " * 8}12 12 | top1_acc |
libricount-v1.0.0-hear2021-full | LibriCount | S C new 5 | 1144 1144 1144 1144 1144 | top1_acc | {BY4}
maestro-v3.0.0-5h | MAESTRO, 5 h | E L new 120 | 37 37 37 37 37 | event_onset_50ms_fms | CC BY-NC-SA 4.0
mridangam_stroke-v1.5-full | Mridangam Stroke | S C new 0.81 | 1396 1396 1395 1395 1395 | top1_acc | {BY3}
mridangam_tonic-v1.5-full | Mridangam Tonic | S C new 0.81 | 1396 1396 1395 1395 1395 | top1_acc | {BY3}
vocal_imitation-v1.1.3-full | Vocal Imitation | S C new 11.26 | 1867 1867 1867 | mAP |
vox_lingua_top10-hear2021-full | VoxLingua107, top 10 | S C new 18.64 | 195 195 194 194 194 | top1_acc | {BY4}
"""


def _known(row: str) -> Known:
    name, title, facts, clips, metric, licence = (cell.strip() for cell in row.split("|"))
    embedding, prediction, mode, seconds = facts.split()
    counts = [None if count == "?" else int(count) for count in clips.split()]
    splits = ("train", "valid", "test") if mode == "TVT" else tuple(f"fold{i:02}" for i in range(len(counts)))
    folder = Folder(
        name=name,
        task_name=name.partition("-")[0],
        event=embedding == "E",
        multilabel=prediction == "L",
        split_mode=MODES[mode],
        splits=splits,
        clip_s=float(seconds) or None,
        metrics=METRICS[metric],
    )
    official = layout(folder, counts, ARCHIVE.format(name, name), licence or "as its authors say")
    return Known(title, folder, official)


FOLDERS = {known.folder.name: known for known in map(_known, _TABLE.strip().splitlines())}
